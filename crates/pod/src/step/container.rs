//! The container's half of the machine; see [`crate::container`] for the picture.

use std::sync::Arc;

use names::{ContainerId, Kind};

use super::{Effect, Fault, Step, Told, Wait};
use crate::config::{ContainerConfig, Resources};
use crate::{Container, ContainerPhase, Exit, Pod, Refusal, SandboxPhase, Time, User};

pub(super) fn create(pod: &Pod, new: Container) -> Result<Step, Refusal> {
    ready(pod)?;
    if let Some(held) = pod.containers.values().find(|c| c.config.name == new.config.name) {
        return join(pod, held, &new.config);
    }
    if new.config.security.privileged && !pod.sandbox.config.security.privileged {
        return Err(Refusal::SandboxNotPrivileged(pod.sandbox.id.clone()));
    }
    target(pod, &new)?;
    same_ids(pod, &new.config)?;
    let id = new.id.clone();
    let mut step = Step::still(pod);
    step.pod.containers.insert(id.clone(), Arc::new(new));
    step.subject = Some(id.clone());
    Ok(step.effect(Effect::CreateContainer(id.clone())).wait(Wait::Created(id)))
}

/// Whoever is to share a container's PID namespace finds it running.
fn target(pod: &Pod, new: &Container) -> Result<(), Refusal> {
    let Some(id) = &new.config.security.namespaces.target else { return Ok(()) };
    match pod.containers.get(id).map(|target| &target.phase) {
        Some(ContainerPhase::Running { .. }) => Ok(()),
        Some(phase) => Err(Refusal::TargetNotRunning { id: id.clone(), phase: name(phase) }),
        None => Err(Refusal::NoTarget(id.clone())),
    }
}

fn same_ids(pod: &Pod, asked: &ContainerConfig) -> Result<(), Refusal> {
    let (id, own) = (&pod.sandbox.id, pod.sandbox.config.namespaces.user);
    if asked.security.namespaces.user != own {
        return Err(Refusal::OtherUserNamespace(id.clone()));
    }
    let other = asked.mounts.iter().position(|m| m.mapped.is_some() && m.mapped != own);
    other.map_or(Ok(()), |index| Err(Refusal::OtherMappings { id: id.clone(), index }))
}

/// The same container asked for again: the caller gets the one there is.
fn join(pod: &Pod, held: &Container, asked: &ContainerConfig) -> Result<Step, Refusal> {
    if let Some(field) = difference(&held.config, asked) {
        return Err(Refusal::NameTaken { id: held.id.clone(), field });
    }
    let mut step = Step::still(pod);
    step.subject = Some(held.id.clone());
    match held.phase {
        ContainerPhase::Creating => Ok(step.wait(Wait::Created(held.id.clone()))),
        ContainerPhase::Created { .. }
        | ContainerPhase::Starting { .. }
        | ContainerPhase::Running { .. }
        | ContainerPhase::Stopping { .. } => Ok(step),
        ContainerPhase::Ending { .. }
        | ContainerPhase::Exited { .. }
        | ContainerPhase::Removing { .. } => Err(Refusal::NameOver(held.id.clone())),
    }
}

/// The first field in which they differ. Resources are left out: they may have been updated since.
fn difference(held: &ContainerConfig, asked: &ContainerConfig) -> Option<&'static str> {
    let pairs = [
        (held.image == asked.image, "config.image"),
        (held.command == asked.command, "config.command"),
        (held.args == asked.args, "config.args"),
        (held.working_dir == asked.working_dir, "config.working_dir"),
        (held.envs == asked.envs, "config.envs"),
        (held.mounts == asked.mounts, "config.mounts"),
        (held.devices == asked.devices, "config.devices"),
        (held.cdi_devices == asked.cdi_devices, "config.CDI_devices"),
        (held.labels == asked.labels, "config.labels"),
        (held.annotations == asked.annotations, "config.annotations"),
        (held.log_path == asked.log_path, "config.log_path"),
        (held.stdio == asked.stdio, "config.stdin, stdin_once or tty"),
        (held.stop_signal == asked.stop_signal, "config.stop_signal"),
        (held.security == asked.security, "config.linux.security_context"),
    ];
    pairs.into_iter().find_map(|(same, field)| (!same).then_some(field))
}

