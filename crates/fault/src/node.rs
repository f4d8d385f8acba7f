//! The model of a node: what outlives the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use engine::world::{Held, ShimEvent, ShimEvents};
use names::{ContainerId, Kind, SandboxId};
use pod::step::Fault;
use pod::{Claim, Exit, Sandbox, Time};

/// A node that several daemons in turn act upon.
pub type SharedNode = Arc<Mutex<Node>>;

/// Everything a node may hold under our names.
#[derive(Debug, Default)]
pub struct Node {
    /// Directories of files, with the addresses written into them.
    pub files: BTreeMap<SandboxId, Vec<IpAddr>>,
    /// The exit files in those directories.
    pub exits: BTreeMap<SandboxId, Vec<(ContainerId, Exit, Time)>>,
    /// Pod cgroups, and whose.
    pub cgroups: BTreeMap<String, SandboxId>,
    /// Shim processes.
    pub shims: BTreeMap<SandboxId, ShimProcess>,
    /// Pinned network namespaces, and whose.
    pub pins: BTreeMap<String, SandboxId>,
    /// Mounts behind /dev/shm.
    pub shm: BTreeSet<SandboxId>,
    /// Intents that are carried out.
    pub network: BTreeSet<String>,
    /// Containers' directories and cgroups, and whose.
    pub dirs: BTreeMap<ContainerId, SandboxId>,
    /// Containers' main processes.
    pub processes: BTreeMap<ContainerId, i32>,
    /// How many things sweeps have released: with every effect written down before it is done, none is ever needed.
    pub swept: u64,
    clock: i64,
    ids: u64,
    pids: i32,
}

/// A shim.
#[derive(Debug)]
pub struct ShimProcess {
    /// Its process.
    pub pid: i32,
    /// Whether it outlives the daemon.
    pub committed: bool,
    /// What it holds.
    pub containers: BTreeMap<ContainerId, Held>,
    /// The daemon that listens.
    pub events: Option<ShimEvents>,
}

impl Node {
    /// A node with nothing on it.
    pub fn shared() -> SharedNode {
        Arc::default()
    }

    /// The same node once more, as it is without a daemon.
    #[must_use]
    pub fn copy(&self) -> Self {
        let shim = |shim: &ShimProcess| ShimProcess {
            pid: shim.pid,
            committed: shim.committed,
            containers: shim.containers.clone(),
            events: None,
        };
        Self {
            files: self.files.clone(),
            exits: self.exits.clone(),
            cgroups: self.cgroups.clone(),
            shims: self.shims.iter().map(|(id, process)| (id.clone(), shim(process))).collect(),
            pins: self.pins.clone(),
            shm: self.shm.clone(),
            network: self.network.clone(),
            dirs: self.dirs.clone(),
            processes: self.processes.clone(),
            ..*self
        }
    }

