//! The machine as a whole: every phase with every input, and any sequence of inputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{ContainerConfig, ContainerSecurity, ImageSpec, Resources, SandboxConfig};
use crate::config::{NamespaceMode, Namespaces, SandboxSecurity, Stdio};
use crate::step::{Fault, Outcome, Wait, begin, step};
use crate::{
    Claim, Command, Container, ContainerPhase, Effect, Event, Exit, Input, Plan, Pod, Ready,
    Sandbox, SandboxPhase, Step, Time, Told, User,
};
use names::{ContainerId, ContainerName, Kind, SandboxId, SandboxName};
use proptest::prelude::*;

fn sandbox_id() -> SandboxId {
    SandboxId::from_random([1; 32])
}

fn container_id() -> ContainerId {
    ContainerId::from_random([2; 32])
}

fn sandbox(phase: SandboxPhase) -> Sandbox {
    Sandbox {
        id: sandbox_id(),
        config: SandboxConfig {
            name: SandboxName {
                namespace: "ns".into(),
                name: "pod".into(),
                uid: "uid".into(),
                attempt: 0,
            },
            hostname: "pod".into(),
            log_directory: "/var/log/pods/x".into(),
            dns: None,
            ports: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            runtime_handler: String::new(),
            cgroup_parent: String::new(),
            sysctls: BTreeMap::new(),
            namespaces: Namespaces::default(),
            security: SandboxSecurity::default(),
            overhead: None,
            resources: None,
        },
        created_at: Time(1),
        phase,
        plan: Plan(vec![Claim::Files, Claim::Shim]),
        level: None,
    }
}

fn container(phase: ContainerPhase) -> Container {
    Container {
        id: container_id(),
        sandbox: sandbox_id(),
        config: ContainerConfig {
            name: ContainerName { name: "c".into(), attempt: 0 },
            image: ImageSpec::default(),
            command: vec!["true".into()],
            args: Vec::new(),
            working_dir: String::new(),
            envs: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            cdi_devices: vec![],
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            log_path: String::new(),
            stdio: Stdio::default(),
            stop_signal: None,
            stop_signal_enum: 0,
            resources: Resources::default(),
            security: ContainerSecurity::default(),
        },
        image: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
        image_ref: "x@sha256:0".into(),
        volumes: Vec::new(),
        stop_signal: 15,
        log_path: std::path::PathBuf::new(),
        created_at: Time(2),
        phase,
        user: None,
    }
}

fn pod(sandbox_phase: SandboxPhase, phase: Option<ContainerPhase>) -> Pod {
    let mut pod = Pod::new(sandbox(sandbox_phase));
    if let Some(phase) = phase {
        pod.containers.insert(container_id(), Arc::new(container(phase)));
    }
    pod
}

fn sandbox_phases() -> Vec<SandboxPhase> {
    vec![
        SandboxPhase::Creating,
        SandboxPhase::Ready(Ready::default()),
        SandboxPhase::Stopping,
        SandboxPhase::NotReady,
        SandboxPhase::Removing,
    ]
}

fn container_phases() -> Vec<ContainerPhase> {
    let (how, at) = (Exit::Code(0), Time(9));
    vec![
        ContainerPhase::Creating,
        ContainerPhase::Created { pid: 7 },
        ContainerPhase::Starting { pid: 7 },
        ContainerPhase::Running { pid: 7, started_at: Time(5) },
        ContainerPhase::Stopping { pid: 7, started_at: None },
        ContainerPhase::Stopping { pid: 7, started_at: Some(Time(5)) },
        ContainerPhase::Ending { how: how.clone(), started_at: Some(Time(5)), finished_at: at },
        ContainerPhase::Exited { how: how.clone(), started_at: Some(Time(5)), finished_at: at },
        ContainerPhase::Removing { how, started_at: Some(Time(5)), finished_at: at },
    ]
}

fn fault() -> Fault {
    Fault::new(Kind::Internal, "planted")
}

