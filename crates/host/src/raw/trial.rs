//! Two children that only make system calls: one that lives in a new user namespace, and one that mounts an overlay over a
//! layer with the ids of that, in a mount namespace that ends with it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, write};

use super::{fsconfig_create, fsconfig_set, fsopen, owned};

/// The directories of an overlay.
pub(crate) struct Trial {
    pub(crate) lower: CString,
    pub(crate) upper: CString,
    pub(crate) work: CString,
}

/// A child in a user namespace of its own, until it is dropped.
pub(crate) struct Sleeper {
    pid: Pid,
    hold: Option<OwnedFd>,
}

impl Sleeper {
    pub(crate) fn start() -> io::Result<Self> {
        let (told, tell) = pipe2(OFlag::O_CLOEXEC)?;
        let (waits, hold) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: the child makes system calls only.
        match unsafe { fork() }? {
            ForkResult::Child => {
                drop(hold);
                if unshare(CloneFlags::CLONE_NEWUSER).is_ok() {
                    let _told = write(&tell, &[0]);
                    let _ended = read(waits.as_raw_fd(), &mut [0]);
                }
                // SAFETY: ends the child without the parent's exit handlers.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                drop(tell);
                let sleeper = Self { pid: child, hold: Some(hold) };
                match read(told.as_raw_fd(), &mut [0])? {
                    1 => Ok(sleeper),
                    _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
                }
            }
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.hold = None;
        // It has nothing left to wait for.
        let _reaped = waitpid(self.pid, None);
    }
}

/// The number of the step that failed; 0 when none did.
pub(crate) fn try_idmap(trial: &Trial, namespace: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: the child makes system calls only.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let step = mount_mapped(trial, namespace);
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(step) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, step) => Ok(step),
            _ => Err(io::Error::from(io::ErrorKind::Interrupted)),
        },
    }
}

fn mount_mapped(trial: &Trial, namespace: BorrowedFd<'_>) -> i32 {
    let none: Option<&str> = None;
    let cut = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    if unshare(CloneFlags::CLONE_NEWNS).and_then(|()| mount(none, "/", none, cut, none)).is_err() {
        return 1;
    }
    if map_lower(trial, namespace).is_err() {
        return 2;
    }
    let overlay = fsopen(c"overlay").and_then(|context| {
        let places =
            [(c"lowerdir", &trial.lower), (c"upperdir", &trial.upper), (c"workdir", &trial.work)];
        places.iter().try_for_each(|(key, path)| fsconfig_set(context.as_fd(), key, path))?;
        fsconfig_create(context.as_fd())
    });
    if overlay.is_err() { 3 } else { 0 }
}

/// Mounts the layer over itself, mapped.
fn map_lower(trial: &Trial, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let (at, lower) = (libc::AT_FDCWD, trial.lower.as_ptr());
    // SAFETY: the string outlives the call.
    let clone = owned(unsafe { libc::syscall(libc::SYS_open_tree, at, lower, flags) })?;
    super::mount_map(clone.as_fd(), namespace)?;
    super::move_mount(clone.as_fd(), &trial.lower)
}
