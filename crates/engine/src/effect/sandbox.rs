//! The sandbox's effects: establish, tear down, remove.

use std::sync::Arc;
use std::time::Duration;

use names::Kind;
use pod::step::{Event, Fault};
use pod::{Claim, Plan, Ready, Sandbox};
use tracing::warn;

use super::Context;
use super::container::before_kill;
use crate::record::Debt;
use crate::world::{Shim, World};

/// How long the shim may take to tell the end of processes that the kernel has already killed.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// Makes every claim hold, in the plan's order; on a failure lets all of them go, the failed one too.
pub(super) async fn establish<W: World>(context: &Context<W>) -> (Event, Option<Arc<W::Shim>>) {
    if context.pending.is_none() {
        // Recovery found the record of a sandbox that nobody was told of.
        roll_back(context, None).await;
        let fault = Fault::new(Kind::Cancelled, "undone after a restart");
        return (Event::EstablishFailed(fault), None);
    }
    let mut shim = None;
    match claims(context, &mut shim).await {
        Ok((ready, plan)) => (Event::Established(ready, plan), shim),
        Err(fault) => {
            roll_back(context, shim.as_deref()).await;
            (Event::EstablishFailed(fault), None)
        }
    }
}

async fn claims<W: World>(
    context: &Context<W>,
    spawned: &mut Option<Arc<W::Shim>>,
) -> Result<(Ready, Plan), Fault> {
    let (world, sandbox) = (&context.parts.world, &context.pod.sandbox);
    let mut ready = Ready::default();
    let mut plan = sandbox.plan.clone();
    for claim in &mut plan.0 {
        match claim {
            Claim::Files | Claim::Cgroup { .. } | Claim::Shm => {
                world.establish(sandbox, claim).await.map_err(|f| at(claim, f))?;
            }
            Claim::Shim => {
                let shim = world
                    .spawn(sandbox, context.shim_events.clone())
                    .await
                    .map_err(|f| at(&Claim::Shim, f))?;
                (ready.shim_pid, ready.shim_start) = shim.process();
                *spawned = Some(shim);
            }
            Claim::Namespaces { .. } => {
                let shim = spawned.as_ref().ok_or_else(|| no_shim(sandbox))?;
                ready.init_pid = shim.open_namespaces(sandbox).await.map_err(|f| at(claim, f))?;
            }
            Claim::Network { intent } => {
                let (addresses, turned_out) =
                    world.attach(sandbox, intent).await.map_err(|f| named("network", f))?;
                world.tell_addresses(sandbox, &addresses).await.map_err(|f| named("files", f))?;
                ready.addresses = addresses;
                *intent = turned_out;
            }
        }
    }
    let shim = spawned.as_ref().ok_or_else(|| no_shim(sandbox))?;
    shim.commit().await.map_err(|f| at(&Claim::Shim, f))?;
    Ok((ready, plan))
}

async fn roll_back<W: World>(context: &Context<W>, shim: Option<&W::Shim>) {
    let sandbox = &context.pod.sandbox;
    let left = release_all(context, shim, sandbox.plan.undo()).await;
    if let Some(debt) = debt(context, left) {
        owe(context, debt).await;
    }
}

/// Lets go of what the plan lists, in that order, past all errors; gives what would not go.
async fn release_all<W: World>(
    context: &Context<W>,
    shim: Option<&W::Shim>,
    claims: Vec<&Claim>,
) -> Vec<(Claim, Fault)> {
    let (world, sandbox) = (&context.parts.world, &context.pod.sandbox);
    let mut left: Vec<(Claim, Fault)> = Vec::new();
    for claim in claims {
        let released = match claim {
            Claim::Network { intent } => world.detach(sandbox, intent).await,
            // The plugin that could not undo its work will want the namespace when it is asked again.
            Claim::Namespaces { .. }
                if left.iter().any(|(c, _)| matches!(c, Claim::Network { .. })) =>
            {
                Err(Fault::new(Kind::Refused, "kept for the network's debt"))
            }
            Claim::Shim => {
                if let Some(shim) = shim
                    && let Err(fault) = shim.shutdown().await
                {
                    warn!(sandbox = %sandbox.id, "shim did not end by itself: {}", fault.message);
                }
                world.release(sandbox, claim).await
            }
            Claim::Files | Claim::Cgroup { .. } | Claim::Namespaces { .. } | Claim::Shm => {
                world.release(sandbox, claim).await
            }
        };
        if let Err(fault) = released {
            warn!(sandbox = %sandbox.id, claim = claim.name(), "not released: {}", fault.message);
            left.push((claim.clone(), fault));
        }
    }
    left
}

