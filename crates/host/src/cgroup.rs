//! Cgroups: where they are mounted, and a pod's in every hierarchy.
//!
//! | node | controllers | kill | exec's place | shim |
//! |---|---|---|---|---|
//! | v2 | unified | `cgroup.kill` | `<pod>/<container>/exec-<id>` | `<pod>/shim` |
//! | hybrid | v1 | unified `cgroup.kill`, then v1 checked | unified `<pod>/<container>/exec-<id>` | unified `<pod>/shim` |
//! | v1 | v1 | freeze, SIGKILL, thaw | freezer child | nowhere |
//!
//! On hybrid and v1 the shim is in no v1 controller of the pod: joining eight hierarchies costs eight writes to
//! cgroup.procs, up to 9 ms each on a quiet kernel, for a process of 65 KiB that must survive the pod's memory limit.
//!
//! A v2 cgroup that holds processes may have children as long as it enables no controller for them: so an exec's cgroup
//! lies inside its container's, and `cgroup.kill` of the container reaches it.
//!
//! # Costs
//! On the hybrid layout (nine hierarchies, kernel 6.18, other work on both cores): a pod's cgroups 0.40 ms, a place 0.02 ms,
//! kill 0.6 ms beyond what the processes need to die, release of a container 0.35 ms and of its pod 0.28 ms. Opening a
//! statistics reader 0.14 ms, reading it 0.06 ms, the detail for metrics 0.3 ms. (`costs` in the tests prints them.)
//!
//! # Decisions
//! * libcontainer (on v1 and hybrid launch itself) makes and limits a container's own cgroup; this crate makes the pod's,
//!   updates both, and removes both.
//! * With the systemd driver a pod's cgroup is a scope that systemd makes around the shim (`scope`); all below it is made here
//!   as with the other driver, for the scope is delegated.

mod establish;
mod file;
mod kill;
mod mounts;
mod path;
mod place;
mod release;
mod scope;
pub mod stats;
mod tree;
mod update;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use names::{ContainerId, SandboxId};

pub use establish::EstablishPodError;
pub use kill::KillError;
pub use mounts::{DetectError, Hierarchy, Layout};
pub use path::{CgroupPath, CgroupPathError, PodCgroup};
pub use place::{ExecPlace, PlaceError};
pub use scope::ScopeError;
pub use update::UpdateError;

/// Who makes cgroups: this crate by mkdir, or systemd on request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// `mkdir` below any parent.
    #[default]
    Cgroupfs,
    /// Scopes below slices, made by systemd (v2 only).
    Systemd,
}

/// The node's cgroup mounts. Cheap to clone; everything it does blocks.
#[derive(Debug, Clone)]
pub struct Cgroups(Arc<Node>);

#[derive(Debug)]
struct Node {
    driver: Driver,
    layout: Layout,
    /// v1 hierarchies, each with at least one controller.
    v1: Vec<Hierarchy>,
    /// Where cgroup2 is mounted, on v2 and hybrid.
    unified: Option<PathBuf>,
    scopes: scope::Scopes,
}

// === impl Cgroups ===

impl Cgroups {
    /// Finds the mounts in `/proc/self/mountinfo`.
    pub fn detect(driver: Driver) -> Result<Self, DetectError> {
        let found = mounts::detect()?;
        if driver == Driver::Systemd && found.layout != Layout::V2 {
            return Err(DetectError::SystemdNeedsV2(found.layout));
        }
        let mounts::Found { layout, v1, unified } = found;
        Ok(Self(Arc::new(Node { driver, layout, v1, unified, scopes: scope::Scopes::default() })))
    }

    /// Which versions this node mounts.
    pub fn layout(&self) -> Layout {
        self.0.layout
    }

    /// The driver given to [`Cgroups::detect`].
    pub fn driver(&self) -> Driver {
        self.0.driver
    }

    /// The v1 hierarchies that have controllers.
    pub fn v1(&self) -> &[Hierarchy] {
        &self.0.v1
    }

    /// Where cgroup2 is mounted.
    pub fn unified(&self) -> Option<&Path> {
        self.0.unified.as_deref()
    }

    /// The cgroup that a sandbox will have below its parent.
    pub fn pod_path(&self, parent: &str, id: &SandboxId) -> Result<PodCgroup, CgroupPathError> {
        match self.0.driver {
            Driver::Cgroupfs => PodCgroup::cgroupfs(parent, id),
            Driver::Systemd => PodCgroup::systemd(parent, id),
        }
    }

    /// The cgroup that a container will have in its pod's.
    pub fn container_path(&self, pod: &PodCgroup, id: &ContainerId) -> CgroupPath {
        pod.container(id)
    }

    /// What `linux.cgroupsPath` must say for libcontainer to use this cgroup.
    pub fn spec_path(&self, path: &CgroupPath) -> String {
        path.as_str().to_owned()
    }

    /// The v1 directories that a further process of this cgroup must join; empty on v2.
    pub fn v1_dirs(&self, path: &CgroupPath) -> Vec<String> {
        self.0.v1.iter().map(|h| path.under(h.point()).to_string_lossy().into_owned()).collect()
    }

    /// Every mounted hierarchy's own directory for this path, the unified one first.
    fn dirs(&self, path: &CgroupPath) -> Vec<PathBuf> {
        let v1 = self.0.v1.iter().map(Hierarchy::point);
        self.unified().into_iter().chain(v1).map(|point| path.under(point)).collect()
    }

    /// Where a controller's files for this cgroup are, on whichever version has it.
    fn controller_dir(&self, controller: &str, path: &CgroupPath) -> Option<PathBuf> {
        let point = match self.0.layout {
            Layout::V2 => self.unified(),
            Layout::V1 | Layout::Hybrid => {
                self.0.v1.iter().find(|h| h.has(controller)).map(Hierarchy::point)
            }
        };
        point.map(|point| path.under(point))
    }
}

#[cfg(test)]
mod tests;
