//! One daemon's view of the node: the engine's traits, each call an effect.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::world::{Connected, Host, Images, Network, Pinned, ShimEvents, Shims};
use names::{ContainerId, ImageId, Kind, SandboxId};
use pod::config::Resources;
use pod::step::Fault;
use pod::{Claim, Container, Exit, Sandbox, Time};
use tokio::net::TcpStream;

use crate::fuel::{Fuel, Mishap, Turn};
use crate::node::{Node, SharedNode};
use crate::shim::FakeShim;

/// One daemon's view of a node. Clones share it.
#[derive(Debug, Clone)]
pub struct FakeWorld {
    node: SharedNode,
    fuel: Arc<Fuel>,
    facts: Arc<spec::NodeFacts>,
    memory: Arc<Mutex<Memory>>,
}

/// What dies with the daemon.
#[derive(Debug, Default)]
struct Memory {
    images: BTreeSet<(ContainerId, ImageId)>,
    leases: BTreeSet<String>,
    shims: BTreeMap<SandboxId, Arc<FakeShim>>,
}

impl FakeWorld {
    /// A new daemon on the node, which has SELinux: pods have levels to be remembered.
    pub fn new(node: SharedNode, fuel: Arc<Fuel>) -> Self {
        let context = |kind: &str| format!("u:r:{kind}:s0");
        let contexts =
            spec::selinux::Contexts { process: context("process"), file: context("file") };
        let facts = spec::NodeFacts { selinux: Some(contexts), ..spec::NodeFacts::default() };
        Self { node, fuel, facts: Arc::new(facts), memory: Arc::default() }
    }

    /// What this daemon holds in memory: images by container, addresses by intent.
    pub fn held_in_memory(&self) -> Vec<String> {
        let memory = self.memory();
        let images = memory.images.iter().map(|(id, image)| format!("{image} of container {id}"));
        images.chain(memory.leases.iter().map(|intent| format!("lease {intent}"))).collect()
    }

    /// The node that it acts upon.
    pub fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries an effect out, unless a mishap waits at it. Never returns when the daemon is dead.
    pub(crate) async fn effect<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&mut Node) -> Result<T, Fault> + Send,
    ) -> Result<T, Fault> {
        match self.attempt(name, act) {
            Some(result) => result,
            None => std::future::pending().await,
        }
    }

    /// The same, with nothing for a daemon that is dead.
    fn attempt<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&mut Node) -> Result<T, Fault>,
    ) -> Option<Result<T, Fault>> {
        let failed = || Fault::new(Kind::Internal, format!("{name}: a planted failure"));
        match self.fuel.spend(name) {
            Turn::Go => return Some(act(&mut self.node())),
            Turn::Never => {}
            Turn::Meet(Mishap::Fail) => return Some(Err(failed())),
            Turn::Meet(Mishap::FailAfter) => {
                return Some(act(&mut self.node()).and_then(|_| Err(failed())));
            }
            Turn::Meet(Mishap::KillShims) => {
                let mut node = self.node();
                let shims: Vec<SandboxId> = node.shims.keys().cloned().collect();
                for id in &shims {
                    node.kill_shim(id);
                }
                return Some(act(&mut node));
            }
            Turn::Meet(Mishap::DieBefore) => self.fuel.die(),
            Turn::Meet(Mishap::DieAfter) => {
                drop(act(&mut self.node()));
                self.fuel.die();
            }
        }
        None
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self, id: &SandboxId, pid: i32) -> Arc<FakeShim> {
        let shim = Arc::new(FakeShim::new(self.clone(), id.clone(), pid));
        self.memory().shims.insert(id.clone(), shim.clone());
        shim
    }
}

impl Host for FakeWorld {
    fn now(&self) -> Time {
        self.node().now()
    }

    fn random(&self) -> [u8; 32] {
        self.node().random()
    }

    fn pod_cgroup(&self, parent: &str, id: &SandboxId) -> Result<String, Fault> {
        Ok(format!("{parent}/{id}"))
    }

    fn facts(&self) -> &spec::NodeFacts {
        &self.facts
    }

    fn place(&self, sandbox: &Sandbox, id: &ContainerId) -> spec::Place {
        let cgroup = format!("{}/{id}", sandbox.plan.cgroup().unwrap_or_default());
        spec::Place { cgroup, ..spec::Place::default() }
    }

    async fn cdi_edits(&self, _: &[String]) -> Result<spec::Edits, Fault> {
        Ok(spec::Edits::default())
    }

    async fn seccomp_profile(&self, path: &str) -> Result<String, Fault> {
        Err(Fault::new(Kind::NotFound, format!("{path}: the model has no profiles")))
    }

    async fn apparmor(&self, wanted: spec::apparmor::Wanted) -> Result<Option<String>, Fault> {
        Err(Fault::new(Kind::NotFound, format!("{wanted:?}: the model has no profiles")))
    }

    async fn establish(&self, sandbox: &Sandbox, claim: &Claim) -> Result<(), Fault> {
        self.effect(claim.name(), |node| node.establish(sandbox, claim)).await
    }

    async fn tell_addresses(&self, sandbox: &Sandbox, addresses: &[IpAddr]) -> Result<(), Fault> {
        self.effect("tell_addresses", |node| {
            node.files.insert(sandbox.id.clone(), addresses.to_vec());
            Ok(())
        })
        .await
    }

    async fn release(&self, sandbox: &Sandbox, claim: &Claim) -> Result<(), Fault> {
        let name = match claim {
            Claim::Files => "release files",
            Claim::Cgroup { .. } => "release cgroup",
            Claim::Shim => "release shim",
            Claim::Namespaces { .. } => "release namespaces",
            Claim::Shm => "release shm",
            Claim::Network { .. } => "release network",
        };
        self.effect(name, |node| node.release(sandbox, claim)).await
    }

