//! The way back after a restart: what was promised is held against what the shims and the kernel say.
//!
//! | the record says | then |
//! |---|---|
//! | sandbox `Creating` | released and forgotten: nobody was told of it |
//! | `Ready` | its shim is connected; a shim that is gone takes the pod with it; a silent one leaves it as last recorded, and is tried again |
//! | `Stopping`, `Removing` | goes on, with the shim of a sandbox that is being stopped where it still answers |
//! | container `Creating` | undone |
//! | `Starting` | what the shim says |
//! | `Stopping` | waits for the next `StopContainer` |
//! | `Removing` | goes on |
//!
//! Nothing listens before this is done.

use std::sync::Arc;
use std::time::Duration;

use ledger::{Ledger, Loaded};
use pod::step::{Effect, Event, Fault, Wait};
use pod::{Command, Container, ContainerPhase, Pod, SandboxPhase};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::bell::Bell;
use crate::debt;
use crate::engine::Engine;
use crate::message::Message;
use crate::parts::Parts;
use crate::reception::Reception;
use crate::record::{self, Records, is_creating};
use crate::task::PodTask;
use crate::view::{Entry, Views};
use crate::world::{Connected, Shim, ShimEvents, World};

/// How long to wait before a silent shim is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// How long undoing what was half made may keep the socket closed.
const UNDONE: Duration = Duration::from_secs(5);

/// Why there is nothing to go on from.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The world could not be swept.
    #[error("sweep: {0}")]
    Sweep(String),
}

/// What recovery found, for the log.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Pods that run on or stand as they stood.
    pub pods: usize,
    /// Sandboxes that were being made, and are undone.
    pub undone: usize,
    /// Things under our names that belonged to nobody, and are released.
    pub swept: u64,
    /// Debts that are still owed.
    pub debts: usize,
    /// Records that could not be read, left alone.
    pub unreadable: Vec<String>,
}

impl<W: World> Engine<W> {
    /// Builds the engine from what the ledger holds.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub async fn recover(
        world: Arc<W>,
        ledger: Ledger,
        loaded: Loaded,
    ) -> Result<(Self, Recovered), RecoverError> {
        let promised = record::read(loaded.records);
        let (debts, owed) = mpsc::unbounded_channel();
        let parts = Arc::new(Parts {
            world,
            records: Records::new(ledger),
            views: Arc::new(Views::default()),
            bell: Bell::default(),
            debts,
        });
        tokio::spawn(debt::collect(parts.clone(), owed));
        let mut recovered = Recovered {
            pods: promised.pods.len(),
            debts: promised.debts.len(),
            unreadable: promised.unreadable,
            ..Recovered::default()
        };
        adopt(&parts, &promised.pods);
        recovered.undone = bring_back(&parts, promised.pods, loaded.rebooted).await;
        let intents: Vec<String> = promised
            .debts
            .iter()
            .filter_map(|d| d.sandbox.plan.network().map(str::to_owned))
            .collect();
        let owing = promised.debts.iter().map(|debt| Arc::new(debt.sandbox.clone())).collect();
        for debt in promised.debts {
            // The collector was spawned above and ends with the engine.
            drop(parts.debts.send(debt));
        }
        // A record that cannot be read may own anything: then nothing is swept.
        if recovered.unreadable.is_empty() {
            recovered.swept = sweep(&parts, owing, intents).await?;
        }
        let reception = Reception::open(parts.clone());
        Ok((Self { parts, reception }, recovered))
    }
}

fn adopt<W: World>(parts: &Parts<W>, pods: &[Pod]) {
    for pod in pods {
        let up = matches!(pod.sandbox.phase, SandboxPhase::Ready(_) | SandboxPhase::Stopping);
        if let (true, Some(intent)) = (up, pod.sandbox.plan.network()) {
            parts.world.adopt(intent);
        }
        for container in pod.containers.values() {
            let volumes = container.volumes.iter().map(|volume| &volume.id);
            for image in std::iter::once(&container.image).chain(volumes) {
                if let Err(fault) = parts.world.pin(image.as_str(), &container.id) {
                    warn!(container = %container.id, "image not held: {}", fault.message);
                }
            }
        }
    }
}

