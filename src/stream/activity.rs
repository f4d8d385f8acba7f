//! When something was last said.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The last time that data passed, known to all that it may pass through.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Last>);

#[derive(Debug)]
struct Last {
    start: Instant,
    /// Milliseconds after the start.
    passed: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Last { start: Instant::now(), passed: AtomicU64::new(0) }))
    }

    /// Something passes.
    pub(super) fn note(&self) {
        let passed = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.passed.store(passed, Ordering::Relaxed);
    }

    /// Ready when nothing has passed for that long.
    pub(super) async fn ceased(&self, idle: Duration) {
        loop {
            let passed = Duration::from_millis(self.0.passed.load(Ordering::Relaxed));
            let end = self.0.start + passed + idle;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ceases_when_nothing_has_passed_for_that_long() {
        let activity = Activity::new();
        let idle = Duration::from_secs(10);
        tokio::time::advance(Duration::from_secs(9)).await;
        activity.note();
        let start = Instant::now();
        activity.ceased(idle).await;
        assert_eq!(start.elapsed().as_secs(), 10);
    }
}
