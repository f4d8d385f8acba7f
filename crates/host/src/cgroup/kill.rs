//! Ending every process of a cgroup.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use names::Kind;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::{CgroupPath, Cgroups, file, tree};
use crate::{FsError, raw};

const PATIENCE: Duration = Duration::from_secs(10);
/// How long `cgroup.kill` may take by itself before frozen cgroups are looked for.
const QUICK: Duration = Duration::from_millis(20);

/// Why a cgroup still has processes.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// A file of the cgroup.
    #[error(transparent)]
    Touch(FsError),
    /// They do not die: uninterruptible sleep, as on a dead network mount.
    #[error("processes {pids:?} of the cgroup {path} outlive SIGKILL")]
    Undying {
        /// The cgroup.
        path: String,
        /// What is left.
        pids: Vec<i32>,
    },
}

impl KillError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Touch(error) => error.kind(),
            Self::Undying { .. } => Kind::TimedOut,
        }
    }
}

impl Cgroups {
    /// Kills all processes of this cgroup and below. Returns when none is left in any hierarchy; zombies do not count.
    /// A cgroup that does not exist has none. Blocks, at most about ten seconds.
    pub fn kill(&self, path: &CgroupPath) -> Result<(), KillError> {
        self.kill_within(path, PATIENCE)
    }

    /// Whether any process is left in this cgroup or below, in any hierarchy. Blocks.
    pub fn populated(&self, path: &CgroupPath) -> Result<bool, FsError> {
        if let Some(unified) = self.unified()
            && events_populated(&path.under(unified))?
        {
            return Ok(true);
        }
        Ok(!self.v1_pids(path)?.is_empty())
    }

    /// The processes in this cgroup and below, over all hierarchies. Blocks.
    pub fn pids(&self, path: &CgroupPath) -> Result<BTreeSet<i32>, FsError> {
        let mut found = self.v1_pids(path)?;
        if let Some(unified) = self.unified() {
            collect(&path.under(unified), &mut found)?;
        }
        Ok(found)
    }

    fn v1_pids(&self, path: &CgroupPath) -> Result<BTreeSet<i32>, FsError> {
        let mut found = BTreeSet::new();
        for hierarchy in self.v1() {
            collect(&path.under(hierarchy.point()), &mut found)?;
        }
        Ok(found)
    }

    pub(super) fn kill_within(
        &self,
        path: &CgroupPath,
        patience: Duration,
    ) -> Result<(), KillError> {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        self.kill_unified(path, Instant::now() + QUICK.min(patience))?;
        loop {
            let left = self.pids(path).map_err(KillError::Touch)?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let path = path.as_str().to_owned();
                return Err(KillError::Undying { path, pids: left.into_iter().collect() });
            }
            self.kill_each(path, &left)?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// The kernel's own kill, which no fork outruns. Absent before 5.14, and nothing to do without cgroup2.
    fn kill_unified(&self, path: &CgroupPath, until: Instant) -> Result<(), KillError> {
        let Some(unified) = self.unified() else { return Ok(()) };
        let dir = path.under(unified);
        let kill = dir.join("cgroup.kill");
        match file::write(&kill, "1") {
            Ok(()) => wait_empty(&dir, until).map_err(KillError::Touch),
            Err(error) if tree::is_gone(&error) => Ok(()),
            Err(error) => Err(KillError::Touch(FsError::new("write", &kill, error))),
        }
    }

    /// Freezes what can be frozen so that no fork outruns the signals, signals each, and thaws: a frozen v1 process does
    /// not die.
    fn kill_each(&self, path: &CgroupPath, pids: &BTreeSet<i32>) -> Result<(), KillError> {
        let freezer = self.v1().iter().find(|h| h.has("freezer")).map(|h| path.under(h.point()));
        if let Some(dir) = &freezer {
            set_freezer(dir, "FROZEN").map_err(KillError::Touch)?;
        }
        let held: Vec<_> =
            pids.iter().filter_map(|&pid| Some((pid, raw::pidfd_open(pid).ok()?))).collect();
        // A pid that is still listed after its pidfd was opened is the process that was meant.
        let still = self.pids(path).map_err(KillError::Touch)?;
        for (pid, pidfd) in held {
            if still.contains(&pid) {
                // ESRCH is what we want.
                drop(raw::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL));
            }
        }
        match &freezer {
            Some(dir) => thaw_all(dir).map_err(KillError::Touch),
            None => Ok(()),
        }
    }
}

fn collect(dir: &Path, into: &mut BTreeSet<i32>) -> Result<(), FsError> {
    tree::pids(dir, into).map_err(FsError::at("read the processes of", dir))
}

fn events_populated(dir: &Path) -> Result<bool, FsError> {
    let events = dir.join("cgroup.events");
    match fs::read_to_string(&events) {
        Ok(text) => Ok(text.lines().any(|line| line == "populated 1")),
        Err(error) if tree::is_gone(&error) => Ok(false),
        Err(error) => Err(FsError::new("read", &events, error)),
    }
}

/// Waits for `populated 0`. The kernel tells it by a priority event, but at most one each 10 ms: a cgroup that was
/// populated just now is looked at by itself.
fn wait_empty(dir: &Path, until: Instant) -> Result<(), FsError> {
    let path = dir.join("cgroup.events");
    let events = match fs::File::open(&path) {
        Ok(events) => events,
        Err(error) if tree::is_gone(&error) => return Ok(()),
        Err(error) => return Err(FsError::new("open", &path, error)),
    };
    let mut pause = Duration::from_micros(250);
    // The event counts from the last read of this very descriptor.
    while read_populated(&events).unwrap_or(false) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let timeout = TimeSpec::from_duration(pause.min(left));
        pause *= 2;
        match ppoll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], Some(timeout), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(FsError::new("wait for", &path, error)),
        }
    }
    Ok(())
}

fn read_populated(events: &fs::File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut text = [0; 128];
    let length = events.read_at(&mut text, 0)?;
    let text = text.get(..length).unwrap_or_default();
    Ok(text.split(|b| *b == b'\n').any(|line| line == b"populated 1"))
}

fn set_freezer(dir: &Path, state: &str) -> Result<(), FsError> {
    let path = dir.join("freezer.state");
    match file::write(&path, state) {
        Err(error) if !tree::is_gone(&error) => Err(FsError::new("write", &path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Parents first: a child of a frozen cgroup stays frozen whatever it says itself.
fn thaw_all(dir: &Path) -> Result<(), FsError> {
    let dirs = tree::bottom_up(dir).map_err(FsError::at("list the cgroup", dir))?;
    dirs.iter().rev().try_for_each(|dir| set_freezer(dir, "THAWED"))
}