    async fn establish_container(&self, sandbox: &Sandbox, id: &ContainerId) -> Result<(), Fault> {
        self.effect("establish_container", |node| {
            node.dirs.insert(id.clone(), sandbox.id.clone());
            Ok(())
        })
        .await
    }

    async fn release_container(&self, _: &Sandbox, id: &ContainerId) -> Result<(), Fault> {
        self.effect("release_container", |node| node.release_container(id)).await
    }

    async fn kill_container(&self, _: &Sandbox, id: &ContainerId) -> Result<(), Fault> {
        self.effect("kill_container", |node| {
            node.exit(id, &Exit::Signal(9));
            Ok(())
        })
        .await
    }

    async fn oom_killed(&self, _: &Sandbox, _: &ContainerId) -> bool {
        self.effect("oom_killed", |_| Ok(false)).await.unwrap_or(false)
    }

    async fn update_container(
        &self,
        _: &Sandbox,
        _: &ContainerId,
        _: &Resources,
    ) -> Result<(), Fault> {
        self.effect("update_container", |_| Ok(())).await
    }

    async fn sweep(
        &self,
        sandboxes: &[Arc<Sandbox>],
        containers: &[Arc<Container>],
    ) -> Result<u64, Fault> {
        let sandboxes: Vec<&SandboxId> = sandboxes.iter().map(|sandbox| &sandbox.id).collect();
        let containers: Vec<&ContainerId> = containers.iter().map(|one| &one.id).collect();
        self.effect("sweep", |node| Ok(node.sweep(&sandboxes, &containers))).await
    }
}

impl Network for FakeWorld {
    fn plan(&self, sandbox: &Sandbox) -> Result<Option<String>, Fault> {
        let intent = format!("address of {}", sandbox.id);
        self.memory().leases.insert(intent.clone());
        Ok(Some(intent))
    }

    fn outlives_boot(&self, _: &str) -> bool {
        true
    }

    async fn attach(
        &self,
        sandbox: &Sandbox,
        intent: &str,
    ) -> Result<(Vec<IpAddr>, String), Fault> {
        self.effect("attach", |node| node.attach(sandbox, intent)).await?;
        Ok((vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))], intent.to_owned()))
    }

    async fn detach(&self, _: &Sandbox, intent: &str) -> Result<(), Fault> {
        let detached = self.effect("detach", |node| {
            node.network.remove(intent);
            Ok(())
        });
        detached.await?;
        self.memory().leases.remove(intent);
        Ok(())
    }

    fn adopt(&self, intent: &str) {
        self.memory().leases.insert(intent.to_owned());
    }

    async fn dial(&self, _: &Sandbox, _: u16) -> Result<TcpStream, Fault> {
        Err(Fault::new(Kind::Unsupported, "nothing listens in the model"))
    }

    async fn sweep_network(&self, intents: &[String]) -> Result<(), Fault> {
        self.effect("sweep_network", |node| {
            node.sweep_network(intents);
            Ok(())
        })
        .await
    }
}

impl Images for FakeWorld {
    /// There are two images; the second is that of volumes.
    fn pin(&self, text: &str, owner: &ContainerId) -> Result<Pinned, Fault> {
        let volume = format!("sha256:{}", "2".repeat(64));
        let is_volume = text == "volume" || text == volume;
        let id = if is_volume { volume } else { format!("sha256:{}", "1".repeat(64)) };
        let id: ImageId =
            id.parse().map_err(|_| Fault::new(Kind::Internal, format!("{text}: not an image")))?;
        // A call that cannot wait: what it answers after a death, nobody hears.
        let hold = |_: &mut Node| {
            self.memory().images.insert((owner.clone(), id.clone()));
            Ok(())
        };
        let dead = || Err(Fault::new(Kind::Cancelled, "the daemon is dead"));
        self.attempt("pin", hold).unwrap_or_else(dead)?;
        Ok(Pinned {
            reference: id.as_str().to_owned(),
            id,
            config: spec::ImageConfig { cmd: vec!["/run".to_owned()], ..Default::default() },
            layers_dir: "/layers".to_owned(),
            layers: Vec::new(),
            is_artifact: false,
        })
    }

    fn unpin(&self, owner: &ContainerId) {
        self.memory().images.retain(|(holder, _)| holder != owner);
    }
}

impl Shims for FakeWorld {
    type Shim = FakeShim;

    async fn spawn(&self, sandbox: &Sandbox, events: ShimEvents) -> Result<Arc<FakeShim>, Fault> {
        let id = &sandbox.id;
        let pid = self.effect("spawn", |node| node.spawn(id, events)).await?;
        Ok(self.connection(id, pid))
    }

    async fn connect(&self, sandbox: &Sandbox, events: ShimEvents) -> Connected<FakeShim> {
        let connected = self.effect("connect", |node| {
            let shim = node.shim(&sandbox.id)?;
            shim.events = Some(events);
            Ok(shim.pid)
        });
        match connected.await {
            Ok(pid) => Connected::Yes(self.connection(&sandbox.id, pid)),
            Err(fault) if fault.kind == Kind::Unavailable => Connected::Gone,
            Err(_) => Connected::Silent,
        }
    }

    fn held(&self, id: &SandboxId) -> Option<Arc<FakeShim>> {
        self.memory().shims.get(id).cloned().filter(|_| self.node().shims.contains_key(id))
    }

    async fn exits(&self, sandbox: &Sandbox) -> Vec<(ContainerId, Exit, Time)> {
        let read = |node: &mut Node| Ok(node.exits.get(&sandbox.id).cloned().unwrap_or_default());
        self.effect("exits", read).await.unwrap_or_default()
    }
}
