//! Spawning with descriptors under fixed numbers, and who owns a namespace.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The user namespace that owns a namespace, by its inode.
pub(crate) fn owner(namespace: &impl AsRawFd) -> u64 {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: the request takes nothing, and gives a new descriptor.
    let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    assert!(owner >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the kernel has just given it to us alone.
    let owner = unsafe { std::fs::File::from_raw_fd(owner) };
    std::os::unix::fs::MetadataExt::ino(&owner.metadata().unwrap())
}

/// Lets the child find each descriptor under its number.
pub(crate) fn place(command: &mut Command, fds: Vec<(OwnedFd, i32)>) {
    let place = move || -> io::Result<()> {
        // First out of the way, above every target.
        let mut high = [(-1, -1); 8];
        for (slot, (fd, target)) in high.iter_mut().zip(&fds) {
            // SAFETY: a descriptor number in, a new one out.
            let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100) };
            if copy < 0 {
                return Err(io::Error::last_os_error());
            }
            *slot = (copy, *target);
        }
        for (copy, target) in high.into_iter().filter(|(copy, _)| *copy >= 0) {
            // SAFETY: both are numbers of this child, which has nothing of its own there.
            if unsafe { libc::dup2(copy, target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only fcntl and dup2 are called.
    unsafe { command.pre_exec(place) };
}