    /// What is left on the node: empty when nothing leaks.
    pub fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        left.extend(self.files.keys().map(|id| format!("files of {id}")));
        left.extend(self.exits.keys().map(|id| format!("exit file of {id}")));
        left.extend(self.cgroups.keys().map(|path| format!("cgroup {path}")));
        left.extend(self.shims.keys().map(|id| format!("shim of {id}")));
        left.extend(self.pins.keys().map(|pin| format!("namespace {pin}")));
        left.extend(self.shm.iter().map(|id| format!("shm of {id}")));
        left.extend(self.network.iter().map(|intent| format!("network {intent}")));
        left.extend(self.dirs.keys().map(|id| format!("directories of container {id}")));
        left.extend(self.processes.keys().map(|id| format!("process of container {id}")));
        left
    }

    /// The daemon has died: shims that were not yet to outlive it end with it.
    pub fn daemon_died(&mut self) {
        let over: Vec<SandboxId> =
            self.shims.iter().filter(|(_, s)| !s.committed).map(|(id, _)| id.clone()).collect();
        for id in &over {
            self.kill_shim(id);
        }
        self.shims.values_mut().for_each(|shim| shim.events = None);
    }

    /// The machine was restarted: only files on disk are left, and what a network plugin keeps.
    pub fn reboot(&mut self) {
        self.cgroups.clear();
        self.shims.clear();
        self.pins.clear();
        self.shm.clear();
        self.processes.clear();
    }

    /// Kills a shim. Its containers' processes live on without it.
    pub fn kill_shim(&mut self, id: &SandboxId) {
        if let Some(events) = self.shims.remove(id).and_then(|shim| shim.events) {
            // Nobody may listen.
            drop(events.send(Box::new(ShimEvent::Gone)));
        }
    }

    /// A container's main process ends.
    pub fn exit(&mut self, id: &ContainerId, how: &Exit) {
        if self.processes.remove(id).is_none() {
            return;
        }
        let at = self.now();
        for (sandbox, shim) in &mut self.shims {
            let Some(held) = shim.containers.get_mut(id) else { continue };
            (held.pid, held.exited) = (0, Some((how.clone(), at)));
            self.exits.entry(sandbox.clone()).or_default().push((id.clone(), how.clone(), at));
            if let Some(events) = &shim.events {
                // Nobody may listen.
                drop(events.send(Box::new(ShimEvent::Exited(id.clone(), how.clone(), at))));
            }
        }
    }

    pub(crate) fn now(&mut self) -> Time {
        self.clock += 1;
        Time(self.clock)
    }

    pub(crate) fn random(&mut self) -> [u8; 32] {
        self.ids += 1;
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(self.ids.to_be_bytes().into_iter().rev()).for_each(|(b, n)| *b = n);
        bytes
    }

    pub(crate) fn pid(&mut self) -> i32 {
        self.pids += 1;
        self.pids
    }

    pub(crate) fn establish(&mut self, sandbox: &Sandbox, claim: &Claim) -> Result<(), Fault> {
        let id = sandbox.id.clone();
        match claim {
            Claim::Files => {
                self.files.entry(id).or_default();
            }
            Claim::Cgroup { path } => {
                self.cgroups.insert(path.clone(), id);
            }
            Claim::Shm => {
                self.shm.insert(id);
            }
            Claim::Shim | Claim::Namespaces { .. } | Claim::Network { .. } => {
                return Err(refused(format!("{} is not the host's to establish", claim.name())));
            }
        }
        Ok(())
    }

    pub(crate) fn release(&mut self, sandbox: &Sandbox, claim: &Claim) -> Result<(), Fault> {
        let id = &sandbox.id;
        let has_shim = self.shims.contains_key(id);
        match claim {
            Claim::Files if has_shim => return Err(refused("the shim writes into its files")),
            Claim::Files => {
                self.files.remove(id);
                self.exits.remove(id);
            }
            Claim::Cgroup { .. } if has_shim || self.is_busy(id) => {
                return Err(refused("processes are in the pod's cgroup"));
            }
            Claim::Cgroup { path } => {
                self.cgroups.remove(path);
            }
            Claim::Shim => self.kill_shim(id),
            Claim::Namespaces { pin } => {
                self.pins.retain(|held, _| Some(held) != pin.as_ref());
            }
            Claim::Shm => {
                self.shm.remove(id);
            }
            Claim::Network { .. } => return Err(refused("networks are not the host's to release")),
        }
        Ok(())
    }

    pub(crate) fn spawn(&mut self, id: &SandboxId, events: ShimEvents) -> Result<i32, Fault> {
        if !self.files.contains_key(id) {
            return Err(refused("no directory for the shim's socket"));
        }
        let pid = self.pid();
        let containers = BTreeMap::new();
        let shim = ShimProcess { pid, committed: false, containers, events: Some(events) };
        match self.shims.insert(id.clone(), shim) {
            None => Ok(pid),
            Some(_) => Err(refused("a second shim for one sandbox")),
        }
    }

    pub(crate) fn attach(&mut self, sandbox: &Sandbox, intent: &str) -> Result<(), Fault> {
        if !self.pins.values().any(|id| *id == sandbox.id) {
            return Err(refused("no network namespace"));
        }
        self.network.insert(intent.to_owned());
        Ok(())
    }

    pub(crate) fn create(&mut self, id: &ContainerId, sandbox: &SandboxId) -> Result<i32, Fault> {
        if !self.dirs.contains_key(id) {
            return Err(refused(format!("no directories for container {id}")));
        }
        let pid = self.pid();
        let held = Held { id: id.clone(), pid, started_at: None, exited: None };
        self.shim(sandbox)?.containers.insert(id.clone(), held);
        self.processes.insert(id.clone(), pid);
        Ok(pid)
    }

    pub(crate) fn start(&mut self, id: &ContainerId, sandbox: &SandboxId) -> Result<Time, Fault> {
        let now = self.now();
        let alive = self.processes.contains_key(id);
        let held = self.shim(sandbox)?.containers.get_mut(id);
        match held.filter(|_| alive) {
            Some(held) => Ok(*held.started_at.insert(now)),
            None => Err(refused(format!("container {id} has no init"))),
        }
    }

    pub(crate) fn forget(&mut self, id: &ContainerId, sandbox: &SandboxId) -> Result<(), Fault> {
        self.exit(id, &Exit::Signal(9));
        self.shim(sandbox)?.containers.remove(id);
        Ok(())
    }

    pub(crate) fn release_container(&mut self, id: &ContainerId) -> Result<(), Fault> {
        if self.processes.contains_key(id) {
            return Err(refused(format!("processes are in the cgroup of container {id}")));
        }
        self.dirs.remove(id);
        Ok(())
    }

    /// The sandbox's shim, while it lives.
    pub(crate) fn shim(&mut self, id: &SandboxId) -> Result<&mut ShimProcess, Fault> {
        let gone = || Fault::new(Kind::Unavailable, format!("the shim of sandbox {id} is gone"));
        self.shims.get_mut(id).ok_or_else(gone)
    }

    /// Releases everything that belongs to none of these.
    pub(crate) fn sweep(&mut self, sandboxes: &[&SandboxId], containers: &[&ContainerId]) -> u64 {
        let before = self.left().len();
        let kept = |id: &SandboxId| sandboxes.contains(&id);
        self.processes.retain(|id, _| containers.contains(&id));
        self.dirs.retain(|id, _| containers.contains(&id));
        self.shims.retain(|id, _| kept(id));
        self.pins.retain(|_, id| kept(id));
        self.shm.retain(&kept);
        self.cgroups.retain(|_, id| kept(id));
        self.files.retain(|id, _| kept(id));
        self.exits.retain(|id, _| kept(id));
        self.swept_since(before)
    }

    pub(crate) fn sweep_network(&mut self, intents: &[String]) {
        let before = self.left().len();
        self.network.retain(|intent| intents.contains(intent));
        self.swept_since(before);
    }

    fn swept_since(&mut self, before: usize) -> u64 {
        let swept = u64::try_from(before.saturating_sub(self.left().len())).unwrap_or(u64::MAX);
        self.swept += swept;
        swept
    }

    /// Whether a process of the sandbox's containers lives.
    fn is_busy(&self, id: &SandboxId) -> bool {
        self.processes.keys().any(|container| self.dirs.get(container) == Some(id))
    }
}