fn inputs() -> Vec<Input> {
    let id = container_id;
    let commands = [
        Command::StopSandbox,
        Command::RemoveSandbox,
        Command::UpdateSandbox { overhead: None, resources: Some(Box::default()) },
        Command::Create(Box::new(container(ContainerPhase::Creating))),
        Command::Start(id()),
        Command::Stop(id()),
        Command::Kill(id()),
        Command::Remove(id()),
        Command::Update(id(), Box::default()),
    ];
    let events = [
        Event::Established(Ready::default(), Plan::default()),
        Event::EstablishFailed(fault()),
        Event::TornDown,
        Event::TearDownFailed(fault()),
        Event::Gone,
        Event::GoneFailed(fault()),
        Event::ShimGone,
        Event::Created { id: id(), pid: 7, user: User::default() },
        Event::CreateFailed(id(), fault()),
        Event::Started(id(), Time(5)),
        Event::StartFailed(id(), fault(), Time(6)),
        Event::StillWaiting(id()),
        Event::Exited(id(), Exit::Signal(9), Time(8)),
        Event::Exited(id(), Exit::Code(3), Time(8)),
        Event::Reaped { id: id(), oom: true, left: None },
        Event::Reaped { id: id(), oom: false, left: Some(fault()) },
        Event::Removed(id()),
        Event::RemoveFailed(id(), fault()),
        Event::Updated(id(), Box::default()),
        Event::UpdateFailed(id(), fault()),
    ];
    commands.into_iter().map(Input::Command).chain(events.into_iter().map(Input::Event)).collect()
}

/// How far a phase is along its life; no input may lead back, but for the one that recovery needs.
fn rank(phase: &ContainerPhase) -> u8 {
    match phase {
        ContainerPhase::Creating => 0,
        ContainerPhase::Created { .. } => 1,
        ContainerPhase::Starting { .. } => 2,
        ContainerPhase::Running { .. } => 3,
        ContainerPhase::Stopping { .. } => 4,
        ContainerPhase::Ending { .. } => 5,
        ContainerPhase::Exited { .. } => 6,
        ContainerPhase::Removing { .. } => 7,
    }
}

fn sandbox_rank(phase: &SandboxPhase) -> u8 {
    match phase {
        SandboxPhase::Creating => 0,
        SandboxPhase::Ready(_) => 1,
        SandboxPhase::Stopping => 2,
        SandboxPhase::NotReady => 3,
        SandboxPhase::Removing => 4,
    }
}

/// What must hold of every step, whatever it came from.
fn check(before: &Pod, input: &Input, after: &Step) {
    let told = |what: &dyn Fn(&Told) -> bool| after.told.iter().filter(|t| what(t)).count();
    assert!(
        sandbox_rank(&after.pod.sandbox.phase) >= sandbox_rank(&before.sandbox.phase),
        "{input:?} led the sandbox back"
    );
    for (id, was) in &before.containers {
        let Some(is) = after.pod.containers.get(id) else {
            let never_seen = !was.phase.is_visible();
            let deleted = told(&|t| *t == Told::Deleted(Some(id.clone()))) == 1;
            assert!(never_seen || deleted, "{input:?} lost a container without a word");
            continue;
        };
        let back = *input == Input::Event(Event::StillWaiting(id.clone()));
        assert!(back || rank(&is.phase) >= rank(&was.phase), "{input:?} led {:?} back", was.phase);
        let became_over = is.phase.is_over() && !was.phase.is_over();
        let stopped = told(&|t| *t == Told::Stopped(Some(id.clone())));
        assert_eq!(stopped, usize::from(became_over), "{input:?} on {:?}", was.phase);
        if let (Some((how, at)), Some((how_then, at_then))) = (was.phase.exit(), is.phase.exit()) {
            assert_eq!((how, at), (how_then, at_then), "an exit is told one way for ever");
        }
        let ended = after.outcomes.iter().any(|o| o.of == Wait::Exited(id.clone()));
        assert_eq!(ended, became_over, "{input:?}: who waits for the end is told of it, once");
    }
    if after.forget {
        assert!(
            matches!(before.sandbox.phase, SandboxPhase::Creating | SandboxPhase::Removing),
            "only what nobody knows or everybody let go is forgotten"
        );
    }
    if let Some(wait) = &after.wait {
        let promised = !after.effects.is_empty()
            || matches!(before.sandbox.phase, SandboxPhase::Creating)
            || before.containers.values().any(|c| !c.phase.is_over());
        assert!(promised, "{input:?} makes its caller wait for {wait:?} and begins nothing");
    }
}

