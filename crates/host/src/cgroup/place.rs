//! Cgroups that a process is born in.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use names::{ContainerId, ExecId, Kind};
use serde::{Deserialize, Serialize};

use super::release::{names_in, remove_one};
use super::{CgroupPath, Cgroups, Driver, Layout, PodCgroup};
use crate::{FsError, ReleaseError, Released};

/// An exec's main process has just been reaped: what is busy longer has children.
const PATIENCE: Duration = Duration::from_millis(5);

/// Before an exec's id, the name of its cgroup.
const EXEC: &str = "exec-";

/// Why a cgroup could not be made or opened.
#[derive(Debug, thiserror::Error)]
#[error("prepare a place for a process")]
pub struct PlaceError(#[source] FsError);

impl PlaceError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.0.kind()
    }
}

/// The cgroup of one exec, inside its container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlace {
    path: CgroupPath,
    container: CgroupPath,
}

impl ExecPlace {
    /// The exec's own cgroup: unified, or the freezer's on pure v1.
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }
}

impl Cgroups {
    /// Makes this cgroup in the unified hierarchy and opens it, for a process to be cloned into; `None` on pure v1, where
    /// that cannot be done. Blocks.
    pub fn open_place(&self, path: &CgroupPath) -> Result<Option<OwnedFd>, PlaceError> {
        self.unified().map(|unified| make_and_open(&path.under(unified))).transpose()
    }

    /// Makes a container's cgroup; not on pure v1, where whoever makes the container does. Blocks.
    pub fn make_container(&self, path: &CgroupPath) -> Result<(), PlaceError> {
        self.open_place(path).map(drop)
    }

    /// The place that what makes a container is born in, its cgroup, which was made before. `None` on v1, where that cannot be
    /// done, and on v2: libcontainer joins it there itself, and kills all in it when it fails, so that nobody would be left to
    /// say why.
    pub fn launch_place(&self, path: &CgroupPath) -> Result<Option<OwnedFd>, PlaceError> {
        let unified = self.unified().filter(|_| self.layout() == Layout::Hybrid);
        unified.map(|unified| open(&path.under(unified))).transpose()
    }

    /// The place that a pod's shim is born in; `None` on pure v1, and with the systemd driver, which moves it later. Blocks.
    pub fn shim_place(&self, pod: &PodCgroup) -> Result<Option<OwnedFd>, PlaceError> {
        match self.driver() {
            Driver::Cgroupfs => self.open_place(&pod.shim()),
            Driver::Systemd => Ok(None),
        }
    }

    /// The place of an exec, and its descriptor where one can be cloned into. A container's cgroup that is gone meanwhile is
    /// not made again. Blocks.
    pub fn exec_place(
        &self,
        pod: &PodCgroup,
        container: &ContainerId,
        exec: &ExecId,
    ) -> Result<(Option<OwnedFd>, ExecPlace), PlaceError> {
        let container = pod.container(container);
        let path = container.child(&format!("{EXEC}{exec}"));
        let fd = self.exec_dir(&path).map(|dir| make_one_and_open(&dir)).transpose()?;
        let into = fd.filter(|_| self.layout() != Layout::V1);
        Ok((into, ExecPlace { path, container }))
    }

    /// What an `ExecJob` must say in `cgroups`: the container's v1 directories, on pure v1 with its own freezer.
    pub fn exec_dirs(&self, place: &ExecPlace) -> Vec<String> {
        let own = |h: &super::Hierarchy| self.layout() == Layout::V1 && h.has("freezer");
        let dir = |h: &super::Hierarchy| {
            let path = if own(h) { &place.path } else { &place.container };
            path.under(h.point()).to_string_lossy().into_owned()
        };
        self.v1().iter().map(dir).collect()
    }

    /// Removes an exec's cgroup. While something that it started still runs there, this is an error that
    /// [`ReleaseError::is_busy`]; the cgroup then goes with its container's. Blocks, for a few milliseconds.
    pub fn release_exec(&self, place: &ExecPlace) -> Result<Released, ReleaseError> {
        let Some(dir) = self.exec_dir(&place.path) else { return Ok(Released::AlreadyGone) };
        remove_one(&dir, Instant::now() + PATIENCE).or_else(|error| {
            ReleaseError::unless_empty(format_args!("the cgroup {}", place.path), vec![error])?;
            Ok(Released::AlreadyGone)
        })
    }

    /// Removes the cgroups of a container's execs that nothing runs in: what a daemon leaves that ends before them. Blocks.
    pub fn sweep_execs(&self, container: &CgroupPath) {
        let Some(dir) = self.exec_dir(container) else { return };
        for name in names_in(&dir).iter().filter(|name| name.starts_with(EXEC)) {
            // Busy is what an exec started and left running: it goes with the container.
            drop(remove_one(&dir.join(name), Instant::now()));
        }
    }

    fn exec_dir(&self, path: &CgroupPath) -> Option<PathBuf> {
        match self.unified() {
            Some(unified) => Some(path.under(unified)),
            None => self.controller_dir("freezer", path),
        }
    }
}

fn make_and_open(dir: &Path) -> Result<OwnedFd, PlaceError> {
    fs::create_dir_all(dir).map_err(FsError::at("make the cgroup", dir)).map_err(PlaceError)?;
    open(dir)
}

fn make_one_and_open(dir: &Path) -> Result<OwnedFd, PlaceError> {
    fs::create_dir(dir).map_err(FsError::at("make the cgroup", dir)).map_err(PlaceError)?;
    open(dir)
}

fn open(dir: &Path) -> Result<OwnedFd, PlaceError> {
    let open = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(dir);
    open.map(OwnedFd::from).map_err(FsError::at("open the cgroup", dir)).map_err(PlaceError)
}
