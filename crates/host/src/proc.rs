//! Facts of /proc, processes by descriptor, the clock and random ids.
//!
//! Everything here is short enough to call anywhere, but reading a mount table of thousands of lines takes milliseconds.

mod counts;
mod mounts;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;

use crate::{FsError, raw};

pub use counts::{Counts, States, counts, soft_limit_of_descriptors};
pub use mounts::{MountInfo, is_mount_point, mounts, mounts_of};

/// Nanoseconds of wall clock since the epoch.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// 32 random bytes, for an id.
pub fn random_id() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    raw::random(&mut bytes)?;
    Ok(bytes)
}

/// Tells one boot of this node from another.
pub fn boot_id() -> Result<String, FsError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(FsError::at("read", path))?;
    Ok(text.trim().to_owned())
}

/// When a process began, in clock ticks since boot: with its pid, it names the process for ever. `None`: it is gone.
pub fn start_time(pid: i32) -> Result<Option<u64>, FsError> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    match fs::read(&path) {
        Ok(stat) => Ok(parse_start_time(&stat)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(FsError::new("read", &path, error)),
    }
}

/// Whether a process goes on: it is there, has not been killed, and is not on its way out.
pub fn goes_on(pid: i32) -> bool {
    let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    // In this order, for a signal that is not pending any more has been taken.
    let status = read("status");
    !is_killed(&String::from_utf8_lossy(&status)) && is_alive(&read("stat")).unwrap_or(false)
}

fn is_killed(status: &str) -> bool {
    const SIGKILL: u64 = 1 << 8;
    let pending = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    pending.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|m| m & SIGKILL != 0)
}

fn is_alive(stat: &[u8]) -> Option<bool> {
    const EXITING: u64 = 4;
    let mut fields = after_name(stat)?;
    let state = fields.next()?;
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    Some(!["Z", "X"].contains(&state) && flags & EXITING == 0)
}

fn parse_start_time(stat: &[u8]) -> Option<u64> {
    after_name(stat)?.nth(19)?.parse().ok()
}

/// The program's name stands in parentheses and may hold anything, parentheses too.
fn after_name(stat: &[u8]) -> Option<std::str::SplitWhitespace<'_>> {
    let after = stat.iter().rposition(|b| *b == b')')?;
    Some(std::str::from_utf8(stat.get(after + 1..)?).ok()?.split_whitespace())
}

/// A process that went while it was looked at.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// A process held by descriptor: signals reach it or nobody.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// The process that has this pid now. `None`: there is none.
    pub fn open(pid: i32) -> io::Result<Option<Self>> {
        match raw::pidfd_open(pid) {
            Ok(fd) => Ok(Some(Self(fd))),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same, when it began at that time.
    pub fn open_started(pid: i32, started: u64) -> Result<Option<Self>, FsError> {
        let path = PathBuf::from(format!("/proc/{pid}"));
        let Some(pidfd) = Self::open(pid).map_err(FsError::at("open the process", &path))? else {
            return Ok(None);
        };
        // Read after the descriptor is held: the pid cannot have changed hands since.
        Ok((start_time(pid)? == Some(started)).then_some(pidfd))
    }

    /// Signals it. `false`: it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        match raw::pidfd_send_signal(self.0.as_fd(), signal) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether it has ended, be it reaped or not.
    pub fn has_ended(&self) -> Result<bool, Errno> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
    }
}

impl From<OwnedFd> for Pidfd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Pidfd> for OwnedFd {
    fn from(pidfd: Pidfd) -> Self {
        pidfd.0
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether this process sees the mounts of PID 1. Where /proc/1/ns is unreadable the ids of mounts tell: two namespaces
/// never share one.
pub fn in_mount_namespace_of_init() -> Result<bool, FsError> {
    let ids = |pid: &str| -> Result<BTreeSet<u64>, FsError> {
        Ok(mounts_of(pid)?.into_iter().map(|m| m.id).collect())
    };
    if let (Ok(init), Ok(own)) =
        (fs::read_link("/proc/1/ns/mnt"), fs::read_link("/proc/self/ns/mnt"))
    {
        return Ok(init == own);
    }
    Ok(!ids("1")?.is_disjoint(&ids("self")?))
}

/// The capabilities that this process may pass on, as a bit mask.
pub fn bounding_capabilities() -> Result<u64, FsError> {
    let path = Path::new("/proc/self/status");
    let text = fs::read_to_string(path).map_err(FsError::at("read", path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let mask = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.ok_or_else(|| {
        FsError::new("find CapBnd in", path, io::Error::from(io::ErrorKind::InvalidData))
    })
}

/// The kernel's version, such as (6, 1).
pub fn kernel() -> Option<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut parts = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_pid_and_start() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let started = start_time(pid).unwrap().unwrap();
        assert!(Pidfd::open_started(pid, started).unwrap().is_some());
        assert!(Pidfd::open_started(pid, started + 1).unwrap().is_none());
        assert!(Pidfd::open(i32::MAX - 1).unwrap().is_none());
    }

    #[test]
    fn a_process_goes_on_until_it_is_killed() {
        #[expect(clippy::disallowed_methods, reason = "a test's own process")]
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(goes_on(pid));
        child.kill().unwrap();
        assert!(!goes_on(pid), "killed, and maybe a zombie");
        child.wait().unwrap();
        assert!(!goes_on(pid));
        assert!(is_killed("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"));
        assert!(!is_killed("SigPnd:\t0000000000000000\nSigBlk:\t0000000000000100\n"));
        assert_eq!(is_alive(b"7 (a) R 1 7 7 0 -1 4194304 1"), Some(true));
        assert_eq!(is_alive(b"7 (a) R 1 7 7 0 -1 4194308 1"), Some(false));
        assert_eq!(is_alive(b"7 (a) Z 1 7 7 0 -1 4194304 1"), Some(false));
    }

    #[test]
    fn a_program_named_like_a_stat_line_is_read_right() {
        let mut stat = b"7 (a) R 1 2 (b) ".to_vec();
        stat.extend(b"S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 0 0");
        assert_eq!(parse_start_time(&stat), Some(424_242));
        assert_eq!(parse_start_time(b"7 (a"), None);
    }

    #[test]
    fn two_ids_differ() {
        assert_ne!(random_id().unwrap(), random_id().unwrap());
    }

    #[test]
    fn facts_of_this_node_are_readable() {
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(kernel().unwrap() > (4, 0));
        assert_ne!(bounding_capabilities().unwrap(), 0);
        in_mount_namespace_of_init().unwrap();
        assert!(now() > 1_600_000_000_000_000_000);
    }
}
