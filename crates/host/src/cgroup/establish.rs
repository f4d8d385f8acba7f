//! A pod's cgroup in every hierarchy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cgroups_rs::fs as rs;
use names::Kind;
use pod::config::Resources;

use super::{Cgroups, Driver, Hierarchy, Layout, PodCgroup, UpdateError};
use crate::FsError;

const HUGEPAGES: &str = "hugetlb";

/// The step of [`Cgroups::establish_pod`] that was refused.
#[derive(Debug, thiserror::Error)]
pub enum EstablishPodError {
    /// A directory of the unified hierarchy.
    #[error(transparent)]
    Make(FsError),
    /// The directories of the v1 hierarchies.
    #[error("make the cgroup {path}")]
    MakeV1 {
        /// The pod's cgroup.
        path: String,
        /// What cgroups-rs says.
        #[source]
        source: rs::error::Error,
    },
    /// The pod's own limits.
    #[error("limit the cgroup {path}")]
    Limit {
        /// The pod's cgroup.
        path: String,
        /// The limit that was refused.
        #[source]
        source: Box<UpdateError>,
    },
}

impl EstablishPodError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Make(error) => error.kind(),
            Self::MakeV1 { .. } => Kind::Internal,
            Self::Limit { source, .. } => source.kind(),
        }
    }
}

impl Cgroups {
    /// Makes the pod's cgroup in every hierarchy, with parents that are missing; what exists stays as it is. With the systemd
    /// driver it does nothing: [`Cgroups::adopt`] has the scope made, when there is a process for it. Blocks.
    pub fn establish_pod(
        &self,
        pod: &PodCgroup,
        resources: &Resources,
    ) -> Result<(), EstablishPodError> {
        if self.driver() == Driver::Systemd {
            return Ok(());
        }
        if let Some(unified) = self.unified() {
            match self.layout() {
                Layout::V2 => make_v2(unified, pod),
                Layout::V1 | Layout::Hybrid => make_plain(&pod.under(unified)),
            }
            .map_err(EstablishPodError::Make)?;
        }
        let path = || pod.as_str().to_owned();
        if !self.v1().is_empty() {
            rs::Cgroup::new(Box::new(Mounted::of(self)), pod.relative())
                .map_err(|source| EstablishPodError::MakeV1 { path: path(), source })?;
        }
        self.update(pod, resources)
            .map_err(|source| EstablishPodError::Limit { path: path(), source: source.into() })
    }
}

fn make_plain(dir: &Path) -> Result<(), FsError> {
    fs::create_dir_all(dir).map_err(FsError::at("make the cgroup", dir))
}

/// On v2 a cgroup has only the controllers that its parent enables for its children: every level down to the pod's own
/// enables all that it has. Levels that do so already (kubelet's) are left alone.
fn make_v2(unified: &Path, pod: &PodCgroup) -> Result<(), FsError> {
    let mut dir = unified.to_owned();
    enable_controllers(&dir)?;
    for name in pod.relative().split('/') {
        dir.push(name);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(FsError::new("make the cgroup", &dir, error));
            }
            Ok(()) | Err(_) => enable_controllers(&dir)?,
        }
    }
    Ok(())
}

pub(super) fn enable_controllers(dir: &Path) -> Result<(), FsError> {
    enable(dir, |_| true)
}

/// Enables on the way to a pod's cgroup what its manager knows nothing of: systemd passes on no hugepages, and kubelets limit them
/// in every container.
pub(super) fn pass_on_hugepages(unified: &Path, pod: &PodCgroup) -> Result<(), FsError> {
    let Some((above, _)) = pod.relative().rsplit_once('/') else { return Ok(()) };
    let mut dir = unified.to_owned();
    enable(&dir, |controller| controller == HUGEPAGES)?;
    for name in above.split('/') {
        dir.push(name);
        enable(&dir, |controller| controller == HUGEPAGES)?;
    }
    Ok(())
}

fn enable(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), FsError> {
    let control = dir.join("cgroup.subtree_control");
    let read = |path: &Path| fs::read_to_string(path).map_err(FsError::at("read", path));
    let enabled = read(&control)?;
    for controller in read(&dir.join("cgroup.controllers"))?.split_whitespace() {
        if !wanted(controller) || enabled.split_whitespace().any(|c| c == controller) {
            continue;
        }
        match super::file::write(&control, &format!("+{controller}")) {
            Ok(()) => {}
            Err(error) if is_needed(controller) => {
                return Err(FsError::new("enable a controller in", &control, error));
            }
            // A level may be unable to pass on a controller that no limit of a pod needs.
            Err(error) => tracing::debug!(%controller, ?control, %error, "controller not enabled"),
        }
    }
    Ok(())
}

