//! How much a directory holds, and how much its file system has.
//!
//! All of this blocks; a walk takes about 2 µs per file that is in the kernel's caches.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};

use crate::{FsError, proc, raw};

/// Deeper than any honest tree, and fewer descriptors than a daemon has.
const DEEPEST: usize = 256;

/// What a directory tree takes from its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes, as `du` counts them.
    pub bytes: u64,
    /// Files and directories; a file with several names counts once.
    pub inodes: u64,
    /// The walk met a bound, of entries or of depth: there is more.
    pub partial: bool,
}

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All bytes.
    pub bytes: u64,
    /// Those that an ordinary user can still take.
    pub bytes_available: u64,
    /// All inodes; 0 where the file system does not count them.
    pub inodes: u64,
    /// Free ones.
    pub inodes_free: u64,
}

/// Counts a tree, at most this many entries, without leaving its mount or following a link. A missing tree holds nothing;
/// entries that go meanwhile do not count.
pub fn usage(dir: &Path, most: u64) -> Result<Usage, FsError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let top = match raw::open_at(None, dir, flags) {
        Ok(top) => top,
        Err(Errno::ENOENT) => return Ok(Usage::default()),
        Err(error) => return Err(FsError::new("open", dir, error)),
    };
    let stat = fstat(top.as_raw_fd()).map_err(FsError::at("look at", dir))?;
    let mut count =
        Count { usage: Usage::default(), most, device: stat.st_dev, seen: HashSet::new() };
    count.add(&stat);
    let mut todo = Vec::new();
    count.directory(&Rc::new(top), 0, &mut todo);
    // The last found is the first taken: open at once are only the directories above one of them.
    while let Some(Below { parent, name, depth }) = todo.pop() {
        if count.is_full() {
            break;
        }
        if let Some(dir) = count.enter(&parent, &name) {
            count.add_dir(&dir);
            count.directory(&Rc::new(dir), depth, &mut todo);
        }
    }
    Ok(count.usage)
}

/// A directory that is still to be counted.
struct Below {
    parent: Rc<OwnedFd>,
    name: CString,
    depth: usize,
}

struct Count {
    usage: Usage,
    most: u64,
    device: u64,
    /// Files of more than one name.
    seen: HashSet<u64>,
}

impl Count {
    fn add(&mut self, stat: &FileStat) {
        let is_dir = kind(stat) == SFlag::S_IFDIR;
        if !is_dir && stat.st_nlink > 1 && !self.seen.insert(stat.st_ino) {
            return;
        }
        self.usage.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        self.usage.inodes += 1;
        self.usage.partial |= self.is_full();
    }

    fn add_dir(&mut self, dir: &OwnedFd) {
        if let Ok(stat) = fstat(dir.as_raw_fd()) {
            self.add(&stat);
        }
    }

    fn is_full(&self) -> bool {
        self.usage.inodes >= self.most
    }

    /// Opens a directory, unless another file system is mounted there.
    fn enter(&self, parent: &OwnedFd, name: &CStr) -> Option<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let dir = raw::open_at(Some(parent.as_fd()), name, flags).ok()?;
        let here = fstat(dir.as_raw_fd()).is_ok_and(|stat| stat.st_dev == self.device);
        (here && !raw::is_mount_root(dir.as_fd()).unwrap_or(false)).then_some(dir)
    }

    /// Errors of a directory that goes meanwhile end its own count only.
    fn directory(&mut self, dir: &Rc<OwnedFd>, depth: usize, todo: &mut Vec<Below>) {
        let Ok(copy) = dir.try_clone() else { return };
        let Ok(mut entries) = Dir::from_fd(copy.into_raw_fd()) else { return };
        for entry in entries.iter().filter_map(Result::ok) {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let at = AtFlags::AT_SYMLINK_NOFOLLOW;
            let Ok(stat) = fstatat(Some(dir.as_raw_fd()), name, at) else { continue };
            if stat.st_dev != self.device {
                continue;
            }
            if kind(&stat) == SFlag::S_IFDIR {
                // Counted when it is entered: a mount does not count.
                if depth < DEEPEST {
                    let (parent, name) = (Rc::clone(dir), name.to_owned());
                    todo.push(Below { parent, name, depth: depth + 1 });
                } else {
                    self.usage.partial = true;
                }
            } else {
                self.add(&stat);
            }
            if self.is_full() {
                return;
            }
        }
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// What the file system of this path has.
pub fn space(path: &Path) -> Result<Space, FsError> {
    let found = nix::sys::statvfs::statvfs(path).map_err(FsError::at("measure", path))?;
    let unit = found.fragment_size();
    Ok(Space {
        bytes: found.blocks() * unit,
        bytes_available: found.blocks_available() * unit,
        inodes: found.files(),
        inodes_free: found.files_free(),
    })
}

/// Where the file system of this path is mounted: what the kubelet knows it by.
pub fn mount_point(path: &Path) -> Result<PathBuf, FsError> {
    let path = std::fs::canonicalize(path).map_err(FsError::at("resolve", path))?;
    let mounts = proc::mounts()?;
    // Of two at one point the later covers the earlier; either is the same answer.
    let longest = mounts
        .into_iter()
        .map(|mount| mount.point)
        .filter(|point| path.starts_with(point))
        .max_by_key(|point| point.as_os_str().len());
    Ok(longest.unwrap_or_else(|| PathBuf::from("/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::replace;

    #[test]
    fn a_tree_counts_its_blocks_once_and_nothing_of_other_mounts() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("t");
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        replace(&top.join("a/b/f"), &vec![1; 100_000], 0o600).unwrap();
        std::fs::hard_link(top.join("a/b/f"), top.join("g")).unwrap();
        std::os::unix::fs::symlink("/usr", top.join("usr")).unwrap();
        let before = usage(&top, u64::MAX).unwrap();
        assert_eq!((before.inodes, before.partial), (5, false));
        assert!(before.bytes >= 100_000 && before.bytes < 200_000, "{before:?}");
        crate::shm::mount(&top.join("m"), 1 << 20, (0, 0), None).unwrap();
        replace(&top.join("m/f"), &[1; 4096], 0o600).unwrap();
        let with_mount = usage(&top, u64::MAX).unwrap();
        assert_eq!(mount_point(&top.join("m/f")).unwrap(), top.join("m").canonicalize().unwrap());
        assert_eq!(space(&top.join("m")).unwrap().bytes, 1 << 20);
        crate::shm::release(&top.join("m")).unwrap();
        // The empty directory under the mount is behind it, too.
        assert_eq!(with_mount, before);
        assert!(usage(&top, 2).unwrap().partial);
        assert_eq!(usage(&top.join("none"), 9).unwrap(), Usage::default());
    }

    #[test]
    fn a_wide_tree_and_a_deep_one_need_few_descriptors() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        for n in 0..3000 {
            std::fs::create_dir(dir.path().join(n.to_string())).unwrap();
        }
        assert_eq!(usage(dir.path(), u64::MAX).unwrap().inodes, 3001);
        let mut deep = dir.path().to_owned();
        deep.extend(std::iter::repeat_n("d", DEEPEST + 9));
        std::fs::create_dir_all(deep).unwrap();
        let found = usage(dir.path(), u64::MAX).unwrap();
        assert!(found.partial && found.inodes > 3001, "{found:?}");
    }
}
