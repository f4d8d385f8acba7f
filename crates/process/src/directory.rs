//! The working directory: made when missing, entered with the root's rights, and certainly inside the container.

use std::ffi::CString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::fchdir;

use crate::failure::{At, Failure};
use crate::raw;

const STAGE: &str = "working directory";

/// Goes to `path`, whose root is this process's own. A link to a descriptor is never followed: it could lead out.
pub fn enter(path: &str) -> Result<(), Failure> {
    let target = open_or_make(path)?;
    fchdir(raw::shown(&target)).at(STAGE, || format!("entering {path}"))?;
    let here = nix::unistd::getcwd().at(STAGE, || format!("entering {path}"))?;
    if here.is_absolute() {
        Ok(())
    } else {
        Err(Failure::invalid(STAGE, format!("{path} leads out of the container")))
    }
}

/// A directory below the root, made with those above it when missing.
pub fn open_or_make(path: &str) -> Result<OwnedFd, Failure> {
    match open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => make(path)?,
        opened => return opened.at(STAGE, || format!("opening {path}")),
    }
    open(path).at(STAGE, || format!("opening {path}"))
}

fn open(path: &str) -> std::io::Result<OwnedFd> {
    let root = raw::open_below(raw::here(), c"/", OFlag::O_PATH.bits(), 0)?;
    let below = CString::new(path.trim_start_matches('/')).map_err(std::io::Error::other)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    if below.is_empty() {
        return Ok(root);
    }
    raw::open_below(
        root.as_fd(),
        &below,
        flags.bits(),
        raw::RESOLVE_IN_ROOT | raw::RESOLVE_NO_MAGICLINKS,
    )
}

fn make(path: &str) -> Result<(), Failure> {
    let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
    let parent = if parent.is_empty() {
        open("/").at(STAGE, || "opening /".into())?
    } else {
        open_or_make(parent)?
    };
    match mkdirat(Some(raw::shown(&parent)), name, Mode::from_bits_truncate(0o755)) {
        Err(nix::errno::Errno::EEXIST) => Ok(()),
        made => made.at(STAGE, || format!("making {path}")),
    }
}
