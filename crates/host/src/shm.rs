//! A pod's `/dev/shm`: one tmpfs on the host, which every container of the pod gets bound.
//!
//! All of this blocks.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use names::Kind;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::{FsError, Released, proc, raw};

/// What peers give a pod: 64 MiB.
pub const DEFAULT_SIZE: u64 = 64 << 20;
const ATTRIBUTES: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// The step of a `/dev/shm` that was refused.
#[derive(Debug, thiserror::Error)]
#[error("make a /dev/shm of {size} bytes")]
pub struct ShmError {
    size: u64,
    #[source]
    source: FsError,
}

impl ShmError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.source.kind()
    }
}

/// Mounts a tmpfs of this size and this user's and group's, mode 1777, at this directory, which is made. What is mounted there
/// already stays. With a label, that is what SELinux knows all its files by.
pub fn mount(
    dir: &Path,
    size: u64,
    owner: (u32, u32),
    label: Option<&str>,
) -> Result<(), ShmError> {
    attach(dir, size, owner, label).map_err(|source| ShmError { size, source })
}

fn attach(
    dir: &Path,
    size: u64,
    (uid, gid): (u32, u32),
    label: Option<&str>,
) -> Result<(), FsError> {
    fs::create_dir_all(dir).map_err(FsError::at("make", dir))?;
    if proc::is_mount_point(dir)? {
        return Ok(());
    }
    let step = |doing| FsError::at(doing, dir);
    let fs = raw::fsopen(c"tmpfs").map_err(step("open a tmpfs for"))?;
    let bytes = raw::c_string(size.to_string()).map_err(step("size"))?;
    let set = |key, value| raw::fsconfig_set(fs.as_fd(), key, value);
    set(c"source", c"shm").map_err(step("name the tmpfs for"))?;
    set(c"size", &bytes).map_err(step("size the tmpfs for"))?;
    set(c"mode", c"1777").map_err(step("set the mode of the tmpfs for"))?;
    for (key, id) in [(c"uid", uid), (c"gid", gid)] {
        let id = raw::c_string(id.to_string()).map_err(step("name the owner of the tmpfs for"))?;
        raw::fsconfig_set(fs.as_fd(), key, &id).map_err(step("give an owner to the tmpfs for"))?;
    }
    if let Some(label) = label {
        let label = raw::c_string(label).map_err(step("label the tmpfs for"))?;
        raw::fsconfig_set(fs.as_fd(), c"context", &label).map_err(step("label the tmpfs for"))?;
    }
    raw::fsconfig_create(fs.as_fd()).map_err(step("make the tmpfs for"))?;
    let mount = raw::fsmount(fs.as_fd(), ATTRIBUTES).map_err(step("make a mount for"))?;
    let to = raw::c_string(dir.as_os_str().as_bytes()).map_err(step("name"))?;
    raw::move_mount(mount.as_fd(), &to).map_err(step("mount at"))
}

/// Unmounts it and removes the directory.
pub fn release(dir: &Path) -> Result<Released, FsError> {
    let mut released = Released::AlreadyGone;
    loop {
        match umount2(dir, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => released = Released::Now,
            Err(Errno::ENOENT | Errno::EINVAL | Errno::ENOTDIR) => break,
            Err(error) => return Err(FsError::new("unmount", dir, error)),
        }
    }
    match fs::remove_dir(dir) {
        Ok(()) => Ok(Released::Now),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(released),
        Err(error) => Err(FsError::new("remove", dir, error)),
    }
}

/// The tmpfs mounts below a directory: what a sweep may have to release.
pub fn list(below: &Path) -> Result<Vec<PathBuf>, FsError> {
    let mounts = proc::mounts()?.into_iter();
    let ours =
        mounts.filter(|m| m.kind == "tmpfs" && m.point != below && m.point.starts_with(below));
    Ok(ours.map(|m| m.point).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_pods_shm_is_a_bounded_tmpfs_for_all_and_goes_with_what_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("pod/shm");
        mount(&dir, 1 << 20, (70_000, 80_000), None).unwrap();
        mount(&dir, 1 << 20, (0, 0), None).unwrap();
        assert_eq!(list(root.path()).unwrap(), std::slice::from_ref(&dir), "mounted once");
        let meta = fs::metadata(&dir).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1777, 70_000, 80_000));
        assert_eq!(crate::disk::space(&dir).unwrap().bytes, 1 << 20);
        let flags = nix::sys::statvfs::statvfs(&dir).unwrap().flags();
        let expected = nix::sys::statvfs::FsFlags::ST_NOEXEC
            | nix::sys::statvfs::FsFlags::ST_NODEV
            | nix::sys::statvfs::FsFlags::ST_NOSUID;
        assert!(flags.contains(expected), "{flags:?}");
        crate::files::replace(&dir.join("f"), b"x", 0o600).unwrap();
        assert_eq!(release(&dir).unwrap(), Released::Now);
        assert_eq!(release(&dir).unwrap(), Released::AlreadyGone);
        assert_eq!(list(root.path()).unwrap(), Vec::<PathBuf>::new());
    }
}
