//! The container's root filesystem: an overlay of the image's layers, and a small staging root around it.
//!
//! ```text
//! /rootfs   the overlay          /proc /sys   as on the host, for libcontainer
//! /s/N      sources of the binds that libcontainer makes, or an outside runtime
//! /b        the bundle, which the host sees
//! /carrier  config.json for libcontainer; vanishes with the last process
//! /l /dev   for a user namespace: mapped layers, devices to bind
//! /q        what libcontainer takes for the container's cgroup, where that is ours
//! /v/N /e   overlays of image volumes, cloned into the container, and what one layer lies on
//! /n/N      devices whose places are not below /dev, cloned likewise
//! ```
//!
//! Everything is a detached mount until this process's mount namespace has been cut off from the host's, then it is
//! attached below a tmpfs, which becomes the root; the host's tree is detached. libcontainer copies that small table. For hooks
//! the host's tree stays ([`hook`](crate::hook)).

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{chdir, fchdir, pivot_root};
use wire::v1;

use crate::cgroups::{self, CgroupOwner};
use crate::idmap::UserNamespace;
use crate::node::NODES;
use crate::overlay::{context, overlay};
use crate::path::{c_path, make_dirs, place, private_clone};
use crate::raw;
use crate::source::{Content, Ready, Source};
use crate::volume::{EMPTY, OVERLAYS};
use process::failure::{At, Failure};

const STAGE: &str = "rootfs";
/// Where the overlay is in the staging root.
pub(crate) const ROOTFS: &str = "/rootfs";
/// Where the bundle is in the staging root.
pub(crate) const BUNDLE: &str = "/b";
/// Where libcontainer finds its specification.
pub(crate) const CARRIER: &str = "/carrier";
/// Where the layers are, with mapped ids, when there is a user namespace.
const LAYERS: &CStr = c"l";
const DIRECTORIES: [&CStr; 12] = [
    c"rootfs", c"s", c"proc", c"sys", c"b", c"carrier", c"dev", c"q", LAYERS, OVERLAYS, EMPTY,
    NODES,
];
/// Where a hybrid node has the unified hierarchy.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// A mount namespace of our own, with the parts of the staging root still detached.
#[derive(Debug)]
pub(crate) struct Parts {
    bundle: OwnedFd,
    proc: OwnedFd,
    sys: OwnedFd,
    cgroup: Cgroup,
}

/// What libcontainer finds in /sys/fs/cgroup.
#[derive(Debug)]
enum Cgroup {
    /// What the host has.
    Whole,
    /// The unified hierarchy of a hybrid node, so that it looks for no other ([`cgroups::blind`]).
    Unified(OwnedFd),
    /// The directory of the hierarchies without them, where there is no unified one.
    Empty(OwnedFd),
}

/// Leaves the host's mount namespace. Nothing may be mounted by path before [`Parts::pivot`] has cut propagation.
pub(crate) fn separate() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNS).at(STAGE, || "making a mount namespace".into())
}

impl Parts {
    /// Takes clones, in a mount namespace of our own.
    pub(crate) fn take(bundle: &str, owner: CgroupOwner) -> Result<Self, Failure> {
        let cgroup = match owner {
            CgroupOwner::Libcontainer => Cgroup::Whole,
            CgroupOwner::Launch => match unified() {
                Some(unified) => Cgroup::Unified(unified),
                None => Cgroup::Empty(private_clone("/sys/fs/cgroup", false)?),
            },
        };
        Ok(Self {
            bundle: private_clone(bundle, false)?,
            proc: private_clone("/proc", false)?,
            sys: private_clone("/sys", matches!(cgroup, Cgroup::Whole))?,
            cgroup,
        })
    }

    /// Whether libcontainer reads the mount table to find hierarchies: it must not find those of the container.
    pub(crate) fn shows_mounts(&self) -> bool {
        matches!(self.cgroup, Cgroup::Empty(_))
    }

