//! How much memory the daemon keeps: of threads, and of what calls have left free.
//!
//! Lists and streams allocate several MiB for a moment, and some small thing is always left between them. Measured on 2 cores after 50
//! pods with two containers, their lists and some hundred exec sessions, when 1.1 MiB were in use: glibc left to itself
//! kept 8.4 MiB, with two arenas that are trimmed each 5 s 5.5 MiB. A trim takes 0.1 to 0.4 ms. jemalloc 5.3 kept 10.3 MiB with its own
//! defaults and 6.8 MiB with one arena and a decay of 1 s, mimalloc 2.0 kept 15 MiB.

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
