//! Any sequence of writes, reopenings and reboots against a map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::{collection, option};

use super::open;
use crate::{Durability, Entry, Record};

#[derive(Debug, Clone)]
enum Step {
    Write {
        entries: Vec<Entry>,
        durability: Durability,
    },
    Flush,
    Reopen,
    Reboot,
    /// The disk file lacks nothing after a clean close, so the run file may go.
    LoseRun,
}

fn entry() -> impl Strategy<Value = Entry> {
    let table = prop_oneof![Just("a"), Just("b"), Just("")];
    (table, "[a-c\u{0}]{0,2}", option::of(collection::vec(any::<u8>(), 0..2000)))
        .prop_map(|(table, key, value)| Entry { table, key, value })
}

fn step() -> impl Strategy<Value = Step> {
    let durability = prop_oneof![Just(Durability::Process), Just(Durability::Power)];
    prop_oneof![
        8 => (collection::vec(entry(), 0..5), durability)
            .prop_map(|(entries, durability)| Step::Write { entries, durability }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Reboot),
        1 => Just(Step::LoseRun),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_ledger_is_a_map_that_outlives_its_process(steps in collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut model = BTreeMap::new();
        let mut boot = 0;
        let mut opened = 1;
        let mut ledger = open(dir.path(), "0").0;
        for step in steps {
            match step {
                Step::Write { entries, durability } => {
                    for entry in &entries {
                        let place = (entry.table.to_owned(), entry.key.clone());
                        match &entry.value {
                            Some(value) => drop(model.insert(place, value.clone())),
                            None => drop(model.remove(&place)),
                        }
                    }
                    runtime.block_on(ledger.write(entries, durability)).unwrap();
                }
                Step::Flush => runtime.block_on(ledger.flush()),
                Step::Reopen | Step::Reboot | Step::LoseRun => {
                    let rebooted = matches!(step, Step::Reboot);
                    boot += i32::from(rebooted);
                    opened += 1;
                    drop(ledger);
                    if matches!(step, Step::LoseRun) {
                        std::fs::remove_dir_all(dir.path().join("run")).unwrap();
                    }
                    let (next, loaded) = open(dir.path(), &boot.to_string());
                    let expected: Vec<_> = model.iter().map(|((table, key), value)| Record {
                        table: table.clone(), key: key.clone(), value: value.clone(),
                    }).collect();
                    prop_assert_eq!(loaded.records, expected);
                    prop_assert_eq!(loaded.rebooted, rebooted);
                    prop_assert_eq!(loaded.generation, opened);
                    prop_assert!(loaded.quarantined.is_empty());
                    ledger = next;
                }
            }
        }
    }
}
