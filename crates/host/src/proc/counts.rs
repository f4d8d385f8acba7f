//! What the processes of a cgroup hold: numbers that only /proc has.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Sums over some processes; those that go meanwhile count as far as they were seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes.
    pub processes: u64,
    /// Threads, one at least per process.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Those that are sockets.
    pub sockets: u64,
    /// The states of the threads that lead their processes.
    pub states: States,
}

/// How many are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct States {
    /// Running or ready to run.
    pub running: u64,
    /// Asleep, also when idle.
    pub sleeping: u64,
    /// Stopped, also by a debugger.
    pub stopped: u64,
    /// Waiting for a disk: no signal reaches them.
    pub uninterruptible: u64,
}

/// Counts what these processes hold. Blocks: 20 µs for each, and 1 µs for each of its descriptors.
pub fn counts(pids: &BTreeSet<i32>) -> Counts {
    let mut counts = Counts::default();
    for pid in pids {
        counts.add(&PathBuf::from(format!("/proc/{pid}")));
    }
    counts
}

/// How many descriptors a process may open, by its soft limit; `None`: unlimited, or it is gone.
pub fn soft_limit_of_descriptors(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Counts {
    fn add(&mut self, process: &Path) {
        let Ok(status) = fs::read_to_string(process.join("status")) else { return };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        self.processes += 1;
        self.threads += field("Threads:").and_then(|n| n.trim().parse().ok()).unwrap_or(1);
        match field("State:").and_then(|state| state.trim().chars().next()) {
            Some('R') => self.states.running += 1,
            Some('S' | 'I') => self.states.sleeping += 1,
            Some('T' | 't') => self.states.stopped += 1,
            Some('D') => self.states.uninterruptible += 1,
            _ => {}
        }
        for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            self.descriptors += 1;
            let target = fs::read_link(entry.path()).unwrap_or_default();
            if target.as_os_str().as_bytes().starts_with(b"socket:") {
                self.sockets += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_with_its_threads_and_sockets() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let (_one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        let found = counts(&[pid, i32::MAX - 1].into());
        assert_eq!(found.processes, 1);
        // The test's own thread beside the main one.
        assert!(found.threads >= 2 && found.sockets >= 2, "{found:?}");
        assert!(found.descriptors > found.sockets);
        assert!(soft_limit_of_descriptors(pid).is_some_and(|n| n > 0));
        assert_eq!(soft_limit_of_descriptors(i32::MAX - 1), None);
    }
}