#[test]
fn every_phase_has_an_answer_to_every_input() {
    let mut pairs = 0;
    for sandbox_phase in sandbox_phases() {
        for phase in container_phases().into_iter().map(Some).chain([None]) {
            for input in inputs() {
                let before = pod(sandbox_phase.clone(), phase.clone());
                match step(&before, input.clone(), Time(100)) {
                    Ok(after) => check(&before, &input, &after),
                    Err(refusal) => {
                        assert!(
                            matches!(input, Input::Command(_)),
                            "an event was refused: {refusal}"
                        );
                    }
                }
                pairs += 1;
            }
        }
    }
    assert_eq!(pairs, 5 * 10 * 29);
}

#[test]
fn what_is_being_made_is_invisible_and_its_undoing_breaks_no_promise() {
    let pod = pod(SandboxPhase::Creating, None);
    assert!(!pod.sandbox.is_visible());
    let begun = begin(&pod);
    assert_eq!((begun.effects, begun.wait), (vec![Effect::Establish], Some(Wait::Ready)));
    let failed = step(&pod, Input::Event(Event::EstablishFailed(fault())), Time(1)).unwrap();
    assert!(failed.forget);
    assert!(failed.told.is_empty(), "nobody may hear of it");
}

#[test]
fn the_same_container_asked_for_again_is_the_same() {
    let running = ContainerPhase::Running { pid: 7, started_at: Time(5) };
    let pod = pod(SandboxPhase::Ready(Ready::default()), Some(running));
    let mut again = container(ContainerPhase::Creating);
    again.id = ContainerId::from_random([3; 32]);
    let ask = |c: &Container| Input::Command(Command::Create(Box::new(c.clone())));
    let joined = step(&pod, ask(&again), Time(1)).unwrap();
    assert_eq!((joined.subject, joined.wait), (Some(container_id()), None));
    assert_eq!(joined.pod, pod);
    again.config.working_dir = "/elsewhere".into();
    let refusal = step(&pod, ask(&again), Time(1)).unwrap_err();
    assert_eq!(refusal.kind(), Kind::AlreadyExists);
    assert!(refusal.to_string().contains("config.working_dir"), "{refusal}");
    again.config.working_dir.clear();
    again.config.cdi_devices = vec!["vendor.com/class=other".into()];
    let refusal = step(&pod, ask(&again), Time(1)).unwrap_err();
    assert!(refusal.to_string().contains("config.CDI_devices"), "{refusal}");
}

#[test]
fn a_privileged_container_needs_a_privileged_sandbox() {
    let pod = pod(SandboxPhase::Ready(Ready::default()), None);
    let mut asked = container(ContainerPhase::Creating);
    asked.config.security.privileged = true;
    let refusal =
        step(&pod, Input::Command(Command::Create(Box::new(asked))), Time(1)).unwrap_err();
    assert_eq!(refusal.kind(), Kind::Invalid);
}

