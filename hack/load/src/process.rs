//! What /proc says of processes. One that ends while it is read counts as gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use crate::request::MARK;

/// A process as far as these tests care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) name: String,
    pub(crate) zombie: bool,
    /// Its own and its reaped children's CPU time, in clock ticks.
    pub(crate) ticks: u64,
}

/// The bit of SIGTERM in the masks of /proc.
const TERM: u64 = 1 << 14;
/// How long a program may take to set its handlers.
const SETTLES_WITHIN_MS: usize = 2000;

/// Ticks of the CPU times in /proc, on every Linux architecture in use.
pub(crate) const TICKS_PER_SECOND: u32 = 100;

pub(crate) fn all() -> BTreeMap<u32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, one(pid)?))).collect()
}

pub(crate) fn one(pid: u32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: u32, stat: &str) -> Option<Process> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once(" (")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |n: usize| fields.get(n)?.parse::<u64>().ok();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        name: name.to_owned(),
        zombie: *fields.first()? == "Z",
        ticks: ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?,
    })
}

/// These processes and all that descend from them.
pub(crate) fn tree(all: &BTreeMap<u32, Process>, roots: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut found: BTreeSet<u32> =
        roots.iter().copied().filter(|pid| all.contains_key(pid)).collect();
    loop {
        let children: Vec<u32> = all
            .values()
            .filter(|process| found.contains(&process.parent) && !found.contains(&process.pid))
            .map(|process| process.pid)
            .collect();
        if children.is_empty() {
            return found;
        }
        found.extend(children);
    }
}

/// Whether it stays beside a pod. Executed by descriptor, its name may be a number, and its file still has its own.
pub(crate) fn is_shim(process: &Process) -> bool {
    let says_so = |name: &str| name.contains("shim") || name.contains("conmon");
    says_so(&process.name)
        || fs::read_link(format!("/proc/{}/exe", process.pid))
            .is_ok_and(|exe| says_so(&exe.to_string_lossy()))
}

/// CPU seconds that the trees below these processes have used.
pub(crate) fn cpu_seconds(roots: &BTreeSet<u32>) -> f64 {
    let all = all();
    let pids = tree(&all, roots);
    let ticks: u64 = all.values().filter(|p| pids.contains(&p.pid)).map(|p| p.ticks).sum();
    seconds(ticks)
}

/// CPU seconds that this process has used, and the children that it has waited for; living ones are not counted.
pub(crate) fn own_cpu_seconds(pid: u32) -> f64 {
    one(pid).map_or(0.0, |process| seconds(process.ticks))
}

fn seconds(ticks: u64) -> f64 {
    f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / f64::from(TICKS_PER_SECOND)
}

/// Proportional set size in KiB.
pub(crate) fn pss(pid: u32) -> Option<u32> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The pod whose container this process is, for processes of our containers.
pub(crate) fn pod_of(pid: u32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

/// Waits until the program of this pod's container hears TERM: as PID 1 it does not before it has set its handler, and a stop
/// would then last for the whole grace. Nor longer than a program of a few lines may need.
pub(crate) async fn settled(pod: &str) {
    for _ in 0..SETTLES_WITHIN_MS {
        if pids().any(|pid| pod_of(pid).is_some_and(|own| own == pod) && hears_term(pid)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The newest first.
fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable_by(|a, b| b.cmp(a));
    pids.into_iter()
}

fn hears_term(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & TERM != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 0 0 10 20 30 40 20 0 1 0 5 0 0";
        let process = parse(7, stat).unwrap();
        assert_eq!((process.parent, process.ticks, process.zombie), (3, 100, false));
        assert_eq!(process.name, "a) b (c");
    }

    #[test]
    fn the_tree_of_this_process_has_this_process_and_its_memory_is_known() {
        let me = std::process::id();
        assert!(tree(&all(), &BTreeSet::from([me])).contains(&me));
        assert!(pss(me).unwrap() > 100 && pss(u32::MAX).is_none());
        assert!(pids().any(|pid| pid == me));
    }

    #[tokio::test]
    async fn a_program_hears_a_signal_once_it_has_a_handler() {
        let me = std::process::id();
        assert!(!hears_term(me));
        let _handler = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        assert!(hears_term(me));
    }
}
