//! Events for those who watch. A client that does not keep up has its stream ended, so that it lists again; nothing is dropped
//! silently. Times never repeat and never go back: kubelet compares them with its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use names::ContainerId;
use pod::{Pod, Time};
use tokio::sync::broadcast;

pub use pod::Told;

/// How many events a client may be behind.
const BEHIND: usize = 4096;

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
    last: AtomicI64,
}

impl Default for Bell {
    fn default() -> Self {
        Self { out: broadcast::channel(BEHIND).0, last: AtomicI64::new(0) }
    }
}

impl Bell {
    /// All events from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Occurrence>> {
        self.out.subscribe()
    }

    /// A time after every time that was given before.
    pub fn stamp(&self, now: Time) -> Time {
        let next = |last: i64| Some(now.0.max(last.saturating_add(1)));
        let last = self.last.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        Time(now.0.max(last.unwrap_or(0).saturating_add(1)))
    }

    pub(crate) fn ring(&self, told: Told, pod: Arc<Pod>, now: Time) {
        let at = self.stamp(now);
        // An error only says that nobody listens.
        drop(self.out.send(Arc::new(Occurrence { told, at, pod })));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_though_the_clock_stands_or_goes_back() {
        let bell = Bell::default();
        assert_eq!(bell.stamp(Time(10)), Time(10));
        assert_eq!(bell.stamp(Time(10)), Time(11));
        assert_eq!(bell.stamp(Time(3)), Time(12));
        assert_eq!(bell.stamp(Time(40)), Time(40));
    }
}
