//! Device nodes of our own: those that libcontainer binds for a user namespace, and those that have their places elsewhere than below
//! /dev, such as a volume that is a block device. They are in the staging root's tmpfs, so that a container changes no node of the host.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount, MountBuilder};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};

use crate::raw::{self, MountAttr};
use process::failure::{At, Failure};

const STAGE: &str = "device";
/// Where the nodes for other places are in the staging root, by their numbers.
pub(crate) const NODES: &CStr = c"n";
const OPTIONS: [&str; 4] = ["bind", "private", "nosuid", "noexec"];

/// A device to be made.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: SFlag,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) number: (u64, u64),
}

impl Node {
    pub(crate) fn of(device: &LinuxDevice) -> Result<Self, Failure> {
        let kind = match device.typ() {
            LinuxDeviceType::B => SFlag::S_IFBLK,
            LinuxDeviceType::P => SFlag::S_IFIFO,
            _ => SFlag::S_IFCHR,
        };
        let number = u64::try_from(device.major()).ok().zip(u64::try_from(device.minor()).ok());
        let number = number.ok_or_else(|| {
            let message = format!("{} has no numbers of a device", device.path().display());
            Failure::invalid(STAGE, message)
        })?;
        let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        Ok(Self { kind, mode: device.file_mode().unwrap_or(0o666), owner, number })
    }

    /// Makes it at a path below a directory in which nobody else is at work; of two at one place the first counts.
    pub(crate) fn make(&self, dir: BorrowedFd<'_>, below: &Path) -> Result<(), Failure> {
        let doing = || format!("making the device {}", below.display());
        let (true, Some(above), Some(name)) = (is_clean(below), below.parent(), below.file_name())
        else {
            let message = format!("{} is no place for a device", below.display());
            return Err(Failure::invalid(STAGE, message));
        };
        let parent = make_above(dir, above).at(STAGE, doing)?;
        let bits = Mode::from_bits_truncate(self.mode);
        let number = makedev(self.number.0, self.number.1);
        match mknodat(Some(raw::shown(&parent)), name, self.kind, bits, number) {
            Err(nix::errno::Errno::EEXIST) => return Ok(()),
            made => made.at(STAGE, doing)?,
        }
        let at = Path::new("/proc/self/fd").join(raw::shown(&parent).to_string()).join(name);
        std::os::unix::fs::chown(&at, Some(self.owner.0), Some(self.owner.1)).at(STAGE, doing)?;
        // The umask took bits away.
        fs::set_permissions(&at, fs::Permissions::from_mode(self.mode)).at(STAGE, doing)
    }
}

/// Relative, and without `.` and `..`.
fn is_clean(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// The directory below another, made with those above it.
fn make_above(dir: BorrowedFd<'_>, below: &Path) -> std::io::Result<OwnedFd> {
    let mut parent = dir.try_clone_to_owned()?;
    for part in below.components() {
        let name = CString::new(part.as_os_str().as_bytes()).map_err(std::io::Error::other)?;
        let bits = Mode::from_bits_truncate(0o755);
        match mkdirat(Some(raw::shown(&parent)), name.as_c_str(), bits) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY;
        parent = raw::open_below(parent.as_fd(), &name, flags, raw::RESOLVE_IN_ROOT)?;
    }
    Ok(parent)
}

/// Devices whose places are not below /dev: each is a mount of the specification, after all others.
#[derive(Debug, Default)]
pub(crate) struct Elsewhere {
    pub(crate) devices: Vec<LinuxDevice>,
    /// Mounts before them.
    others: usize,
}

impl Elsewhere {
    /// Adds them to the mounts.
    pub(crate) fn add(
        devices: Vec<LinuxDevice>,
        mounts: &mut Vec<Mount>,
    ) -> Result<Self, OciSpecError> {
        let others = mounts.len();
        for device in &devices {
            let mount = MountBuilder::default().destination(device.path()).source(device.path());
            let options = OPTIONS.map(str::to_owned).to_vec();
            mounts.push(mount.typ("bind").options(options).build()?);
        }
        Ok(Self { devices, others })
    }

    /// What is to be bound at a mount of the specification, by its index, if that is a device.
    pub(crate) fn part(&self, index: usize) -> Result<Option<Part>, Failure> {
        let Some(number) = index.checked_sub(self.others) else { return Ok(None) };
        let Some(device) = self.devices.get(number) else { return Ok(None) };
        Ok(Some(Part { number, node: Node::of(device)?, at: device.path().clone() }))
    }

    /// Gives those that have been made to whom they belong by now. They are in this directory.
    pub(crate) fn own(&self, dir: &str) -> Result<(), Failure> {
        for (number, device) in self.devices.iter().enumerate() {
            std::os::unix::fs::chown(format!("{dir}/{number}"), device.uid(), device.gid())
                .at(STAGE, || format!("giving {} away", device.path().display()))?;
        }
        Ok(())
    }
}

/// One of them, to be made when the staging root is there.
#[derive(Debug)]
pub(crate) struct Part {
    number: usize,
    node: Node,
    at: PathBuf,
}

impl Part {
    /// Makes it, and gives a mount of it that is attached nowhere.
    pub(crate) fn make(&self, root: &OwnedFd) -> Result<OwnedFd, Failure> {
        let doing = || format!("mounting {}", self.at.display());
        let nodes = raw::open_below(root.as_fd(), NODES, libc::O_PATH, 0).at(STAGE, doing)?;
        let name = self.number.to_string();
        self.node.make(nodes.as_fd(), Path::new(&name))?;
        let name = CString::new(name).at(STAGE, doing)?;
        let clone = raw::clone_tree(nodes.as_fd(), &name, false).at(STAGE, doing)?;
        let attr = MountAttr {
            set: raw::MOUNT_ATTR_NOSUID | raw::MOUNT_ATTR_NOEXEC,
            propagation: libc::MS_PRIVATE,
            ..MountAttr::default()
        };
        raw::set_mount(clone.as_fd(), attr, false).at(STAGE, doing)?;
        Ok(clone)
    }
}
