//! Mounts that are made after libcontainer is done, because it must not touch what is in them.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use libcontainer::oci_spec::runtime::Mount;

use crate::raw;
use crate::source::make_read_only;
use crate::source::{Content, Source};
use crate::volume;
use process::directory;
use process::failure::{At, Failure, Kind};

const STAGE: &str = "mount";

/// A clone of a host mount, and where it goes.
#[derive(Debug)]
pub(crate) struct Late {
    mount: OwnedFd,
    is_dir: bool,
    at: String,
}

impl Late {
    /// The source with the access that the mount asks for.
    pub(crate) fn new(source: Source, mount: &Mount) -> Result<Self, Failure> {
        let at = mount.destination().display().to_string();
        let Content::Host(clone) = source.mount else {
            let message = format!("an image cannot be mounted at {at}, in a /dev that is a volume");
            return Err(Failure::new(volume::STAGE, Kind::Unsupported, message));
        };
        make_read_only(clone.as_fd(), mount)?;
        Ok(Self { mount: clone, is_dir: source.is_dir, at })
    }

    /// Attaches it, in the container.
    pub(crate) fn attach(self) -> Result<(), Failure> {
        let (parent, name) = self.at.rsplit_once('/').unwrap_or(("", &self.at));
        let place = if self.is_dir {
            directory::open_or_make(&self.at)?
        } else {
            let parent = directory::open_or_make(if parent.is_empty() { "/" } else { parent })?;
            OwnedFd::from(file_in(&parent, name).at(STAGE, || format!("making {}", self.at))?)
        };
        raw::attach(self.mount.as_fd(), place.as_fd())
            .at(STAGE, || format!("mounting at {}", self.at))
    }
}

fn file_in(parent: &OwnedFd, name: &str) -> std::io::Result<File> {
    let name = std::ffi::CString::new(name).map_err(std::io::Error::other)?;
    let open = || {
        raw::open_below(
            parent.as_fd(),
            &name,
            libc::O_PATH,
            raw::RESOLVE_IN_ROOT | raw::RESOLVE_NO_MAGICLINKS,
        )
    };
    let opened = open().or_else(|e| {
        if e.kind() != std::io::ErrorKind::NotFound {
            return Err(e);
        }
        nix::sys::stat::mknodat(
            Some(raw::shown(parent)),
            name.as_c_str(),
            nix::sys::stat::SFlag::S_IFREG,
            nix::sys::stat::Mode::from_bits_truncate(0o644),
            0,
        )?;
        open()
    });
    Ok(File::from(opened?))
}