/// Starts every pod's task with what its shim says; gives how many were undone.
async fn bring_back<W: World>(parts: &Arc<Parts<W>>, pods: Vec<Pod>, rebooted: bool) -> usize {
    let mut work = JoinSet::new();
    for pod in pods {
        let parts = parts.clone();
        work.spawn(async move { bring_back_one(&parts, pod, rebooted).await });
    }
    let mut undone = 0;
    while let Some(done) = work.join_next().await {
        undone += usize::from(done.unwrap_or(false));
    }
    undone
}

/// Gives whether the sandbox was undone.
async fn bring_back_one<W: World>(parts: &Arc<Parts<W>>, pod: Pod, rebooted: bool) -> bool {
    let sandbox = pod.sandbox.clone();
    if is_creating(&sandbox) {
        undo(parts, &pod).await;
        return true;
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut task = PodTask::new(parts.clone(), pod.clone(), (sender.clone(), receiver));
    parts
        .views
        .publish(&sandbox.id, &Entry { pod: Arc::new(pod.clone()), mailbox: sender.clone() });
    let mut told = Vec::new();
    let ready = sandbox.ready().is_some();
    let mut silent = None;
    // A sandbox that was being stopped may still have its shim, which alone knows how its containers end.
    let may_live = ready || matches!(sandbox.phase, SandboxPhase::Stopping);
    if may_live && !rebooted {
        match parts.world.connect(&sandbox, task.shim_events()).await {
            Connected::Yes(shim) => {
                told.extend(compare(&pod, &*shim).await);
                task = task.with_shim(shim);
            }
            Connected::Silent if ready => silent = Some(task.shim_events()),
            Connected::Gone if ready => told.push(Event::ShimGone),
            Connected::Silent | Connected::Gone => {}
        }
    } else if ready {
        told.push(Event::ShimGone);
    }
    // Read after the shim was called: one that is gone recorded its last exits before it ended.
    let mut events = exits(parts, &pod).await;
    events.extend(told);
    let unmade = half_made(&pod);
    task = task.with_effects(unmade);
    let mut watch = task.watch();
    tokio::spawn(task.run());
    if let Some(shim_events) = silent {
        tokio::spawn(ask_again(parts.clone(), pod.clone(), sender.clone(), shim_events));
    }
    settle(&pod, &sender, events, rebooted).await;
    // Else a retry of the same creation would join the one that is being undone, and get its failure.
    let undone = watch.wait_for(|pod| half_made(pod).is_empty());
    if tokio::time::timeout(UNDONE, undone).await.is_err() {
        warn!(sandbox = %sandbox.id, "containers are still being undone");
    }
    false
}

/// Container effects that the record says were under way.
fn half_made(pod: &Pod) -> Vec<Effect> {
    let undo = |c: &Arc<Container>| matches!(c.phase, ContainerPhase::Creating);
    pod.containers
        .values()
        .filter(|c| undo(c))
        .map(|c| Effect::CreateContainer(c.id.clone()))
        .collect()
}

/// Gives the task what happened meanwhile, and waits until the pod stands as the kernel has it.
async fn settle(
    pod: &Pod,
    mailbox: &mpsc::UnboundedSender<Box<Message>>,
    events: Vec<Event>,
    rebooted: bool,
) {
    for event in events {
        // The task runs until the sandbox is forgotten.
        drop(mailbox.send(Box::new(Message::Event(event))));
    }
    let mut commands = Vec::new();
    match pod.sandbox.phase {
        SandboxPhase::Stopping => commands.push(Command::StopSandbox),
        SandboxPhase::Ready(_) if rebooted => commands.push(Command::StopSandbox),
        SandboxPhase::Removing => commands.push(Command::RemoveSandbox),
        SandboxPhase::Creating | SandboxPhase::Ready(_) | SandboxPhase::NotReady => {}
    }
    let removing = |c: &&Arc<Container>| matches!(c.phase, ContainerPhase::Removing { .. });
    commands
        .extend(pod.containers.values().filter(removing).map(|c| Command::Remove(c.id.clone())));
    for command in commands {
        let (reply, answer) = oneshot::channel();
        drop(mailbox.send(Box::new(Message::Command { command, order: None, reply })));
        if let Ok(Err(error)) = answer.await {
            warn!(sandbox = %pod.sandbox.id, "recovery: {error}");
        }
    }
    // One turn more: whoever asks after this sees what the events made of the pod.
    let (reply, answer) = oneshot::channel();
    let nothing = Command::UpdateSandbox { overhead: None, resources: None };
    drop(mailbox.send(Box::new(Message::Command { command: nothing, order: None, reply })));
    drop(answer.await);
}

/// Exits that the shim wrote down, whether it lives or not.
async fn exits<W: World>(parts: &Parts<W>, pod: &Pod) -> Vec<Event> {
    let exits = parts.world.exits(&pod.sandbox).await;
    exits.into_iter().map(|(id, how, at)| Event::Exited(id, how, at)).collect()
}

/// What the shim says against what the record says.
async fn compare<S: Shim>(pod: &Pod, shim: &S) -> Vec<Event> {
    let held = match shim.state().await {
        Ok(held) => held,
        Err(fault) => {
            warn!(sandbox = %pod.sandbox.id, "shim state: {}", fault.message);
            return Vec::new();
        }
    };
    let mut events = Vec::new();
    for container in pod.containers.values() {
        let Some(held) = held.iter().find(|held| held.id == container.id) else { continue };
        match (held.started_at, &container.phase) {
            (Some(at), _) => events.push(Event::Started(container.id.clone(), at)),
            (None, ContainerPhase::Starting { .. }) if held.exited.is_none() => {
                events.push(Event::StillWaiting(container.id.clone()));
            }
            (None, _) => {}
        }
        if let Some((how, at)) = &held.exited {
            events.push(Event::Exited(container.id.clone(), how.clone(), *at));
        }
    }
    events
}

/// A shim that lives and does not answer is asked until it does, or ends.
async fn ask_again<W: World>(
    parts: Arc<Parts<W>>,
    pod: Pod,
    mailbox: mpsc::UnboundedSender<Box<Message>>,
    shim_events: ShimEvents,
) {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        match parts.world.connect(&pod.sandbox, shim_events.clone()).await {
            Connected::Yes(shim) => {
                info!(sandbox = %pod.sandbox.id, "shim answers again");
                for event in compare(&pod, &*shim).await {
                    drop(mailbox.send(Box::new(Message::Event(event))));
                }
                return;
            }
            Connected::Gone => {
                drop(mailbox.send(Box::new(Message::Event(Event::ShimGone))));
                return;
            }
            Connected::Silent if mailbox.is_closed() => return,
            Connected::Silent => {}
        }
    }
}

