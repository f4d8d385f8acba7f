//! A layer's directory being written, entry by entry, from names that an attacker chose.
//!
//! Every directory is found with openat2 `RESOLVE_IN_ROOT` from the layer's own descriptor, and what is made in it is
//! made by its last component alone, without following it. A path therefore ends within the layer whatever `..`, absolute names
//! and symbolic links say, and however they change while it is being written.
//!
//! Whiteouts become overlayfs's: a character device 0/0 for a name, `trusted.overlay.opaque` for a directory. A layer's
//! whiteout hides lower layers only, never what the same layer brings, whichever of the two comes first.
//!
//! [`find`] says where a path leads, [`make`] what each kind of entry becomes.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timestamps};
use rustix::io::Errno;
use thiserror::Error;

use super::node::opaque;
use super::tar::{Entry, Kind, Reader, TarError};
use crate::options::TarLimits;
use crate::sweep;
use make::Extent;

mod find;
mod make;

const MAX_PATH: usize = 4095;
const MAX_CACHED: usize = 128;
/// Names of directories remembered until the end; beyond that a directory keeps the time of its last change.
const MAX_REMEMBERED: usize = 32 << 20;
const BLOCK: u64 = 4096;

/// What a finished layer takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Why an entry could not be made.
#[derive(Debug, Error)]
pub enum TreeError {
    /// The stream is no tar archive.
    #[error("read its entries")]
    Tar(#[from] TarError),
    /// The kernel refused one step.
    #[error("{step} {path:?}")]
    Make {
        /// What was tried.
        step: &'static str,
        /// The entry's path.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// More entries than allowed.
    #[error("more than {limit} entries")]
    Entries {
        /// The limit.
        limit: u64,
    },
    /// More bytes than allowed.
    #[error("more than {limit} bytes in its files")]
    Bytes {
        /// The limit.
        limit: u64,
    },
    /// A path or an id out of range.
    #[error("{path:?}: {what}")]
    Entry {
        /// The entry's path.
        path: String,
        /// What of it.
        what: &'static str,
    },
}

/// The directory of one layer, open for writing.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Rc<OwnedFd>,
    limits: TarLimits,
    entries: u64,
    files: u64,
    stats: Stats,
    cached: HashMap<Vec<u8>, Rc<OwnedFd>>,
    times: HashMap<Vec<u8>, Timestamps>,
    implied: Vec<Vec<u8>>,
    remembered: usize,
}

impl Tree {
    /// Writes into `root`, which is empty.
    pub(crate) fn new(root: OwnedFd, limits: TarLimits) -> Self {
        Self {
            root: Rc::new(root),
            limits,
            entries: 0,
            files: 0,
            stats: Stats { bytes: BLOCK, inodes: 1 },
            cached: HashMap::new(),
            times: HashMap::new(),
            implied: Vec::new(),
            remembered: 0,
        }
    }

    /// Makes one entry, its payload taken from the reader that stands on it.
    pub(crate) fn apply<R: BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), TreeError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(TreeError::Entries { limit: self.limits.entries });
        }
        let path = self.components(entry)?;
        let Some((name, parents)) = path.split_last() else {
            return self.attributes(&self.root.clone(), entry, b"");
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(hidden, parents, entry);
        }
        let parent = self.parent(parents).map_err(made("open the directory of", entry))?;
        let name = c_string(name, entry)?;
        match &entry.kind {
            Kind::File { length, sparse } => {
                let extent = Extent { length: *length, sparse: sparse.as_deref() };
                self.file((&parent, &name), entry, extent, reader)
            }
            Kind::Directory => self.directory(&parent, &name, entry, &path.join(&b'/')),
            Kind::HardLink(target) => self.hard_link(&parent, &name, entry, target),
            _ => self.special(&parent, &name, entry),
        }
    }

    /// Sets the times of directories, which every entry in them had changed; returns what was used and the directories
    /// that no entry described.
    pub(crate) fn finish(mut self) -> Result<(Stats, Vec<Vec<u8>>), TreeError> {
        self.cached.clear();
        for (path, times) in std::mem::take(&mut self.times) {
            // A later entry may have put something else there.
            if let Ok(fd) = self.open_plain(&path) {
                rustix::fs::futimens(&fd, &times).map_err(|e| TreeError::Make {
                    step: "set the times of",
                    path: String::from_utf8_lossy(&path).into_owned(),
                    source: e.into(),
                })?;
            }
        }
        Ok((self.stats, self.implied))
    }

    fn whiteout(
        &mut self,
        hidden: &[u8],
        parents: &[&[u8]],
        entry: &Entry,
    ) -> Result<(), TreeError> {
        if hidden == b".wh..opq" {
            let parent = self.parent(parents).map_err(made("open the directory of", entry))?;
            return opaque(&parent).map_err(made("make opaque the directory of", entry));
        }
        // The bookkeeping of aufs: .wh..wh.plnk and its like.
        if hidden.starts_with(b".wh.") {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(TreeError::Entry { path: lossy(&entry.path), what: "whiteout of nothing" });
        }
        let parent = self.parent(parents).map_err(made("open the directory of", entry))?;
        let name = c_string(hidden, entry)?;
        let node =
            |()| rustix::fs::mknodat(&*parent, &name, FileType::CharacterDevice, Mode::empty(), 0);
        match node(()) {
            Ok(()) => self.count(0),
            Err(Errno::EXIST) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                if let Ok(dir) = rustix::fs::openat(&*parent, &name, flags, Mode::empty()) {
                    opaque(&dir).map_err(made("make opaque", entry))?;
                }
            }
            Err(e) => return Err(made("white out", entry)(e.into())),
        }
        Ok(())
    }

    /// Removes what an earlier entry of the same layer had put there.
    fn clear(&mut self, parent: &OwnedFd, name: &CString) -> io::Result<()> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                self.cached.clear();
                sweep::remove_at(parent.as_fd(), name)
            }
            cleared => {
                // It may have been a symbolic link that cached paths lead through.
                self.cached.clear();
                Ok(cleared?)
            }
        }
    }

    fn count(&mut self, bytes: u64) {
        self.stats.inodes += 1;
        self.stats.bytes = self.stats.bytes.saturating_add(bytes);
    }

    fn remember(&mut self, length: usize) -> bool {
        self.remembered += length + 64;
        self.remembered <= MAX_REMEMBERED
    }
}

fn c_string(name: &[u8], entry: &Entry) -> Result<CString, TreeError> {
    CString::new(name).map_err(|_| TreeError::Entry { path: lossy(&entry.path), what: "zero byte" })
}

fn made(step: &'static str, entry: &Entry) -> impl Fn(io::Error) -> TreeError {
    move |source| TreeError::Make { step, path: lossy(&entry.path), source }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path.get(..200).unwrap_or(path)).into_owned()
}
