//! Where the daemon stands: its mount namespace, its open files, its directories.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error(
        "this process is not in PID 1's mount namespace (its root mount is {ours}, PID 1's {theirs}): pins of \
         network namespaces and Bidirectional mounts would not reach the host; take PrivateTmp, ProtectSystem and \
         the like out of the unit, or run it under nsenter --mount=/proc/1/ns/mnt"
    )]
    MountNamespace { ours: String, theirs: String },
    #[error("make {}", path.display())]
    MakeDir { path: PathBuf, source: io::Error },
}

/// The mount ids of the root directory differ between mount namespaces, and can be read where /proc/1/ns cannot.
pub(crate) fn in_init_mount_namespace() -> Result<(), PlaceError> {
    let (Some(ours), Some(theirs)) = (root_mount("self"), root_mount("1")) else {
        warn!("cannot compare mount namespaces with PID 1");
        return Ok(());
    };
    if ours == theirs { Ok(()) } else { Err(PlaceError::MountNamespace { ours, theirs }) }
}

/// Every container costs a few fds; the soft limit that a login gives is for programs that use select.
pub(crate) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "cannot raise the limit of open files");
    }
}

/// With all above it. A directory that is there keeps its mode.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), PlaceError> {
    let created = DirBuilder::new().recursive(true).mode(mode).create(path);
    created.map_err(|source| PlaceError::MakeDir { path: path.to_owned(), source })
}

fn root_mount(process: &str) -> Option<String> {
    root_mount_id(&std::fs::read_to_string(format!("/proc/{process}/mountinfo")).ok()?)
}

/// The last mount on `/` is the visible one.
fn root_mount_id(mountinfo: &str) -> Option<String> {
    let on_root = |line: &str| {
        let mut words = line.split(' ');
        let id = words.next()?;
        (words.nth(3)? == "/").then(|| id.to_owned())
    };
    mountinfo.lines().filter_map(on_root).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_mount_is_the_last_one_on_the_root() {
        let mountinfo = "1 0 0:1 / / rw - rootfs rootfs rw\n\
                         22 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                         23 22 0:5 / /proc rw - proc proc rw\n";
        assert_eq!(root_mount_id(mountinfo).as_deref(), Some("22"));
        assert_eq!(root_mount_id(""), None);
    }
}
