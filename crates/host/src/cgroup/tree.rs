//! A cgroup with all below it, in one hierarchy.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Links to a directory with no other in it.
const CHILDLESS: u64 = 2;

/// The directory and all below it, children before parents. Missing ones are left out, as they may go at any time.
pub(super) fn bottom_up(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        match children(&dir) {
            Ok(children) => todo.extend(children),
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        }
        found.push(dir);
    }
    found.reverse();
    Ok(found)
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    // The kernel counts them, and to read a cgroup's directory is to name all its files.
    if fs::metadata(dir)?.nlink() == CHILDLESS {
        return Ok(found);
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The processes of this cgroup and all below it.
pub(super) fn pids(dir: &Path, into: &mut BTreeSet<i32>) -> io::Result<()> {
    for dir in bottom_up(dir)? {
        match fs::read_to_string(dir.join("cgroup.procs")) {
            // 0 is a process of a PID namespace that cannot be seen from here.
            Ok(text) => into.extend(text.lines().filter_map(|l| l.parse::<i32>().ok())),
            Err(error) if is_gone(&error) => {}
            // A threaded v2 cgroup: its processes are listed in its domain, which is above it.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A cgroup's directory or file that went while it was looked at.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}
