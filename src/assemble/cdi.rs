//! The files of vendors, read when a container asks for a device: they are few, and change while the daemon runs.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use spec::Registry;

/// What a vendor's file may have, in bytes, and how many are read of one directory.
const FILE: u64 = 4 << 20;
const FILES: usize = 256;

/// Blocks.
pub(crate) fn registry(dirs: &[PathBuf]) -> Registry {
    Registry::read(dirs.iter().flat_map(|dir| files(dir)).collect())
}

/// In the order of their names, each with its text or why there is none.
fn files(dir: &Path) -> Vec<(PathBuf, Result<String, String>)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|p| is_ours(p)).collect();
    paths.sort();
    paths.truncate(FILES);
    let with_text = |path: PathBuf| {
        let text = read(&path).map_err(|error| error.to_string());
        (path, text)
    };
    paths.into_iter().map(with_text).collect()
}

fn is_ours(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["json", "yaml", "yml"].iter().any(|e| extension == *e))
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE).read_to_string(&mut text)?;
    Ok(text)
}
