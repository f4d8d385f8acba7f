//! What is measured of pods, and who measures it. The numbers themselves are `host`'s words.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use engine::PodView;
use host::cgroup::stats::{Detail, Sample};
use network::InterfaceCounters;
use pod::Container;

/// Reads the kernel's counters. Of a pod that has gone meanwhile there is no answer.
pub(crate) trait Meter: Send + Sync + 'static {
    /// What these pods and their running containers use.
    fn measure(
        &self,
        pods: Vec<PodView>,
        depth: Depth,
    ) -> impl Future<Output = Vec<PodUsage>> + Send;
}

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Containers only, what the CRI's statistics have.
    Containers,
    /// The pods themselves too.
    Pods,
    /// Everything that metrics have.
    Metrics,
}

/// A pod and its running containers.
#[derive(Debug, Clone)]
pub(crate) struct PodUsage {
    pub(crate) pod: PodView,
    /// Of the pod's whole cgroup.
    pub(crate) sample: Sample,
    pub(crate) detail: Option<Detail>,
    pub(crate) processes: u64,
    pub(crate) containers: Vec<ContainerUsage>,
    /// The pod's own interfaces, without `lo`; that of the default route first. None on the node's network.
    pub(crate) interfaces: Vec<InterfaceCounters>,
}

/// A running container.
#[derive(Debug, Clone)]
pub(crate) struct ContainerUsage {
    pub(crate) container: Arc<Container>,
    pub(crate) sample: Sample,
    pub(crate) detail: Option<Detail>,
    pub(crate) disk: Option<Disk>,
    pub(crate) processes: Processes,
}

/// What a container's processes hold.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Processes {
    pub(crate) count: u64,
    /// Open descriptors, and how many of them are sockets.
    pub(crate) descriptors: u64,
    pub(crate) sockets: u64,
    /// The main process's soft limit of open files.
    pub(crate) open_files_soft: Option<u64>,
}

/// A container's writable layer, and the file system under it.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) mountpoint: String,
    pub(crate) used: host::disk::Usage,
    pub(crate) space: host::disk::Space,
}

/// CPU time as a rate, which needs two samples.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// By id. Locked for as long as a look-up takes, never while anything is read.
    last: Mutex<HashMap<String, Taken>>,
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    at: i64,
    total: u64,
    rate: Option<u64>,
}

/// Two samples that are closer say little: the kernel accounts by ticks on some nodes.
const CLOSEST: i64 = 250_000_000;
/// One that is older says what was, not what is.
const OLDEST: i64 = 300_000_000_000;

impl Rates {
    /// Takes a sample in, and gives nanoseconds of CPU time per second since the one before.
    pub(crate) fn of(&self, id: &str, sample: &Sample) -> Option<u64> {
        let total = sample.cpu_ns?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let new = |rate| Taken { at: sample.at, total, rate };
        let Some(before) = last.get_mut(id) else {
            last.insert(id.to_owned(), new(None));
            return None;
        };
        let passed = sample.at.saturating_sub(before.at);
        if passed >= CLOSEST {
            *before = new(rate(total.saturating_sub(before.total), passed));
        }
        before.rate
    }

    /// Forgets those that nobody has asked about for long.
    pub(crate) fn forget_old(&self, now: i64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, taken| now.saturating_sub(taken.at) < OLDEST);
    }
}

fn rate(used: u64, passed: i64) -> Option<u64> {
    let per_second = u128::from(used) * 1_000_000_000 / u128::try_from(passed).ok()?;
    u64::try_from(per_second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: i64, total: u64) -> Sample {
        Sample { at: seconds * 1_000_000_000, cpu_ns: Some(total), ..Sample::default() }
    }

    #[test]
    fn a_rate_needs_two_samples_and_is_per_second() {
        let rates = Rates::default();
        assert_eq!(rates.of("a", &sample(10, 5_000_000_000)), None);
        assert_eq!(rates.of("a", &sample(12, 7_000_000_000)), Some(1_000_000_000));
        assert_eq!(rates.of("a", &sample(12, 7_000_000_001)), Some(1_000_000_000), "too close");
        assert_eq!(rates.of("b", &sample(12, 1)), None, "another's samples do not count");
    }

    #[test]
    fn what_nobody_asks_about_is_forgotten() {
        let rates = Rates::default();
        rates.of("a", &sample(10, 1));
        rates.forget_old(1_000 * 1_000_000_000);
        assert_eq!(rates.of("a", &sample(1_001, 2)), None);
    }
}
