//! File systems that are new with their mount: what options say of them, and the namespaces that they show.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use crate::{options, raw};

/// What a mount's options say.
#[derive(Debug, Default)]
pub(super) struct Options<'a> {
    attributes: u64,
    pub(super) read_only: bool,
    /// Access times are to be kept strictly.
    pub(super) strict: bool,
    /// For the file system: keys with or without a value.
    data: Vec<(&'a str, Option<&'a str>)>,
}

/// `None` when there is one that only libcontainer knows.
pub(super) fn options(mount: &Mount) -> Option<Options<'_>> {
    let mut all = Options::default();
    for option in mount.options().iter().flatten() {
        match option.as_str() {
            "ro" => all.read_only = true,
            "nosuid" => all.attributes |= raw::MOUNT_ATTR_NOSUID,
            "nodev" => all.attributes |= raw::MOUNT_ATTR_NODEV,
            "noexec" => all.attributes |= raw::MOUNT_ATTR_NOEXEC,
            "strictatime" => all.strict = true,
            "newinstance" => all.data.push(("newinstance", None)),
            // How it is anyway, or said of a source, which has it.
            "rw" => {}
            "relatime" if !options::is_bind(mount) => {}
            "bind" | "rbind" | "rro" | "private" | "rprivate" | "slave" | "rslave" | "shared"
            | "rshared"
                if options::is_bind(mount) => {}
            other => {
                let (key, value) = other.split_once('=')?;
                all.data.push((key, Some(value)));
            }
        }
    }
    Some(all)
}

impl Options<'_> {
    /// Makes a file system, mounted nowhere.
    pub(super) fn make(&self, kind: &CStr, source: &str) -> std::io::Result<OwnedFd> {
        let text = |text: &str| CString::new(text).map_err(std::io::Error::other);
        let context = raw::fs_open(kind)?;
        raw::fs_set(context.as_fd(), c"source", &text(source)?)?;
        for (key, value) in &self.data {
            match value {
                Some(value) => raw::fs_set(context.as_fd(), &text(key)?, &text(value)?)?,
                None => raw::fs_flag(context.as_fd(), &text(key)?)?,
            }
        }
        let strict = if self.strict { raw::MOUNT_ATTR_STRICTATIME } else { 0 };
        raw::fs_mount(context.as_fd(), self.attributes | strict)
    }
}

/// The namespaces that file systems show.
pub(super) struct Spaces {
    pub(super) network: Space,
    pub(super) ipc: Space,
}

#[derive(Debug, Clone)]
pub(super) enum Space {
    /// That of this process.
    Here,
    Path(PathBuf, i32),
    /// One that libcontainer makes.
    New,
}

impl Spaces {
    pub(super) fn of(spec: &Spec) -> Self {
        let space = |kind: LinuxNamespaceType, flag: i32| {
            let all = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
            let found = all.into_iter().flatten().find(|n| n.typ() == kind);
            match found.map(|n| n.path().clone()) {
                None => Space::Here,
                Some(None) => Space::New,
                Some(Some(path)) => Space::Path(path, flag),
            }
        };
        Self {
            network: space(LinuxNamespaceType::Network, libc::CLONE_NEWNET),
            ipc: space(LinuxNamespaceType::Ipc, libc::CLONE_NEWIPC),
        }
    }
}

impl Space {
    /// Makes something in the namespace; nothing when it is not there yet.
    pub(super) fn within<T>(
        &self,
        work: impl FnOnce() -> std::io::Result<T>,
    ) -> std::io::Result<Option<T>> {
        let (path, flag) = match self {
            Self::New => return Ok(None),
            Self::Here => return work().map(Some),
            Self::Path(path, flag) => (path, *flag),
        };
        let own =
            if flag == libc::CLONE_NEWNET { "/proc/self/ns/net" } else { "/proc/self/ns/ipc" };
        let (own, theirs) = (std::fs::File::open(own)?, std::fs::File::open(path)?);
        raw::enter(theirs.as_fd(), flag)?;
        let made = work();
        raw::enter(own.as_fd(), flag)?;
        made.map(Some)
    }
}
