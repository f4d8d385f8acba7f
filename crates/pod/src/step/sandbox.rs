//! The sandbox's half of the machine; see [`crate::sandbox`] for the picture.

use names::Kind;

use super::{Effect, Fault, Step, Told, Wait};
use crate::config::Resources;
use crate::{Container, ContainerPhase, Exit, Plan, Pod, Ready, Refusal, SandboxPhase, Time};

pub(super) fn established(pod: &Pod, ready: Ready, plan: Plan) -> Step {
    match pod.sandbox.phase {
        SandboxPhase::Creating => Step::still(pod)
            .with_sandbox(|sandbox| {
                sandbox.phase = SandboxPhase::Ready(ready);
                sandbox.plan = plan;
            })
            .tell(Told::Created(None))
            .tell(Told::Started(None))
            .settle(Wait::Ready, Ok(())),
        SandboxPhase::Ready(_)
        | SandboxPhase::Stopping
        | SandboxPhase::NotReady
        | SandboxPhase::Removing => Step::still(pod),
    }
}

pub(super) fn establish_failed(pod: &Pod, fault: Fault) -> Step {
    let mut step = Step::still(pod);
    step.forget = matches!(pod.sandbox.phase, SandboxPhase::Creating);
    step.settle(Wait::Ready, Err(fault))
}

pub(super) fn stop(pod: &Pod) -> Step {
    let step = Step::still(pod);
    match pod.sandbox.phase {
        // Nobody knows its id; whoever asks means the one in the making, and waits for its end.
        SandboxPhase::Creating => step.wait(Wait::Ready),
        SandboxPhase::Ready(_) => tear_down(step).wait(Wait::Down),
        SandboxPhase::Stopping => step.effect(Effect::TearDown).wait(Wait::Down),
        SandboxPhase::NotReady | SandboxPhase::Removing => step,
    }
}

pub(super) fn shim_gone(pod: &Pod) -> Step {
    let step = Step::still(pod);
    match pod.sandbox.phase {
        SandboxPhase::Ready(_) => tear_down(step),
        SandboxPhase::Stopping => step.effect(Effect::TearDown),
        SandboxPhase::Creating | SandboxPhase::NotReady | SandboxPhase::Removing => step,
    }
}

fn tear_down(step: Step) -> Step {
    step.with_sandbox(|sandbox| sandbox.phase = SandboxPhase::Stopping).effect(Effect::TearDown)
}

/// Whatever container has not told its end by now never will: its shim is gone.
pub(super) fn torn_down(pod: &Pod, now: Time) -> Step {
    if !matches!(pod.sandbox.phase, SandboxPhase::Stopping) {
        return Step::still(pod);
    }
    let step = Step::still(pod).with_sandbox(|sandbox| sandbox.phase = SandboxPhase::NotReady);
    pod.containers
        .values()
        .filter(|container| !container.phase.is_over())
        .fold(step, |step, container| over(step, container, now))
        .tell(Told::Stopped(None))
        .settle(Wait::Down, Ok(()))
}

fn over(mut step: Step, container: &Container, now: Time) -> Step {
    let id = &container.id;
    let fault = |what: &str| Fault::new(Kind::Refused, format!("{what}: its sandbox was stopped"));
    if !container.phase.is_visible() {
        step.pod.containers.remove(id);
        return step.settle(Wait::Created(id.clone()), Err(fault("the container was undone")));
    }
    let (how, finished_at) = match &container.phase {
        ContainerPhase::Ending { how, finished_at, .. } => (how.clone(), *finished_at),
        ContainerPhase::Creating
        | ContainerPhase::Created { .. }
        | ContainerPhase::Starting { .. }
        | ContainerPhase::Running { .. }
        | ContainerPhase::Stopping { .. }
        | ContainerPhase::Exited { .. }
        | ContainerPhase::Removing { .. } => (Exit::Lost, now),
    };
    let started_at = container.phase.started_at();
    step.with_container(id, |container| {
        container.phase = ContainerPhase::Exited { how, started_at, finished_at };
    })
    .tell(Told::Stopped(Some(id.clone())))
    .settle(Wait::Exited(id.clone()), Ok(()))
    .settle(Wait::Started(id.clone()), Err(fault("the container ended")))
}

pub(super) fn remove(pod: &Pod) -> Result<Step, Refusal> {
    let step = Step::still(pod);
    match pod.sandbox.phase {
        SandboxPhase::NotReady | SandboxPhase::Removing => Ok(step
            .with_sandbox(|sandbox| sandbox.phase = SandboxPhase::Removing)
            .effect(Effect::RemovePod)
            .wait(Wait::Gone)),
        SandboxPhase::Creating | SandboxPhase::Ready(_) | SandboxPhase::Stopping => {
            Err(Refusal::SandboxUp(pod.sandbox.id.clone()))
        }
    }
}

pub(super) fn gone(pod: &Pod) -> Step {
    if !matches!(pod.sandbox.phase, SandboxPhase::Removing) {
        return Step::still(pod);
    }
    let mut step = Step::still(pod);
    step.forget = true;
    step.pod.containers.clear();
    for id in pod.containers.keys() {
        step = step.tell(Told::Deleted(Some(id.clone()))).settle(Wait::Removed(id.clone()), Ok(()));
    }
    step.tell(Told::Deleted(None)).settle(Wait::Gone, Ok(()))
}

pub(super) fn update(
    pod: &Pod,
    overhead: Option<Box<Resources>>,
    resources: Option<Box<Resources>>,
) -> Step {
    Step::still(pod).with_sandbox(|sandbox| {
        if let Some(overhead) = overhead {
            sandbox.config.overhead = Some(*overhead);
        }
        if let Some(resources) = resources {
            sandbox.config.resources = Some(*resources);
        }
    })
}
