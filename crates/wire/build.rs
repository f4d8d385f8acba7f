//! Compiles the shim's proto by a compiler written in Rust: the build needs cargo and nothing else.

use std::error::Error;
use std::path::Path;

const FILE: &str = "shim/v1.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", protos.join(FILE).display());
    let mut set = protox::compile([FILE], [&protos])?;
    for file in &mut set.file {
        // The comments stay in the proto file, which is made to be read.
        file.source_code_info = None;
    }
    prost_build::Config::new().btree_map(["."]).compile_fds(set)?;
    Ok(())
}
