//! What a daemon and a shim hold.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::{all, is_shim, one, pod_of, pss};

/// Idle threads of the daemon end by themselves within this time.
const SETTLES: Duration = Duration::from_secs(30);
/// Memory that is no leak: the allocator keeps some of what was in use at once.
const DAEMON_SLACK_KIB: u32 = 2048;
const SHIM_SLACK_KIB: u32 = 64;

/// All of it; less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    daemon: Held,
    shim: Held,
    /// Processes of the pod's containers.
    processes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    pss_kib: u32,
}

impl Held {
    fn of(pid: u32) -> Result<Self> {
        let count = |what: &str| {
            let dir = format!("/proc/{pid}/{what}");
            Ok::<_, anyhow::Error>(std::fs::read_dir(&dir).with_context(|| dir.clone())?.count())
        };
        let pss_kib = pss(pid).with_context(|| format!("memory of {pid}"))?;
        Ok(Self { descriptors: count("fd")?, threads: count("task")?, pss_kib })
    }

    fn within(self, before: Self, slack_kib: u32) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.pss_kib <= before.pss_kib + slack_kib
    }
}

impl Standing {
    pub(super) fn now(daemon: u32, pod: &str) -> Result<Self> {
        let processes: Vec<u32> =
            all().into_keys().filter(|pid| pod_of(*pid).is_some_and(|own| own == pod)).collect();
        let parents: BTreeSet<u32> =
            processes.iter().filter_map(|pid| one(*pid)).map(|p| p.parent).collect();
        let shim = parents.iter().filter_map(|pid| one(*pid)).find(is_shim);
        let shim = shim.context("the pod has no shim")?.pid;
        Ok(Self { daemon: Held::of(daemon)?, shim: Held::of(shim)?, processes: processes.len() })
    }

    /// What is held when it is no more than before, or when the time for that is over; and whether it is.
    pub(super) async fn settled(self, daemon: u32, pod: &str) -> Result<(bool, Self)> {
        let end = Instant::now() + SETTLES;
        loop {
            let now = Self::now(daemon, pod)?;
            let settled = now.daemon.within(self.daemon, DAEMON_SLACK_KIB)
                && now.shim.within(self.shim, SHIM_SLACK_KIB)
                && now.processes <= self.processes;
            if settled || Instant::now() > end {
                return Ok((settled, now));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Before and after, in words.
    pub(super) fn told(self, after: Self) -> String {
        let pair = |name: &str, before: usize, after: usize| format!("{name} {before} -> {after}");
        let kib = |kib: u32| usize::try_from(kib).unwrap_or(usize::MAX);
        [
            pair("daemon: descriptors", self.daemon.descriptors, after.daemon.descriptors),
            pair("threads", self.daemon.threads, after.daemon.threads),
            pair("KiB", kib(self.daemon.pss_kib), kib(after.daemon.pss_kib)),
            pair("shim: descriptors", self.shim.descriptors, after.shim.descriptors),
            pair("KiB", kib(self.shim.pss_kib), kib(after.shim.pss_kib)),
            pair("processes in the pod", self.processes, after.processes),
        ]
        .join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_of_anything_is_more() {
        let held = Held { descriptors: 3, threads: 2, pss_kib: 100 };
        assert!(held.within(held, 0));
        assert!(!Held { descriptors: 4, ..held }.within(held, 0));
        assert!(!Held { threads: 3, ..held }.within(held, 0));
        assert!(Held { pss_kib: 110, ..held }.within(held, 10));
        assert!(!Held { pss_kib: 111, ..held }.within(held, 10));
    }
}
