//! Where an entry's path leads: always into the layer.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{BLOCK, Entry, MAX_CACHED, MAX_PATH, Tree, TreeError, lossy};
use crate::layer::node::{open_in_root, open_plain};

impl Tree {
    pub(super) fn components<'e>(&self, entry: &'e Entry) -> Result<Vec<&'e [u8]>, TreeError> {
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
    pub(super) fn parent(&mut self, parts: &[&[u8]]) -> io::Result<Rc<OwnedFd>> {
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

    pub(super) fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        open_in_root(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    pub(super) fn open_plain(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        open_plain(&self.root, path)
    }
}
