//! Spawning with descriptors under fixed numbers.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

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
