//! The engine's host over the host room.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::world::Host;
use host::cgroup::{CgroupPath, PodCgroup};
use host::{files, shm};
use names::{ContainerId, Kind, SandboxId};
use pod::config::{NamespaceMode, Resources, SandboxConfig};
use pod::step::Fault;
use pod::{Claim, Container, Sandbox, Time};
use spec::apparmor::Wanted;
use spec::{NodeFacts, Place};

use super::place::text;
use super::{Node, blocking, cdi, fault, poststop};

/// A profile or a device's path may lie on a dead network mount: the caller does not wait for it longer than this.
const FILE_WITHIN: Duration = Duration::from_secs(10);
/// No seccomp profile is larger.
const PROFILE: u64 = 4 << 20;

/// Of containers that were killed: how often the kernel had killed for want of memory while their main process went on.
#[derive(Debug, Default)]
pub(crate) struct Spared(Mutex<HashMap<ContainerId, u64>>);

impl Spared {
    // The lock guards one look-up, never an await; a panic cannot leave the map half-changed.
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<ContainerId, u64>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Host for Node {
    fn now(&self) -> Time {
        Time(host::proc::now())
    }

    fn random(&self) -> [u8; 32] {
        host::proc::random_id().unwrap_or_else(|error| {
            // getrandom fails on no kernel that this program starts on.
            tracing::error!(%error, "no random bytes");
            [0; 32]
        })
    }

    fn pod_cgroup(&self, parent: &str, id: &SandboxId) -> Result<String, Fault> {
        let path = self.cgroups.pod_path(parent, id);
        path.map(|path| path.as_str().to_owned())
            .map_err(|e| Fault::new(e.kind(), format!("config.linux.cgroup_parent: {e}")))
    }

    fn facts(&self) -> &NodeFacts {
        &self.facts
    }

    fn place(&self, sandbox: &Sandbox, id: &ContainerId) -> Place {
        let dir = self.places.pod(&sandbox.id);
        let handle = |fd: i32| format!("/proc/self/fd/{fd}");
        let cgroup = sandbox.plan.cgroup().unwrap_or_default();
        let own_ipc = sandbox.config.namespaces.ipc != NamespaceMode::Node;
        Place {
            cgroup: format!("{cgroup}/{id}"),
            hostname: text(&dir.join("hostname")),
            hosts: text(&dir.join("hosts")),
            resolv_conf: text(&dir.join("resolv.conf")),
            shm: if own_ipc { text(&self.places.shm(&sandbox.id)) } else { "/dev/shm".to_owned() },
            network_namespace: handle(wire::NET_FD),
            ipc_namespace: handle(wire::IPC_FD),
            uts_namespace: handle(wire::UTS_FD),
            pid_namespace: handle(wire::PID_FD),
            user_namespace: handle(wire::USER_FD),
            // The shim puts the one in the other's place.
            target_pid_namespace: Some(handle(wire::PID_FD)),
        }
    }

    async fn cdi_edits(&self, names: &[String]) -> Result<spec::Edits, Fault> {
        let (dirs, names) = (self.cdi_dirs.clone(), names.to_vec());
        let edits = move || cdi::registry(&dirs).edits(&names).map_err(|e| fault(e.kind(), &e));
        let where_they_are: Vec<String> = self.cdi_dirs.iter().map(|dir| text(dir)).collect();
        in_time(&where_they_are.join(" or "), edits).await
    }

    async fn seccomp_profile(&self, path: &str) -> Result<String, Fault> {
        let owned = path.to_owned();
        in_time(path, move || read_profile(&owned)).await
    }

    async fn apparmor(&self, wanted: Wanted) -> Result<Option<String>, Fault> {
        self.apparmor.have(wanted).await
    }

    async fn establish(&self, sandbox: &Sandbox, claim: &Claim) -> Result<(), Fault> {
        let (node, sandbox, claim) = (self.clone(), sandbox.clone(), claim.clone());
        blocking(move || node.establish_blocking(&sandbox, &claim)).await
    }

    async fn tell_addresses(&self, sandbox: &Sandbox, addresses: &[IpAddr]) -> Result<(), Fault> {
        let dir = self.places.pod(&sandbox.id);
        let (hostname, addresses) = (self.hostname(&sandbox.config), addresses.to_vec());
        let (dns, owner) = (sandbox.config.dns.clone(), owner(&sandbox.config));
        let node = self.clone();
        blocking(move || {
            let told = files::write_pod_files(&dir, &hostname, &addresses, dns.as_ref());
            told.and_then(|files| files.give(owner, node.file_label()))
                .map_err(|e| fault(e.kind(), &e))
        })
        .await
    }

    async fn release(&self, sandbox: &Sandbox, claim: &Claim) -> Result<(), Fault> {
        let (node, sandbox, claim) = (self.clone(), sandbox.clone(), claim.clone());
        blocking(move || node.release_blocking(&sandbox, &claim)).await
    }

    async fn establish_container(&self, sandbox: &Sandbox, id: &ContainerId) -> Result<(), Fault> {
        let path = self.container_cgroup(sandbox, id)?;
        let (node, places, id) = (self.clone(), self.places.clone(), id.clone());
        let cgroup =
            blocking(move || node.cgroups.make_container(&path).map_err(|e| fault(e.kind(), &e)));
        let dirs = blocking(move || {
            for dir in [places.bundle(&id), places.upper(&id), places.work(&id)] {
                std::fs::create_dir_all(&dir).map_err(|e| {
                    Fault::new(Kind::Internal, format!("make {}: {e}", dir.display()))
                })?;
            }
            Ok(())
        });
        // Both to their end, for what is made must be there when it is undone.
        let (cgroup, dirs) = tokio::join!(cgroup, dirs);
        cgroup.and(dirs)
    }

    async fn release_container(&self, sandbox: &Sandbox, id: &ContainerId) -> Result<(), Fault> {
        let path = self.container_cgroup(sandbox, id)?;
        self.spared.with(|spared| spared.remove(id));
        let (node, id) = (self.clone(), id.clone());
        blocking(move || {
            node.cgroups.release(&path).map_err(|e| fault(e.kind(), &e))?;
            poststop::run(&id, &node.places.bundle(&id)).map_err(|e| fault(e.kind(), &e))?;
            for dir in [node.places.bundle(&id), node.places.writable(&id)] {
                files::remove_all(&dir).map_err(|e| fault(e.kind(), &e))?;
            }
            Ok(())
        })
        .await
    }

    async fn kill_container(&self, sandbox: &Sandbox, id: &ContainerId) -> Result<(), Fault> {
        let path = self.container_cgroup(sandbox, id)?;
        let node = self.clone();
        blocking(move || node.cgroups.kill(&path).map_err(|e| fault(e.kind(), &e))).await
    }

    async fn oom_killed(&self, sandbox: &Sandbox, id: &ContainerId) -> bool {
        let Ok(path) = self.container_cgroup(sandbox, id) else { return false };
        let node = self.clone();
        let kills = blocking(move || Ok(node.cgroups.oom_kills(&path)));
        let spared = self.spared.with(|spared| spared.get(id).copied());
        kills.await.is_ok_and(|kills| kills > spared.unwrap_or_default())
    }

    async fn before_kill(&self, sandbox: &Sandbox, id: &ContainerId, pid: i32) {
        let Ok(path) = self.container_cgroup(sandbox, id) else { return };
        let node = self.clone();
        let spared = blocking(move || {
            let kills = node.cgroups.oom_kills(&path);
            // Asked after they were counted, so that none of them was its own.
            Ok((kills > 0 && host::proc::goes_on(pid)).then_some(kills))
        });
        if let Ok(Some(kills)) = spared.await {
            self.spared.with(|spared| spared.insert(id.clone(), kills));
        }
    }

    async fn update_container(
        &self,
        sandbox: &Sandbox,
        id: &ContainerId,
        resources: &Resources,
    ) -> Result<(), Fault> {
        let path = self.container_cgroup(sandbox, id)?;
        let (node, resources) = (self.clone(), resources.clone());
        blocking(move || node.cgroups.update(&path, &resources).map_err(|e| fault(e.kind(), &e)))
            .await
    }

    async fn sweep(
        &self,
        sandboxes: &[Arc<Sandbox>],
        containers: &[Arc<Container>],
    ) -> Result<u64, Fault> {
        let known: Vec<SandboxId> = sandboxes.iter().map(|s| s.id.clone()).collect();
        let held: Vec<ContainerId> = containers.iter().map(|c| c.id.clone()).collect();
        let of = |c: &Container| sandboxes.iter().find(|s| s.id == c.sandbox).cloned();
        let live = containers.iter().filter_map(|c| self.container_cgroup(&*of(c)?, &c.id).ok());
        let (node, live) = (self.clone(), live.collect::<Vec<_>>());
        blocking(move || {
            for container in &live {
                node.cgroups.sweep_execs(container);
            }
            Ok(node.sweep_blocking(&known, &held))
        })
        .await
    }
}

impl Node {
    /// The UTS name of a pod: its own, or the node's.
    pub(super) fn hostname(&self, config: &SandboxConfig) -> String {
        let own = config.hostname.is_empty() || config.namespaces.network == NamespaceMode::Node;
        if own { self.facts.hostname.clone() } else { config.hostname.clone() }
    }