pub(super) fn created(pod: &Pod, id: &ContainerId, pid: i32, user: User) -> Step {
    let Some(ContainerPhase::Creating) = phase(pod, id) else { return Step::still(pod) };
    Step::still(pod)
        .with_container(id, |container| {
            container.phase = ContainerPhase::Created { pid };
            container.user = Some(user);
        })
        .tell(Told::Created(Some(id.clone())))
        .settle(Wait::Created(id.clone()), Ok(()))
}

pub(super) fn create_failed(pod: &Pod, id: &ContainerId, fault: Fault) -> Step {
    let mut step = Step::still(pod);
    if let Some(ContainerPhase::Creating) = phase(pod, id) {
        step.pod.containers.remove(id);
    }
    step.settle(Wait::Created(id.clone()), Err(fault))
}

pub(super) fn start(pod: &Pod, id: &ContainerId) -> Result<Step, Refusal> {
    let container = find(pod, id)?;
    ready(pod)?;
    let step = Step::still(pod);
    match container.phase {
        ContainerPhase::Created { pid } => Ok(step
            .with_container(id, |container| container.phase = ContainerPhase::Starting { pid })
            .effect(Effect::StartContainer(id.clone()))
            .wait(Wait::Started(id.clone()))),
        ContainerPhase::Starting { .. } => Ok(step.wait(Wait::Started(id.clone()))),
        ContainerPhase::Creating => Err(Refusal::NoContainer(id.clone())),
        ContainerPhase::Running { .. }
        | ContainerPhase::Stopping { .. }
        | ContainerPhase::Ending { .. }
        | ContainerPhase::Exited { .. }
        | ContainerPhase::Removing { .. } => {
            Err(Refusal::NotCreated { id: id.clone(), phase: name(&container.phase) })
        }
    }
}

pub(super) fn started(pod: &Pod, id: &ContainerId, at: Time) -> Step {
    let next = match phase(pod, id) {
        Some(ContainerPhase::Starting { pid }) => {
            ContainerPhase::Running { pid: *pid, started_at: at }
        }
        Some(ContainerPhase::Stopping { pid, started_at: None }) => {
            ContainerPhase::Stopping { pid: *pid, started_at: Some(at) }
        }
        Some(
            ContainerPhase::Creating
            | ContainerPhase::Created { .. }
            | ContainerPhase::Running { .. }
            | ContainerPhase::Stopping { .. }
            | ContainerPhase::Ending { .. }
            | ContainerPhase::Exited { .. }
            | ContainerPhase::Removing { .. },
        )
        | None => return Step::still(pod),
    };
    Step::still(pod)
        .with_container(id, |container| container.phase = next)
        .tell(Told::Started(Some(id.clone())))
        .settle(Wait::Started(id.clone()), Ok(()))
}

/// The outcome is told when it has become `Exited`: a caller who is told of the failure then finds it so.
pub(super) fn start_failed(pod: &Pod, id: &ContainerId, fault: Fault, at: Time) -> Step {
    match phase(pod, id) {
        Some(
            ContainerPhase::Starting { .. } | ContainerPhase::Stopping { started_at: None, .. },
        ) => {
            let how = Exit::StartFailed { message: fault.message };
            ending(Step::still(pod), id, how, None, at)
        }
        Some(
            ContainerPhase::Creating
            | ContainerPhase::Created { .. }
            | ContainerPhase::Running { .. }
            | ContainerPhase::Stopping { .. }
            | ContainerPhase::Ending { .. }
            | ContainerPhase::Exited { .. }
            | ContainerPhase::Removing { .. },
        )
        | None => Step::still(pod),
    }
}

pub(super) fn still_waiting(pod: &Pod, id: &ContainerId) -> Step {
    let Some(ContainerPhase::Starting { pid }) = phase(pod, id) else { return Step::still(pod) };
    let pid = *pid;
    Step::still(pod)
        .with_container(id, |container| container.phase = ContainerPhase::Created { pid })
}

