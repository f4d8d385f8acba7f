//! Places of the host, by their paths.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

use nix::fcntl::OFlag;

use crate::raw::{self, MountAttr};
use process::failure::{At, Failure};

const STAGE: &str = "rootfs";

/// The place itself, not to be read.
pub(crate) fn place(path: &str) -> Result<File, Failure> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_PATH.bits())
        .open(path)
        .at(STAGE, || format!("opening {path}"))
}

/// A clone of the mount there, from which nothing travels back.
pub(crate) fn private_clone(path: &str, recursive: bool) -> Result<OwnedFd, Failure> {
    let name = c_path(path)?;
    let clone = raw::clone_tree(raw::here(), &name, recursive)
        .at(STAGE, || format!("cloning the mount of {path}"))?;
    raw::set_mount(
        clone.as_fd(),
        MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() },
        true,
    )
    .at(STAGE, || format!("making the mount of {path} private"))?;
    Ok(clone)
}

/// Makes a directory of the host and those above it.
pub(crate) fn make_dirs(path: &str, mode: u32) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// As the kernel takes it.
pub(crate) fn c_path(path: &str) -> Result<CString, Failure> {
    CString::new(path).at(STAGE, || format!("reading the path {path:?}"))
}
