//! The child that makes the pod's namespaces: its parent opens them through /proc while it waits.
//!
//! ```text
//! shim ── fork ──> helper: unshare, host name, sysctls ── fork (pid) ──> init: PID 1, own root
//!      <── Report ──────┘ waits until the shim closes `hold`                └── Report ──> shim
//! ```
//!
//! With a user namespace that comes first: the helper unshares it, reports `Unmapped`, and goes on as its root when the shim
//! has written the maps. Sysctls are then set by a second child from outside: kernels before 6.9 keep those of IPC from the
//! root of a user namespace.

use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, sethostname, write};

use super::init;

/// What to make.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// A user namespace around the others.
    pub(crate) user: bool,
    pub(crate) flags: CloneFlags,
    /// The user and group that the init becomes.
    pub(crate) nobody: (u32, u32),
    /// A shared PID namespace and its init.
    pub(crate) pid: bool,
    /// The options of the tmpfs that is the init's root.
    pub(crate) root: String,
    pub(crate) hostname: Option<OsString>,
    /// Files in /proc/sys and what to write.
    pub(crate) sysctls: Vec<(CString, Vec<u8>)>,
}

/// The child at work.
#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) pid: Pid,
    reports: OwnedFd,
    /// The child ends when this is closed.
    hold: OwnedFd,
}

/// Where it got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    Done = 0,
    Unshare = 1,
    Hostname = 2,
    Sysctl = 3,
    Fork = 4,
    Init = 5,
    User = 6,
    Unmapped = 7,
}

/// Eight bytes on the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// All made; the init's pid, when there is one.
    Done(i32),
    /// The user namespace has no ids yet.
    Unmapped,
    Failed(Failed),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) step: Step,
    /// Which sysctl.
    pub(crate) index: u16,
    pub(crate) error: Errno,
}

/// Starts the child.
pub(crate) fn start(wanted: &Wanted, argv: Option<(usize, usize)>) -> Result<Helper, Errno> {
    let (reports, report) = pipe2(OFlag::O_CLOEXEC)?;
    let (waits, hold) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the child makes system calls only.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Helper { pid: child, reports, hold }),
        ForkResult::Child => {
            drop(hold);
            run(wanted, &report, &waits, argv);
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Starts a child that enters these namespaces and sets the sysctls there, as root of the node or as the user and group that
/// own them. It reports once.
pub(crate) fn set_sysctls(
    namespaces: &[BorrowedFd<'_>],
    sysctls: &[(CString, Vec<u8>)],
    owner: (u32, u32),
) -> Result<Helper, Errno> {
    let (reports, report) = pipe2(OFlag::O_CLOEXEC)?;
    let (waits, hold) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the child makes system calls only.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Helper { pid: child, reports, hold }),
        ForkResult::Child => {
            drop((hold, waits));
            let entered = namespaces.iter().try_for_each(|fd| setns(fd, CloneFlags::empty()));
            let set = entered.map_err(at(Step::Unshare, 0)).and_then(|()| set_as(sysctls, owner));
            let told = match set {
                Ok(()) => encode(Step::Done, 0, 0),
                Err(failed) => encode(failed.step, failed.index, failed.error as i32),
            };
            write(&report, &told).ok();
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
    }
}

// === impl Helper ===

impl Helper {
    /// The maps are written: lets the child go on.
    pub(crate) fn mapped(&self) -> Result<(), Errno> {
        write(&self.hold, &[0]).map(drop)
    }

    /// What the child or its init reports next.
    pub(crate) fn report(&self, wait_ms: u16) -> Result<Report, Errno> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut fds = [PollFd::new(self.reports.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(wait_ms))? == 0 {
            return Err(Errno::ETIMEDOUT);
        }
        let mut bytes = [0; 8];
        match read(self.reports.as_raw_fd(), &mut bytes)? {
            8 => Ok(decode(bytes)),
            _ => Err(Errno::EPIPE),
        }
    }
}

fn run(wanted: &Wanted, report: &OwnedFd, waits: &OwnedFd, argv: Option<(usize, usize)>) {
    let told = match enter_user(wanted.user, report, waits).and_then(|()| make(wanted)) {
        Err(failed) => encode(failed.step, failed.index, failed.error as i32),
        Ok(()) if wanted.pid => match split() {
            // The init reports by itself once it is shut in.
            Ok(Some(init)) => encode(Step::Done, 0, init),
            Ok(None) => init::run(report, argv, (&wanted.root, wanted.nobody)),
            Err(error) => encode(Step::Fork, 0, error as i32),
        },
        Ok(()) => encode(Step::Done, 0, 0),
    };
    write(report, &told).ok();
    read(waits.as_raw_fd(), &mut [0]).ok();
}

/// Forks the init; none is its side.
fn split() -> Result<Option<i32>, Errno> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: the child makes system calls only.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Some(child.as_raw())),
        ForkResult::Child => Ok(None),
    }
}

