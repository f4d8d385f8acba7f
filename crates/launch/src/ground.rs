//! Where the parts of the staging root are: at the root, which it is for most containers, or over a directory of the host.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{Mount, Spec};
use nix::mount::{MsFlags, mount};

use crate::device::bind;
use crate::idmap::USUAL;
use crate::node::NODES;
use crate::path;
use crate::rootfs::{self, BUNDLE, CARRIER, ROOTFS};
use crate::terminal;
use process::failure::{At, Failure};

const STAGE: &str = "device";
/// Of what is done for the staging root itself.
const ROOT_STAGE: &str = "rootfs";
const OTHERS_PASS: u32 = 0o001;

/// The staging root, once it is in its place.
#[derive(Debug)]
pub(crate) struct Ground {
    /// What it covers; empty when it is the root.
    over: String,
    bundle: String,
}

impl Ground {
    /// It is the root, and the host is out of sight.
    pub(crate) fn root() -> Self {
        Self { over: String::new(), bundle: BUNDLE.to_owned() }
    }

    /// It covers a directory on the way to the bundle, which is in sight at its own place.
    pub(crate) fn over(directory: &Path, bundle: &str) -> Self {
        Self { over: directory.display().to_string(), bundle: bundle.to_owned() }
    }

    /// Whether the rest of the host's tree is in sight.
    pub(crate) fn shows_host(&self) -> bool {
        !self.over.is_empty()
    }

    /// A part by its name in the staging root, such as `/rootfs`.
    pub(crate) fn part(&self, name: &str) -> String {
        format!("{}{name}", self.over)
    }

    pub(crate) fn rootfs(&self) -> String {
        self.part(ROOTFS)
    }

    /// The devices whose places are not below /dev.
    pub(crate) fn nodes(&self) -> String {
        self.part(&format!("/{}", NODES.to_string_lossy()))
    }

    pub(crate) fn carrier(&self) -> String {
        self.part(CARRIER)
    }

    pub(crate) fn console(&self) -> String {
        self.part(terminal::CONSOLE)
    }

    pub(crate) fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Where the bind source of a number is.
    pub(crate) fn staged(&self, index: usize) -> PathBuf {
        PathBuf::from(self.part(&rootfs::staged(index)))
    }

    /// In a user namespace libcontainer binds the devices that it finds under their names in /dev: those of the host, where that
    /// is in sight. So the usual ones are covered there with ours, and of the others it is told as mounts.
    pub(crate) fn bind_devices(&self, carrier: &mut Spec) -> Result<(), Failure> {
        for (name, ..) in USUAL {
            let (ours, theirs) = (self.part(&format!("/dev/{name}")), format!("/dev/{name}"));
            let none = None::<&str>;
            mount(Some(ours.as_str()), theirs.as_str(), none, MsFlags::MS_BIND, none)
                .at(STAGE, || format!("covering {theirs}"))?;
        }
        let Some(linux) = carrier.linux_mut() else { return Ok(()) };
        let devices = linux.devices().clone().unwrap_or_default();
        linux.set_devices(None);
        let others = devices.iter().filter(|device| !is_usual(device.path()));
        let binds = others.map(|device| bind(device, Path::new(&self.over)));
        let binds = binds.collect::<Result<Vec<Mount>, _>>()?;
        carrier.mounts_mut().get_or_insert_default().extend(binds);
        Ok(())
    }
}

fn is_usual(device: &Path) -> bool {
    let name = device.strip_prefix("/dev").ok();
    name.is_some_and(|name| USUAL.iter().any(|(usual, ..)| name == Path::new(usual)))
}

/// The topmost directory on the way to the bundle that others than root cannot enter, else the bundle.
pub(crate) fn covered(bundle: &Path) -> Result<(PathBuf, File), Failure> {
    let mut way: Vec<&Path> = bundle.ancestors().collect();
    way.reverse();
    for dir in way {
        let place = path::place(&dir.display().to_string())?;
        let meta = place.metadata().at(ROOT_STAGE, || format!("looking at {}", dir.display()))?;
        if dir == bundle || meta.permissions().mode() & OTHERS_PASS == 0 {
            return Ok((dir.to_owned(), place));
        }
    }
    Err(Failure::invalid(ROOT_STAGE, "the bundle has no path"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_staging_root_covers_the_first_directory_that_others_cannot_enter() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("state/c/id");
        fs::create_dir_all(&bundle).unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(dir.path(), 0o755);
        assert_eq!(covered(&bundle).unwrap().0, bundle);
        mode(&dir.path().join("state/c"), 0o700);
        assert_eq!(covered(&bundle).unwrap().0, dir.path().join("state/c"));
        mode(&dir.path().join("state"), 0o700);
        assert_eq!(covered(&bundle).unwrap().0, dir.path().join("state"));
    }
}