    /// Without categories: of a pod's containers each may have a level of its own, and all of them have these files.
    fn file_label(&self) -> Option<&str> {
        self.facts.selinux.as_ref().map(|contexts| contexts.file.as_str())
    }

    /// A container's cgroup.
    pub(crate) fn container_cgroup(
        &self,
        sandbox: &Sandbox,
        id: &ContainerId,
    ) -> Result<CgroupPath, Fault> {
        Ok(self.cgroups.container_path(&pod_cgroup(sandbox)?, id))
    }

    fn establish_blocking(&self, sandbox: &Sandbox, claim: &Claim) -> Result<(), Fault> {
        match claim {
            Claim::Files => self.make_files(sandbox),
            Claim::Cgroup { .. } => {
                let pod = pod_cgroup(sandbox)?;
                let made = self.cgroups.establish_pod(&pod, &Resources::default());
                made.map_err(|e| fault(e.kind(), &e))
            }
            Claim::Shm if sandbox.config.namespaces.ipc == NamespaceMode::Node => Ok(()),
            Claim::Shm => {
                let label = spec::selinux::shared(sandbox, &self.facts);
                let label = label.map_err(|e| fault(e.kind(), &e))?;
                let made = shm::mount(
                    &self.places.shm(&sandbox.id),
                    self.shm_size,
                    owner(&sandbox.config),
                    label.as_deref(),
                );
                made.map_err(|e| fault(e.kind(), &e))
            }
            // Made through the shim.
            Claim::Shim | Claim::Namespaces { .. } | Claim::Network { .. } => Ok(()),
        }
    }

