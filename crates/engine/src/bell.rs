//! Events for those who watch. A client that does not keep up has its stream ended, so that it lists again; nothing is dropped
//! silently. Times never repeat and never go back: kubelet compares them with its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use names::ContainerId;
use pod::{Pod, Time};
use tokio::sync::broadcast;

pub use pod::Told;

/// How many events a client may be behind. Room for all of them is there from the beginning: 32 bytes each.
const BEHIND: usize = 1024;

/// One event, with the pod as it stood right after it.
#[derive(Debug, Clone)]
pub struct Occurrence {
    /// What happened, and to which container (or to the sandbox itself).
    pub told: Told,
    /// max(wall clock, the last event's + 1).
    pub at: Time,
    /// The pod after it.
    pub pod: Arc<Pod>,
}

impl Occurrence {
    /// The container it is about; `None` is the sandbox.
    pub fn container(&self) -> Option<&ContainerId> {
        match &self.told {
            Told::Created(id) | Told::Started(id) | Told::Stopped(id) | Told::Deleted(id) => {
                id.as_ref()
            }
        }
    }
}

/// Where events are rung and heard.
#[derive(Debug)]
pub struct Bell {
    out: broadcast::Sender<Arc<Occurrence>>,
    /// The time that was given last. Held until the event that has it is sent: they are heard in the order of their times.
    last: Mutex<i64>,
}

impl Default for Bell {
    fn default() -> Self {
        Self { out: broadcast::channel(BEHIND).0, last: Mutex::default() }
    }
}

impl Bell {
    /// All events from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Occurrence>> {
        self.out.subscribe()
    }

    /// A time after every time that was given before.
    pub fn stamp(&self, now: Time) -> Time {
        next(&mut self.last(), now)
    }

    pub(crate) fn ring(&self, told: Told, pod: Arc<Pod>, now: Time) {
        let mut last = self.last();
        let at = next(&mut last, now);
        // An error only says that nobody listens.
        drop(self.out.send(Arc::new(Occurrence { told, at, pod })));
    }

    fn last(&self) -> MutexGuard<'_, i64> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn next(last: &mut i64, now: Time) -> Time {
    *last = now.0.max(last.saturating_add(1));
    Time(*last)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pod() -> Pod {
        let name = names::SandboxName {
            namespace: "n".into(),
            name: "p".into(),
            uid: "u".into(),
            attempt: 0,
        };
        let config = pod::config::SandboxConfig {
            name,
            hostname: String::new(),
            log_directory: String::new(),
            dns: None,
            ports: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            runtime_handler: String::new(),
            cgroup_parent: String::new(),
            sysctls: BTreeMap::new(),
            namespaces: pod::config::Namespaces::default(),
            security: pod::config::SandboxSecurity::default(),
            overhead: None,
            resources: None,
        };
        Pod::new(pod::Sandbox {
            id: names::SandboxId::from_random([1; 32]),
            config,
            created_at: Time(1),
            phase: pod::SandboxPhase::Creating,
            plan: pod::Plan::default(),
            level: None,
        })
    }

    #[test]
    fn stamps_rise_though_the_clock_stands_or_goes_back() {
        let bell = Bell::default();
        assert_eq!(bell.stamp(Time(10)), Time(10));
        assert_eq!(bell.stamp(Time(10)), Time(11));
        assert_eq!(bell.stamp(Time(3)), Time(12));
        assert_eq!(bell.stamp(Time(40)), Time(40));
    }

    #[test]
    fn events_are_heard_in_the_order_of_their_times_whoever_rings() {
        const EACH: usize = BEHIND / 4;
        let (bell, pod) = (Bell::default(), Arc::new(pod()));
        let mut heard = bell.listen();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..EACH {
                        bell.ring(Told::Created(None), Arc::clone(&pod), Time(5));
                    }
                });
            }
        });
        let times = (0..4 * EACH).map(|_| heard.try_recv().unwrap().at);
        assert!(times.is_sorted_by(|a, b| a < b));
    }
}
