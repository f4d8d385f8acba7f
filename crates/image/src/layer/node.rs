//! Single steps on a layer's directory: what is opened, asked or made by one name.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};
use rustix::io::Errno;

/// How often a path is resolved again; each takes some microseconds.
const TRIES: usize = 1000;

/// Gives the directories that `upper` only implied the owner and mode they have in the nearest layer below.
pub(crate) fn adopt(upper: &OwnedFd, implied: &[Vec<u8>], below: &[OwnedFd]) -> io::Result<()> {
    for path in implied {
        let Some(found) = below.iter().find_map(|lower| {
            let fd = open_plain(lower, path).ok()?;
            rustix::fs::fstat(&fd).ok()
        }) else {
            continue;
        };
        let fd = open_plain(upper, path)?;
        rustix::fs::fchown(
            &fd,
            Some(Uid::from_raw(found.st_uid)),
            Some(Gid::from_raw(found.st_gid)),
        )?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(found.st_mode & 0o7777))?;
    }
    Ok(())
}

pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Opens a path with every link resolved inside a root. A step up is refused while anything on the machine is renamed or mounted,
/// and tried again.
pub(crate) fn open_in_root(root: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = || rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), inside);
    let mut opened = open();
    for _ in 0..TRIES {
        if !matches!(opened, Err(Errno::AGAIN)) {
            break;
        }
        opened = open();
    }
    opened
}

pub(super) fn open_plain(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
    )
}

pub(super) fn opaque(directory: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(directory, c"trusted.overlay.opaque", b"y", XattrFlags::empty())?)
}

pub(super) fn node(
    parent: &OwnedFd,
    name: &CString,
    kind: FileType,
    (major, minor): (u32, u32),
) -> Result<(), Errno> {
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)
}

pub(super) fn is_whiteout(parent: &OwnedFd, name: &CString) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
    })
}

pub(super) fn same_place(a: &OwnedFd, a_name: &CString, b: &OwnedFd, b_name: &CString) -> bool {
    let inode = |fd: &OwnedFd, name: &CString| {
        rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|s| (s.st_dev, s.st_ino))
    };
    let first = inode(a, a_name);
    first.is_some() && first == inode(b, b_name)
}

/// `trusted.*` would let a layer speak to overlayfs (redirects, opaque); labels are the node's to give.
pub(crate) fn may_set(key: &[u8]) -> bool {
    key == b"security.capability"
        || key.starts_with(b"user.")
        || key.starts_with(b"system.posix_acl_")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_link_upwards_is_followed_while_others_rename() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        fs::create_dir_all(dir.path().join("root/var")).unwrap();
        fs::create_dir(dir.path().join("root/run")).unwrap();
        symlink("../run", dir.path().join("root/var/run")).unwrap();
        File::create(&one).unwrap();
        let root = open_directory(&dir.path().join("root")).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fs::rename(&one, &other).and_then(|()| fs::rename(&other, &one)).unwrap();
                }
            });
            let open = || open_in_root(&root, b"var/run", OFlags::PATH);
            let failed: Vec<_> = (0..20_000).filter_map(|_| open().err()).collect();
            over.store(true, Ordering::Relaxed);
            assert!(failed.is_empty(), "{} of 20000: {:?}", failed.len(), failed.first());
        });
    }
}
