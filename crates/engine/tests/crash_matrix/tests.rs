use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use fault::{FakeWorld, Fuel, Mishap};
use pod::{Container, Exit, SandboxPhase};

use crate::life::{Machine, ends, quiet, until};
use crate::scenario::{Kubelet, Notes, OnError, Told, container, holds, sandbox};

const DEATHS: [Mishap; 2] = [Mishap::DieBefore, Mishap::DieAfter];

/// The scenario on a new machine; gives the machine after it.
fn scenario(fuel: &Arc<Fuel>, on_error: OnError) -> (Machine, Told) {
    let machine = Machine::new();
    let notes = Notes::default();
    machine.live(fuel, async |engine, _| {
        Kubelet { engine, notes: notes.clone(), on_error }.whole_life().await.unwrap();
        is_paid(engine).await;
    });
    let told = notes.lock().unwrap().clone();
    (machine, told)
}

/// Waits until the node holds nothing any more: debts are paid a little later.
async fn is_paid(engine: &Engine<FakeWorld>) {
    let left = || [engine.world().node().left(), engine.world().held_in_memory()].concat();
    for _ in 0..5_000 {
        if left().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("a leak: {:?}", left());
}

/// A clean recovery: what was told holds, a second recovery changes nothing, and everything can be removed.
fn comes_back(machine: &Machine, told: &Told) {
    let first = machine.live(&Arc::new(Fuel::endless()), async |engine, recovered| {
        assert_eq!(recovered.unreadable, Vec::<String>::new());
        quiet(engine).await;
        holds(engine, told);
        keeps_its_images(engine);
        engine.views().pods()
    });
    let second = machine.live(&Arc::new(Fuel::endless()), async |engine, _| {
        quiet(engine).await;
        let pods = engine.views().pods();
        is_joined(engine).await;
        for pod in engine.views().pods() {
            ends(engine.remove_sandbox(pod.sandbox.id.as_str())).await.unwrap();
        }
        assert!(engine.views().pods().is_empty());
        is_paid(engine).await;
        pods
    });
    assert_eq!(first, second, "recovery is idempotent");
    assert_eq!(
        machine.node.lock().unwrap().swept,
        0,
        "something was done that was not written down"
    );
}

/// No layer goes from under a container, be it its own image's or a volume's.
fn keeps_its_images(engine: &Engine<FakeWorld>) {
    let held = engine.world().held_in_memory();
    for container in engine.views().pods().iter().flat_map(|pod| pod.containers.values()) {
        let images = container.volumes.iter().map(|volume| &volume.id).chain([&container.image]);
        let images: Vec<_> =
            images.map(|id| format!("{id} of container {}", container.id)).collect();
        assert_eq!(images.len(), 2);
        assert!(images.iter().all(|image| held.contains(image)), "{images:?} in {held:?}");
    }
}

/// Whoever asks again for what is there gets it.
async fn is_joined(engine: &Engine<FakeWorld>) {
    for pod in engine.views().pods() {
        if !matches!(pod.sandbox.phase, SandboxPhase::Ready(_)) {
            continue;
        }
        let id = ends(engine.run_sandbox(sandbox())).await.unwrap();
        assert_eq!(id, pod.sandbox.id);
        for held in pod.visible().filter(|held| !held.phase.is_over()) {
            let nth = (0..4).find(|nth| container(*nth).name == held.config.name).unwrap();
            let again = ends(engine.create_container(id.as_str(), container(nth))).await.unwrap();
            assert_eq!(again, held.id);
        }
    }
}

#[test]
fn a_whole_life_leaves_nothing() {
    let fuel = Arc::new(Fuel::endless());
    let (machine, told) = scenario(&fuel, OnError::Never);
    let effects = fuel.effects();
    assert!(effects.len() > 40, "{effects:?}");
    comes_back(&machine, &told);
}

/// Every `step`-th death of the scenario, with every death of the recovery from it; gives how many there were.
fn die_twice(first: usize, step: usize) -> usize {
    let mut deaths = 0;
    for effect in (first..).step_by(step) {
        for mishap in DEATHS {
            let fuel = Arc::new(Fuel::until(effect, mishap));
            let (machine, told) = scenario(&fuel, OnError::Never);
            if !fuel.is_dead() {
                return deaths;
            }
            deaths += 1 + die_again(&machine, &told);
            goes_on(&machine.copy(), &told);
            comes_back(&machine, &told);
        }
    }
    deaths
}

/// Right after the recovery the calls that got no answer are made again, and there is no error.
fn goes_on(machine: &Machine, told: &Told) {
    let notes = Notes::new(told.clone().into());
    machine.live(&Arc::new(Fuel::endless()), async |engine, _| {
        let kubelet = Kubelet { engine, notes: notes.clone(), on_error: OnError::Never };
        ends(kubelet.asks_again()).await.unwrap();
        quiet(engine).await;
        holds(engine, &notes.lock().unwrap());
    });
    comes_back(machine, &notes.lock().unwrap());
}

fn die_again(machine: &Machine, told: &Told) -> usize {
    let mut deaths = 0;
    for effect in 0.. {
        for mishap in DEATHS {
            let copy = machine.copy();
            let fuel = Arc::new(Fuel::until(effect, mishap));
            copy.live(&fuel, async |engine, _| quiet(engine).await);
            if !fuel.is_dead() {
                return deaths;
            }
            deaths += 1;
            comes_back(&copy, told);
        }
    }
    deaths
}

#[test]
fn a_daemon_that_dies_at_any_even_effect_and_again_in_its_recovery_loses_and_leaks_nothing() {
    assert!(die_twice(0, 2) > 100);
}

#[test]
fn a_daemon_that_dies_at_any_odd_effect_and_again_in_its_recovery_loses_and_leaks_nothing() {
    assert!(die_twice(1, 2) > 100);
}

/// Calls the scenario with the mishap at every effect of it.
fn at_every_effect(mishap: Mishap, check: impl Fn(Arc<Fuel>) + Sync) {
    let fuel = Arc::new(Fuel::endless());
    scenario(&fuel, OnError::Never);
    let effects = fuel.effects();
    // The failures wait for real pauses: side by side they cost one of them.
    std::thread::scope(|scope| {
        for (number, name) in effects.iter().enumerate() {
            // A daemon that cannot sweep does not come up.
            if name.starts_with("sweep") {
                continue;
            }
            let check = &check;
            let fuel = Arc::new(Fuel::until(number, mishap));
            let name = format!("{mishap:?} at {number}: {name}");
            let spawned =
                std::thread::Builder::new().name(name).spawn_scoped(scope, move || check(fuel));
            spawned.unwrap();
        }
    });
}

#[test]
fn an_effect_that_fails_is_told_or_made_good_and_leaks_nothing() {
    at_every_effect(Mishap::Fail, |fuel| {
        let (machine, told) = scenario(&fuel, OnError::Retry);
        comes_back(&machine, &told);
    });
}

#[test]
fn an_effect_that_fails_though_it_happened_is_told_or_made_good_and_leaks_nothing() {
    at_every_effect(Mishap::FailAfter, |fuel| {
        let (machine, told) = scenario(&fuel, OnError::Retry);
        comes_back(&machine, &told);
    });
}

#[test]
fn a_network_that_cannot_be_undone_is_owed_and_keeps_nobody() {
    let machine = Machine::new();
    let notes = Notes::default();
    let fuel = Arc::new(Fuel::endless().refusing("detach", 2));
    machine.live(&fuel, async |engine, _| {
        Kubelet { engine, notes: notes.clone(), on_error: OnError::Never }
            .whole_life()
            .await
            .unwrap();
        assert!(!engine.world().node().network.is_empty(), "owed, not lost");
        is_paid(engine).await;
    });
    assert_eq!(fuel.effects().iter().filter(|name| **name == "detach").count(), 3);
}

#[test]
fn pods_have_selinux_levels_of_their_own_which_outlive_the_daemon() {
    let machine = Machine::new();
    let levels = |engine: &Engine<FakeWorld>| {
        let pods = engine.views().pods();
        let levels = pods.iter().map(|pod| pod.sandbox.level.clone().expect("a level"));
        levels.collect::<BTreeSet<_>>()
    };
    let given = machine.live(&Arc::new(Fuel::endless()), async |engine, _| {
        for attempt in 0..3 {
            let mut config = sandbox();
            config.name.attempt = attempt;
            ends(engine.run_sandbox(config)).await.unwrap();
        }
        levels(engine)
    });
    let given = given.unwrap();
    assert_eq!(given.len(), 3);
    let later = machine.live(&Arc::new(Fuel::endless()), async |engine, _| levels(engine));
    assert_eq!(later.unwrap(), given);
}

#[test]
fn a_debt_outlives_the_daemon() {
    let machine = Machine::new();
    let notes = Notes::default();
    let fuel = Arc::new(Fuel::endless().refusing("detach", 1));
    machine.live(&fuel, async |engine, _| {
        Kubelet { engine, notes: notes.clone(), on_error: OnError::Never }
            .whole_life()
            .await
            .unwrap();
    });
    assert!(!machine.node.lock().unwrap().network.is_empty());
    machine.live(&Arc::new(Fuel::endless()), async |engine, recovered| {
        assert_eq!(recovered.debts, 1);
        is_paid(engine).await;
    });
    machine.live(&Arc::new(Fuel::endless()), async |_, recovered| assert_eq!(recovered.debts, 0));
    assert_eq!(machine.node.lock().unwrap().swept, 0);
}

/// The container is over, and nobody can know how, unless the shim had still written it down.
fn is_lost(engine: &Engine<FakeWorld>, container: &Container) {
    let (exit, _) = container.phase.exit().unwrap();
    let node = engine.world().node();
    let written = node.exits.get(&container.sandbox).into_iter().flatten();
    if written.into_iter().any(|(id, ..)| *id == container.id) {
        return;
    }
    match exit {
        Exit::StartFailed { .. } => {}
        exit => assert_eq!((exit.code(), exit.reason()), (255, "Unknown")),
    }
}

#[test]
fn a_shim_that_is_killed_takes_its_pod_along_and_the_pod_can_be_removed() {
    at_every_effect(Mishap::KillShims, |fuel| {
        let machine = Machine::new();
        let notes = Notes::default();
        machine.live(&fuel, async |engine, _| {
            // What fails is told; what is left then is looked at.
            drop(
                Kubelet { engine, notes: notes.clone(), on_error: OnError::GiveUp }
                    .whole_life()
                    .await,
            );
            until(|| engine.views().pods().iter().all(|p| p.sandbox.ready().is_none())).await;
            quiet(engine).await;
            for pod in engine.views().pods() {
                for container in pod.visible() {
                    is_lost(engine, container);
                }
                ends(engine.remove_sandbox(pod.sandbox.id.as_str())).await.unwrap();
            }
            is_paid(engine).await;
        });
        comes_back(&machine, &Told::default());
    });
}

#[test]
fn a_machine_that_is_restarted_at_any_effect_tells_its_pod_as_lost_and_leaks_nothing() {
    let fuel = Arc::new(Fuel::endless());
    scenario(&fuel, OnError::Never);
    for effect in 0..fuel.effects().len() {
        let (mut machine, _) =
            scenario(&Arc::new(Fuel::until(effect, Mishap::DieAfter)), OnError::Never);
        machine.reboot();
        machine.live(&Arc::new(Fuel::endless()), async |engine, recovered| {
            assert_eq!(recovered.swept, 0, "effect {effect}");
            quiet(engine).await;
            for pod in engine.views().pods() {
                assert_eq!(pod.sandbox.phase, SandboxPhase::NotReady);
                pod.visible().for_each(|container| is_lost(engine, container));
                ends(engine.remove_sandbox(pod.sandbox.id.as_str())).await.unwrap();
            }
            is_paid(engine).await;
        });
    }
}