#[test]
fn who_looks_into_a_container_finds_it_running_in_the_same_sandbox() {
    let ask = |phase: Option<ContainerPhase>| {
        let pod = pod(SandboxPhase::Ready(Ready::default()), phase);
        let mut debug = container(ContainerPhase::Creating);
        debug.id = ContainerId::from_random([3; 32]);
        debug.config.name.name = "debug".into();
        debug.config.security.namespaces.pid = NamespaceMode::Target;
        debug.config.security.namespaces.target = Some(container_id());
        step(&pod, Input::Command(Command::Create(Box::new(debug))), Time(1))
    };
    for phase in container_phases() {
        let running = matches!(phase, ContainerPhase::Running { .. });
        match ask(Some(phase)) {
            Ok(_) => assert!(running),
            Err(refusal) => {
                assert!(!running);
                assert_eq!(refusal.kind(), Kind::Refused);
                let text = refusal.to_string();
                assert!(text.contains("target_id") && text.contains(container_id().as_str()));
            }
        }
    }
    assert_eq!(ask(None).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_container_has_its_sandboxs_user_namespace_and_no_other() {
    let ids = |first| {
        let range = crate::config::IdRange { first, length: 65_536 };
        Some(crate::config::UserNamespace { uids: range, gids: range })
    };
    let volume = |mapped| crate::config::Mount {
        container_path: "/v".into(),
        host_path: "/h".into(),
        mapped,
        ..crate::config::Mount::default()
    };
    let refused = |own, asked_for, mapped| {
        let mut pod = pod(SandboxPhase::Ready(Ready::default()), None);
        Arc::make_mut(&mut pod.sandbox).config.namespaces.user = own;
        let mut asked = container(ContainerPhase::Creating);
        asked.config.security.namespaces.user = asked_for;
        asked.config.mounts = vec![volume(None), volume(mapped)];
        step(&pod, Input::Command(Command::Create(Box::new(asked))), Time(1))
            .err()
            .map(|refusal| (refusal.kind(), refusal.to_string()))
    };
    assert_eq!(refused(ids(1), ids(1), ids(1)), None);
    assert_eq!(refused(ids(1), ids(1), None), None);
    for (own, asked_for) in [(ids(1), None), (None, ids(1)), (ids(1), ids(2))] {
        let (kind, message) = refused(own, asked_for, None).unwrap();
        assert_eq!(kind, Kind::Invalid);
        assert!(message.contains("userns_options"), "{message}");
    }
    for (own, mapped) in [(ids(1), ids(2)), (None, ids(1))] {
        let (kind, message) = refused(own, own, mapped).unwrap();
        assert_eq!(kind, Kind::Invalid);
        assert!(message.starts_with("config.mounts[1].uidMappings"), "{message}");
    }
}

#[test]
fn an_exit_that_overtakes_the_answer_to_the_start_loses_neither() {
    let starting =
        pod(SandboxPhase::Ready(Ready::default()), Some(ContainerPhase::Starting { pid: 7 }));
    let id = container_id();
    let exited = Input::Event(Event::Exited(id.clone(), Exit::Code(0), Time(8)));
    let ended = step(&starting, exited, Time(8)).unwrap();
    assert_eq!(ended.told, vec![Told::Started(Some(id.clone()))]);
    assert_eq!(ended.outcomes, vec![Outcome { of: Wait::Started(id.clone()), result: Ok(()) }]);
    let late =
        step(&ended.pod, Input::Event(Event::Started(id.clone(), Time(7))), Time(9)).unwrap();
    assert_eq!(late.pod, ended.pod);
    assert!(late.told.is_empty());
}

#[test]
fn oom_is_said_only_of_a_main_process_that_was_killed() {
    let id = container_id();
    let verdict = |how: Exit| {
        let ending =
            ContainerPhase::Ending { how, started_at: Some(Time(5)), finished_at: Time(8) };
        let pod = pod(SandboxPhase::Ready(Ready::default()), Some(ending));
        let reaped = Event::Reaped { id: id.clone(), oom: true, left: None };
        let after = step(&pod, Input::Event(reaped), Time(9)).unwrap();
        after.pod.containers[&id].phase.exit().unwrap().0.reason()
    };
    assert_eq!(verdict(Exit::Signal(9)), "OOMKilled");
    assert_eq!(verdict(Exit::Code(1)), "Error");
    assert_eq!(verdict(Exit::Code(0)), "Completed");
}

#[test]
fn a_pod_without_its_shim_is_over_as_a_whole() {
    let running = ContainerPhase::Running { pid: 7, started_at: Time(5) };
    let up = pod(SandboxPhase::Ready(Ready::default()), Some(running));
    let lost = step(&up, Input::Event(Event::ShimGone), Time(50)).unwrap();
    assert_eq!(lost.effects, vec![Effect::TearDown]);
    let down = step(&lost.pod, Input::Event(Event::TornDown), Time(51)).unwrap();
    let (how, at) = down.pod.containers[&container_id()].phase.exit().unwrap();
    assert_eq!((how.code(), how.reason(), at), (255, "Unknown", Time(51)));
    assert_eq!(down.pod.sandbox.phase, SandboxPhase::NotReady);
}

proptest! {
    #[test]
    fn no_sequence_of_inputs_leads_back_or_tells_a_thing_twice(
        picks in proptest::collection::vec(0_usize..29, 0..60)
    ) {
        let inputs = inputs();
        let mut now = pod(SandboxPhase::Creating, None);
        let mut told: Vec<Told> = Vec::new();
        for pick in picks {
            let Ok(after) = step(&now, inputs[pick].clone(), Time(100)) else { continue };
            check(&now, &inputs[pick], &after);
            if after.forget {
                break;
            }
            for word in after.told {
                // A name may be used again after it was deleted.
                if let Told::Deleted(id) = &word {
                    told.retain(|t| subject(t) != id.as_ref());
                    continue;
                }
                prop_assert!(!told.contains(&word), "{word:?} was told twice");
                told.push(word);
            }
            now = after.pod;
        }
    }
}

fn subject(told: &Told) -> Option<&ContainerId> {
    match told {
        Told::Created(id) | Told::Started(id) | Told::Stopped(id) | Told::Deleted(id) => {
            id.as_ref()
        }
    }
}
