//! The child that makes the pod's namespaces: its parent opens them through /proc while it waits.
//!
//! ```text
//! shim ── fork ──> helper: unshare, host name, sysctls ── fork (pid) ──> init: PID 1, own root
//!      <── Report ──────┘ waits until the shim closes `hold`                └── Report ──> shim
//! ```

use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, sethostname, write};

use super::init;

/// What to make.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) flags: CloneFlags,
    /// A shared PID namespace and its init.
    pub(crate) pid: bool,
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
    _hold: OwnedFd,
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
}

/// Eight bytes on the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// All made; the init's pid, when there is one.
    Done(i32),
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
        ForkResult::Parent { child } => Ok(Helper { pid: child, reports, _hold: hold }),
        ForkResult::Child => {
            drop(hold);
            run(wanted, &report, &waits, argv);
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
    }
}

// === impl Helper ===

impl Helper {
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
    let told = match make(wanted) {
        Err(failed) => encode(failed.step, failed.index, failed.error as i32),
        Ok(()) if wanted.pid => match split() {
            // The init reports by itself once it is shut in.
            Ok(Some(init)) => encode(Step::Done, 0, init),
            Ok(None) => init::run(report, argv),
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

fn make(wanted: &Wanted) -> Result<(), Failed> {
    let at = |step, index| move |error| Failed { step, index, error };
    unshare(wanted.flags).map_err(at(Step::Unshare, 0))?;
    if let Some(name) = &wanted.hostname {
        sethostname(name).map_err(at(Step::Hostname, 0))?;
    }
    for ((path, value), index) in wanted.sysctls.iter().zip(0..) {
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
        1 => Step::Unshare,
        2 => Step::Hostname,
        3 => Step::Sysctl,
        4 => Step::Fork,
        _ => Step::Init,
    };
    Report::Failed(Failed {
        step,
        index: u16::from_le_bytes([low, high]),
        error: Errno::from_raw(number),
    })
}
