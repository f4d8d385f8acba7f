//! The fence: descriptors by number, and what happens between fork and exec.
//!
//! Code that runs in a child before exec or for ever (`child`, `helper`, `init`) makes system calls only: the log
//! thread may have held the allocator's lock when the child was made.

mod child;
mod helper;
mod init;
mod null;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::Pid;

pub(crate) use child::{Program, spawn};
pub(crate) use helper::{Failed, Helper, Report, Step, Wanted, set_sysctls, start};
pub(crate) use null::null;

/// Owns a descriptor that this process was started with, and makes it close-on-exec.
pub(crate) fn inherited(number: i32) -> Result<OwnedFd, Errno> {
    fcntl(number, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: the descriptor is open, as the call above has shown, and main asks for each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes everything from this number on.
pub(crate) fn close_from(number: i32) {
    // SAFETY: called before anything else is opened, so that no descriptor above is owned by anyone.
    unsafe { libc::syscall(libc::SYS_close_range, number, u32::MAX, 0) };
}

/// Sets the size of a terminal.
pub(crate) fn resize(terminal: BorrowedFd<'_>, width: u16, height: u16) -> Result<(), Errno> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads one winsize, which lives until the call returns.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result).map(drop)
}

/// A second descriptor of the same file, close-on-exec.
pub(crate) fn duplicate<Fd: AsFd>(fd: Fd) -> Result<OwnedFd, Errno> {
    let cloned = fd.as_fd().try_clone_to_owned();
    cloned.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EBADF)))
}

/// Names this thread in lists of processes.
pub(crate) fn name(name: &std::ffi::CStr) {
    // SAFETY: the kernel reads at most 16 bytes of a string that ends in zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Code(i32),
    Signal(i32),
}

/// Reaps this child, or any, that has ended. (nix loses a child that a real-time signal has ended.)
pub(crate) fn reap(pid: Option<Pid>) -> Option<(Pid, Status)> {
    let mut status = 0;
    let pid = pid.map_or(-1, Pid::as_raw);
    // SAFETY: the status lives until the call returns.
    let reaped = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
    if reaped <= 0 {
        return None;
    }
    let how = if libc::WIFEXITED(status) {
        Status::Code(libc::WEXITSTATUS(status))
    } else {
        Status::Signal(libc::WTERMSIG(status))
    };
    Some((Pid::from_raw(reaped), how))
}

/// Sends a signal by number to a child that has not been reaped.
pub(crate) fn kill(pid: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}