fn at(step: Step, index: u16) -> impl Fn(Errno) -> Failed {
    move |error| Failed { step, index, error }
}

/// Becomes the root of a user namespace of its own.
fn enter_user(wanted: bool, report: &OwnedFd, waits: &OwnedFd) -> Result<(), Failed> {
    if !wanted {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER).map_err(at(Step::User, 0))?;
    write(report, &encode(Step::Unmapped, 0, 0)).map_err(at(Step::User, 0))?;
    // Closed: the shim could not write the maps.
    if read(waits.as_raw_fd(), &mut [0]) != Ok(1) {
        return Err(at(Step::User, 0)(Errno::ECANCELED));
    }
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) })
        .map_err(at(Step::User, 0))?;
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) })
        .map_err(at(Step::User, 0))?;
    Ok(())
}

fn make(wanted: &Wanted) -> Result<(), Failed> {
    unshare(wanted.flags).map_err(at(Step::Unshare, 0))?;
    if let Some(name) = &wanted.hostname {
        sethostname(name).map_err(at(Step::Hostname, 0))?;
    }
    if wanted.user { Ok(()) } else { set_all(&wanted.sysctls) }
}

/// From Linux 6.9 on those of IPC are written by their owner, before by root of the node.
fn set_as(sysctls: &[(CString, Vec<u8>)], (uid, gid): (u32, u32)) -> Result<(), Failed> {
    for ((path, value), index) in sysctls.iter().zip(0..) {
        let as_root = set(path, value);
        let set = if as_root == Err(Errno::EACCES) {
            let as_owner = effective(uid, gid).and_then(|()| set(path, value));
            // Root again, whatever came of it.
            let back = effective(0, 0);
            as_owner.and(back)
        } else {
            as_root
        };
        set.map_err(at(Step::Sysctl, index))?;
    }
    Ok(())
}

/// Leaves the real ids, with which root comes back.
fn effective(uid: u32, gid: u32) -> Result<(), Errno> {
    const SAME: libc::c_long = -1;
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, SAME, 0, SAME) })?;
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, SAME, gid, SAME) })?;
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, SAME, uid, SAME) }).map(drop)
}

fn set_all(sysctls: &[(CString, Vec<u8>)]) -> Result<(), Failed> {
    for ((path, value), index) in sysctls.iter().zip(0..) {
        set(path, value).map_err(at(Step::Sysctl, index))?;
    }
    Ok(())
}

fn set(path: &CString, value: &[u8]) -> Result<(), Errno> {
    let file = open(path.as_c_str(), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    // SAFETY: a descriptor opened on the line above, with a buffer and its own length; it lives as long as this child.
    let written = unsafe { libc::write(file, value.as_ptr().cast(), value.len()) };
    Errno::result(written).map(drop)
}

pub(super) fn encode(step: Step, index: u16, number: i32) -> [u8; 8] {
    let ([low, high], [a, b, c, d]) = (index.to_le_bytes(), number.to_le_bytes());
    [step as u8, 0, low, high, a, b, c, d]
}

fn decode([step, _, low, high, a, b, c, d]: [u8; 8]) -> Report {
    let number = i32::from_le_bytes([a, b, c, d]);
    let step = match step {
        0 => return Report::Done(number),
        7 => return Report::Unmapped,
        1 => Step::Unshare,
        2 => Step::Hostname,
        3 => Step::Sysctl,
        4 => Step::Fork,
        6 => Step::User,
        _ => Step::Init,
    };
    Report::Failed(Failed {
        step,
        index: u16::from_le_bytes([low, high]),
        error: Errno::from_raw(number),
    })
}
