//! What can go wrong, one enum per operation.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use names::Kind;

/// Why the ledger could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file's directory could not be made.
    #[error("make the directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has the file open.
    #[error("{} is open in another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer Ferropod wrote the file.
    #[error("{} has format {found}, and this program knows formats up to {known}", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version in its header.
        found: u32,
        /// The newest known one.
        known: u32,
    },
    /// The two files belong to two different ledgers.
    #[error(
        "{} and {} belong to different ledgers: is the state directory that of another root?",
        run.display(), disk.display()
    )]
    Mismatched {
        /// The file on tmpfs.
        run: PathBuf,
        /// The file on disk.
        disk: PathBuf,
    },
    /// The file could not be read or written.
    #[error("{step} {}", path.display())]
    Storage {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// What is unreadable could not be moved aside.
    #[error("quarantine to {}", path.display())]
    Quarantine {
        /// Where it should have gone.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A writer thread could not be started.
    #[error("start the writer thread")]
    Thread(#[source] io::Error),
}

impl OpenError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::InUse { .. } => Kind::Unavailable,
            Self::NewerFormat { .. } => Kind::Unsupported,
            Self::Mismatched { .. } => Kind::Invalid,
            Self::Storage { source, .. } => storage_kind(source),
            Self::Directory { .. } | Self::Quarantine { .. } | Self::Thread(_) => Kind::Internal,
        }
    }
}

/// Why a write was not answered with success.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The commit to the run file failed. Whether it took effect is known when the ledger is opened again.
    #[error("commit to {}", path.display())]
    Run {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<redb::Error>,
    },
    /// An earlier commit failed: nothing was written, and nothing will be until the ledger is opened again.
    #[error("the ledger is closed since an earlier commit failed")]
    Latched,
    /// The commit to the disk file failed. The write survives this process, and is copied when the disk takes it.
    #[error("commit to {}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<redb::Error>,
    },
    /// The disk file takes no writes at present; nothing was written.
    #[error("the disk file of the ledger takes no writes since an earlier commit failed")]
    DiskRefused,
    /// The writer threads are gone.
    #[error("the ledger is closed")]
    Closed,
}

impl WriteError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Run { source, .. } | Self::Disk { source, .. } => storage_kind(source),
            Self::DiskRefused => Kind::Unavailable,
            Self::Latched | Self::Closed => Kind::Internal,
        }
    }
}

pub(crate) fn storage_kind(error: &redb::Error) -> Kind {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    match error {
        redb::Error::Io(e) if full.contains(&e.kind()) => Kind::Exhausted,
        _ => Kind::Internal,
    }
}