pub(super) fn exited(pod: &Pod, id: &ContainerId, how: Exit, at: Time) -> Step {
    let step = Step::still(pod);
    match phase(pod, id) {
        // The shim answers the start before it tells the exit, but the two take different ways to us.
        Some(ContainerPhase::Starting { .. }) if !matches!(how, Exit::StartFailed { .. }) => {
            let step = step
                .tell(Told::Started(Some(id.clone())))
                .settle(Wait::Started(id.clone()), Ok(()));
            ending(step, id, how, Some(at), at)
        }
        Some(ContainerPhase::Starting { .. } | ContainerPhase::Created { .. }) => {
            ending(step, id, how, None, at)
        }
        Some(ContainerPhase::Running { started_at, .. }) => {
            ending(step, id, how, Some(*started_at), at)
        }
        Some(ContainerPhase::Stopping { started_at, .. }) => ending(step, id, how, *started_at, at),
        Some(
            ContainerPhase::Creating
            | ContainerPhase::Ending { .. }
            | ContainerPhase::Exited { .. }
            | ContainerPhase::Removing { .. },
        )
        | None => step,
    }
}

fn ending(
    step: Step,
    id: &ContainerId,
    how: Exit,
    started_at: Option<Time>,
    finished_at: Time,
) -> Step {
    step.with_container(id, |container| {
        container.phase = ContainerPhase::Ending { how, started_at, finished_at };
    })
    .effect(Effect::ReapContainer(id.clone()))
}

pub(super) fn reaped(pod: &Pod, id: &ContainerId, oom: bool, left: Option<Fault>) -> Step {
    let Some(ContainerPhase::Ending { how, started_at, finished_at }) = phase(pod, id) else {
        return Step::still(pod);
    };
    let (started_at, finished_at) = (*started_at, *finished_at);
    let how = match how {
        // The kernel kills with SIGKILL; a process that ended otherwise was not the one.
        Exit::Signal(9) if oom => Exit::OomKilled,
        Exit::Code(_)
        | Exit::Signal(_)
        | Exit::OomKilled
        | Exit::StartFailed { .. }
        | Exit::Lost => how.clone(),
    };
    let never_ran = match &how {
        Exit::StartFailed { message } => Fault::new(Kind::Internal, message.clone()),
        Exit::Code(_) | Exit::Signal(_) | Exit::OomKilled | Exit::Lost => {
            Fault::new(Kind::Refused, format!("container {id} ended before it was started"))
        }
    };
    Step::still(pod)
        .with_container(id, |container| {
            container.phase = ContainerPhase::Exited { how, started_at, finished_at };
        })
        .tell(Told::Stopped(Some(id.clone())))
        .settle(Wait::Started(id.clone()), Err(never_ran))
        .settle(Wait::Exited(id.clone()), left.map_or(Ok(()), Err))
}

pub(super) fn stop(pod: &Pod, id: &ContainerId) -> Result<Step, Refusal> {
    // Before its start it has no program that could hear a signal.
    if matches!(find(pod, id)?.phase, ContainerPhase::Created { .. }) {
        return kill(pod, id);
    }
    end(pod, id, Effect::SignalContainer(id.clone()))
}

pub(super) fn kill(pod: &Pod, id: &ContainerId) -> Result<Step, Refusal> {
    end(pod, id, Effect::KillContainer(id.clone()))
}

/// The way to the end, by the given means.
fn end(pod: &Pod, id: &ContainerId, by: Effect) -> Result<Step, Refusal> {
    let step = Step::still(pod);
    let (pid, started_at) = match find(pod, id)?.phase {
        ContainerPhase::Creating => return Err(Refusal::NoContainer(id.clone())),
        ContainerPhase::Created { pid } | ContainerPhase::Starting { pid } => (pid, None),
        ContainerPhase::Running { pid, started_at } => (pid, Some(started_at)),
        ContainerPhase::Stopping { pid, started_at } => (pid, started_at),
        ContainerPhase::Ending { .. } => return Ok(step.wait(Wait::Exited(id.clone()))),
        ContainerPhase::Exited { .. } | ContainerPhase::Removing { .. } => return Ok(step),
    };
    Ok(step
        .with_container(id, |container| {
            container.phase = ContainerPhase::Stopping { pid, started_at };
        })
        .effect(by)
        .wait(Wait::Exited(id.clone())))
}

