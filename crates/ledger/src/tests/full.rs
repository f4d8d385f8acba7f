//! File systems that are full, on a small tmpfs. Needs root.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use names::Kind;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{open, options, put, record};
use crate::{Durability, Entry, WriteError};

struct SmallTmpfs<'a>(&'a Path);

impl<'a> SmallTmpfs<'a> {
    fn mount(at: &'a Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        mount(Some("t"), at, Some("tmpfs"), MsFlags::empty(), Some("size=4m")).unwrap();
        Self(at)
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallTmpfs<'_> {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

fn large(key: &str) -> Vec<Entry> {
    vec![Entry::put("t", key, vec![7; 3 << 20])]
}

#[tokio::test]
async fn after_a_failed_commit_every_write_is_refused_until_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let tmpfs = SmallTmpfs::mount(&run);
    let (ledger, _) = open(dir.path(), "one");
    ledger.write(put("a", "1"), Durability::Process).await.unwrap();
    tmpfs.fill();
    let error = ledger.write(large("b"), Durability::Process).await.unwrap_err();
    assert!(matches!(error, WriteError::Run { .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::Exhausted, "{error:?}");
    tmpfs.make_room();
    for durability in [Durability::Process, Durability::Power] {
        let error = ledger.write(put("c", "3"), durability).await.unwrap_err();
        assert!(matches!(error, WriteError::Latched), "{error:?}");
    }
    drop(ledger);
    let (ledger, loaded) = open(dir.path(), "one");
    assert_eq!(loaded.records, [record("a", "1")]);
    ledger.write(put("c", "3"), Durability::Power).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_power_writes_only_and_gets_what_it_is_owed_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let tmpfs = SmallTmpfs::mount(&disk);
    let (ledger, _) = open(dir.path(), "one");
    tmpfs.fill();
    let error = ledger.write(large("a"), Durability::Power).await.unwrap_err();
    assert!(matches!(error, WriteError::Disk { .. }), "{error:?}");
    let error = ledger.write(put("b", "1"), Durability::Power).await.unwrap_err();
    assert!(matches!(error, WriteError::DiskRefused), "{error:?}");
    ledger.write(vec![Entry::delete("t", "a")], Durability::Process).await.unwrap();
    ledger.write(put("c", "1"), Durability::Process).await.unwrap();
    tmpfs.make_room();
    let end = Instant::now() + Duration::from_secs(10);
    while ledger.write(put("d", "1"), Durability::Power).await.is_err() {
        assert!(Instant::now() < end, "the disk was not tried again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(ledger);
    std::fs::remove_file(options(dir.path(), "").run).unwrap();
    let (_ledger, loaded) = open(dir.path(), "two");
    assert_eq!(loaded.records, [record("c", "1"), record("d", "1")]);
}

#[tokio::test]
async fn a_ledger_opens_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let tmpfs = SmallTmpfs::mount(&disk);
    let (ledger, _) = open(dir.path(), "one");
    ledger.write(put("first", "1"), Durability::Power).await.unwrap();
    tmpfs.fill();
    // More than the file can take: what opening has to copy does not fit.
    for n in 0..100 {
        ledger.write(put(&n.to_string(), &"x".repeat(20_000)), Durability::Process).await.unwrap();
    }
    drop(ledger);
    let (ledger, loaded) = open(dir.path(), "one");
    assert_eq!(loaded.records.len(), 101);
    ledger.write(put("more", "1"), Durability::Process).await.unwrap();
    let error = ledger.write(put("power", "1"), Durability::Power).await.unwrap_err();
    assert!(matches!(error, WriteError::DiskRefused), "{error:?}");
    tmpfs.make_room();
    drop(ledger);
    std::fs::remove_file(options(dir.path(), "").run).unwrap();
    let (_ledger, loaded) = open(dir.path(), "one");
    assert_eq!((loaded.records.len(), loaded.rebooted, loaded.generation), (102, false, 3));
}
