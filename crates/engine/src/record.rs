//! Records in the ledger, as JSON: fields may be added by a later version, and a person can read what was promised.
//!
//! A record of phase `Creating` is written before the first effect; [`Pending`] is the proof, and only it can establish claims.

use ledger::{Durability, Entry, Ledger};
use names::{ContainerId, Kind, SandboxId};
use pod::step::Fault;
use pod::{Claim, Container, ContainerPhase, Pod, Sandbox, SandboxPhase, Time};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The tables.
pub const SANDBOXES: &str = "sandboxes";
/// The tables.
pub const CONTAINERS: &str = "containers";
/// The tables.
pub const DEBTS: &str = "debts";

/// Proof that an intent is written. Only a `Pending` can establish claims, and only its own.
#[must_use = "recovery rolls it back otherwise"]
#[derive(Debug)]
pub struct Pending {
    of: Of,
}

#[derive(Debug, PartialEq, Eq)]
enum Of {
    Sandbox(SandboxId),
    Container(ContainerId),
}

impl Pending {
    pub(crate) fn is_sandbox(&self, id: &SandboxId) -> bool {
        matches!(&self.of, Of::Sandbox(own) if own == id)
    }

    pub(crate) fn is_container(&self, id: &ContainerId) -> bool {
        matches!(&self.of, Of::Container(own) if own == id)
    }
}

/// What could not be released, and is owed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// The sandbox as it was.
    pub sandbox: Sandbox,
    /// In order of release.
    pub claims: Vec<Claim>,
    /// Since when.
    pub since: Time,
    /// What it said last.
    pub error: String,
}

/// Writes records; knows what changed.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    ledger: Ledger,
}

impl Records {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger }
    }

    /// Writes a new record with its whole plan.
    pub(crate) async fn begin(
        &self,
        sandbox: &Sandbox,
        durability: Durability,
    ) -> Result<Pending, Fault> {
        self.write(vec![put(SANDBOXES, sandbox.id.as_str(), sandbox)?], durability).await?;
        Ok(Pending { of: Of::Sandbox(sandbox.id.clone()) })
    }

    /// Writes what differs between the two, in one transaction; gives a proof for every container that is now being created.
    pub(crate) async fn advance(
        &self,
        before: &Pod,
        after: &Pod,
        forget: bool,
    ) -> Result<Vec<Pending>, Fault> {
        let mut entries = Vec::new();
        let mut pending = Vec::new();
        if forget {
            entries.push(Entry::delete(SANDBOXES, before.sandbox.id.as_str()));
        } else if !Arc::ptr_eq(&before.sandbox, &after.sandbox) {
            entries.push(put(SANDBOXES, after.sandbox.id.as_str(), &*after.sandbox)?);
        }
        for (id, container) in &after.containers {
            let same = before.containers.get(id).is_some_and(|was| Arc::ptr_eq(was, container));
            if same || matches!(container.phase, ContainerPhase::Ending { .. }) {
                continue;
            }
            entries.push(put(CONTAINERS, id.as_str(), &**container)?);
            if matches!(container.phase, ContainerPhase::Creating) {
                pending.push(Pending { of: Of::Container(id.clone()) });
            }
        }
        for id in before.containers.keys().filter(|id| !after.containers.contains_key(*id)) {
            entries.push(Entry::delete(CONTAINERS, id.as_str()));
        }
        if !entries.is_empty() {
            self.write(entries, Durability::Process).await?;
        }
        Ok(pending)
    }

    pub(crate) async fn owe(&self, debt: &Debt) -> Result<(), Fault> {
        let entry = put(DEBTS, debt.sandbox.id.as_str(), debt)?;
        self.write(vec![entry], Durability::Power).await
    }

    pub(crate) async fn repaid(&self, id: &SandboxId) -> Result<(), Fault> {
        self.write(vec![Entry::delete(DEBTS, id.as_str())], Durability::Power).await
    }

    async fn write(&self, entries: Vec<Entry>, durability: Durability) -> Result<(), Fault> {
        self.ledger
            .write(entries, durability)
            .await
            .map_err(|error| Fault::new(Kind::Internal, format!("ledger: {}", chain(&error))))
    }
}

fn put<T: Serialize>(table: &'static str, key: &str, record: &T) -> Result<Entry, Fault> {
    serde_json::to_vec(record)
        .map(|value| Entry::put(table, key, value))
        .map_err(|error| Fault::new(Kind::Internal, format!("record {table}/{key}: {error}")))
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What was promised before a restart.
#[derive(Debug, Default)]
pub struct Promised {
    /// Pods, with their containers.
    pub pods: Vec<Pod>,
    /// Debts.
    pub debts: Vec<Debt>,
    /// Records that say nothing we understand: left alone, and told.
    pub unreadable: Vec<String>,
}

/// Reads the ledger's records.
pub fn read(records: Vec<ledger::Record>) -> Promised {
    let mut promised = Promised::default();
    let mut containers: Vec<Container> = Vec::new();
    for record in records {
        let told = format!("{}/{}", record.table, record.key);
        let read = match record.table.as_str() {
            SANDBOXES => parse(&record.value).map(|s| promised.pods.push(Pod::new(s))),
            CONTAINERS => parse(&record.value).map(|c| containers.push(c)),
            DEBTS => parse(&record.value).map(|d| promised.debts.push(d)),
            _ => Err("unknown table".to_owned()),
        };
        if let Err(error) = read {
            promised.unreadable.push(format!("{told}: {error}"));
        }
    }
    for container in containers {
        match promised.pods.iter_mut().find(|pod| pod.sandbox.id == container.sandbox) {
            Some(pod) => {
                pod.containers.insert(container.id.clone(), Arc::new(container));
            }
            None => promised.unreadable.push(format!("{CONTAINERS}/{}: no sandbox", container.id)),
        }
    }
    promised
}

fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// How a new sandbox's plan must be written.
pub(crate) fn durability(outlives_boot: bool) -> Durability {
    if outlives_boot { Durability::Power } else { Durability::Process }
}

pub(crate) fn is_creating(sandbox: &Sandbox) -> bool {
    matches!(sandbox.phase, SandboxPhase::Creating)
}
