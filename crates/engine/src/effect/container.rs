//! The container's effects: create, start, signal, kill, reap, remove, update.

use std::time::Duration;

use names::{ContainerId, Kind};
use pod::config::Resources;
use pod::step::{Event, Fault};
use pod::{Container, ContainerPhase};
use tracing::warn;

use super::Context;
use crate::world::{Shim, World};

/// How long to wait between two tries to kill what does not end.
const AGAIN: Duration = Duration::from_millis(200);
/// The longest such wait.
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// Makes the container, or undoes what was made of it.
pub(super) async fn create<W: World>(context: &Context<W>, id: &ContainerId) -> Event {
    match make(context, id).await {
        Ok((pid, user)) => Event::Created { id: id.clone(), pid, user },
        Err(fault) => {
            undo(context, id).await;
            Event::CreateFailed(id.clone(), fault)
        }
    }
}

async fn make<W: World>(context: &Context<W>, id: &ContainerId) -> Result<(i32, pod::User), Fault> {
    let (world, sandbox) = (&context.parts.world, &context.pod.sandbox);
    let missing = |what: &str| Fault::new(Kind::Internal, format!("container {id}: no {what}"));
    context.pending.as_ref().ok_or_else(|| missing("record before the first effect"))?;
    let order = context.order.as_deref().ok_or_else(|| missing("order"))?;
    let shim = context.shim.as_ref().ok_or_else(|| no_shim(context))?;
    world.establish_container(sandbox, id).await?;
    shim.create(sandbox, order).await
}

async fn undo<W: World>(context: &Context<W>, id: &ContainerId) {
    let (world, sandbox) = (&context.parts.world, &context.pod.sandbox);
    let mut faults = Vec::new();
    faults.extend(world.kill_container(sandbox, id).await.err());
    if let Some(shim) = &context.shim {
        faults.extend(shim.forget(id).await.err());
    }
    faults.extend(world.release_container(sandbox, id).await.err());
    world.unpin(id);
    for fault in faults {
        warn!(container = %id, "not undone: {}", fault.message);
    }
}

/// Lets its program run.
pub(super) async fn start<W: World>(context: &Context<W>, id: &ContainerId) -> Event {
    let started = match &context.shim {
        Some(shim) => shim.start(id).await,
        None => Err(no_shim(context)),
    };
    match started {
        Ok(at) => Event::Started(id.clone(), at),
        Err(fault) => Event::StartFailed(id.clone(), fault, context.parts.world.now()),
    }
}

/// Sends the stop signal. A process that is gone needs none; a shim that does not answer will be asked again.
pub(super) async fn signal<W: World>(context: &Context<W>, id: &ContainerId) {
    let (Some(shim), Some(container)) = (&context.shim, context.container(id)) else { return };
    if let Err(fault) = shim.signal(id, container.stop_signal).await {
        warn!(container = %id, signal = container.stop_signal, "not signalled: {}", fault.message);
    }
}

/// Kills everything in its cgroup; the shim then tells the exit. Whoever waits for that exit is told of nothing else, so what fails
/// is tried again until the main process has ended: from then on it is the reaping that tells.
pub(super) async fn kill<W: World>(context: &Context<W>, id: &ContainerId) {
    let mut watch = context.watch.clone();
    let mut pause = AGAIN;
    before_kill(context, id).await;
    while let Err(fault) = context.parts.world.kill_container(&context.pod.sandbox, id).await {
        warn!(container = %id, "not killed: {}", fault.message);
        let ended = watch.wait_for(|pod| pod.containers.get(id).is_none_or(|c| has_ended(c)));
        if tokio::time::timeout(pause, ended).await.is_ok() {
            return;
        }
        pause = (pause * 2).min(AGAIN_AT_MOST);
    }
}

/// To be told before each kill of one whose main process may live.
pub(super) async fn before_kill<W: World>(context: &Context<W>, id: &ContainerId) {
    if let Some(pid) = context.container(id).and_then(|container| container.phase.pid()) {
        context.parts.world.before_kill(&context.pod.sandbox, id, pid).await;
    }
}

fn has_ended(container: &Container) -> bool {
    matches!(container.phase, ContainerPhase::Ending { .. }) || container.phase.is_over()
}

/// Its main process has ended: kill what it left behind, then read why it ended.
pub(super) async fn reap<W: World>(context: &Context<W>, id: &ContainerId) -> Event {
    let (world, sandbox) = (&context.parts.world, &context.pod.sandbox);
    let mut left = world.kill_container(sandbox, id).await.err();
    if left.is_some() {
        tokio::time::sleep(AGAIN).await;
        left = world.kill_container(sandbox, id).await.err();
    }
    let oom = world.oom_killed(sandbox, id).await;
    Event::Reaped { id: id.clone(), oom, left }
}

/// Lets go of what is left of it.
pub(super) async fn remove<W: World>(context: &Context<W>, id: &ContainerId) -> Event {
    let (world, sandbox) = (&context.parts.world, &context.pod.sandbox);
    if let Some(shim) = &context.shim
        && let Err(fault) = shim.forget(id).await
    {
        warn!(container = %id, "shim did not forget it: {}", fault.message);
    }
    match world.release_container(sandbox, id).await {
        Ok(()) => {
            world.unpin(id);
            Event::Removed(id.clone())
        }
        Err(fault) => Event::RemoveFailed(id.clone(), fault),
    }
}

/// Gives it other limits.
pub(super) async fn update<W: World>(
    context: &Context<W>,
    id: &ContainerId,
    resources: &Resources,
) -> Event {
    let (world, sandbox) = (&context.parts.world, &context.pod.sandbox);
    match world.update_container(sandbox, id, resources).await {
        Ok(()) => Event::Updated(id.clone(), Box::new(resources.clone())),
        Err(fault) => Event::UpdateFailed(id.clone(), fault),
    }
}

fn no_shim<W: World>(context: &Context<W>) -> Fault {
    let message = format!("the shim of sandbox {} does not answer", context.pod.sandbox.id);
    Fault::new(Kind::Unavailable, message)
}