pub(super) fn remove(pod: &Pod, id: &ContainerId) -> Result<Step, Refusal> {
    match find(pod, id)?.phase.clone() {
        ContainerPhase::Exited { how, started_at, finished_at }
        | ContainerPhase::Removing { how, started_at, finished_at } => Ok(Step::still(pod)
            .with_container(id, |container| {
                container.phase = ContainerPhase::Removing { how, started_at, finished_at };
            })
            .effect(Effect::RemoveContainer(id.clone()))
            .wait(Wait::Removed(id.clone()))),
        ContainerPhase::Creating => Err(Refusal::NoContainer(id.clone())),
        ContainerPhase::Created { .. }
        | ContainerPhase::Starting { .. }
        | ContainerPhase::Running { .. }
        | ContainerPhase::Stopping { .. }
        | ContainerPhase::Ending { .. } => Err(Refusal::ContainerUp(id.clone())),
    }
}

pub(super) fn removed(pod: &Pod, id: &ContainerId) -> Step {
    let Some(ContainerPhase::Removing { .. }) = phase(pod, id) else { return Step::still(pod) };
    let mut step = Step::still(pod);
    step.pod.containers.remove(id);
    step.tell(Told::Deleted(Some(id.clone()))).settle(Wait::Removed(id.clone()), Ok(()))
}

pub(super) fn update(
    pod: &Pod,
    id: &ContainerId,
    resources: Box<Resources>,
) -> Result<Step, Refusal> {
    let container = find(pod, id)?;
    match container.phase {
        ContainerPhase::Created { .. }
        | ContainerPhase::Starting { .. }
        | ContainerPhase::Running { .. } => Ok(Step::still(pod)
            .effect(Effect::UpdateContainer(id.clone(), resources))
            .wait(Wait::Updated(id.clone()))),
        ContainerPhase::Creating
        | ContainerPhase::Stopping { .. }
        | ContainerPhase::Ending { .. }
        | ContainerPhase::Exited { .. }
        | ContainerPhase::Removing { .. } => {
            Err(Refusal::NotRunning { id: id.clone(), phase: name(&container.phase) })
        }
    }
}

pub(super) fn updated(pod: &Pod, id: &ContainerId, change: &Resources) -> Step {
    Step::still(pod)
        .with_container(id, |container| {
            container.config.resources = container.config.resources.changed(change);
        })
        .settle(Wait::Updated(id.clone()), Ok(()))
}

/// A phase in a client's words.
pub fn name(phase: &ContainerPhase) -> &'static str {
    match phase {
        ContainerPhase::Creating => "being created",
        ContainerPhase::Created { .. } => "created",
        ContainerPhase::Starting { .. } => "starting",
        ContainerPhase::Running { .. } => "running",
        ContainerPhase::Stopping { .. } => "stopping",
        ContainerPhase::Ending { .. } | ContainerPhase::Exited { .. } => "exited",
        ContainerPhase::Removing { .. } => "being removed",
    }
}

fn phase<'p>(pod: &'p Pod, id: &ContainerId) -> Option<&'p ContainerPhase> {
    pod.containers.get(id).map(|container| &container.phase)
}

fn find<'p>(pod: &'p Pod, id: &ContainerId) -> Result<&'p Container, Refusal> {
    pod.containers.get(id).map(|c| &**c).ok_or_else(|| Refusal::NoContainer(id.clone()))
}

fn ready(pod: &Pod) -> Result<(), Refusal> {
    let id = || pod.sandbox.id.clone();
    match pod.sandbox.phase {
        SandboxPhase::Ready(_) => Ok(()),
        SandboxPhase::Creating | SandboxPhase::NotReady => Err(Refusal::NotReady(id())),
        SandboxPhase::Stopping => Err(Refusal::BeingStopped(id())),
        SandboxPhase::Removing => Err(Refusal::BeingRemoved(id())),
    }
}