    /// Makes the staging root out of everything and goes there. Afterwards no path of the host can be reached. Gives those
    /// of the sources that were made.
    pub(crate) fn pivot(
        self,
        bundle: &str,
        rootfs: &v1::Rootfs,
        sources: &[Source],
        user: Option<&UserNamespace>,
    ) -> Result<Vec<Option<OwnedFd>>, Failure> {
        let (_root, made) = build(bundle, rootfs, sources, user)?;
        let parts = [(&self.bundle, "b"), (&self.proc, "proc"), (&self.sys, "sys")];
        let cgroup = match &self.cgroup {
            Cgroup::Whole => None,
            Cgroup::Unified(mount) | Cgroup::Empty(mount) => Some((mount, "sys/fs/cgroup")),
        };
        for (mount, at) in parts.into_iter().chain(cgroup) {
            raw::attach(mount.as_fd(), place(at)?.as_fd())
                .at(STAGE, || format!("attaching {at}"))?;
        }
        pivot_root(".", ".").at(STAGE, || "pivoting into the staging root".into())?;
        umount2(".", MntFlags::MNT_DETACH).at(STAGE, || "detaching the host's tree".into())?;
        chdir("/").at(STAGE, || "entering the staging root".into())?;
        if matches!(self.cgroup, Cgroup::Unified(_)) {
            cgroups::blind()?;
        }
        Ok(made)
    }
}

/// A clone, not a mount of its own: that would set the options of the host's, and takes 9 ms.
fn unified() -> Option<OwnedFd> {
    let clone = private_clone(UNIFIED, false).ok()?;
    let is_unified = fstatfs(&clone).is_ok_and(|s| s.filesystem_type() == CGROUP2_SUPER_MAGIC);
    is_unified.then_some(clone)
}

/// Makes the staging root with the overlay and the sources over a directory of the host, and goes there. Only this process's
/// mount namespace has it.
pub(crate) fn stage(
    over: &str,
    rootfs: &v1::Rootfs,
    sources: &[Source],
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, Failure> {
    let (root, made) = build(over, rootfs, sources, user)?;
    for (index, source) in ready(sources, &made).into_iter().enumerate() {
        attach_source(index, source)?;
    }
    Ok(root)
}

/// The staging root without the sources, and those of them that are made here.
fn build(
    over: &str,
    rootfs: &v1::Rootfs,
    sources: &[Source],
    user: Option<&UserNamespace>,
) -> Result<(OwnedFd, Vec<Option<OwnedFd>>), Failure> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .at(STAGE, || "cutting the mount namespace off".into())?;
    let root = tmpfs(&rootfs.label)?;
    for name in DIRECTORIES {
        mkdirat(Some(raw::shown(&root)), name, Mode::from_bits_truncate(0o755))
            .at(STAGE, || format!("making {} in the staging root", name.to_string_lossy()))?;
    }
    let over = place(over)?;
    raw::attach(root.as_fd(), over.as_fd()).at(STAGE, || "attaching the staging root".into())?;
    mount_overlay(rootfs, &root, user)?;
    let made = make(sources, &root, &rootfs.label)?;
    fchdir(raw::shown(&root)).at(STAGE, || "entering the staging root".into())?;
    Ok((root, made))
}

/// Sources with what was made for them.
pub(crate) fn ready<'a>(sources: &'a [Source], made: &'a [Option<OwnedFd>]) -> Vec<Ready<'a>> {
    let one = |(source, made): (&'a Source, &'a Option<OwnedFd>)| {
        let mount = match &source.mount {
            Content::Host(mount) => mount,
            Content::Image(_) | Content::Device(_) => made.as_ref()?,
        };
        Some(Ready { mount: mount.as_fd(), is_dir: source.is_dir })
    };
    sources.iter().zip(made).filter_map(one).collect()
}

/// The path of a staged bind source.
pub(crate) fn staged(index: usize) -> String {
    format!("/s/{index}")
}