/// A sandbox that nobody was told of: everything of its plan goes, in reverse, and then its record.
async fn undo<W: World>(parts: &Arc<Parts<W>>, pod: &Pod) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let task = PodTask::new(parts.clone(), pod.clone(), (sender.clone(), receiver));
    let (reply, answer) = oneshot::channel();
    drop(sender.send(Box::new(Message::Join { wait: Wait::Ready, reply })));
    tokio::spawn(task.with_effects(vec![Effect::Establish]).run());
    // It comes back as `EstablishFailed`: without the proof of a fresh record nothing is established, all is released.
    if let Ok(Ok(_)) = answer.await {
        warn!(sandbox = %pod.sandbox.id, "a half-made sandbox was not undone");
    }
}

async fn sweep<W: World>(
    parts: &Parts<W>,
    owing: Vec<Arc<pod::Sandbox>>,
    mut intents: Vec<String>,
) -> Result<u64, RecoverError> {
    let (mut sandboxes, containers) = parts.views.everything();
    intents.extend(
        sandboxes
            .iter()
            .filter(|s| matches!(s.phase, SandboxPhase::Ready(_) | SandboxPhase::Stopping))
            .filter_map(|s| s.plan.network().map(str::to_owned)),
    );
    sandboxes.extend(owing);
    let failed = |fault: Fault| RecoverError::Sweep(fault.message);
    parts.world.sweep_network(&intents).await.map_err(failed)?;
    parts.world.sweep(&sandboxes, &containers).await.map_err(failed)
}
