//! Pins of network namespaces: `/run/netns/<name>`, the only directory that Multus, kube-ovn and `ip netns` look at.
//!
//! A pin is a bind mount of a namespace file; it keeps the namespace when all its processes have gone. All of this blocks.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use names::Kind;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{FsError, Released, proc};

const NONE: Option<&str> = None;
/// The names of our pins begin so.
pub const PREFIX: &str = "ferropod-";

/// The step of a pin that was refused.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The directory of pins.
    #[error("prepare the directory of network namespaces")]
    Directory(#[source] FsError),
    /// The pin itself.
    #[error("pin the network namespace {name}")]
    Pin {
        /// The pin's name.
        name: String,
        /// The step.
        #[source]
        source: FsError,
    },
    /// A name with a slash, or a dot alone.
    #[error("{0:?} is not a name for a network namespace")]
    Name(String),
}

impl PinError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Directory(source) | Self::Pin { source, .. } => source.kind(),
            Self::Name(_) => Kind::Invalid,
        }
    }
}

/// The directory that holds the pins.
#[derive(Debug, Clone)]
pub struct Pins {
    dir: PathBuf,
    /// Whether the directory is known to be shared: looked at once, by one thread, as it may have to be mounted.
    prepared: Arc<Mutex<bool>>,
}

impl Default for Pins {
    fn default() -> Self {
        Self::at("/run/netns")
    }
}

impl Pins {
    /// Pins in a directory of one's own.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), prepared: Arc::default() }
    }

    /// Where a pin of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Binds the namespace to its name. A pin that is there already is replaced: the caller's record says whose it is.
    pub fn pin(&self, netns: BorrowedFd<'_>, name: &str) -> Result<PathBuf, PinError> {
        check(name)?;
        self.prepare().map_err(PinError::Directory)?;
        let path = self.path(name);
        let refused = |source| PinError::Pin { name: name.to_owned(), source };
        self.unpin(name).map_err(refused)?;
        fs::File::create_new(&path).map_err(FsError::at("make", &path)).map_err(refused)?;
        let source = format!("/proc/self/fd/{}", netns.as_raw_fd());
        mount(Some(source.as_str()), &path, NONE, MsFlags::MS_BIND, NONE)
            .map_err(FsError::at("mount the namespace at", &path))
            .map_err(refused)?;
        Ok(path)
    }

    /// Lets the pin go; the namespace lives on as long as processes or descriptors hold it.
    pub fn unpin(&self, name: &str) -> Result<Released, FsError> {
        let path = self.path(name);
        let mut released = Released::AlreadyGone;
        loop {
            match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                // More than one mount may lie there, one on the other.
                Ok(()) => released = Released::Now,
                // EINVAL: not a mount point.
                Err(Errno::ENOENT | Errno::EINVAL) => break,
                Err(error) => return Err(FsError::new("unmount", &path, error)),
            }
        }
        match fs::remove_file(&path) {
            Ok(()) => Ok(Released::Now),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(released),
            Err(error) => Err(FsError::new("remove", &path, error)),
        }
    }

    /// The names of our pins, mounted or half made.
    pub fn list(&self) -> Result<Vec<String>, FsError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(FsError::new("list", &self.dir, error)),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter(|name| name.starts_with(PREFIX)).collect())
    }

    /// As `ip netns` does: the directory is a shared mount of its own, so that a pin made or dropped in one mount
    /// namespace shows in all.
    fn prepare(&self) -> Result<(), FsError> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if !*prepared {
            self.share()?;
            *prepared = true;
        }
        Ok(())
    }

    fn share(&self) -> Result<(), FsError> {
        let dir = &self.dir;
        fs::create_dir_all(dir).map_err(FsError::at("make", dir))?;
        let share = || mount(NONE, dir, NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE);
        if is_shared(dir)? {
            return Ok(());
        }
        match share() {
            Err(Errno::EINVAL) => {
                let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
                mount(Some(dir.as_path()), dir, NONE, bind, NONE)
                    .map_err(FsError::at("mount on itself", dir))?;
                share().map_err(FsError::at("share the mount", dir))
            }
            shared => shared.map_err(FsError::at("share the mount", dir)),
        }
    }
}

fn is_shared(dir: &Path) -> Result<bool, FsError> {
    let mounts = proc::mounts()?;
    Ok(mounts.iter().rfind(|m| m.point == dir).is_some_and(|m| m.shared))
}

fn check(name: &str) -> Result<(), PinError> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(PinError::Name(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_pin_keeps_its_namespace_and_goes_once() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("netns");
        let pins = Pins::at(&base);
        assert_eq!(pins.list().unwrap(), Vec::<String>::new());
        let namespace = fs::File::open("/proc/self/ns/net").unwrap();
        let inode = namespace.metadata().unwrap().ino();
        let path = pins.pin(namespace.as_fd(), "ferropod-x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert!(is_shared(&base).unwrap());
        // Again, as recovery may: the same pin, and one mount.
        pins.pin(namespace.as_fd(), "ferropod-x").unwrap();
        fs::File::create_new(base.join("somebody-elses")).unwrap();
        fs::File::create_new(pins.path("ferropod-half-made")).unwrap();
        let mut names = pins.list().unwrap();
        names.sort();
        assert_eq!(names, ["ferropod-half-made", "ferropod-x"]);
        assert_eq!(pins.unpin("ferropod-x").unwrap(), Released::Now);
        assert_eq!(pins.unpin("ferropod-x").unwrap(), Released::AlreadyGone);
        assert_eq!(pins.unpin("ferropod-half-made").unwrap(), Released::Now);
        assert!(matches!(pins.pin(namespace.as_fd(), "../x"), Err(PinError::Name(_))));
        umount2(&base, MntFlags::MNT_DETACH).unwrap();
        assert!(!proc::mounts().unwrap().iter().any(|m| m.point.starts_with(dir.path())));
    }
}
