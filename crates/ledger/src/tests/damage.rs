//! Files and records that cannot be read.

use std::io::Write;
use std::path::Path;

use names::Kind;
use redb::{Database, TableDefinition};

use super::{open, options, put, record};
use crate::{Durability, Ledger, OpenError};

const HEADER: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("header");
const RECORDS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("records");

pub(super) fn overwrite(path: &Path, bytes: &[u8]) {
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// A ledger with one record in both files.
async fn written(dir: &Path) {
    let (ledger, _) = open(dir, "one");
    ledger.write(put("a", "1"), Durability::Power).await.unwrap();
}

fn edit(path: &Path, key: &str, bytes: &[u8]) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    if key.is_empty() {
        transaction.open_table(HEADER).unwrap().insert("", bytes).unwrap();
    } else {
        transaction.open_table(RECORDS).unwrap().insert(("t", key), bytes).unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn an_unreadable_file_is_moved_aside_and_the_other_one_serves() {
    for which in ["run", "disk"] {
        for garbage in [b"not a database at all".as_slice(), &[0; 8192]] {
            let dir = tempfile::tempdir().unwrap();
            written(dir.path()).await;
            let path = dir.path().join(which).join("ledger.redb");
            overwrite(&path, garbage);
            let (_ledger, loaded) = open(dir.path(), "one");
            assert_eq!(loaded.records, [record("a", "1")], "{which}");
            let [quarantined] = loaded.quarantined.as_slice() else { panic!("{loaded:?}") };
            assert_eq!(quarantined.path, path.with_extension("redb.quarantined-1"));
            assert_eq!(std::fs::read(&quarantined.path).unwrap(), garbage);
            assert_eq!(quarantined.record, None);
        }
    }
}

#[tokio::test]
async fn flipped_bytes_anywhere_never_panic_and_never_change_a_record() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let run = options(dir.path(), "one").run;
    let good = std::fs::read(&run).unwrap();
    let used = good.iter().rposition(|b| *b != 0).unwrap();
    for at in (0..=used).step_by(used / 200 + 1) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        overwrite(&run, &bytes);
        match Ledger::open(options(dir.path(), "one")) {
            Ok((_ledger, loaded)) => assert_eq!(loaded.records, [record("a", "1")], "byte {at}"),
            Err(error) => panic!("byte {at}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn quarantined_files_are_numbered_and_none_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let run = options(dir.path(), "one").run;
    for n in 1..=3 {
        written(dir.path()).await;
        overwrite(&run, format!("garbage {n}").as_bytes());
        let (_ledger, loaded) = open(dir.path(), "one");
        let aside = run.with_extension(format!("redb.quarantined-{n}"));
        assert_eq!(loaded.quarantined[0].path, aside);
        assert_eq!(std::fs::read(aside).unwrap(), format!("garbage {n}").as_bytes());
    }
}

#[tokio::test]
async fn a_garbled_record_is_moved_aside_alone() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let run = options(dir.path(), "one").run;
    edit(&run, "b", b"\0\0\0\0no such checksum");
    let (ledger, loaded) = open(dir.path(), "one");
    assert_eq!(loaded.records, [record("a", "1")]);
    let [quarantined] = loaded.quarantined.as_slice() else { panic!("{loaded:?}") };
    assert_eq!(quarantined.record, Some(("t".into(), "b".into())));
    assert!(std::fs::read(&quarantined.path).unwrap().ends_with(b"no such checksum"));
    drop(ledger);
    assert_eq!(open(dir.path(), "one").1.quarantined, [], "it is reported once");
}

#[tokio::test]
async fn a_damaged_header_makes_the_file_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    edit(&options(dir.path(), "one").disk, "", b"ferropod\x01\0\0\0oops");
    let (_ledger, loaded) = open(dir.path(), "one");
    assert_eq!(loaded.quarantined.len(), 1);
    assert_eq!(loaded.records, [record("a", "1")]);
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    edit(&options(dir.path(), "one").disk, "", b"ferropod\x02\0\0\0whatever");
    let error = Ledger::open(options(dir.path(), "one")).unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 2, known: 1, .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(std::fs::read_dir(dir.path().join("disk")).unwrap().count(), 1);
}

#[tokio::test]
async fn the_run_file_of_another_ledger_is_refused() {
    let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    written(mine.path()).await;
    written(other.path()).await;
    let mixed =
        crate::Options { run: options(other.path(), "one").run, ..options(mine.path(), "one") };
    let error = Ledger::open(mixed).unwrap_err();
    assert!(matches!(error, OpenError::Mismatched { .. }), "{error:?}");
    assert_eq!(open(mine.path(), "one").1.records, [record("a", "1")]);
}

#[tokio::test]
async fn an_open_ledger_is_not_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_ledger, _) = open(dir.path(), "one");
    let error = Ledger::open(options(dir.path(), "one")).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
}