    fn make_files(&self, sandbox: &Sandbox) -> Result<(), Fault> {
        let config = &sandbox.config;
        let dir = self.places.pod(&sandbox.id);
        files::write_pod_files(&dir, &self.hostname(config), &[], config.dns.as_ref())
            .and_then(|files| files.give(owner(config), self.file_label()))
            .map_err(|e| fault(e.kind(), &e))?;
        // For the sweep: who finds this directory without a record can still release the cgroup.
        let cgroup = sandbox.plan.cgroup().unwrap_or_default();
        files::replace(&dir.join("cgroup"), cgroup.as_bytes(), 0o600)
            .map_err(|e| fault(e.kind(), &e))?;
        if config.log_directory.is_empty() {
            return Ok(());
        }
        files::make_log_dir(Path::new(&config.log_directory)).map_err(|e| fault(e.kind(), &e))
    }

    fn release_blocking(&self, sandbox: &Sandbox, claim: &Claim) -> Result<(), Fault> {
        match claim {
            Claim::Files => remove_pod_dir(&self.places.pod(&sandbox.id)),
            Claim::Cgroup { .. } => {
                let pod = pod_cgroup(sandbox)?;
                self.cgroups.kill(&pod).map_err(|e| fault(e.kind(), &e))?;
                self.cgroups.release_pod(&pod).map(drop).map_err(|e| fault(e.kind(), &e))
            }
            Claim::Shim => {
                let pod = pod_cgroup(sandbox)?;
                self.cgroups.kill(&pod.shim()).map_err(|e| fault(e.kind(), &e))
            }
            Claim::Namespaces { pin: Some(name) } => {
                self.pins.unpin(name).map(drop).map_err(|e| fault(e.kind(), &e))
            }
            Claim::Shm => {
                let released = shm::release(&self.places.shm(&sandbox.id));
                released.map(drop).map_err(|e| fault(e.kind(), &e))
            }
            Claim::Namespaces { pin: None } | Claim::Network { .. } => Ok(()),
        }
    }

