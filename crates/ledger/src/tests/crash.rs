//! `kill -9` in the middle of writing: a child writes and says what was acknowledged, the parent kills it and looks.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{open, put};
use crate::Durability;

const DIRECTORY: &str = "LEDGER_TEST_DIRECTORY";

/// Not a test by itself: the body of the child.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the crash tests"]
async fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let (ledger, loaded) = open(Path::new(&dir), "one");
    let writers = (0..8).map(|writer| {
        let (ledger, generation) = (ledger.clone(), loaded.generation);
        tokio::spawn(async move {
            let durability = if writer == 0 { Durability::Power } else { Durability::Process };
            for n in 0.. {
                let key = format!("{generation}-{writer}-{n}");
                ledger.write(put(&key, &key), durability).await.unwrap();
                writeln!(std::io::stdout().lock(), "acknowledged {key}").unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the child must be another process to be killed")]
fn spawn_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["tests::crash::child_that_writes_until_it_is_killed", "--exact", "--ignored"])
        .arg("--nocapture")
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the child after this many acknowledgements and returns them all, those still in the pipe too.
fn acknowledged_until_killed(dir: &Path, kill_after: usize) -> HashSet<String> {
    let mut child = spawn_child(dir);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut keys = HashSet::new();
    for line in lines.map_while(Result::ok) {
        // The last line may be torn, but then its end of line is missing and the key is a prefix of one that was written:
        // the pipe takes lines whole.
        if let Some((_, key)) = line.split_once("acknowledged ") {
            keys.insert(key.to_owned());
        }
        if keys.len() == kill_after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    keys
}

#[test]
fn all_that_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = HashSet::new();
    for round in 0..10 {
        acknowledged.extend(acknowledged_until_killed(dir.path(), 20 + 37 * round));
        let (_ledger, loaded) = open(dir.path(), "one");
        assert!(loaded.quarantined.is_empty() && !loaded.rebooted, "{loaded:?}");
        let there: HashSet<_> = loaded.records.into_iter().map(|record| record.key).collect();
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
    }
    assert!(acknowledged.len() > 1000);
}

#[test]
fn what_was_acknowledged_with_power_is_on_the_disk_after_kill_9_and_a_reboot() {
    for round in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let acknowledged = acknowledged_until_killed(dir.path(), 50 + 41 * round);
        std::fs::remove_dir_all(dir.path().join("run")).unwrap();
        let (_ledger, loaded) = open(dir.path(), "two");
        assert!(loaded.rebooted);
        let there: HashSet<_> = loaded.records.into_iter().map(|record| record.key).collect();
        let power = acknowledged.iter().filter(|key| key.starts_with("1-0-"));
        assert_eq!(power.filter(|key| !there.contains(*key)).collect::<Vec<_>>(), [""; 0]);
    }
}
