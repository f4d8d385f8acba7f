//! A layer in one pass: its compressed bytes are hashed, inflated, hashed again and unpacked as they come.

pub(crate) mod inflate;
pub(crate) mod node;
pub(crate) mod tar;
pub(crate) mod tree;

use std::io::{self, BufRead};
use std::os::fd::OwnedFd;
use std::path::Path;

use names::Kind;
use thiserror::Error;

pub use self::tar::TarError;
use crate::digest::Digest;
use crate::options::TarLimits;
use inflate::{Hashed, Inflated};
pub(crate) use tree::Stats;
pub use tree::TreeError;

/// What a layer must turn out to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    /// Of the bytes as they come; an archive may not say.
    pub(crate) blob: Option<Digest>,
    /// Of the inflated tar stream.
    pub(crate) diff_id: Digest,
}

/// A layer that was unpacked and verified, still at its temporary place.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) stats: Stats,
    pub(crate) implied: Vec<Vec<u8>>,
}

/// Why a layer was not unpacked.
#[derive(Debug, Error)]
pub enum LayerError {
    /// Its directory could not be made or synced.
    #[error("{step} the layer's directory")]
    Directory {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An entry could not be made.
    #[error("unpack the layer")]
    Unpack(#[from] TreeError),
    /// What follows the archive could not be read.
    #[error("read the layer")]
    Read(#[source] io::Error),
    /// The bytes are not those that the manifest promised.
    #[error("the layer's bytes have digest {found}, not {expected}")]
    Digest {
        /// What the manifest says.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The inflated bytes are not those that the configuration promised.
    #[error("the inflated layer has digest {found}, not {expected}")]
    DiffId {
        /// What the configuration says.
        expected: Digest,
        /// What came.
        found: Digest,
    },
}

impl LayerError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unpack(TreeError::Entries { .. } | TreeError::Bytes { .. }) => Kind::Exhausted,
            Self::Directory { source, .. } | Self::Unpack(TreeError::Make { source, .. })
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                Kind::Exhausted
            }
            Self::Unpack(TreeError::Make { .. }) | Self::Directory { .. } => Kind::Internal,
            Self::Unpack(TreeError::Tar(_) | TreeError::Entry { .. })
            | Self::Read(_)
            | Self::Digest { .. }
            | Self::DiffId { .. } => Kind::Invalid,
        }
    }
}

/// Unpacks `source` into the empty directory `into`, and syncs its file system.
pub(crate) fn unpack<R: BufRead>(
    source: R,
    expected: Expected,
    into: &Path,
    limits: &TarLimits,
) -> Result<Unpacked, LayerError> {
    let step = |step| move |source| LayerError::Directory { step, source };
    let root = node::open_directory(into).map_err(step("open"))?;
    let sync = root.try_clone().map_err(step("open"))?;
    let unpacked = stream(source, expected, root, limits)?;
    rustix::fs::syncfs(&sync).map_err(|e| step("sync")(e.into()))?;
    Ok(unpacked)
}

fn stream<R: BufRead>(
    source: R,
    expected: Expected,
    root: OwnedFd,
    limits: &TarLimits,
) -> Result<Unpacked, LayerError> {
    let inflated = Inflated::new(Hashed::new(source), limits.clone()).map_err(LayerError::Read)?;
    let mut reader = tar::Reader::new(inflated);
    let mut tree = tree::Tree::new(root, limits.clone());
    while let Some(entry) = reader.next_entry().map_err(TreeError::Tar)? {
        tree.apply(&entry, &mut reader)?;
    }
    let (diff_id, hashed) = reader.into_inner().finish().map_err(LayerError::Read)?;
    let blob = hashed.finish().map_err(LayerError::Read)?;
    if let Some(promised) = expected.blob.filter(|promised| *promised != blob) {
        return Err(LayerError::Digest { expected: promised, found: blob });
    }
    if diff_id != expected.diff_id {
        return Err(LayerError::DiffId { expected: expected.diff_id, found: diff_id });
    }
    let (stats, implied) = tree.finish()?;
    Ok(Unpacked { stats, implied })
}