    /// Whatever has a directory of ours and no record goes. Cgroups and pins are found through that directory and never by
    /// their prefix: another daemon on this node has the same.
    fn sweep_blocking(&self, sandboxes: &[SandboxId], containers: &[ContainerId]) -> u64 {
        let mut swept = 0;
        for (name, dir) in entries(self.places.pods()) {
            if name.parse().is_ok_and(|id| sandboxes.contains(&id)) {
                continue;
            }
            swept += 1;
            if let Err(fault) = self.sweep_pod(&name, &dir) {
                tracing::warn!(dir = %dir.display(), "not swept: {}", fault.message);
            }
        }
        for parent in [self.places.bundles(), self.places.layers()] {
            for (name, dir) in entries(parent) {
                if name.parse().is_ok_and(|id| containers.contains(&id)) {
                    continue;
                }
                swept += 1;
                if let Err(error) = files::remove_all(&dir) {
                    tracing::warn!(dir = %dir.display(), "not swept: {error}");
                }
            }
        }
        swept
    }

    fn sweep_pod(&self, name: &str, dir: &Path) -> Result<(), Fault> {
        if let Ok(id) = name.parse::<SandboxId>() {
            let pin = pod::plan::netns_pin(&id);
            self.pins.unpin(&pin).map_err(|e| fault(e.kind(), &e))?;
        }
        let cgroup = std::fs::read_to_string(dir.join("cgroup")).unwrap_or_default();
        if let Ok(pod) = CgroupPath::try_from(cgroup).and_then(PodCgroup::try_from) {
            self.cgroups.kill(&pod).map_err(|e| fault(e.kind(), &e))?;
            self.cgroups.release_pod(&pod).map_err(|e| fault(e.kind(), &e))?;
        }
        remove_pod_dir(dir)
    }
}

/// The pod's cgroup, from its plan.
pub(crate) fn pod_cgroup(sandbox: &Sandbox) -> Result<PodCgroup, Fault> {
    let path = sandbox.plan.cgroup().unwrap_or_default().to_owned();
    CgroupPath::try_from(path).and_then(PodCgroup::try_from).map_err(|e| fault(e.kind(), &e))
}

/// The user and group on the node that are root in the pod.
fn owner(config: &SandboxConfig) -> (u32, u32) {
    config.namespaces.user.map_or((0, 0), |user| (user.uids.first, user.gids.first))
}

fn remove_pod_dir(dir: &Path) -> Result<(), Fault> {
    shm::release(&dir.join("shm")).map_err(|e| fault(e.kind(), &e))?;
    files::remove_all(dir).map(drop).map_err(|e| fault(e.kind(), &e))
}

fn entries(dir: &Path) -> Vec<(String, std::path::PathBuf)> {
    let Ok(read) = std::fs::read_dir(dir) else { return Vec::new() };
    read.flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect()
}

/// Work on a path that a client named. When it does not answer, the thread is left to it and the caller goes on.
async fn in_time<T: Send + 'static>(
    path: &str,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::time::timeout(FILE_WITHIN, blocking(work)).await {
        Ok(done) => done,
        Err(_) => Err(Fault::new(Kind::TimedOut, format!("{path} does not answer"))),
    }
}

fn read_profile(path: &str) -> Result<String, Fault> {
    use std::io::Read;
    let wrong = |e: std::io::Error| {
        let field = "config.linux.security_context.seccomp.localhost_ref";
        Fault::new(Kind::Invalid, format!("{field}: {path}: {e}"))
    };
    let file = std::fs::File::open(path).map_err(wrong)?;
    let mut text = String::new();
    file.take(PROFILE).read_to_string(&mut text).map_err(wrong)?;
    Ok(text)
}