/// What the kernel would refuse too.
fn refused(message: impl Into<String>) -> Fault {
    Fault::new(Kind::Refused, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oracle_finds_a_leak_of_every_kind() {
        let sandbox = || SandboxId::from_random([1; 32]);
        let container = || ContainerId::from_random([2; 32]);
        let events = tokio::sync::mpsc::unbounded_channel().0;
        let mut shim = Node::default();
        shim.files.insert(sandbox(), Vec::new());
        shim.spawn(&sandbox(), events).unwrap();
        shim.files.clear();
        let none = Node::default;
        let plants = [
            ("files", Node { files: [(sandbox(), Vec::new())].into(), ..none() }),
            ("exit file", Node { exits: [(sandbox(), Vec::new())].into(), ..none() }),
            ("cgroup", Node { cgroups: [("/pod".to_owned(), sandbox())].into(), ..none() }),
            ("shim", shim),
            ("namespace", Node { pins: [("pin".to_owned(), sandbox())].into(), ..none() }),
            ("shm", Node { shm: [sandbox()].into(), ..none() }),
            ("network", Node { network: ["intent".to_owned()].into(), ..none() }),
            ("directories", Node { dirs: [(container(), sandbox())].into(), ..none() }),
            ("process", Node { processes: [(container(), 7)].into(), ..none() }),
        ];
        assert_eq!(none().left(), Vec::<String>::new());
        for (kind, mut node) in plants {
            let left = node.left();
            assert_eq!(left.len(), 1, "{kind}: {left:?}");
            assert!(left[0].starts_with(kind), "{left:?}");
            assert_eq!(node.copy().left(), left);
            node.sweep(&[], &[]);
            node.sweep_network(&[]);
            assert_eq!((node.left().len(), node.swept), (0, 1), "{kind}");
        }
    }
}
