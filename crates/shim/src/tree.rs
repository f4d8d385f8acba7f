//! Killing everything that a process began.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::signal::{Signal, kill as signal, killpg};
use nix::unistd::{Pid, getpgid};

/// Of a process's descendants; a tree deeper than this kills itself by its own means.
const MOST: usize = 4096;

/// Kills a process of ours that has not been reaped, what descends from it, and all in its cgroup.
pub(crate) fn kill(pid: Pid, cgroup: Option<BorrowedFd<'_>>) {
    // First: when it has died its children are nobody's, and those of another cgroup would live on.
    let descendants = descendants(pid);
    if let Some(cgroup) = cgroup {
        kill_cgroup(cgroup);
    }
    if getpgid(Some(pid)) == Ok(pid) {
        killpg(pid, Signal::SIGKILL).ok();
    }
    signal(pid, Signal::SIGKILL).ok();
    for pid in descendants {
        signal(pid, Signal::SIGKILL).ok();
    }
}

/// Everything in a cgroup of the unified hierarchy, whatever has become of its parents and sessions.
fn kill_cgroup(cgroup: BorrowedFd<'_>) {
    let path = format!("/proc/self/fd/{}/cgroup.kill", cgroup.as_raw_fd());
    if let Ok(mut file) = fs::OpenOptions::new().write(true).open(path) {
        file.write_all(b"1").ok();
    }
}

/// The children of this process, whoever made them.
pub(crate) fn children() -> Vec<Pid> {
    children_of("self")
}

fn descendants(pid: Pid) -> Vec<Pid> {
    let mut all = children_of(&pid.to_string());
    let mut next = 0;
    while let Some(pid) = all.get(next).filter(|_| all.len() < MOST) {
        let more = children_of(&pid.to_string());
        all.extend(more);
        next += 1;
    }
    all
}

fn children_of(process: &str) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let files = threads.flatten().map(|thread| thread.path().join("children"));
    let texts = files.filter_map(|path| fs::read_to_string(path).ok());
    texts
        .flat_map(|text| {
            let numbers = text.split_ascii_whitespace().filter_map(|number| number.parse().ok());
            numbers.map(Pid::from_raw).collect::<Vec<_>>()
        })
        .collect()
}