fn is_needed(controller: &str) -> bool {
    matches!(controller, "cpu" | "memory" | "pids")
}

/// The mounts as cgroups-rs wants them. Its own `hierarchies::auto` reads mountinfo at each call, and takes a node for
/// v1 or for v2.
#[derive(Debug, Clone)]
pub(super) struct Mounted {
    v1: Vec<Hierarchy>,
    unified: PathBuf,
    v2: bool,
}

impl Mounted {
    pub(super) fn of(cgroups: &Cgroups) -> Self {
        Self {
            v1: cgroups.v1().to_vec(),
            unified: cgroups.unified().map(Path::to_owned).unwrap_or_default(),
            v2: cgroups.layout() == Layout::V2,
        }
    }

    /// The constructor's first two arguments: where the controller is mounted, and the root of that mount, which
    /// cgroups-rs wants only so as to leave it alone.
    fn at(&self, controller: &str) -> Option<(PathBuf, PathBuf)> {
        let point = if self.v2 {
            self.unified.clone()
        } else {
            self.v1.iter().find(|h| h.has(controller))?.point().to_owned()
        };
        Some((point.clone(), point))
    }

    fn on_both(&self) -> impl Iterator<Item = rs::Subsystem> {
        use rs::Subsystem as On;
        let v2 = self.v2;
        let blkio = if v2 { "io" } else { "blkio" };
        [
            self.at(blkio).map(|(p, b)| On::BlkIo(rs::blkio::BlkIoController::new(p, b, v2))),
            self.at("memory").map(|(p, b)| On::Mem(rs::memory::MemController::new(p, b, v2))),
            self.at("pids").map(|(p, b)| On::Pid(rs::pid::PidController::new(p, b, v2))),
            self.at("cpuset").map(|(p, b)| On::CpuSet(rs::cpuset::CpuSetController::new(p, b, v2))),
            self.at("cpu").map(|(p, b)| On::Cpu(rs::cpu::CpuController::new(p, b, v2))),
            self.at("freezer")
                .map(|(p, b)| On::Freezer(rs::freezer::FreezerController::new(p, b, v2))),
            self.at("hugetlb")
                .map(|(p, b)| On::HugeTlb(rs::hugetlb::HugeTlbController::new(p, b, v2))),
        ]
        .into_iter()
        .flatten()
    }

    fn on_v1(&self) -> impl Iterator<Item = rs::Subsystem> {
        use rs::Subsystem as On;
        [
            self.at("cpuacct").map(|(p, b)| On::CpuAcct(rs::cpuacct::CpuAcctController::new(p, b))),
            self.at("devices").map(|(p, b)| On::Devices(rs::devices::DevicesController::new(p, b))),
            self.at("net_cls").map(|(p, b)| On::NetCls(rs::net_cls::NetClsController::new(p, b))),
            self.at("net_prio")
                .map(|(p, b)| On::NetPrio(rs::net_prio::NetPrioController::new(p, b))),
            self.at("perf_event")
                .map(|(p, b)| On::PerfEvent(rs::perf_event::PerfEventController::new(p, b))),
            self.at("rdma").map(|(p, b)| On::Rdma(rs::rdma::RdmaController::new(p, b))),
        ]
        .into_iter()
        .flatten()
    }
}

impl rs::Hierarchy for Mounted {
    fn subsystems(&self) -> Vec<rs::Subsystem> {
        let v1 = (!self.v2).then(|| self.on_v1()).into_iter().flatten();
        self.on_both().chain(v1).collect()
    }

    fn root(&self) -> PathBuf {
        self.unified.clone()
    }

    fn root_control_group(&self) -> rs::Cgroup {
        rs::Cgroup::load(Box::new(self.clone()), "")
    }

    fn parent_control_group(&self, path: &str) -> rs::Cgroup {
        let parent = Path::new(path).parent().unwrap_or_else(|| Path::new(""));
        rs::Cgroup::load(Box::new(self.clone()), parent)
    }

    fn v2(&self) -> bool {
        self.v2
    }
}
