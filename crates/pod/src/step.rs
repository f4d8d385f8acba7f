//! The two machines as one pure function: [`step`].
//!
//! A command comes from a client, an event from an effect that was begun before, or from the shim. Every pair of phase and
//! input has an answer: a next pod, or a refusal (commands only: an event that comes too late changes nothing).
//!
//! An effect that is already under way is not begun again by the one who runs them; so a command may ask for it whenever the
//! phase says it is due, and a retry after a failure needs no rule of its own.

mod container;
mod sandbox;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use names::{ContainerId, Kind};

use crate::config::Resources;
use crate::{Container, Exit, Plan, Pod, Ready, Refusal, Time, User};

pub use container::name as phase_name;

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// End the containers and let the claims go.
    StopSandbox,
    /// Remove what is left of a stopped sandbox.
    RemoveSandbox,
    /// Take the sandbox's updated resources into its record.
    UpdateSandbox {
        /// What the runtime itself costs.
        overhead: Option<Box<Resources>>,
        /// The containers' sum.
        resources: Option<Box<Resources>>,
    },
    /// Make this container (a record in phase `Creating`).
    Create(Box<Container>),
    /// Let its program run.
    Start(ContainerId),
    /// Ask it to end.
    Stop(ContainerId),
    /// Make it end.
    Kill(ContainerId),
    /// Remove what is left of it.
    Remove(ContainerId),
    /// Give it other limits.
    Update(ContainerId, Box<Resources>),
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All claims of the sandbox hold; the plan as it turned out (a network plugin's result is part of its claim).
    Established(Ready, Plan),
    /// They don't, and have been released.
    EstablishFailed(Fault),
    /// The sandbox's claims are released.
    TornDown,
    /// Some are not.
    TearDownFailed(Fault),
    /// Nothing is left of the sandbox and its containers.
    Gone,
    /// Something is.
    GoneFailed(Fault),
    /// The shim has ended, and the pod with it.
    ShimGone,
    /// The container's init waits.
    Created {
        /// Which container.
        id: ContainerId,
        /// The init.
        pid: i32,
        /// The user that launch resolved.
        user: User,
    },
    /// It could not be made, and what there was of it is released.
    CreateFailed(ContainerId, Fault),
    /// Its program runs.
    Started(ContainerId, Time),
    /// It could not be executed.
    StartFailed(ContainerId, Fault, Time),
    /// After a restart of the daemon: its init still waits for the start.
    StillWaiting(ContainerId),
    /// Its main process has ended.
    Exited(ContainerId, Exit, Time),
    /// Nothing of it runs any more.
    Reaped {
        /// Which container.
        id: ContainerId,
        /// The kernel killed a process of its cgroup for want of memory.
        oom: bool,
        /// Processes that would not end.
        left: Option<Fault>,
    },
    /// Nothing is left of it.
    Removed(ContainerId),
    /// Something is.
    RemoveFailed(ContainerId, Fault),
    /// It has these limits now.
    Updated(ContainerId, Box<Resources>),
    /// It has its old ones.
    UpdateFailed(ContainerId, Fault),
}

/// A command or an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// From a client.
    Command(Command),
    /// From an effect or the shim.
    Event(Event),
}

/// What must now be done; each reports back with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make the sandbox's claims hold, or release them all.
    Establish,
    /// End all containers, release the sandbox's claims.
    TearDown,
    /// Remove the containers' claims and the sandbox's files.
    RemovePod,
    /// Make the container, or undo it.
    CreateContainer(ContainerId),
    /// Let its program run.
    StartContainer(ContainerId),
    /// Send its stop signal. Reports nothing: the exit does.
    SignalContainer(ContainerId),
    /// Kill its cgroup. Reports nothing: the exit does.
    KillContainer(ContainerId),
    /// Kill what its main process left, and read the verdict.
    ReapContainer(ContainerId),
    /// Release its claims.
    RemoveContainer(ContainerId),
    /// Change its limits.
    UpdateContainer(ContainerId, Box<Resources>),
}

/// A failure as the caller will be told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub kind: Kind,
    /// Stage, path and cause.
    pub message: String,
}

impl Fault {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// What a caller waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wait {
    /// The sandbox is ready, or was undone.
    Ready,
    /// The sandbox is stopped.
    Down,
    /// The sandbox is forgotten.
    Gone,
    /// The container is created, or was undone.
    Created(ContainerId),
    /// The container's program runs, or could not be executed.
    Started(ContainerId),
    /// The container is over.
    Exited(ContainerId),
    /// The container is forgotten.
    Removed(ContainerId),
    /// The container's limits are changed, or not.
    Updated(ContainerId),
}

/// The end of a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Of which.
    pub of: Wait,
    /// How it ended.
    pub result: Result<(), Fault>,
}

