//! Holds what the runtime shows against the book, while nobody calls.

use std::collections::BTreeSet;

use cri_proto::cri::ContainerState;

use super::book::{Behaviour, Book, Container, ContainerStep, Pod, PodStep, Shim};

/// What the lists and the statuses show.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) pods: Vec<SeenPod>,
    pub(super) containers: Vec<SeenContainer>,
}

#[derive(Debug, Clone)]
pub(super) struct SeenPod {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) ready: bool,
    pub(super) ip: String,
}

#[derive(Debug, Clone)]
pub(super) struct SeenContainer {
    pub(super) id: String,
    pub(super) pod_id: String,
    pub(super) name: String,
    pub(super) state: ContainerState,
    pub(super) code: i32,
    pub(super) reason: String,
}

/// Something that is not as promised, and of which pod, if it is one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) pod: Option<String>,
    pub(super) text: String,
}

/// Notes what was seen of calls that nobody answered, and tells what is not as promised.
pub(super) fn judge(book: &mut Book, seen: &Seen) -> Vec<Fault> {
    let mut faults = strangers(book, seen);
    for (name, pod) in &mut book.pods {
        if pod.condemned {
            continue;
        }
        let mut wrong = Vec::new();
        let found = seen.pods.iter().find(|found| found.name == *name);
        judge_pod(pod, found, &mut wrong);
        let pod_id = pod.id.clone();
        let (shim, step) = (pod.shim, pod.step);
        for (container_name, container) in &mut pod.containers {
            let mut ours = seen.containers.iter().filter(|c| Some(&c.pod_id) == pod_id.as_ref());
            let found = ours.find(|found| found.name == *container_name);
            if let Some(text) = judge_container(container, found, step, shim) {
                wrong.push(format!("{container_name}: {text}"));
            }
        }
        let fault = |text| Fault { pod: Some(name.clone()), text: format!("{name}: {text}") };
        faults.extend(wrong.into_iter().map(fault));
    }
    faults
}

/// What is listed and nobody asked for.
fn strangers(book: &Book, seen: &Seen) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut tell = |text| faults.push(Fault { pod: None, text });
    let known: BTreeSet<&str> = seen
        .pods
        .iter()
        .filter(|p| book.pods.contains_key(&p.name))
        .map(|p| p.id.as_str())
        .collect();
    for pod in &seen.pods {
        if book.gone.contains(&pod.id) {
            tell(format!("{} {}: removed, and listed again", pod.name, pod.id));
        } else if !known.contains(pod.id.as_str()) {
            tell(format!("{} {}: listed, and never asked for", pod.name, pod.id));
        }
    }
    for container in &seen.containers {
        let pod = book.pods.values().find(|pod| pod.id.as_ref() == Some(&container.pod_id));
        let asked = pod.is_some_and(|pod| pod.containers.contains_key(&container.name));
        if book.gone.contains(&container.id) {
            tell(format!("{} {}: removed, and listed again", container.name, container.id));
        } else if !asked && !known.contains(container.pod_id.as_str()) {
            tell(format!("{} {}: listed without a pod", container.name, container.id));
        }
    }
    faults
}

fn judge_pod(pod: &mut Pod, found: Option<&SeenPod>, wrong: &mut Vec<String>) {
    let Some(found) = found else {
        if pod.id.is_some() && pod.step != PodStep::RemoveAsked {
            wrong.push(format!("lost, though it was {:?}", pod.step));
        }
        return;
    };
    if pod.id.get_or_insert_with(|| found.id.clone()) != &found.id {
        wrong.push(format!("another id, {}", found.id));
    }
    pod.step = pod.step.max(PodStep::Ready);
    let ready = match (pod.step, pod.shim) {
        (PodStep::RunAsked | PodStep::Ready, Shim::Spared) => Some(true),
        (PodStep::Stopped, _) | (_, Shim::Killed) => Some(false),
        (PodStep::StopAsked | PodStep::RemoveAsked, Shim::Spared) => None,
    };
    if ready.is_some_and(|ready| ready != found.ready) {
        wrong.push(format!(
            "{:?} with its shim {:?}, and shown ready: {}",
            pod.step, pod.shim, found.ready
        ));
    }
    if found.ready && found.ip.is_empty() {
        wrong.push("ready without an address".to_owned());
    }
    if found.ready && pod.ip.get_or_insert_with(|| found.ip.clone()) != &found.ip {
        wrong.push(format!("another address, {}", found.ip));
    }
}

fn judge_container(
    container: &mut Container,
    found: Option<&SeenContainer>,
    pod: PodStep,
    shim: Shim,
) -> Option<String> {
    let Some(found) = found else {
        let removed = container.step == ContainerStep::RemoveAsked || pod == PodStep::RemoveAsked;
        let lost = container.id.is_some() && !removed;
        return lost.then(|| format!("lost, though it was {:?}", container.step));
    };
    if container.id.get_or_insert_with(|| found.id.clone()) != &found.id {
        return Some(format!("another id, {}", found.id));
    }
    if !is_allowed(container, found, pod, shim) {
        return Some(format!(
            "{:?} {:?} with its pod {pod:?} and the shim {shim:?}, and shown {:?} {} {}",
            container.behaviour, container.step, found.state, found.code, found.reason
        ));
    }
    container.step = container.step.max(match found.state {
        ContainerState::ContainerCreated | ContainerState::ContainerUnknown => {
            ContainerStep::Created
        }
        ContainerState::ContainerRunning | ContainerState::ContainerExited => {
            ContainerStep::Started
        }
    });
    None
}

