//! A layer's directory being written, entry by entry, from names that an attacker chose.
//!
//! Every directory is found with openat2 `RESOLVE_IN_ROOT` from the layer's own descriptor, and what is made in it is
//! made by its last component alone, without following it. A path therefore ends within the layer whatever `..`, absolute names
//! and symbolic links say, and however they change while it is being written.
//!
//! Whiteouts become overlayfs's: a character device 0/0 for a name, `trusted.overlay.opaque` for a directory. A layer's
//! whiteout hides lower layers only, never what the same layer brings, whichever of the two comes first.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use thiserror::Error;

use super::node::{is_whiteout, may_set, node, opaque, open_plain, same_place};
use super::tar::{Entry, Kind, Reader, Segment, TarError};
use crate::options::TarLimits;
use crate::sweep;

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

/// How long a file is, and which stretches of it have data when not all have.
#[derive(Clone, Copy)]
struct Extent<'e> {
    length: u64,
    sparse: Option<&'e [Segment]>,
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

    fn components<'e>(&self, entry: &'e Entry) -> Result<Vec<&'e [u8]>, TreeError> {
        let wrong = |what| TreeError::Entry { path: lossy(&entry.path), what };
        if entry.path.len() > MAX_PATH {
            return Err(wrong("the path is too long"));
        }
        if entry.path.contains(&0) {
            return Err(wrong("the path has a zero byte"));
        }
        let mut parts = Vec::new();
        for part in entry.path.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        if parts.len() > self.limits.depth {
            return Err(wrong("the path is too deep"));
        }
        Ok(parts)
    }

    /// The directory that these components name, made where it is missing.
    fn parent(&mut self, parts: &[&[u8]]) -> io::Result<Rc<OwnedFd>> {
        if parts.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let path = parts.join(&b'/');
        if let Some(found) = self.cached.get(&path) {
            return Ok(Rc::clone(found));
        }
        let found = match self.open(&path) {
            Err(Errno::NOENT) => self.make_all(parts)?,
            opened => Rc::new(opened?),
        };
        if self.cached.len() >= MAX_CACHED {
            self.cached.clear();
        }
        self.cached.insert(path, Rc::clone(&found));
        Ok(found)
    }

    fn make_all(&mut self, parts: &[&[u8]]) -> io::Result<Rc<OwnedFd>> {
        let mut at = Rc::clone(&self.root);
        let mut path = Vec::new();
        for part in parts {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(part);
            let name = CString::new(*part)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = match rustix::fs::openat(&*at, &name, flags, Mode::empty()) {
                // A symbolic link, which only the kernel's own walk from the root may follow.
                Err(Errno::LOOP | Errno::NOTDIR) => self.open(&path)?,
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&*at, &name, Mode::from_raw_mode(0o755))?;
                    let made = rustix::fs::openat(&*at, &name, flags, Mode::empty())?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                    self.count(BLOCK);
                    if self.remember(path.len()) {
                        self.implied.push(path.clone());
                    }
                    made
                }
                opened => opened?,
            };
            at = Rc::new(next);
        }
        Ok(at)
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        rustix::fs::openat2(
            &*self.root,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    fn open_plain(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        open_plain(&self.root, path)
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

    fn file<R: BufRead>(
        &mut self,
        (parent, name): (&OwnedFd, &CString),
        entry: &Entry,
        Extent { length, sparse }: Extent<'_>,
        reader: &mut Reader<R>,
    ) -> Result<(), TreeError> {
        self.files = self.files.saturating_add(length);
        if self.files > self.limits.bytes {
            return Err(TreeError::Bytes { limit: self.limits.bytes });
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let create = |()| rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
        let fd = match create(()) {
            Err(Errno::EXIST) => {
                self.clear(parent, name).map_err(made("replace", entry))?;
                create(()).map_err(|e| made("create", entry)(e.into()))?
            }
            created => created.map_err(|e| made("create", entry)(e.into()))?,
        };
        match sparse {
            None => write_payload(&fd, 0, length, entry, reader)?,
            Some(segments) => {
                for segment in segments {
                    write_payload(&fd, segment.offset, segment.length, entry, reader)?;
                }
                rustix::fs::ftruncate(&fd, length).map_err(|e| made("extend", entry)(e.into()))?;
            }
        }
        self.count(length.next_multiple_of(BLOCK));
        self.attributes(&fd, entry, b"")?;
        rustix::fs::futimens(&fd, &times(entry))
            .map_err(|e| made("set the times of", entry)(e.into()))
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &CString,
        entry: &Entry,
        path: &[u8],
    ) -> Result<(), TreeError> {
        let make = |()| rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |()| rustix::fs::openat(parent, name, flags, Mode::empty());
        let fail = |step| move |e: Errno| made(step, entry)(e.into());
        let fd = match make(()) {
            Ok(()) => {
                self.count(BLOCK);
                open(())
            }
            Err(Errno::EXIST) => match open(()) {
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let hid = is_whiteout(parent, name);
                    self.clear(parent, name).map_err(made("replace", entry))?;
                    make(()).map_err(fail("create"))?;
                    self.count(BLOCK);
                    let fd = open(()).map_err(fail("open"))?;
                    if hid {
                        opaque(&fd).map_err(made("make opaque", entry))?;
                    }
                    Ok(fd)
                }
                opened => opened,
            },
            Err(e) => Err(e),
        };
        let fd = fd.map_err(fail("create"))?;
        self.attributes(&fd, entry, path)
    }

    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &CString,
        entry: &Entry,
        target: &[u8],
    ) -> Result<(), TreeError> {
        let to = Entry {
            path: target.to_vec(),
            kind: Kind::Fifo,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
        };
        let parts = self.components(&to)?;
        let Some((last, parents)) = parts.split_last() else {
            return Err(TreeError::Entry {
                path: lossy(&entry.path),
                what: "hard link to the root",
            });
        };
        let joined = parents.join(&b'/');
        let from = if parents.is_empty() {
            Ok(Rc::clone(&self.root))
        } else {
            self.open(&joined).map(Rc::new)
        };
        let from = from.map_err(|e| made("find the target of", entry)(e.into()))?;
        let last = c_string(last, entry)?;
        if same_place(&from, &last, parent, name) {
            return Ok(());
        }
        let link = |()| rustix::fs::linkat(&*from, &last, parent, name, AtFlags::empty());
        let linked = match link(()) {
            Err(Errno::EXIST) => {
                self.clear(parent, name).map_err(made("replace", entry))?;
                link(())
            }
            linked => linked,
        };
        linked.map_err(|e| made("hard link", entry)(e.into()))
    }

    fn special(
        &mut self,
        parent: &OwnedFd,
        name: &CString,
        entry: &Entry,
    ) -> Result<(), TreeError> {
        let make = |()| match &entry.kind {
            Kind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), parent, name),
            Kind::Char(major, minor) => {
                node(parent, name, FileType::CharacterDevice, (*major, *minor))
            }
            Kind::Block(major, minor) => {
                node(parent, name, FileType::BlockDevice, (*major, *minor))
            }
            _ => node(parent, name, FileType::Fifo, (0, 0)),
        };
        let fail = |step| move |e: Errno| made(step, entry)(e.into());
        match make(()) {
            Err(Errno::EXIST) => {
                self.clear(parent, name).map_err(made("replace", entry))?;
                make(()).map_err(fail("create"))?;
            }
            done => done.map_err(fail("create"))?,
        }
        self.count(0);
        let (uid, gid) = owner(entry)?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), nofollow).map_err(fail("chown"))?;
        if !matches!(entry.kind, Kind::Symlink(_)) {
            // Just made here and no link: chmod cannot be led elsewhere.
            rustix::fs::chmodat(parent, name, mode(entry), AtFlags::empty())
                .map_err(fail("chmod"))?;
        }
        rustix::fs::utimensat(parent, name, &times(entry), nofollow)
            .map_err(fail("set the times of"))
    }

    /// Owner, mode and extended attributes, in this order: a change of owner clears set-id bits and capabilities.
    fn attributes(
        &mut self,
        fd: &OwnedFd,
        entry: &Entry,
        directory: &[u8],
    ) -> Result<(), TreeError> {
        let fail = |step| move |e: Errno| made(step, entry)(e.into());
        let (uid, gid) = owner(entry)?;
        if (entry.uid, entry.gid) != (0, 0) || matches!(entry.kind, Kind::Directory) {
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(fail("chown"))?;
        }
        rustix::fs::fchmod(fd, mode(entry)).map_err(fail("chmod"))?;
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| may_set(key)) {
            let set = rustix::fs::fsetxattr(fd, key.as_slice(), value, XattrFlags::empty());
            match set {
                Err(Errno::NOTSUP) if !key.starts_with(b"security.") => {}
                set => set.map_err(fail("set an attribute of"))?,
            }
        }
        if matches!(entry.kind, Kind::Directory) && self.remember(directory.len()) {
            self.times.insert(directory.to_vec(), times(entry));
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

fn write_payload<R: BufRead>(
    fd: &OwnedFd,
    mut at: u64,
    length: u64,
    entry: &Entry,
    reader: &mut Reader<R>,
) -> Result<(), TreeError> {
    let written = reader.payload::<TreeError>(length, |mut piece| {
        while !piece.is_empty() {
            let n = match rustix::io::pwrite(fd, piece, at) {
                Err(Errno::INTR) => continue,
                wrote => wrote.map_err(|e| made("write", entry)(e.into()))?,
            };
            at += n as u64;
            piece = piece.get(n..).unwrap_or_default();
        }
        Ok(())
    })?;
    if written < length {
        return Err(TreeError::Entry {
            path: lossy(&entry.path),
            what: "its map names more data than it has",
        });
    }
    Ok(())
}

fn owner(entry: &Entry) -> Result<(Uid, Gid), TreeError> {
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    match (id(entry.uid), id(entry.gid)) {
        (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
        _ => Err(TreeError::Entry { path: lossy(&entry.path), what: "owner out of range" }),
    }
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode & 0o7777)
}

fn times(entry: &Entry) -> Timestamps {
    let (seconds, nanos) = entry.mtime;
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
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