/// A fact for those who watch. `None` is the sandbox itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It exists.
    Created(Option<ContainerId>),
    /// It runs.
    Started(Option<ContainerId>),
    /// It is over.
    Stopped(Option<ContainerId>),
    /// It is forgotten.
    Deleted(Option<ContainerId>),
}

/// What follows from an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The pod from now on.
    pub pod: Pod,
    /// The sandbox's record is to be forgotten.
    pub forget: bool,
    /// To be begun, after the records are written.
    pub effects: Vec<Effect>,
    /// To be told, in this order.
    pub told: Vec<Told>,
    /// Waits that are over.
    pub outcomes: Vec<Outcome>,
    /// What the one who gave the command waits for; `None`: it is done.
    pub wait: Option<Wait>,
    /// The container that the command turned out to be about.
    pub subject: Option<ContainerId>,
}

impl Step {
    /// Nothing changes.
    fn still(pod: &Pod) -> Self {
        Self {
            pod: pod.clone(),
            forget: false,
            effects: Vec::new(),
            told: Vec::new(),
            outcomes: Vec::new(),
            wait: None,
            subject: None,
        }
    }

    fn effect(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    fn tell(mut self, told: Told) -> Self {
        self.told.push(told);
        self
    }

    fn wait(mut self, wait: Wait) -> Self {
        self.wait = Some(wait);
        self
    }

    fn settle(mut self, of: Wait, result: Result<(), Fault>) -> Self {
        self.outcomes.push(Outcome { of, result });
        self
    }

    fn with_sandbox(mut self, change: impl FnOnce(&mut crate::Sandbox)) -> Self {
        change(Arc::make_mut(&mut self.pod.sandbox));
        self
    }

    fn with_container(mut self, id: &ContainerId, change: impl FnOnce(&mut Container)) -> Self {
        if let Some(container) = self.pod.containers.get_mut(id) {
            change(Arc::make_mut(container));
        }
        self
    }
}

/// What follows when `input` comes to `pod` at `now`.
///
/// # Errors
/// A [`Refusal`], for commands only; the pod is as before.
pub fn step(pod: &Pod, input: Input, now: Time) -> Result<Step, Refusal> {
    match input {
        Input::Command(command) => self::command(pod, command),
        Input::Event(event) => Ok(self::event(pod, event, now)),
    }
}

/// The first step of a new sandbox: its claims are to be established.
pub fn begin(pod: &Pod) -> Step {
    Step::still(pod).effect(Effect::Establish).wait(Wait::Ready)
}

fn command(pod: &Pod, command: Command) -> Result<Step, Refusal> {
    match command {
        Command::StopSandbox => Ok(sandbox::stop(pod)),
        Command::RemoveSandbox => sandbox::remove(pod),
        Command::UpdateSandbox { overhead, resources } => {
            Ok(sandbox::update(pod, overhead, resources))
        }
        Command::Create(new) => container::create(pod, *new),
        Command::Start(id) => container::start(pod, &id),
        Command::Stop(id) => container::stop(pod, &id),
        Command::Kill(id) => container::kill(pod, &id),
        Command::Remove(id) => container::remove(pod, &id),
        Command::Update(id, resources) => container::update(pod, &id, resources),
    }
}

fn event(pod: &Pod, event: Event, now: Time) -> Step {
    match event {
        Event::Established(ready, plan) => sandbox::established(pod, ready, plan),
        Event::EstablishFailed(fault) => sandbox::establish_failed(pod, fault),
        Event::TornDown => sandbox::torn_down(pod, now),
        Event::TearDownFailed(fault) => Step::still(pod).settle(Wait::Down, Err(fault)),
        Event::Gone => sandbox::gone(pod),
        Event::GoneFailed(fault) => Step::still(pod).settle(Wait::Gone, Err(fault)),
        Event::ShimGone => sandbox::shim_gone(pod),
        Event::Created { id, pid, user } => container::created(pod, &id, pid, user),
        Event::CreateFailed(id, fault) => container::create_failed(pod, &id, fault),
        Event::Started(id, at) => container::started(pod, &id, at),
        Event::StartFailed(id, fault, at) => container::start_failed(pod, &id, fault, at),
        Event::StillWaiting(id) => container::still_waiting(pod, &id),
        Event::Exited(id, how, at) => container::exited(pod, &id, how, at),
        Event::Reaped { id, oom, left } => container::reaped(pod, &id, oom, left),
        Event::Removed(id) => container::removed(pod, &id),
        Event::RemoveFailed(id, fault) => Step::still(pod).settle(Wait::Removed(id), Err(fault)),
        Event::Updated(id, resources) => container::updated(pod, &id, &resources),
        Event::UpdateFailed(id, fault) => Step::still(pod).settle(Wait::Updated(id), Err(fault)),
    }
}
