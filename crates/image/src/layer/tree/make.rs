//! What each kind of entry becomes.

use std::ffi::CString;
use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{BLOCK, Entry, Kind, Tree, TreeError, c_string, lossy, made};
use crate::layer::node::{is_whiteout, may_set, node, opaque, same_place};
use crate::layer::tar::{Reader, Segment};

/// How long a file is, and which stretches of it have data when not all have.
#[derive(Clone, Copy)]
pub(super) struct Extent<'e> {
    pub(super) length: u64,
    pub(super) sparse: Option<&'e [Segment]>,
}

impl Tree {
    pub(super) fn file<R: BufRead>(
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

    pub(super) fn directory(
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

    pub(super) fn hard_link(
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

    pub(super) fn special(
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
    pub(super) fn attributes(
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
