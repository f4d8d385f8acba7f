//! The mounts that launch attaches itself, before libcontainer: all but those that take the container's PID or cgroup namespace,
//! those that belong on these, and those with options that we do not know.
//!
//! libcontainer resolves a mount point and opens a mount by some seventy system calls, most of them to be sure that /proc is
//! /proc; here it is about six. It copies them with the root, so that they are the container's as if it had made them. In a
//! user namespace it makes all: what comes there with the root is locked to it, and a container with rights of its own could
//! neither unmount it nor bind what it lies in.

mod filesystem;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{Mount, Spec};

use crate::point::Root;
use crate::raw::{self, MountAttr};
use crate::rootfs::{self, ROOTFS};
use crate::source::Ready;
use crate::{links, source};
use crate::{options, path};
use filesystem::{Space, Spaces, options};
use process::failure::{At, Failure};

const STAGE: &str = "mount";
const DEV: &str = "/dev";
/// What libcontainer makes of a read-only path.
const READ_ONLY: u64 = raw::MOUNT_ATTR_RDONLY
    | raw::MOUNT_ATTR_NOSUID
    | raw::MOUNT_ATTR_NODEV
    | raw::MOUNT_ATTR_NOEXEC;

/// Attaches all mounts of a carrier that it can, in their order, and leaves it the others with their sources staged.
pub(crate) fn attach(carrier: &mut Spec, sources: &[Ready<'_>]) -> Result<(), Failure> {
    let dir = path::place(ROOTFS)?;
    let mut work = Work {
        spaces: Spaces::of(carrier),
        root: Root { dir: dir.as_fd(), later: Vec::new(), owner: None },
        strange: false,
        attached: Vec::new(),
        left: Vec::new(),
    };
    let mut sources = sources.iter().enumerate();
    for mount in carrier.mounts().clone().unwrap_or_default() {
        if options::is_bind(&mount) {
            let Some((index, ready)) = sources.next() else { break };
            work.bind(mount, index, *ready)?;
        } else {
            work.file_system(mount)?;
        }
    }
    let done = work.read_only(carrier)?;
    let left = work.left;
    carrier.set_mounts(Some(left));
    if let Some(linux) = carrier.linux_mut() {
        let paths = linux.readonly_paths().clone().map(|mut paths| {
            paths.retain(|path| !done.contains(path));
            paths
        });
        linux.set_readonly_paths(paths);
    }
    Ok(())
}

/// Leaves all to libcontainer.
pub(crate) fn leave(carrier: &mut Spec, sources: &[Ready<'_>]) -> Result<(), Failure> {
    for (index, source) in sources.iter().enumerate() {
        rootfs::attach_source(index, *source)?;
    }
    links::follow(carrier, path::place(ROOTFS)?)
}

struct Work<'a> {
    spaces: Spaces,
    root: Root<'a>,
    /// Something was left of which we do not know where it goes: so is all that follows.
    strange: bool,
    attached: Vec<Attached<'a>>,
    left: Vec<Mount>,
}

struct Attached<'a> {
    at: PathBuf,
    mount: Held<'a>,
    access: Access,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    AsItIs,
    /// To be set when nothing more is made in it.
    ReadOnly,
}

enum Held<'a> {
    Source(BorrowedFd<'a>),
    Own(OwnedFd),
}

// === impl Work ===

impl<'a> Work<'a> {
    fn bind(&mut self, mount: Mount, index: usize, ready: Ready<'a>) -> Result<(), Failure> {
        if options(&mount).is_none_or(|options| options.strict) || self.is_later(&mount) {
            rootfs::attach_source(index, ready)?;
            self.leave(mount);
            return Ok(());
        }
        source::make_read_only(ready.mount, &mount)?;
        self.place(&mount, Held::Source(ready.mount), ready.is_dir, Access::AsItIs)
    }

    fn file_system(&mut self, mount: Mount) -> Result<(), Failure> {
        let kind = match mount.typ().as_deref() {
            Some("tmpfs") => Some((c"tmpfs", Space::Here)),
            Some("devpts") => Some((c"devpts", Space::Here)),
            Some("sysfs") => Some((c"sysfs", self.spaces.network.clone())),
            Some("mqueue") => Some((c"mqueue", self.spaces.ipc.clone())),
            _ => None,
        };
        let made = match (kind, options(&mount)) {
            (Some((kind, space)), Some(options)) if !self.is_later(&mount) => {
                let source = mount.source().as_ref().map(|s| s.display().to_string());
                let source = source.unwrap_or_default();
                let made = space.within(|| options.make(kind, &source));
                let made = made.at(STAGE, || {
                    format!(
                        "making the {} at {}",
                        kind.to_string_lossy(),
                        mount.destination().display()
                    )
                })?;
                made.map(|made| (made, options.read_only))
            }
            _ => None,
        };
        let Some((made, read_only)) = made else {
            self.leave(mount);
            return Ok(());
        };
        // libcontainer makes devices in it, and leaves it writable.
        let stays = !read_only || mount.destination() == DEV;
        let access = if stays { Access::AsItIs } else { Access::ReadOnly };
        self.place(&mount, Held::Own(made), true, access)
    }

    fn place(
        &mut self,
        mount: &Mount,
        held: Held<'a>,
        is_dir: bool,
        access: Access,
    ) -> Result<(), Failure> {
        let at = mount.destination().clone();
        let point = self.root.point(&at, is_dir)?;
        raw::attach(held.fd(), point.as_fd())
            .at(STAGE, || format!("mounting at {}", at.display()))?;
        self.attached.push(Attached { at, mount: held, access });
        Ok(())
    }

    /// Whether a mount belongs on one that was left, or below or over it.
    fn is_later(&self, mount: &Mount) -> bool {
        let at = mount.destination();
        self.strange || self.root.later.iter().any(|l| at.starts_with(l) || l.starts_with(at))
    }

    fn leave(&mut self, mount: Mount) {
        let at = mount.destination().clone();
        // The image has no links there, and we none either.
        let known = ["/proc", "/sys", DEV].iter().any(|top| at.starts_with(top));
        self.strange |= options::is_bind(&mount) || !known;
        self.root.later.push(at);
        self.left.push(mount);
    }

    /// Makes read-only what is to be, and gives the read-only paths of the carrier that need no mount of their own.
    fn read_only(&self, carrier: &Spec) -> Result<Vec<String>, Failure> {
        let attr = |set| MountAttr { set, ..MountAttr::default() };
        let set = |attached: &Attached<'_>, set| {
            raw::set_mount(attached.mount.fd(), attr(set), false)
                .at(STAGE, || format!("making {} read-only", attached.at.display()))
        };
        for attached in self.attached.iter().filter(|own| own.access == Access::ReadOnly) {
            set(attached, raw::MOUNT_ATTR_RDONLY)?;
        }
        let mut done = Vec::new();
        let linux = carrier.linux().as_ref();
        for path in linux.and_then(|l| l.readonly_paths().as_ref()).into_iter().flatten() {
            let at = Path::new(path);
            let in_use = at.starts_with(DEV) || self.root.later.iter().any(|l| l.starts_with(at));
            let own = self.attached.iter().rfind(|attached| attached.at == at);
            if let Some(own) = own.filter(|_| !in_use) {
                set(own, READ_ONLY)?;
                done.push(path.clone());
            }
        }
        Ok(done)
    }
}

impl Held<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Source(fd) => *fd,
            Self::Own(fd) => fd.as_fd(),
        }
    }
}
