//! An archive's members by name, wherever they lie: a directory, a tar file, or what a compressed one inflates to.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::layer::inflate::{Hashed, Inflated};
use crate::layer::node::{open_directory, open_in_root};
use crate::layer::tar::{Kind, Reader};
use crate::options::TarLimits;

const MAX_MEMBERS: usize = 100_000;

/// Where members are read from.
#[derive(Debug, Clone)]
pub(super) enum Bundle {
    Directory(Arc<OwnedFd>),
    Archive { file: Arc<File>, members: Arc<HashMap<String, Member>> },
}

#[derive(Debug)]
pub(super) enum Member {
    At { offset: u64, length: u64 },
    Link(String),
}

/// A stretch of a file, read without moving the file's own position.
#[derive(Debug)]
pub(super) struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Bundle {
    /// Opens what is at `path`; what is compressed is inflated to a nameless file in `tmp`.
    pub(super) fn open(path: &Path, tmp: &Path, limits: &TarLimits) -> io::Result<Self> {
        if path.is_dir() {
            return Ok(Self::Directory(Arc::new(open_directory(path)?)));
        }
        let file = File::open(path)?;
        let mut magic = [0; 4];
        let known = file.read_at(&mut magic, 0)? == magic.len();
        let compressed = magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd];
        if known && compressed {
            return Self::spool(BufReader::new(file), tmp, limits);
        }
        Self::index(file)
    }

    /// Copies a stream, inflated, to a nameless file.
    pub(super) fn spool(source: impl BufRead, tmp: &Path, limits: &TarLimits) -> io::Result<Self> {
        let mut file = nameless(tmp)?;
        let mut inflated = Inflated::new(Hashed::new(source), limits.clone())?;
        io::copy(&mut inflated, &mut file)?;
        file.flush()?;
        Self::index(file)
    }

    fn index(file: File) -> io::Result<Self> {
        let file = Arc::new(file);
        let length = file.metadata()?.len();
        let whole = Section { file: Arc::clone(&file), at: 0, end: length };
        let mut reader = Reader::new(BufReader::with_capacity(256 << 10, whole));
        let mut members = HashMap::new();
        while let Some(entry) = reader.next_entry().map_err(io::Error::other)? {
            let name = clean(&String::from_utf8_lossy(&entry.path));
            let member = match entry.kind {
                Kind::File { length, sparse: None } => Member::At { offset: reader.at(), length },
                Kind::Symlink(to) => {
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    Member::Link(clean(&format!("{parent}/{}", String::from_utf8_lossy(&to))))
                }
                Kind::HardLink(to) => Member::Link(clean(&String::from_utf8_lossy(&to))),
                _ => continue,
            };
            members.insert(name, member);
            if members.len() > MAX_MEMBERS {
                return Err(io::Error::other("the archive has too many members"));
            }
        }
        Ok(Self::Archive { file, members: Arc::new(members) })
    }

    pub(super) fn open_member(&self, name: &str) -> io::Result<Section> {
        match self {
            Self::Directory(root) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                let fd = open_in_root(root, name.as_bytes(), flags)?;
                let file = File::from(fd);
                let end = file.metadata()?.len();
                Ok(Section { file: Arc::new(file), at: 0, end })
            }
            Self::Archive { file, members } => {
                let mut name = clean(name);
                for _ in 0..8 {
                    match members.get(&name) {
                        Some(Member::Link(to)) => name = to.clone(),
                        Some(Member::At { offset, length }) => {
                            let (at, end) = (*offset, offset.saturating_add(*length));
                            return Ok(Section { file: Arc::clone(file), at, end });
                        }
                        None => break,
                    }
                }
                Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{name} is not in the archive"),
                ))
            }
        }
    }

    /// A small member as a whole.
    pub(super) fn read(&self, name: &str, limit: usize) -> io::Result<Vec<u8>> {
        let section = self.open_member(name)?;
        let mut bytes = Vec::new();
        section.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            return Err(io::Error::other(format!("{name} is larger than {limit} bytes")));
        }
        Ok(bytes)
    }
}

impl Read for Section {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(into.len());
        let read = self.file.read_at(into.get_mut(..left).unwrap_or_default(), self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A file that no path leads to and that ends with its descriptor.
pub(super) fn nameless(dir: &Path) -> io::Result<File> {
    let flag = OFlags::TMPFILE.bits().cast_signed();
    std::fs::OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(flag).open(dir)
}

/// A member's name without `.`, `..` and leading slashes.
fn clean(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
