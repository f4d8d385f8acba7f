//! Mount points in a container's root, found or made; and the directories that it expects there. What is mounted in it by then may
//! be a volume, in which others change links while we look: every path is resolved by the kernel below the root, and what is made
//! is made by descriptor.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Mount;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat};

use crate::links::{self, Target};
use crate::raw;
use crate::rootfs::ROOTFS;
use process::failure::{At, Failure};

const STAGE: &str = "mount";
const ROOT_STAGE: &str = "rootfs";
const LITERAL: u64 = raw::RESOLVE_IN_ROOT | raw::RESOLVE_NO_SYMLINKS;
const FOLLOWED: u64 = raw::RESOLVE_IN_ROOT | raw::RESOLVE_NO_MAGICLINKS;

/// A container's root, and the places in it that others cover later.
#[derive(Debug)]
pub(crate) struct Root<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) later: Vec<PathBuf>,
    /// Whose are the directories that are made, where that is not this process.
    pub(crate) owner: Option<(u32, u32)>,
}

/// Makes what is missing of the directories that a container expects in its root: its working directory, what its image calls
/// volumes. Before the root becomes read-only, and not where a mount will cover it.
pub(crate) fn expected(
    root: BorrowedFd<'_>,
    directories: &[String],
    mounts: Option<&Vec<Mount>>,
    owner: Option<(u32, u32)>,
) -> Result<(), Failure> {
    let later = mounts.into_iter().flatten().map(|mount| mount.destination().clone()).collect();
    let root = Root { dir: root, later, owner };
    directories.iter().try_for_each(|path| root.expect(Path::new(path)))
}

impl Root<'_> {
    /// The mount point at a path that has no `.` and `..`.
    pub(crate) fn point(&self, at: &Path, is_dir: bool) -> Result<OwnedFd, Failure> {
        let opening = || format!("opening the mount point {}", at.display());
        match self.open(at, LITERAL) {
            Err(e) if e.kind() == ErrorKind::NotFound => self.make(at, is_dir),
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => self.follow(at, is_dir),
            found => found.at(STAGE, opening),
        }
    }

    /// A directory at a path that has no `.` and `..`, unless something is there.
    fn expect(&self, at: &Path) -> Result<(), Failure> {
        let target = links::target(at, self.dir)
            .at(ROOT_STAGE, || format!("following the image's links at {}", at.display()))?;
        let to = target.map_or_else(|| at.to_owned(), |target| target.to);
        let covered = self.later.iter().any(|place| to.starts_with(place));
        match self.open(&to, LITERAL) {
            Err(e) if e.kind() == ErrorKind::NotFound && !covered => {
                self.make(&to, true).map(drop).map_err(|e| Failure { stage: ROOT_STAGE, ..e })
            }
            // What is no directory is told by who needs one.
            _ => Ok(()),
        }
    }

    fn follow(&self, at: &Path, is_dir: bool) -> Result<OwnedFd, Failure> {
        let opening = || format!("opening the mount point {}", at.display());
        match self.open(at, FOLLOWED) {
            Ok(found) => {
                let shown = format!("/proc/self/fd/{}", raw::shown(&found));
                let place = fs::read_link(shown).at(STAGE, opening)?;
                let inside = place.strip_prefix(ROOTFS).unwrap_or(&place);
                self.refuse(at, &Path::new("/").join(inside))?;
                Ok(found)
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let target = links::target(at, self.dir).at(STAGE, opening)?;
                let Some(Target { to, link }) = target else { return self.make(at, is_dir) };
                self.refuse(at, &to)?;
                if let Some(link) = link {
                    let message = format!(
                        "{} cannot be mounted at: {} is a link to nowhere, in a volume and not in the image",
                        at.display(),
                        link.display()
                    );
                    return Err(Failure::invalid(STAGE, message));
                }
                self.make(&to, is_dir)
            }
            Err(e) => Err(e).at(STAGE, opening),
        }
    }

    /// A link must not lead to the root itself, nor where another mount will cover what is there.
    fn refuse(&self, at: &Path, to: &Path) -> Result<(), Failure> {
        let is_root = to == Path::new("/");
        let Some(inside) = self.later.iter().find(|place| to.starts_with(place) || is_root) else {
            return Ok(());
        };
        let inside = if is_root { Path::new("/") } else { inside };
        Err(links::refused(at, to, inside))
    }

    /// Makes what is missing of a path without links.
    fn make(&self, at: &Path, is_dir: bool) -> Result<OwnedFd, Failure> {
        let (Some(above), Some(name)) = (at.parent(), at.file_name()) else {
            return Err(Failure::invalid(STAGE, format!("{} is no mount point", at.display())));
        };
        let doing = || format!("making {}", at.display());
        let parent = match self.open(above, LITERAL) {
            Err(e) if e.kind() == ErrorKind::NotFound => self.make(above, true)?,
            found => found.at(STAGE, doing)?,
        };
        let dir = Some(raw::shown(&parent));
        let made = if is_dir {
            mkdirat(dir, name, Mode::from_bits_truncate(0o755))
        } else {
            mknodat(dir, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0)
        };
        match made {
            Ok(()) => self.give(&parent, name).at(STAGE, doing)?,
            Err(nix::errno::Errno::EEXIST) => {}
            made => made.at(STAGE, doing)?,
        }
        self.open(at, LITERAL).at(STAGE, doing)
    }

    fn give(&self, parent: &OwnedFd, name: &OsStr) -> nix::Result<()> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(Some(raw::shown(parent)), name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    fn open(&self, path: &Path, resolve: u64) -> std::io::Result<OwnedFd> {
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(Error::other)?;
        raw::open_below(self.dir.as_fd(), &name, libc::O_PATH, resolve)
    }
}
