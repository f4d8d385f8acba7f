//! REMEMBER: what the node has promised, written down before it is done.
//!
//! The ledger keeps bytes under `(table, key)` and knows neither pods nor the kernel. It lies in two files:
//!
//! ```text
//! write() --> run thread ==commit==> run file, on tmpfs       a Durability::Process write is answered here
//!                 |
//!                 +--> disk thread ==commit==> disk file      a Durability::Power write is answered here
//! ```
//!
//! The run file survives the daemon's death, the disk file the machine's. After a crash of the daemon (same boot id) the
//! run file is the truth and the disk file is brought up to it; after a reboot the disk file is.
//!
//! * `file`: one redb file with its header and its checksummed records.
//! * `open`: which file is the truth, and making both say so; `quarantine`: what cannot be read is moved aside.
//! * `write`: the two threads, batching, latching.
//! * `error`: one enum per operation.
//!
//! It may not depend on `pod` (it would learn what it keeps), on nix, or on more of tokio than its channels.
//!
//! # Decisions
//! * Two threads, not one: the disk copy has its own, so that a slow or frozen disk never delays what only has to survive
//!   `kill -9`. Each takes all that is queued into one commit.
//! * The disk file gets whole prefixes of the history, at most 100 ms late: the commit for a `Power` write carries all
//!   that was committed to the run file before it.
//! * A failed commit to the run file latches the ledger: nothing is written until it is opened again. A failed commit to
//!   the disk file does not, because a full disk is emptied by stopping pods: `Power` writes are refused, what is owed to
//!   the disk is kept, and the copy is tried again each second.
//! * Both headers carry the ledger's own id: a run file never overwrites the disk file of another root directory.
//! * redb runs with `Durability::Immediate` (`None` does not survive `kill -9`), a cache of 64 KiB for each file (its default is
//!   1 GiB; a commit takes 0.07 to 0.1 ms with 32 to 256 KiB, and a busy node fills what it is given), and its integrity check
//!   at every open (else an altered file may panic instead of being quarantined).

mod error;
mod file;
mod open;
mod quarantine;
#[cfg(test)]
mod tests;
mod write;

use std::path::PathBuf;

pub use error::{OpenError, WriteError};
pub use write::Ledger;

/// Where the two files lie and which boot this is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file on tmpfs.
    pub run: PathBuf,
    /// The file on disk.
    pub disk: PathBuf,
    /// The kernel's boot id: another one means that every process is gone.
    pub boot_id: String,
}

/// What a write must have survived before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of this process; the disk gets its copy within 100 ms.
    Process,
    /// The loss of power.
    Power,
}

/// One change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The kind of record.
    pub table: &'static str,
    /// Which one.
    pub key: String,
    /// Its new value; `None` deletes it, and deleting what is not there is no error.
    pub value: Option<Vec<u8>>,
}

impl Entry {
    /// The record is to have this value.
    pub fn put(table: &'static str, key: impl Into<String>, value: Vec<u8>) -> Self {
        Self { table, key: key.into(), value: Some(value) }
    }

    /// The record is to be gone.
    pub fn delete(table: &'static str, key: impl Into<String>) -> Self {
        Self { table, key: key.into(), value: None }
    }
}

/// One record as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The kind of record.
    pub table: String,
    /// Which one.
    pub key: String,
    /// The bytes that were written.
    pub value: Vec<u8>,
}

/// Something unreadable, which now lies beside its file for a human to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it lies now.
    pub path: PathBuf,
    /// The record that it was, `(table, key)`; none when it was a whole file.
    pub record: Option<(String, String)>,
    /// What was wrong with it.
    pub reason: String,
}

/// What opening found.
#[derive(Debug)]
pub struct Loaded {
    /// Every record, in the order of table and key.
    pub records: Vec<Record>,
    /// The boot id differs: the records are the disk's, and every process and mount they name is gone.
    pub rebooted: bool,
    /// How many times this ledger has been opened, this time included.
    pub generation: u64,
    /// What could not be read.
    pub quarantined: Vec<Quarantined>,
}
