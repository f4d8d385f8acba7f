//! A daemon's life: a node, a ledger, an engine, and the death of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, Recovered};
use fault::{FakeWorld, Fuel, Node, SharedNode};
use ledger::Ledger;
use pod::{ContainerPhase, Pod, SandboxPhase};
use tempfile::TempDir;

/// A call that takes longer hangs.
const HANGS: Duration = Duration::from_secs(20);

/// A node with a ledger, between two daemons.
pub(crate) struct Machine {
    pub(crate) node: SharedNode,
    dir: TempDir,
    boot: u32,
}

impl Machine {
    pub(crate) fn new() -> Self {
        // The ledger is real, and its files are written through: memory makes a thousand of them quick.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        Self { node: Node::shared(), dir: dir.unwrap(), boot: 0 }
    }

    /// The same machine once more, to go another way from here.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new();
        *copy.node.lock().unwrap() = self.node.lock().unwrap().copy();
        for file in ["run", "disk"] {
            std::fs::copy(self.dir.path().join(file), copy.dir.path().join(file)).unwrap();
        }
        Self { boot: self.boot, ..copy }
    }

    pub(crate) fn reboot(&mut self) {
        self.boot += 1;
        self.node.lock().unwrap().reboot();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a daemon on the machine until the body is done or the fuel is. Gives what the body gave, and nothing after a death.
    pub(crate) fn live<T>(
        &self,
        fuel: &Arc<Fuel>,
        body: impl AsyncFnOnce(&Engine<FakeWorld>, Recovered) -> T,
    ) -> Option<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let lived = runtime.block_on(async {
            let options = ledger::Options {
                run: self.file("run"),
                disk: self.file("disk"),
                boot_id: format!("boot {}", self.boot),
            };
            let (ledger, loaded) = Ledger::open(options).unwrap();
            let world = Arc::new(FakeWorld::new(self.node.clone(), fuel.clone()));
            let life = async {
                let (engine, recovered) = Engine::recover(world, ledger, loaded).await.unwrap();
                body(&engine, recovered).await
            };
            tokio::select! {
                biased;
                () = fuel.died() => None,
                lived = tokio::time::timeout(HANGS * 2, life) => Some(lived.expect("hangs")),
            }
        });
        // Whatever the daemon still meant to do ends here.
        drop(runtime);
        self.node.lock().unwrap().daemon_died();
        lived
    }
}

/// A call that must come to an end.
pub(crate) async fn ends<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, call).await.expect("a call hangs")
}

/// Waits until no effect is under way any more.
pub(crate) async fn quiet(engine: &Engine<FakeWorld>) {
    until(|| engine.views().pods().iter().all(|pod| is_quiet(pod))).await;
}

/// Waits, bounded, until it is so.
pub(crate) async fn until(so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    ends(wait).await;
}

fn is_quiet(pod: &Pod) -> bool {
    let sandbox = matches!(pod.sandbox.phase, SandboxPhase::Ready(_) | SandboxPhase::NotReady);
    let container = |phase: &ContainerPhase| {
        !matches!(
            phase,
            ContainerPhase::Creating
                | ContainerPhase::Starting { .. }
                | ContainerPhase::Ending { .. }
                | ContainerPhase::Removing { .. }
        )
    };
    sandbox && pod.containers.values().all(|c| container(&c.phase))
}
