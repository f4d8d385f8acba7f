//! A directory with all in it, removed.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::{FsError, ReleaseError, Released, raw};

/// Directories inside directories that are entered. What lies deeper is moved to the top first: a container can make a
/// tree as deep as it likes, and neither this stack nor the table of descriptors is.
const DEEPEST: usize = 100;

/// Removes what is at this path with all below it, by descriptor: no symlink is followed, and what is mounted below is
/// left alone and told (with the directories above it). Goes on past errors. Blocks.
pub fn remove_all(path: &Path) -> Result<Released, ReleaseError> {
    let mut errors = Vec::new();
    let released = remove(path, &mut errors).unwrap_or_else(|errno| {
        errors.push(FsError::new("remove", path, errno));
        Released::AlreadyGone
    });
    ReleaseError::unless_empty(path.display(), errors)?;
    Ok(released)
}

fn remove(path: &Path, errors: &mut Vec<FsError>) -> Result<Released, Errno> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EINVAL);
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let parent = match raw::open_at(None, parent, flags) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Ok(Released::AlreadyGone),
        Err(error) => return Err(error),
    };
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
    let device = fstat(parent.as_raw_fd())?.st_dev;
    Walk { device, top: path, top_dir: None, moved: 0 }.remove_at(parent.as_fd(), &name, 0, errors)
}

struct Walk<'a> {
    device: u64,
    top: &'a Path,
    /// The directory that is removed, once it is open.
    top_dir: Option<OwnedFd>,
    /// How many trees were moved to it.
    moved: u64,
}

impl Walk<'_> {
    fn remove_at(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        depth: usize,
        errors: &mut Vec<FsError>,
    ) -> Result<Released, Errno> {
        let at = Some(parent.as_raw_fd());
        match unlinkat(at, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => return Ok(Released::Now),
            Err(Errno::ENOENT) => return Ok(Released::AlreadyGone),
            // A directory: Linux says EISDIR, POSIX EPERM.
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = raw::open_at(Some(parent), name, flags)?;
        if self.is_mount(&dir)? {
            return Err(Errno::EBUSY);
        }
        if depth >= DEEPEST {
            return self.move_up(parent, name);
        }
        if depth == 0 {
            self.top_dir = Some(dir.try_clone().map_err(|_| Errno::EMFILE)?);
        }
        let mut moved = self.moved;
        self.empty(&dir, depth, errors)?;
        while depth == 0 && moved != self.moved {
            moved = self.moved;
            self.empty(&dir, depth, errors)?;
        }
        unlinkat(at, name, UnlinkatFlags::RemoveDir)?;
        Ok(Released::Now)
    }

    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<Released, Errno> {
        let top = self.top_dir.as_ref().ok_or(Errno::ELOOP)?.as_raw_fd();
        self.moved += 1;
        let new = format!(".deep-{}-{}", std::process::id(), self.moved);
        nix::fcntl::renameat(Some(parent.as_raw_fd()), name, Some(top), new.as_str())?;
        Ok(Released::Now)
    }

    fn empty(
        &mut self,
        dir: &OwnedFd,
        depth: usize,
        errors: &mut Vec<FsError>,
    ) -> Result<(), Errno> {
        let copy = dir.try_clone().map_err(|_| Errno::EMFILE)?;
        let names: Vec<CString> = Dir::from_fd(copy.into_raw_fd())?
            .iter()
            .filter_map(|entry| Some(entry.ok()?.file_name().to_owned()))
            .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
            .collect();
        for name in names {
            if let Err(errno) = self.remove_at(dir.as_fd(), &name, depth + 1, errors) {
                let lossy = name.to_string_lossy();
                errors.push(FsError::new("remove an entry below", &self.top.join(&*lossy), errno));
            }
        }
        Ok(())
    }

    /// Another device, or a bind mount of the same one, which only its mount id shows.
    fn is_mount(&self, dir: &OwnedFd) -> Result<bool, Errno> {
        if fstat(dir.as_raw_fd())?.st_dev != self.device {
            return Ok(true);
        }
        raw::is_mount_root(dir.as_fd())
    }
}
