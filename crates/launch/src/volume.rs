//! Image volumes: an image's layers, or a directory of them, as one read-only mount.
//!
//! It is an overlay without an upper directory, also of one layer (on an empty one, because overlayfs wants two): of a bind a
//! privileged container would take the read-only flag away, and write into a layer that others use. It is made when the staging
//! root is, of names relative to the layers: with a user namespace those are the mapped ones, so that owners inside are the image's own.

use std::ffi::{CStr, CString};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

use libcontainer::oci_spec::runtime::Mount;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};
use wire::v1;

use crate::raw::{self, MountAttr};
use crate::{options, overlay, path};
use process::failure::{At, Failure, Kind, chain};

/// Also how the kubelet tells that it was the volume: a failure's stage comes first in its message.
pub(crate) const STAGE: &str = "ImageVolumeMountFailed";
/// Where overlays of several layers are in the staging root.
pub(crate) const OVERLAYS: &CStr = c"v";
/// A directory of the staging root with nothing in it.
pub(crate) const EMPTY: &CStr = c"e";
const DIRECTORY: i32 = libc::O_PATH | libc::O_DIRECTORY;

/// A volume to be made.
#[derive(Debug)]
pub(crate) struct Volume {
    order: v1::ImageVolume,
    at: String,
    attributes: u64,
}

impl Volume {
    /// What a mount of a specification asks for, when its source is an image.
    pub(crate) fn of(mount: &Mount, orders: &[v1::ImageVolume]) -> Option<Self> {
        let source = mount.source().as_ref()?.to_str()?;
        let order = orders.iter().find(|order| order.source == source)?.clone();
        let at = mount.destination().display().to_string();
        // Whatever the specification says: an image is shared by all who use it.
        let attributes = options::attributes(mount) | raw::MOUNT_ATTR_RDONLY;
        Some(Self { order, at, attributes })
    }

    /// Makes it, attached nowhere. The current directory is that of the layers.
    pub(crate) fn make(
        &self,
        index: usize,
        root: &OwnedFd,
        label: &str,
    ) -> Result<OwnedFd, Failure> {
        let content = self.directory(self.overlay(index, root, label)?)?;
        let doing = || format!("mounting {}", self.name());
        let clone = raw::clone_tree(content.as_fd(), c"", false).at(STAGE, doing)?;
        let attr = MountAttr {
            set: self.attributes,
            propagation: libc::MS_PRIVATE,
            ..MountAttr::default()
        };
        raw::set_mount(clone.as_fd(), attr, false).at(STAGE, doing)?;
        Ok(clone)
    }

    fn name(&self) -> String {
        format!("image {:?} at {}", self.order.image, self.at)
    }

    /// The sub-path, which a stranger's links cannot lead out of the image.
    fn directory(&self, root: OwnedFd) -> Result<OwnedFd, Failure> {
        let path = &self.order.sub_path;
        if path.is_empty() {
            return Ok(root);
        }
        let name = CString::new(path.as_str()).at(STAGE, || format!("reading {path:?}"))?;
        let resolve = raw::RESOLVE_IN_ROOT | raw::RESOLVE_NO_MAGICLINKS;
        raw::open_below(root.as_fd(), &name, DIRECTORY, resolve).map_err(|error| {
            let (kind, wrong) = match error.kind() {
                ErrorKind::NotFound => (Kind::NotFound, "is not there".to_owned()),
                ErrorKind::NotADirectory => (Kind::Invalid, "is not a directory".to_owned()),
                _ => (Kind::Internal, chain(&error)),
            };
            Failure::new(
                STAGE,
                kind,
                format!("image_sub_path {path:?} of {}: {wrong}", self.name()),
            )
        })
    }

    fn overlay(&self, index: usize, root: &OwnedFd, label: &str) -> Result<OwnedFd, Failure> {
        let empty = format!("/proc/self/fd/{}/{}", raw::shown(root), EMPTY.to_string_lossy());
        let lower = [self.order.lower.as_slice(), &[empty]].concat();
        if lower.len() < 2 {
            return Err(Failure::invalid(STAGE, format!("{} has no layers", self.name())));
        }
        let doing = || format!("mounting the layers of {}", self.name());
        let name = format!("{}/{index}", OVERLAYS.to_string_lossy());
        let bits = Mode::from_bits_truncate(0o755);
        mkdirat(Some(raw::shown(root)), name.as_str(), bits).at(STAGE, doing)?;
        let at = format!("/proc/self/fd/{}/{name}", raw::shown(root));
        match overlay::overlay(&lower, &[], label) {
            // A kernel before 6.7.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                let options = format!("lowerdir={}{}", lower.join(":"), overlay::context(label));
                let flags = MsFlags::MS_RDONLY;
                mount(Some("overlay"), at.as_str(), Some("overlay"), flags, Some(options.as_str()))
                    .at(STAGE, doing)?;
            }
            made => {
                let made = made.at(STAGE, doing)?;
                raw::attach(made.as_fd(), path::place(&at)?.as_fd()).at(STAGE, doing)?;
            }
        }
        // Cloned from where it is attached: older kernels clone no mount that is not.
        open(&at).at(STAGE, doing)
    }
}

fn open(path: &str) -> std::io::Result<OwnedFd> {
    let name = CString::new(path).map_err(std::io::Error::other)?;
    raw::open_below(raw::here(), &name, DIRECTORY, 0)
}
