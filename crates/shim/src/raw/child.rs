//! Executes launch: clone3, descriptors put into place, execveat.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::unistd::Pid;

/// From `linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Above every number that is given to a child.
const ABOVE: i32 = 64;
/// The most descriptors of a child.
const MOST: usize = 16;

/// A program to execute, by descriptor.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) image: BorrowedFd<'a>,
    pub(crate) name: &'a CStr,
    /// The child's number and our descriptor; everything else is closed by exec.
    pub(crate) fds: &'a [(i32, BorrowedFd<'a>)],
    /// Where the child is born.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// `struct clone_args` of `linux/sched.h`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Starts the program with an empty environment, no blocked signal, and SIGPIPE as it was before Rust's runtime ignored it.
/// An exec that fails ends the child with the error's number as its exit status.
pub(crate) fn spawn(program: &Program<'_>) -> Result<Pid, Errno> {
    if program.fds.len() > MOST {
        return Err(Errno::E2BIG);
    }
    let mut args = CloneArgs { exit_signal: 17, ..CloneArgs::default() };
    if let Some(cgroup) = program.cgroup {
        args.flags = CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    }
    let size = size_of::<CloneArgs>();
    // SAFETY: without CLONE_VM the child has its own copy of everything; it makes system calls only until it has executed.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size) };
    match Errno::result(pid)? {
        0 => {
            let error = become_program(program);
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(error) }
        }
        pid => i32::try_from(pid).map(Pid::from_raw).map_err(|_| Errno::EOVERFLOW),
    }
}

/// Returns only the number of an error.
fn become_program(program: &Program<'_>) -> i32 {
    // The image may lie where a descriptor belongs: then `place` would put a socket in its stead (EACCES).
    let image = match above(program.image.as_raw_fd()) {
        Ok(image) => image,
        Err(error) => return number(error),
    };
    if let Err(error) = place(program.fds).and_then(|()| reset_signals()) {
        return number(error);
    }
    let argv = [program.name.as_ptr(), ptr::null()];
    let envp: [*const libc::c_char; 1] = [ptr::null()];
    // SAFETY: the strings and the arrays end in null and live until exec.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            image,
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    number(Errno::last())
}

fn number(error: Errno) -> i32 {
    match error {
        Errno::UnknownErrno => 255,
        // The enum's discriminants are the kernel's numbers.
        #[expect(
            clippy::as_conversions,
            reason = "a field-less enum gives its discriminant no other way"
        )]
        known => known as i32,
    }
}

/// Twice, because a descriptor may lie where another belongs.
fn place(fds: &[(i32, BorrowedFd<'_>)]) -> Result<(), Errno> {
    let mut high = [-1; MOST];
    for (slot, (_, fd)) in high.iter_mut().zip(fds) {
        *slot = above(fd.as_raw_fd())?;
    }
    for (copy, (target, _)) in high.iter().zip(fds) {
        // SAFETY: takes numbers only; this process is about to be replaced, so that it owns nothing that is closed here.
        let result = unsafe { libc::dup2(*copy, *target) };
        Errno::result(result)?;
    }
    Ok(())
}

/// A copy that is in nobody's way.
fn above(fd: i32) -> Result<i32, Errno> {
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, ABOVE) })
}

fn reset_signals() -> Result<(), Errno> {
    // SAFETY: sets a disposition that has no handler.
    let previous = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if previous == libc::SIG_ERR {
        return Err(Errno::last());
    }
    // SAFETY: a signal set is plain bits, of which zero is a value.
    let mut none = unsafe { std::mem::zeroed::<libc::sigset_t>() };
    // SAFETY: the set lives on this stack.
    unsafe { libc::sigemptyset(&raw mut none) };
    // SAFETY: the set lives on this stack, the old one is not asked for.
    let result = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
    Errno::result(result).map(drop)
}
