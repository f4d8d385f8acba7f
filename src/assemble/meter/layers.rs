//! How much the containers' writable layers hold, counted seldom enough to cost little.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::host::disk;
use names::ContainerId;

/// Beyond so many entries a layer is not counted to its end: one container must not hold up the list.
const MOST_ENTRIES: u64 = 200_000;
/// A count holds for so many times as long as it took: at most one part in so many of a core goes into counting.
const SHARE: u32 = 100;
/// No count holds for less, and none for more: the kubelet asks every ten seconds or so.
const HOLDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));
/// A layer that took longer is counted anew beside the list that asks, which is told the count before.
const LONG: Duration = Duration::from_millis(5);
/// Unless that is older.
const OLDEST: Duration = Duration::from_mins(1);

/// The last count of each layer. Locked for look-ups only, never while anything is counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Layers(Arc<Mutex<HashMap<ContainerId, Count>>>);

#[derive(Debug, Clone, Copy)]
struct Count {
    at: Instant,
    took: Duration,
    used: disk::Usage,
    /// Somebody counts anew.
    counting: bool,
}

// === impl Layers ===

impl Layers {
    /// What a layer holds: to the second when it is small, as of the question before when it is large. Blocks.
    pub(super) fn of(&self, id: &ContainerId, upper: &Path) -> Option<disk::Usage> {
        let last = self.held().get(id).copied();
        let Some(last) = last.filter(|count| count.at.elapsed() < OLDEST) else {
            return self.count(id, upper);
        };
        if last.holds() {
            return Some(last.used);
        }
        if last.took <= LONG {
            return self.count(id, upper);
        }
        if !last.counting {
            self.count_beside(id, upper);
        }
        Some(last.used)
    }

    /// Lets go of layers that nobody has asked about of late.
    pub(super) fn forget_old(&self) {
        self.held().retain(|_, count| count.at.elapsed() < OLDEST);
    }

    fn count(&self, id: &ContainerId, upper: &Path) -> Option<disk::Usage> {
        let at = Instant::now();
        let used = disk::usage(upper, MOST_ENTRIES).ok()?;
        let count = Count { at, took: at.elapsed(), used, counting: false };
        self.held().insert(id.clone(), count);
        Some(used)
    }

    fn count_beside(&self, id: &ContainerId, upper: &Path) {
        if let Some(count) = self.held().get_mut(id) {
            count.counting = true;
        }
        let (layers, id, upper) = (self.clone(), id.clone(), upper.to_owned());
        tokio::task::spawn_blocking(move || layers.count(&id, &upper));
    }

    fn held(&self) -> MutexGuard<'_, HashMap<ContainerId, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn holds(&self) -> bool {
        let (least, most) = HOLDS;
        self.at.elapsed() < (self.took * SHARE).clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ContainerId {
        "c".repeat(64).parse().unwrap()
    }

    fn age(layers: &Layers, by: Duration, took: Duration) {
        let mut held = layers.held();
        let count = held.get_mut(&id()).unwrap();
        (count.at, count.took) = (count.at.checked_sub(by).unwrap(), took);
    }

    #[test]
    fn a_small_layer_is_counted_again_after_a_second_and_not_before() {
        let (layers, dir) = (Layers::default(), tempfile::tempdir().unwrap());
        assert_eq!(layers.of(&id(), dir.path()).unwrap().inodes, 1);
        std::fs::create_dir(dir.path().join("a")).unwrap();
        assert_eq!(layers.of(&id(), dir.path()).unwrap().inodes, 1);
        age(&layers, Duration::from_secs(1), Duration::ZERO);
        assert_eq!(layers.of(&id(), dir.path()).unwrap().inodes, 2);
    }

    #[tokio::test]
    async fn a_large_layer_is_counted_beside_the_one_who_asks_unless_the_count_is_old() {
        let (layers, dir) = (Layers::default(), tempfile::tempdir().unwrap());
        layers.of(&id(), dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        age(&layers, Duration::from_secs(9), Duration::from_millis(80));
        assert_eq!(layers.of(&id(), dir.path()).unwrap().inodes, 1, "as of the question before");
        let bound = Instant::now() + Duration::from_secs(10);
        while layers.of(&id(), dir.path()).unwrap().inodes == 1 {
            assert!(Instant::now() < bound, "never counted");
            tokio::task::yield_now().await;
        }
        std::fs::create_dir(dir.path().join("b")).unwrap();
        age(&layers, OLDEST, Duration::from_millis(80));
        assert_eq!(layers.of(&id(), dir.path()).unwrap().inodes, 3, "too old to be told");
        age(&layers, OLDEST, Duration::ZERO);
        layers.forget_old();
        assert!(layers.held().is_empty());
    }
}
