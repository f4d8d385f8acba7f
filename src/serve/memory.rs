//! How much memory the daemon keeps: of threads, and of what calls have left free.
//!
//! Lists and streams allocate several MiB for a moment, and some small thing is always left between them. Anonymous memory on 2 cores
//! after 50 pods with two containers, their lists and some hundred exec sessions, when 1.1 MiB were allocated:
//!
//! | allocator | MiB |
//! |---|---|
//! | glibc 2.36 as it comes: up to eight arenas for each core | 8.7 |
//! | glibc, one arena | 6.8 |
//! | glibc, two arenas, trimmed each 5 s (0.1 to 0.4 ms) | 6.0 |
//! | glibc, one arena, trimmed each 5 s | 5.0 |
//! | jemalloc 5.3 | 11.2 |
//! | jemalloc, one arena, a decay of 1 s | 7.0 |
//! | mimalloc 2.0 | 15.5 |
//!
//! Two, so that threads need not wait for each other's large blocks.

use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// Each has a stack and a cache of free memory. They wait for the kernel most of the time, and one carries a gigabyte a second.
const WORKERS_MAX: usize = 8;
const GIVE_BACK_EVERY: Duration = Duration::from_secs(5);

/// How many threads the calls and streams share.
pub(crate) fn workers() -> usize {
    available_parallelism().map_or(1, NonZero::get).min(WORKERS_MAX)
}

/// To be called before there are threads.
pub(crate) fn share_arenas() {
    if let Err(error) = host::heap::share_arenas() {
        warn!("arenas of the allocator: {error}");
    }
}

/// Gives what is free back to the kernel, again and again.
pub(crate) async fn give_back() {
    let mut again = interval(GIVE_BACK_EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        again.tick().await;
        // An error means that the runtime is ending.
        drop(tokio::task::spawn_blocking(host::heap::give_back).await);
    }
}