/// Ends the containers, waits until their ends are known, lets the claims go. The pod's files stay until it is removed.
pub(super) async fn tear_down<W: World>(context: &Context<W>) -> Event {
    let (world, sandbox) = (&context.parts.world, &context.pod.sandbox);
    for id in context.pod.containers.keys() {
        before_kill(context, id).await;
        if let Err(fault) = world.kill_container(sandbox, id).await {
            return Event::TearDownFailed(named("kill", fault));
        }
    }
    if context.shim.is_some() {
        all_over(context).await;
    }
    let claims = sandbox.plan.undo().into_iter().filter(|c| !matches!(c, Claim::Files)).collect();
    let left = release_all(context, context.shim.as_deref(), claims).await;
    let (owed, stuck): (Vec<_>, Vec<_>) = left.into_iter().partition(|(claim, _)| owable(claim));
    if let Some(debt) = debt(context, owed) {
        owe(context, debt).await;
    }
    match stuck.into_iter().next() {
        Some((claim, fault)) => Event::TearDownFailed(at(&claim, fault)),
        None => Event::TornDown,
    }
}

/// What the pod's end does not wait for: it is owed, and tried again.
fn owable(claim: &Claim) -> bool {
    matches!(claim, Claim::Network { .. } | Claim::Namespaces { .. } | Claim::Shm)
}

/// Waits, bounded, until every container's end is in its record: after the shim has gone nobody could tell it.
async fn all_over<W: World>(context: &Context<W>) {
    let mut watch = context.watch.clone();
    let over =
        watch.wait_for(|pod| pod.containers.values().all(|container| container.phase.is_over()));
    if tokio::time::timeout(TOLD_WITHIN, over).await.is_err() {
        warn!(sandbox = %context.pod.sandbox.id, "the shim did not tell every exit");
    }
}

/// Removes the containers' leftovers and the sandbox's files.
pub(super) async fn remove<W: World>(context: &Context<W>) -> Event {
    let (world, sandbox) = (&context.parts.world, &context.pod.sandbox);
    let mut failed = None;
    for id in context.pod.containers.keys() {
        world.unpin(id);
        if let Err(fault) = world.release_container(sandbox, id).await {
            failed = Some(named("container", fault));
        }
    }
    for claim in sandbox.plan.undo() {
        if matches!(claim, Claim::Files | Claim::Cgroup { .. })
            && let Err(fault) = world.release(sandbox, claim).await
        {
            failed = Some(at(claim, fault));
        }
    }
    failed.map_or(Event::Gone, Event::GoneFailed)
}

fn debt<W: World>(context: &Context<W>, left: Vec<(Claim, Fault)>) -> Option<Debt> {
    let error = left.first()?.1.message.clone();
    Some(Debt {
        sandbox: Sandbox::clone(&context.pod.sandbox),
        claims: left.into_iter().map(|(claim, _)| claim).collect(),
        since: context.parts.world.now(),
        error,
    })
}

async fn owe<W: World>(context: &Context<W>, debt: Debt) {
    if let Err(fault) = context.parts.records.owe(&debt).await {
        warn!(sandbox = %debt.sandbox.id, "debt not recorded: {}", fault.message);
    }
    // The collector lives as long as the engine.
    drop(context.parts.debts.send(debt));
}

fn at(claim: &Claim, fault: Fault) -> Fault {
    named(claim.name(), fault)
}

fn named(stage: &str, fault: Fault) -> Fault {
    let Fault { kind, message } = fault;
    Fault { kind, message: format!("{stage}: {message}") }
}

fn no_shim(sandbox: &Sandbox) -> Fault {
    Fault::new(Kind::Internal, format!("sandbox {}: the plan has no shim", sandbox.id))
}
