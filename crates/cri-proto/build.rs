//! Compiles the protos by a compiler written in Rust: the build needs cargo and nothing else.

use std::error::Error;
use std::path::Path;

use prost::Message;

const FILES: [&str; 2] = ["cri/api.proto", "cli/v1.proto"];

#[expect(clippy::disallowed_methods, reason = "a build script's output is read after it ended")]
fn main() -> Result<(), Box<dyn Error>> {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut set = protox::compile(FILES, [&protos])?;
    for (file, name) in set.file.iter_mut().zip(FILES) {
        println!("cargo::rerun-if-changed={}", protos.join(name).display());
        // The comments: rustdoc would take their `<name>` for HTML, and the descriptors grow by half.
        file.source_code_info = None;
    }
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("descriptors.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(set)?;
    Ok(())
}
