//! Removal of directory trees in the background, whatever their shape.
//!
//! A layer may nest deeper than any stack or descriptor table (links lead entries ever further down), so a tree is
//! removed flat: each directory that is not empty is first lifted into a bin beside the tree.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Removes trees one after another on a thread that lives only while there are any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sweeper(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    paths: VecDeque<PathBuf>,
    running: bool,
}

impl Sweeper {
    /// Removes this tree soon. What cannot be removed is reported and found again at the next start.
    pub(crate) fn remove(&self, path: PathBuf) {
        let mut queue = self.0.lock();
        queue.paths.push_back(path);
        if queue.running {
            return;
        }
        queue.running = true;
        drop(queue);
        let shared = Arc::clone(&self.0);
        let spawned =
            std::thread::Builder::new().name("image-sweep".into()).spawn(move || shared.run());
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to remove layers: they stay until the next start");
            self.0.lock().running = false;
        }
    }

    /// Blocks until nothing is left to remove.
    pub(crate) fn wait(&self) {
        let mut queue = self.0.lock();
        while queue.running {
            queue = self.0.idle.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut queue = self.lock();
            let Some(path) = queue.paths.pop_front() else {
                queue.running = false;
                self.idle.notify_all();
                return;
            };
            drop(queue);
            if let Err(error) = remove(&path) {
                tracing::warn!(path = %path.display(), %error, "a tree was not removed");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a tree by its path, which is the daemon's own.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    remove_at(parent.as_fd(), &CString::new(name.as_bytes())?)
}

/// Removes what `parent` has under `name`, directory or not.
pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(e) => return Err(e.into()),
    }
    let (bin_name, bin) = make_bin(parent)?;
    rustix::fs::renameat(parent, name, &bin, numbered(0)?)?;
    let mut count = 1;
    let mut next = 0;
    while next < count {
        let child = numbered(next)?;
        let directory = open(bin.as_fd(), &child)?;
        loop {
            empty(directory.as_fd(), bin.as_fd(), &mut count)?;
            // Some file systems skip names while others are being removed.
            match rustix::fs::unlinkat(&bin, &child, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) => {}
                removed => break removed?,
            }
        }
        next += 1;
    }
    Ok(rustix::fs::unlinkat(parent, &bin_name, AtFlags::REMOVEDIR)?)
}

fn make_bin(parent: BorrowedFd<'_>) -> io::Result<(CString, OwnedFd)> {
    for number in 0_u64.. {
        let name = CString::new(format!(".lifted-{number}"))?;
        match rustix::fs::mkdirat(parent, &name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => {}
            made => {
                made?;
                let bin = open(parent, &name)?;
                return Ok((name, bin));
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn numbered(number: u64) -> io::Result<CString> {
    Ok(CString::new(number.to_string())?)
}

/// Unlinks the files of `directory` and lifts its non-empty directories into `bin`.
fn empty(directory: BorrowedFd<'_>, bin: BorrowedFd<'_>, count: &mut u64) -> io::Result<()> {
    for found in Dir::read_from(directory)? {
        let found = found?;
        let name = found.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) => {
                    rustix::fs::renameat(directory, name, bin, numbered(*count)?)?;
                    *count += 1;
                }
                removed => removed?,
            },
            removed => removed?,
        }
    }
    Ok(())
}

fn open(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let mut at = open_path(temp.path());
        let name = c"deeper-than-the-others-of-its-kind";
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o700)).unwrap();
            at = open(at.as_fd(), name).unwrap();
        }
        drop(at);
        let sweeper = Sweeper::default();
        sweeper.remove(temp.path().join(name.to_str().unwrap()));
        sweeper.wait();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    fn open_path(path: &Path) -> OwnedFd {
        rustix::fs::openat(CWD, path, OFlags::DIRECTORY, Mode::empty()).unwrap()
    }
}