fn is_allowed(container: &Container, found: &SeenContainer, pod: PodStep, shim: Shim) -> bool {
    let step = container.step;
    // Stopping or losing the pod may end any of its containers.
    let pod_goes = pod >= PodStep::StopAsked || shim == Shim::Killed;
    let pod_gone = pod == PodStep::Stopped || shim == Shim::Killed;
    match found.state {
        ContainerState::ContainerUnknown => false,
        ContainerState::ContainerCreated => {
            step <= ContainerStep::StartAsked
                || matches!(step, ContainerStep::StopAsked | ContainerStep::RemoveAsked)
        }
        ContainerState::ContainerRunning => {
            let ends = matches!(container.behaviour, Behaviour::Exits(_));
            let may_run = matches!(
                step,
                ContainerStep::StartAsked
                    | ContainerStep::Started
                    | ContainerStep::StopAsked
                    | ContainerStep::RemoveAsked
            );
            may_run && !pod_gone && !ends
        }
        ContainerState::ContainerExited => may_have_ended(container, found, pod, shim, pod_goes),
    }
}

fn may_have_ended(
    container: &Container,
    found: &SeenContainer,
    pod: PodStep,
    shim: Shim,
    pod_goes: bool,
) -> bool {
    let by_itself = matches!(container.behaviour, Behaviour::Exits(_));
    let ended_by_stop = container.step >= ContainerStep::StopAsked;
    if found.code == container.behaviour.code() && (by_itself || ended_by_stop || pod_goes) {
        return container.step >= ContainerStep::StartAsked;
    }
    let killed = found.code == 137 && (pod >= PodStep::StopAsked || ended_by_stop);
    let lost = found.code == 255 && found.reason == "Unknown" && shim == Shim::Killed;
    let never_ran = container.step <= ContainerStep::StartAsked && pod_goes;
    killed || lost || never_ran
}

#[cfg(test)]
mod tests {
    use super::super::book::Ask;
    use super::*;

    fn book(container: ContainerStep) -> Book {
        let mut book = Book::default();
        let create = Ask::Create("c".into(), Behaviour::Traps(42));
        for (ask, answer) in [(Ask::RunPod, "1"), (Ask::Address, "10.0.0.1"), (create, "2")] {
            book.asked("p", &ask);
            assert_eq!(book.answered("p", &ask, answer), None);
        }
        book.pods.get_mut("p").unwrap().advance("c", container);
        book
    }

    fn seen(state: ContainerState, code: i32) -> Seen {
        Seen {
            pods: vec![SeenPod {
                id: "1".into(),
                name: "p".into(),
                ready: true,
                ip: "10.0.0.1".into(),
            }],
            containers: vec![SeenContainer {
                id: "2".into(),
                pod_id: "1".into(),
                name: "c".into(),
                state,
                code,
                reason: String::new(),
            }],
        }
    }

    #[test]
    fn a_running_pod_is_ready_with_its_address_and_its_container_runs() {
        let running = || seen(ContainerState::ContainerRunning, 0);
        assert_eq!(judge(&mut book(ContainerStep::Started), &running()), []);
        let mut other = running();
        other.pods[0].ip = "10.0.0.2".into();
        assert_eq!(judge(&mut book(ContainerStep::Started), &other).len(), 1);
        let mut other = running();
        other.pods[0].ready = false;
        assert_eq!(judge(&mut book(ContainerStep::Started), &other).len(), 1);
        assert_eq!(judge(&mut book(ContainerStep::Stopped), &running()).len(), 1);
        let lost = Seen::default();
        assert_eq!(judge(&mut book(ContainerStep::Started), &lost).len(), 2);
    }

    #[test]
    fn a_container_does_not_end_without_a_cause_and_ends_with_its_own_code() {
        let ended = |code| seen(ContainerState::ContainerExited, code);
        assert_eq!(judge(&mut book(ContainerStep::Started), &ended(42)).len(), 1);
        assert_eq!(judge(&mut book(ContainerStep::Stopped), &ended(42)), []);
        assert_eq!(judge(&mut book(ContainerStep::Stopped), &ended(0)).len(), 1);
    }

    #[test]
    fn a_pod_whose_shim_was_killed_is_dead_as_a_whole() {
        let mut killed = book(ContainerStep::Started);
        killed.pods.get_mut("p").unwrap().shim = Shim::Killed;
        let mut found = seen(ContainerState::ContainerExited, 255);
        found.pods[0].ready = false;
        assert_eq!(judge(&mut killed, &found).len(), 1, "the reason is missing");
        found.containers[0].reason = "Unknown".into();
        assert_eq!(judge(&mut killed, &found), []);
        assert_eq!(judge(&mut killed, &seen(ContainerState::ContainerRunning, 0)).len(), 2);
    }

    #[test]
    fn what_was_never_asked_for_and_what_was_removed_is_told() {
        let running = seen(ContainerState::ContainerRunning, 0);
        assert_eq!(judge(&mut Book::default(), &running).len(), 2);
        let mut removed = Book::default();
        removed.gone.extend(["1".to_owned(), "2".to_owned()]);
        let faults = judge(&mut removed, &running);
        assert!(faults.iter().all(|fault| fault.text.contains("listed again")), "{faults:?}");
    }

    #[test]
    fn a_call_that_nobody_answered_may_have_happened_or_not() {
        let mut asked = Book::default();
        asked.asked("p", &Ask::RunPod);
        assert_eq!(judge(&mut asked, &Seen::default()), []);
        let mut created = seen(ContainerState::ContainerCreated, 0);
        created.containers.clear();
        assert_eq!(judge(&mut asked, &created), []);
        assert_eq!(asked.pods["p"].id.as_deref(), Some("1"));
        assert_eq!(judge(&mut asked, &Seen::default()).len(), 1, "seen once, it is promised");
    }
}
