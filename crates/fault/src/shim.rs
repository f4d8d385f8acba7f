//! One daemon's connection to a shim.

use engine::world::{CreateOrder, Ends, ExecOrder, ExecOutput, Held, OpenOrder, Session, Shim};
use names::{ContainerId, Kind, SandboxId};
use pod::step::Fault;
use pod::{Claim, Container, Exit, Sandbox, Time, User};

use crate::world::FakeWorld;

/// A connection to a shim of the model.
#[derive(Debug)]
pub struct FakeShim {
    world: FakeWorld,
    sandbox: SandboxId,
    pid: i32,
}

impl FakeShim {
    pub(crate) fn new(world: FakeWorld, sandbox: SandboxId, pid: i32) -> Self {
        Self { world, sandbox, pid }
    }
}

impl Shim for FakeShim {
    fn process(&self) -> (i32, u64) {
        (self.pid, 1)
    }

    async fn open_namespaces(&self, sandbox: &Sandbox) -> Result<i32, Fault> {
        let pins = sandbox.plan.0.iter().filter_map(|claim| match claim {
            Claim::Namespaces { pin } => pin.clone(),
            Claim::Files
            | Claim::Cgroup { .. }
            | Claim::Shim
            | Claim::Shm
            | Claim::Network { .. } => None,
        });
        self.world
            .effect("open_namespaces", |node| {
                node.shim(&self.sandbox)?;
                node.pins.extend(pins.map(|pin| (pin, sandbox.id.clone())));
                Ok(0)
            })
            .await
    }

    async fn commit(&self) -> Result<(), Fault> {
        self.world
            .effect("commit", |node| {
                node.shim(&self.sandbox)?.committed = true;
                Ok(())
            })
            .await
    }

    async fn state(&self) -> Result<Vec<Held>, Fault> {
        self.world
            .effect("state", |node| {
                Ok(node.shim(&self.sandbox)?.containers.values().cloned().collect())
            })
            .await
    }

    async fn create(&self, _: &Sandbox, order: &CreateOrder) -> Result<(i32, User), Fault> {
        let id = &order.container.id;
        let made = self.world.effect("create", |node| node.create(id, &self.sandbox)).await;
        made.map(|pid| (pid, User::default()))
    }

    async fn start(&self, id: &ContainerId) -> Result<Time, Fault> {
        self.world.effect("start", |node| node.start(id, &self.sandbox)).await
    }

    async fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), Fault> {
        self.world
            .effect("signal", |node| {
                node.shim(&self.sandbox)?;
                node.exit(id, &Exit::Signal(signal));
                Ok(())
            })
            .await
    }

    async fn exec(&self, _: &Sandbox, _: ExecOrder) -> Result<ExecOutput, Fault> {
        Err(Fault::new(Kind::Unsupported, "the model runs no commands"))
    }

    async fn open(&self, _: &Sandbox, _: OpenOrder) -> Result<Session, Fault> {
        Err(Fault::new(Kind::Unsupported, "the model runs no commands"))
    }

    async fn attach(&self, _: &Container, _: Ends) -> Result<Session, Fault> {
        Err(Fault::new(Kind::Unsupported, "the model's containers say nothing"))
    }

    async fn reopen_log(&self, _: &ContainerId) -> Result<(), Fault> {
        self.world.effect("reopen_log", |node| node.shim(&self.sandbox).map(drop)).await
    }

    async fn forget(&self, id: &ContainerId) -> Result<(), Fault> {
        self.world.effect("forget", |node| node.forget(id, &self.sandbox)).await
    }

    async fn shutdown(&self) -> Result<(), Fault> {
        self.world
            .effect("shutdown", |node| {
                node.kill_shim(&self.sandbox);
                Ok(())
            })
            .await
    }
}
