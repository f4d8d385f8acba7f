//! Files replaced whole, a pod's own files, and directory trees of the host.
//!
//! All of this blocks. Nothing here takes a path into a container's tree: what a container can write is reached by
//! descriptor, in launch.

mod pod;
mod tree;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::FsError;

pub use pod::{PodFiles, PodFilesError, hosts, resolv_conf, write_pod_files};
pub use tree::remove_all;

/// Whether a replaced file must survive a power cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// It may be lost with the machine.
    #[default]
    Lazy,
    /// Synced before it takes its name, and so is its directory.
    Synced,
}

/// Gives the path this content and mode: readers see the old file or the new one, never a part.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    replace_with(path, bytes, mode, Durability::Lazy)
}

/// The same, with a choice of durability.
pub fn replace_with(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> Result<(), FsError> {
    let temporary = beside(path)?;
    let done = write_new(&temporary, bytes, mode, durability)
        .and_then(|()| fs::rename(&temporary, path).map_err(FsError::at("name", path)));
    if done.is_err() {
        // The error that counts is the first one.
        drop(fs::remove_file(&temporary));
    }
    done?;
    match (durability, path.parent()) {
        (Durability::Synced, Some(dir)) => {
            fs::File::open(dir).and_then(|d| d.sync_all()).map_err(FsError::at("sync", dir))
        }
        _ => Ok(()),
    }
}

/// A name that no other replacement uses.
fn beside(path: &Path) -> Result<PathBuf, FsError> {
    let id = crate::proc::random_id().map_err(FsError::at("name a file beside", path))?;
    let tag = id.iter().take(6).fold(0_u64, |tag, byte| tag << 8 | u64::from(*byte));
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{tag:012x}"));
    Ok(path.with_file_name(name))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> Result<(), FsError> {
    let open = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = open.map_err(FsError::at("make", path))?;
    file.write_all(bytes).map_err(FsError::at("write", path))?;
    // The process's umask took bits away.
    let mode = fs::Permissions::from_mode(mode);
    file.set_permissions(mode).map_err(FsError::at("set the mode of", path))?;
    match durability {
        Durability::Synced => file.sync_all().map_err(FsError::at("sync", path)),
        Durability::Lazy => Ok(()),
    }
}

/// Makes a directory of this mode, with parents of 0755; one that exists gets the mode.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), FsError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(FsError::at("make the directory", path))
}

/// Makes the directory that container logs go to, with parents; one that exists stays as it is, for it is the kubelet's.
pub fn make_log_dir(path: &Path) -> Result<(), FsError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(FsError::at("make the log directory", path))
}

/// Opens a file that a shim appends its exits to.
pub fn open_append(path: &Path) -> Result<fs::File, FsError> {
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(FsError::at("open for appending", path))
}

/// The content of a file, at most this many bytes; `None` when there is none.
pub fn read_bounded(path: &Path, most: u64) -> Result<Option<Vec<u8>>, FsError> {
    use io::Read;
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FsError::new("open", path, error)),
    };
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(FsError::at("read", path))?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