/// The image volumes and devices among the sources. The current directory is that of the layers.
fn make(sources: &[Source], root: &OwnedFd, label: &str) -> Result<Vec<Option<OwnedFd>>, Failure> {
    let one = |(index, source): (usize, &Source)| match &source.mount {
        Content::Host(_) => Ok(None),
        Content::Image(volume) => volume.make(index, root, label).map(Some),
        Content::Device(device) => device.make(root).map(Some),
    };
    sources.iter().enumerate().map(one).collect()
}

/// Attaches a source where libcontainer finds it. The current directory is the staging root.
pub(crate) fn attach_source(index: usize, source: Ready<'_>) -> Result<(), Failure> {
    let at = format!("s/{index}");
    let made = if source.is_dir { fs::create_dir(&at) } else { File::create_new(&at).map(drop) };
    made.at(STAGE, || format!("making {at} in the staging root"))?;
    raw::attach(source.mount, place(&at)?.as_fd()).at(STAGE, || format!("attaching {at}"))
}

/// With a label, for the devices that are made in it.
fn tmpfs(label: &str) -> Result<OwnedFd, Failure> {
    let doing = || "making the staging root".to_owned();
    let context = raw::fs_open(c"tmpfs").at(STAGE, doing)?;
    raw::fs_set(context.as_fd(), c"mode", c"755").at(STAGE, doing)?;
    raw::fs_set(context.as_fd(), c"size", c"16m").at(STAGE, doing)?;
    if !label.is_empty() {
        raw::fs_set(context.as_fd(), c"context", &c_path(label)?).at(STAGE, doing)?;
    }
    raw::fs_mount(context.as_fd(), 0).at(STAGE, doing)
}

fn mount_overlay(
    rootfs: &v1::Rootfs,
    root: &OwnedFd,
    user: Option<&UserNamespace>,
) -> Result<(), Failure> {
    for dir in [&rootfs.upper, &rootfs.work] {
        make_dirs(dir, 0o755).at(STAGE, || format!("making {dir}"))?;
    }
    let mut layers = rootfs.dir.clone();
    if let Some(user) = user {
        layers = format!("/proc/self/fd/{}/{}", raw::shown(root), LAYERS.to_string_lossy());
        user.layers(rootfs, place(&layers)?.as_fd())?;
    }
    // Names relative to here keep a hundred layers within the kernel's limits.
    chdir(layers.as_str()).at(STAGE, || format!("entering {layers}"))?;
    let at = format!("/proc/self/fd/{}/rootfs", raw::shown(root));
    let own = [(c"upperdir", rootfs.upper.as_str()), (c"workdir", &rootfs.work)];
    let overlay = match overlay(&rootfs.lower, &own, &rootfs.label) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            return mount_overlay_by_options(rootfs, &at);
        }
        made => made.at(STAGE, || {
            format!("mounting the overlay of {} layers in {}", rootfs.lower.len(), rootfs.dir)
        })?,
    };
    raw::attach(overlay.as_fd(), place(&at)?.as_fd()).at(STAGE, || "attaching the overlay".into())
}

fn mount_overlay_by_options(rootfs: &v1::Rootfs, at: &str) -> Result<(), Failure> {
    let label = context(&rootfs.label);
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{label}",
        rootfs.lower.join(":"),
        rootfs.upper,
        rootfs.work
    );
    mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .at(STAGE, || {
            format!("mounting the overlay of {} layers in {}", rootfs.lower.len(), rootfs.dir)
        })
}

/// Refuses a root in which libcontainer would follow a link out of it: it makes devices and links below /dev by path.
pub(crate) fn refuse_links(root: &File) -> Result<(), Failure> {
    for name in [c"dev", c"proc", c"sys"] {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let found = match raw::open_below(root.as_fd(), name, flags, raw::RESOLVE_IN_ROOT) {
            Ok(found) => File::from(found),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                return Err(e)
                    .at(STAGE, || format!("looking at the image's /{}", name.to_string_lossy()));
            }
        };
        let meta = found.metadata().at(STAGE, || "looking at the image".into())?;
        if !meta.is_dir() {
            let name = name.to_string_lossy();
            return Err(Failure::invalid(STAGE, format!("the image's /{name} is not a directory")));
        }
    }
    Ok(())
}
