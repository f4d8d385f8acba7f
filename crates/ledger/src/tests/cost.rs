//! What the ledger costs, on demand: `cargo test --release -p ledger cost -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::{options, put};
use crate::{Durability, Ledger, Options};

const N: usize = 2000;

fn pss() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn median(ledger: &Ledger, durability: Durability) -> (Duration, Duration) {
    let mut times = Vec::new();
    for n in 0..N {
        let begun = Instant::now();
        ledger.write(put(&format!("{n}"), &"x".repeat(2000)), durability).await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    (times[N / 2], times[N * 99 / 100])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn cost_of_commits_memory_and_opening() {
    let (run, disk) = (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir().unwrap());
    let at = || Options { run: options(run.path(), "").run, ..options(disk.path(), "one") };
    let before = pss();
    let (ledger, _) = Ledger::open(at()).unwrap();
    println!("PSS of opening: {} KiB", pss() - before);
    for durability in [Durability::Process, Durability::Power] {
        println!("{durability:?}: median and p99 of {N} {:?}", median(&ledger, durability).await);
    }
    println!("PSS after {} writes: {} KiB, commits {:?}", 2 * N, pss() - before, ledger.commits());
    drop(ledger);
    let begun = Instant::now();
    let (_ledger, loaded) = Ledger::open(at()).unwrap();
    println!("open with {} records of 2 KB: {:?}", loaded.records.len(), begun.elapsed());
    let size = |path| std::fs::metadata(path).unwrap().len() >> 10;
    println!("files: {} KiB and {} KiB", size(at().run), size(at().disk));
}
