//! A layer's directory back into a tar stream: sorted, with overlayfs's whiteouts as a registry's.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::layer::node::open_directory;

const MAX_XATTRS: usize = 64 << 10;
/// Longest name that a header holds by itself.
const MAX_NAME: usize = 100;

/// Name and value of an extended attribute.
type Xattr = (Vec<u8>, Vec<u8>);
type Xattrs = [Xattr];

struct Packer<W: Write> {
    root: OwnedFd,
    tar: Builder<W>,
    /// The first name of each inode that has several.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

/// Writes the layer in `dir`.
pub(super) fn pack<W: Write>(dir: &Path, into: W) -> io::Result<W> {
    let mut packer =
        Packer { root: open_directory(dir)?, tar: Builder::new(into), linked: HashMap::new() };
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let children = packer.directory(&path)?;
        // The stack is taken from its end: reversed, so that names come in order.
        pending.extend(children.into_iter().rev());
    }
    packer.tar.into_inner()
}

impl<W: Write> Packer<W> {
    /// Writes a directory and all in it that is no directory; returns those that are.
    fn directory(&mut self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let fd = self.open(path)?;
        let stat = rustix::fs::fstat(&fd)?;
        if !path.is_empty() {
            let name = [path, b"/"].concat();
            let xattrs = xattrs(&fd)?;
            self.member(&name, EntryType::Directory, &stat, &[], (&xattrs, &mut io::empty()))?;
        }
        if is_opaque(&fd) {
            self.whiteout(&join(path, b".wh..wh..opq"), &stat)?;
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if !matches!(name.as_slice(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort();
        let mut directories = Vec::new();
        for name in names {
            let child = join(path, &name);
            let name = CString::new(name)?;
            let stat = rustix::fs::statat(&fd, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                directories.push(child);
            } else {
                self.leaf(&fd, &name, path, &child, &stat)?;
            }
        }
        Ok(directories)
    }

    fn leaf(
        &mut self,
        parent: &OwnedFd,
        name: &CString,
        within: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return self.whiteout(&join(within, &[b".wh.", name.as_bytes()].concat()), stat);
        }
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&inode).cloned() {
                return self.member(path, EntryType::Link, stat, &first, (&[], &mut io::empty()));
            }
            self.linked.insert(inode, path.to_vec());
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                let xattrs = xattrs(&fd)?;
                let mut body = File::from(fd);
                self.member(path, EntryType::Regular, stat, &[], (&xattrs, &mut body))
            }
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(parent, name, Vec::new())?;
                let none = &mut io::empty();
                self.member(path, EntryType::Symlink, stat, to.as_bytes(), (&[], none))
            }
            FileType::CharacterDevice => {
                self.member(path, EntryType::Char, stat, &[], (&[], &mut io::empty()))
            }
            FileType::BlockDevice => {
                self.member(path, EntryType::Block, stat, &[], (&[], &mut io::empty()))
            }
            FileType::Fifo => {
                self.member(path, EntryType::Fifo, stat, &[], (&[], &mut io::empty()))
            }
            // Sockets are nobody's content.
            _ => Ok(()),
        }
    }

    fn whiteout(&mut self, path: &[u8], stat: &Stat) -> io::Result<()> {
        let mut plain = *stat;
        plain.st_mode = 0;
        plain.st_size = 0;
        self.member(path, EntryType::Regular, &plain, &[], (&[], &mut io::empty()))
    }

    fn member(
        &mut self,
        path: &[u8],
        kind: EntryType,
        stat: &Stat,
        link: &[u8],
        (xattrs, body): (&Xattrs, &mut dyn Read),
    ) -> io::Result<()> {
        let mut records: Vec<(String, Vec<u8>)> = xattrs
            .iter()
            .map(|(k, v)| (format!("SCHILY.xattr.{}", String::from_utf8_lossy(k)), v.clone()))
            .collect();
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        if path.len() < MAX_NAME {
            copy(path, header.as_old_mut().name.as_mut_slice());
        } else {
            records.push(("path".into(), path.to_vec()));
        }
        if link.len() < MAX_NAME {
            copy(link, header.as_old_mut().linkname.as_mut_slice());
        } else {
            records.push(("linkpath".into(), link.to_vec()));
        }
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(stat.st_uid.into());
        header.set_gid(stat.st_gid.into());
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(rustix::fs::major(stat.st_rdev))?;
            header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
        }
        let regular = kind == EntryType::Regular;
        let size = if regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        header.set_size(size);
        header.set_cksum();
        if !records.is_empty() {
            let records = records.iter().map(|(k, v)| (k.as_str(), v.as_slice()));
            self.tar.append_pax_extensions(records)?;
        }
        self.tar.append(&header, body.take(size))
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(
            &self.root,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

fn copy(from: &[u8], into: &mut [u8]) {
    for (to, from) in into.iter_mut().zip(from) {
        *to = *from;
    }
}

fn is_opaque(fd: &OwnedFd) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(fd, c"trusted.overlay.opaque", &mut value).is_ok() && value == *b"y"
}

/// What unpacking would set again.
fn xattrs(fd: &OwnedFd) -> io::Result<Vec<Xattr>> {
    let mut names = vec![0; MAX_XATTRS];
    let length = match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        listed => listed?,
    };
    names.truncate(length);
    let mut found = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| crate::layer::node::may_set(name)) {
        let mut value = vec![0; MAX_XATTRS];
        let length = rustix::fs::fgetxattr(fd, OsStr::from_bytes(name), value.as_mut_slice())?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}
