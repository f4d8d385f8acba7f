//! The ledger as its callers see it.

mod cost;
mod crash;
mod damage;
mod full;
mod model;

use std::path::Path;

use crate::{Durability, Entry, Ledger, Loaded, Options, Record};

fn options(dir: &Path, boot_id: &str) -> Options {
    let at = |name: &str| dir.join(name).join("ledger.redb");
    Options { run: at("run"), disk: at("disk"), boot_id: boot_id.into() }
}

fn open(dir: &Path, boot_id: &str) -> (Ledger, Loaded) {
    Ledger::open(options(dir, boot_id)).unwrap()
}

fn put(key: &str, value: &str) -> Vec<Entry> {
    vec![Entry::put("t", key, value.as_bytes().to_vec())]
}

fn record(key: &str, value: &str) -> Record {
    Record { table: "t".into(), key: key.into(), value: value.as_bytes().to_vec() }
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening_and_after_a_reboot() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, loaded) = open(dir.path(), "one");
    assert!(loaded.records.is_empty() && !loaded.rebooted && loaded.generation == 1);
    ledger.write(put("a", "1"), Durability::Process).await.unwrap();
    ledger.write(put("b", "2"), Durability::Power).await.unwrap();
    drop(ledger);
    let (ledger, loaded) = open(dir.path(), "one");
    assert_eq!(loaded.records, [record("a", "1"), record("b", "2")]);
    assert_eq!((loaded.rebooted, loaded.generation), (false, 2));
    ledger.write(vec![Entry::delete("t", "a")], Durability::Process).await.unwrap();
    drop(ledger);
    let (_ledger, loaded) = open(dir.path(), "two");
    assert_eq!(loaded.records, [record("b", "2")]);
    assert_eq!((loaded.rebooted, loaded.generation), (true, 3));
}

#[tokio::test]
async fn a_reboot_that_empties_run_is_told_from_a_run_file_that_somebody_removed() {
    for (boot_id, rebooted) in [("one", false), ("two", true)] {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, _) = open(dir.path(), "one");
        ledger.write(put("a", "1"), Durability::Process).await.unwrap();
        drop(ledger);
        std::fs::remove_dir_all(dir.path().join("run")).unwrap();
        let (_ledger, loaded) = open(dir.path(), boot_id);
        assert_eq!(loaded.records, [record("a", "1")]);
        assert_eq!(loaded.rebooted, rebooted);
    }
}

#[tokio::test]
async fn within_one_boot_the_run_file_is_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = open(dir.path(), "one");
    ledger.write(put("kept", "old"), Durability::Power).await.unwrap();
    ledger.write(put("removed", "1"), Durability::Power).await.unwrap();
    drop(ledger);
    let disk = options(dir.path(), "one").disk;
    let before = std::fs::read(&disk).unwrap();
    let (ledger, _) = open(dir.path(), "one");
    ledger.write(put("kept", "new"), Durability::Process).await.unwrap();
    ledger.write(vec![Entry::delete("t", "removed")], Durability::Process).await.unwrap();
    drop(ledger);
    damage::overwrite(&disk, &before);
    let (ledger, loaded) = open(dir.path(), "one");
    assert_eq!(loaded.records, [record("kept", "new")]);
    drop(ledger);
    let (_ledger, loaded) = open(dir.path(), "two");
    assert_eq!(loaded.records, [record("kept", "new")], "the disk was brought up");
}

#[tokio::test]
async fn the_disk_has_a_process_write_soon_without_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = open(dir.path(), "one");
    let begun = std::time::Instant::now();
    ledger.write(put("a", "1"), Durability::Process).await.unwrap();
    assert_eq!(ledger.commits(), (1, 0), "answered before the disk has it");
    while ledger.commits().1 == 0 {
        assert!(begun.elapsed().as_secs() < 2, "no copy");
        tokio::task::yield_now().await;
    }
    assert!(begun.elapsed().as_millis() >= 90, "copied one by one: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_writers_at_once_take_few_commits() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = open(dir.path(), "one");
    let write = |n: usize| {
        let ledger = ledger.clone();
        let durability = if n.is_multiple_of(2) { Durability::Process } else { Durability::Power };
        async move { ledger.write(put(&n.to_string(), "x"), durability).await }
    };
    let writers: Vec<_> = (0..100).map(|n| tokio::spawn(write(n))).collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    let (run, disk) = ledger.commits();
    assert!(run <= 50 && disk <= 50, "{run} and {disk} commits");
    drop(ledger);
    assert_eq!(open(dir.path(), "two").1.records.len(), 100);
}

#[tokio::test]
async fn a_write_whose_caller_went_away_stands() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = open(dir.path(), "one");
    let mut write = Box::pin(ledger.write(put("a", "1"), Durability::Power));
    let poll = std::future::poll_fn(|context| {
        std::task::Poll::Ready(write.as_mut().poll(context).is_ready())
    });
    poll.await;
    drop(write);
    drop(ledger);
    assert_eq!(open(dir.path(), "one").1.records, [record("a", "1")]);
}

#[tokio::test]
async fn flush_returns_when_the_disk_has_what_was_written_before() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = open(dir.path(), "one");
    ledger.flush().await;
    assert_eq!(ledger.commits(), (0, 0), "nothing to do");
    ledger.write(put("a", "1"), Durability::Process).await.unwrap();
    ledger.flush().await;
    assert_eq!(ledger.commits(), (1, 1));
}
