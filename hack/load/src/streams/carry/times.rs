//! How long it took, and what it burned.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::{SOCATS, Socat};
use crate::process::{cpu_seconds, own_cpu_seconds};
use crate::streams::Check;

/// What socat as it comes must not be ahead by.
const SHARE: f64 = 0.8;

/// Rounds of one way, ours and each socat's.
#[derive(Debug)]
pub(super) struct Times {
    mebibytes: u32,
    daemon: u32,
    /// A client that carries many rounds.
    lasting: Option<u32>,
    ours: Vec<Duration>,
    socats: [Vec<Duration>; SOCATS.len()],
    burned: Burned,
}

/// Seconds of CPU.
#[derive(Debug, Default, Clone, Copy)]
struct Burned {
    client: f64,
    daemon: f64,
}

impl Times {
    pub(super) fn new(bytes: usize, daemon: u32, lasting: Option<u32>) -> Self {
        let mebibytes = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let (ours, socats, burned) = Default::default();
        Self { mebibytes, daemon, lasting, ours, socats, burned }
    }

    /// A round of ours.
    pub(super) fn ours(&mut self, run: impl FnOnce() -> Result<Duration>) -> Result<()> {
        let before = self.burned()?;
        self.ours.push(run()?);
        let after = self.burned()?;
        self.burned.client += after.client - before.client;
        self.burned.daemon += after.daemon - before.daemon;
        Ok(())
    }

    /// A round of each socat.
    pub(super) fn socats(&mut self, run: impl Fn(&Socat) -> Result<Duration>) -> Result<()> {
        for (socat, times) in SOCATS.iter().zip(&mut self.socats) {
            times.push(run(socat)?);
        }
        Ok(())
    }

    pub(super) fn check(&self, what: &str) -> Check {
        let rate = |times: &[Duration]| f64::from(self.mebibytes) / median(times).as_secs_f64();
        let ours = rate(&self.ours);
        let [plain, tuned] = self.socats.each_ref().map(|times| rate(times));
        let rounds = u32::try_from(self.ours.len()).unwrap_or(u32::MAX);
        let a_gibibyte = |seconds| seconds / f64::from(rounds * self.mebibytes) * 1024.0;
        let figures = format!(
            "{ours:.0} MiB/s; socat {plain:.0}: {:.0} %; with blocks of 256 KiB {tuned:.0}: {:.0} %; \
             CPU a GiB: crictl {:.2} s, daemon {:.2} s; the hash is right",
            ours / plain * 100.0,
            ours / tuned * 100.0,
            a_gibibyte(self.burned.client),
            a_gibibyte(self.burned.daemon),
        );
        Check::new(ours >= SHARE * plain, what, &figures)
    }

    /// Up to now. A client that has ended is counted with all other children that were waited for.
    fn burned(&self) -> Result<Burned> {
        let client = match self.lasting {
            Some(client) => cpu_seconds(&BTreeSet::from([client])),
            None => seconds(getrusage(UsageWho::RUSAGE_CHILDREN)?),
        };
        Ok(Burned { client, daemon: own_cpu_seconds(self.daemon) })
    }
}

fn seconds(usage: Usage) -> f64 {
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap_or_default()).as_secs_f64()
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_below_the_limit_fails_and_one_above_does_not() {
        let of = |ours| {
            let mut times = Times::new(1 << 20, std::process::id(), Some(std::process::id()));
            for _ in 0..3 {
                times.ours(|| Ok(Duration::from_millis(ours))).unwrap();
                times.socats(|_| Ok(Duration::from_millis(100))).unwrap();
            }
            times
        };
        assert!(of(120).check("").holds);
        assert!(!of(130).check("").holds);
    }
}
