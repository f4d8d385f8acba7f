//! Bidirectional volumes: what is mounted in one is mounted on the host too.
//!
//! What is mounted in them for the container alone, such as its `/etc/hosts` or another volume, would cover the host's own, and stay
//! when the container is gone. So where there is such a thing, the volume is private while the container is made, and joins the host's
//! group when all is mounted. Others are in the group from the beginning, and miss nothing that the host mounts or unmounts meanwhile.

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Mount;

use crate::options::{Propagation, options, propagation};
use crate::path;
use crate::raw::{self, MountAttr};
use process::failure::{At, Failure};

const STAGE: &str = "mount";

/// A volume's place in the container, and a clone of its mount that is in the host's group.
#[derive(Debug)]
pub(crate) struct Peer {
    at: PathBuf,
    clone: OwnedFd,
    /// Mounts in the volume, relative to it.
    below: Vec<PathBuf>,
}

impl Peer {
    /// That of a bidirectional mount with others in it, whose source is private from now on.
    pub(crate) fn part(
        mount: &Mount,
        source: BorrowedFd<'_>,
        all: &[Mount],
    ) -> Result<Option<Self>, Failure> {
        let within = |other: &Mount| is_within(other.destination(), mount.destination());
        if propagation(mount) != Propagation::Shared || !all.iter().any(within) {
            return Ok(None);
        }
        let host = mount.source().clone().unwrap_or_default();
        let shown = host.display().to_string();
        let recursive = !options(mount).any(|o| o == "bind");
        let clone = raw::clone_tree(raw::here(), &path::c_path(&shown)?, recursive)
            .at(STAGE, || format!("cloning the mount of {shown}"))?;
        private(source, recursive).at(STAGE, || format!("parting {shown} from the host"))?;
        let at = mount.destination().clone();
        let mut below = Vec::new();
        if recursive {
            below = mounts_in(&host).at(STAGE, || format!("looking for mounts in {shown}"))?;
            // Another volume covers it, and is for the container alone.
            below.retain(|below| all.iter().all(|other| *other.destination() != at.join(below)));
        }
        Ok(Some(Self { at, clone, below }))
    }

    /// Joins the volume to the host's group, in the container.
    pub(crate) fn join(&self) -> Result<(), Failure> {
        let doing = || format!("joining {} to the mount of the host", self.at.display());
        set_group(self.clone.as_fd(), &self.at).at(STAGE, doing)?;
        for below in &self.below {
            let from = c_path(below)
                .and_then(|name| raw::open_below(self.clone.as_fd(), &name, libc::O_PATH, INSIDE));
            let joined = from.and_then(|from| set_group(from.as_fd(), &self.at.join(below)));
            match joined {
                // Covered by another mount, or come or gone between the two clones.
                Err(e) if is_none(&e) => {}
                joined => joined.at(STAGE, doing)?,
            }
        }
        Ok(())
    }
}

const INSIDE: u64 = raw::RESOLVE_IN_ROOT | raw::RESOLVE_NO_MAGICLINKS;

/// By what nearly all images link: /var/run to /run.
fn is_within(path: &Path, volume: &Path) -> bool {
    let usual = |path: &Path| match path.strip_prefix("/var/run") {
        Ok(below) => Path::new("/run").join(below),
        Err(_) => path.to_owned(),
    };
    path != volume && (path.starts_with(volume) || usual(path).starts_with(usual(volume)))
}

fn set_group(from: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    let root = raw::open_below(raw::here(), c"/", libc::O_PATH, 0)?;
    let to = raw::open_below(root.as_fd(), &c_path(at)?, libc::O_PATH, INSIDE)?;
    // With the container's root it may have become the first of a group of its own.
    private(to.as_fd(), false)?;
    raw::set_group(from, to.as_fd())
}

fn private(mount: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let attr = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    raw::set_mount(mount, attr, recursive)
}

/// No mount, or one that is in no group.
fn is_none(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::EINVAL)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// The mount points below a path of the host, relative to it.
fn mounts_in(host: &Path) -> io::Result<Vec<PathBuf>> {
    let host = fs::canonicalize(host)?;
    let table = fs::read("/proc/self/mountinfo")?;
    let points = table.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    let below = points.filter_map(|point| Some(plain(point).strip_prefix(&host).ok()?.to_owned()));
    Ok(below.filter(|below| !below.as_os_str().is_empty()).collect())
}

/// A path of the mount table, in which white space and backslashes are octal.
fn plain(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        let number = more.get(..3).filter(|_| *first == b'\\');
        let number =
            number.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(number.unwrap_or(*first));
        rest = more.get(number.map_or(0, |_| 3)..).unwrap_or_default();
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_volume_is_told_by_its_path() {
        for (path, volume, within) in [
            ("/v/sub", "/v", true),
            ("/v", "/v", false),
            ("/vv", "/v", false),
            ("/var/run/secrets", "/run", true),
            ("/run/secrets", "/var/run", true),
            ("/var/run/secrets", "/var", true),
            ("/var/lib", "/run", false),
        ] {
            assert_eq!(is_within(Path::new(path), Path::new(volume)), within, "{path} {volume}");
        }
    }

    #[test]
    fn paths_of_the_mount_table_are_read_as_they_are() {
        for (text, path) in [
            ("/a/b", "/a/b"),
            (r"/with\040space\134", r"/with space\"),
            (r"/odd\9", r"/odd\9"),
            (r"/end\04", r"/end\04"),
        ] {
            assert_eq!(plain(text.as_bytes()), Path::new(path), "{text}");
        }
    }
}
