//! Pod churn like that of a kubelet: one pod after the other, each call repeated until it is answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::RwLock;

use super::book::{Ask, Behaviour, Book, Pod};
use super::judge::Fault;
use crate::client::{Client, is_cut};
use crate::random::Random;
use crate::request::{SETTLES, Template, strings};

/// After so many cuts in a row without a kill it is no longer the kill's doing.
const CUTS: usize = 2000;

/// What the workers and the killer share.
#[derive(Debug)]
pub(super) struct Shared {
    /// A call holds it for reading; the killer takes it for writing when the daemon is dead, which it gets when all calls
    /// that were under way have failed.
    pub(super) gate: RwLock<Client>,
    pub(super) template: Template,
    pub(super) stopping: AtomicBool,
    /// Pods that lived to their end.
    pub(super) lives: AtomicUsize,
    book: Mutex<Book>,
    faults: Mutex<Vec<String>>,
}

impl Shared {
    pub(super) fn new(client: Client, template: Template) -> Self {
        Self {
            gate: RwLock::new(client),
            template,
            stopping: AtomicBool::new(false),
            lives: AtomicUsize::new(0),
            book: Mutex::new(Book::default()),
            faults: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What went wrong since the last time it was asked for.
    pub(super) fn take_faults(&self) -> Vec<String> {
        std::mem::take(&mut *self.faults.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn tell(&self, fault: Fault) {
        if let Some(pod) = fault.pod
            && let Some(pod) = self.book().pods.get_mut(&pod)
        {
            pod.condemned = true;
        }
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault.text);
    }
}

/// Lives one pod after the other until it is told to stop.
pub(super) async fn work(shared: Arc<Shared>, number: usize, mut random: Random) {
    for n in 0_u64.. {
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("w{number}-{n}");
        live(&shared, &name, &mut random).await;
        shared.lives.fetch_add(1, Ordering::Relaxed);
    }
}

async fn live(shared: &Shared, name: &str, random: &mut Random) {
    let mut going_down = false;
    for ask in plan(random) {
        if going_down && !ask.is_teardown() {
            continue;
        }
        let settles = if matches!(ask, Ask::Start(_)) { SETTLES } else { Duration::ZERO };
        let pause = settles + Duration::from_millis(random.below(8));
        if let Err(error) = until_answered(shared, name, &ask).await {
            let excused = shared.book().pods.get(name).is_some_and(Pod::excuses);
            if !excused || ask.is_teardown() {
                let text = format!("{name}: {ask:?}: {error:#}");
                shared.tell(Fault { pod: Some(name.to_owned()), text });
            }
            going_down = true;
        }
        tokio::time::sleep(pause).await;
    }
    shared.book().forget(name);
}

/// The calls of one pod's life.
fn plan(random: &mut Random) -> Vec<Ask> {
    let mut plan = vec![Ask::RunPod, Ask::Address];
    let containers: Vec<String> = (0..=random.below(2)).map(|n| format!("c{n}")).collect();
    for name in &containers {
        let behaviour = match random.below(4) {
            0 => Behaviour::Exits(3),
            1 => Behaviour::Traps(42),
            _ => Behaviour::Waits,
        };
        plan.extend([Ask::Create(name.clone(), behaviour), Ask::Start(name.clone())]);
        let execs = if matches!(behaviour, Behaviour::Exits(_)) { 0 } else { random.below(3) };
        plan.extend((0..execs).map(|_| Ask::Exec(name.clone())));
    }
    for name in containers {
        if random.one_in(2) {
            plan.push(Ask::Stop(name.clone()));
            plan.extend(random.one_in(2).then_some(Ask::Remove(name)));
        }
    }
    plan.extend([Ask::StopPod, Ask::RemovePod]);
    plan
}

/// Asks until the daemon lives long enough to answer.
async fn until_answered(shared: &Shared, name: &str, ask: &Ask) -> Result<()> {
    for _ in 0..CUTS {
        let cut = {
            let client = shared.gate.read().await;
            if shared.book().pods.get(name).is_some_and(|pod| pod.is_needless(ask)) {
                return Ok(());
            }
            once(shared, &client, name, ask).await
        };
        match cut {
            Err(error) if is_cut(&error) => tokio::time::sleep(Duration::from_millis(5)).await,
            answered => return answered,
        }
    }
    anyhow::bail!("the daemon does not come back")
}

async fn once(shared: &Shared, client: &Client, name: &str, ask: &Ask) -> Result<()> {
    shared.book().asked(name, ask);
    let answer = perform(shared, client, name, ask).await?;
    let wrong = shared.book().answered(name, ask, &answer);
    ensure!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    Ok(())
}

async fn perform(shared: &Shared, client: &Client, name: &str, ask: &Ask) -> Result<String> {
    let sandbox = shared.template.sandbox(name, 0);
    let pod = || shared.book().pods.get(name)?.id.clone();
    let container =
        |container: &str| shared.book().pods.get(name)?.containers.get(container)?.id.clone();
    let nothing = |()| String::new();
    match ask {
        Ask::RunPod => client.run_pod(&sandbox).await,
        Ask::Address => {
            let status = client.pod_status(&pod().context("no pod")?).await?;
            Ok(status.network.map(|network| network.ip).unwrap_or_default())
        }
        Ask::Create(container, behaviour) => {
            let command = behaviour.command(&shared.template.waits);
            let config = shared.template.container(name, container, command);
            client.create(&pod().context("no pod")?, &config, &sandbox).await
        }
        Ask::Start(name) => {
            client.start(&container(name).context("no container")?).await.map(nothing)
        }
        Ask::Exec(name) => {
            let container = container(name).context("no container")?;
            let done = client.exec(&container, strings(&["true"])).await?;
            ensure!(done.exit_code == 0, "true exits with {}", done.exit_code);
            Ok(String::new())
        }
        Ask::Stop(name) => {
            client.stop(&container(name).context("no container")?, 10).await.map(nothing)
        }
        Ask::Remove(name) => {
            client.remove(&container(name).context("no container")?).await.map(nothing)
        }
        Ask::StopPod => client.stop_pod(&pod().context("no pod")?).await.map(nothing),
        Ask::RemovePod => client.remove_pod(&pod().context("no pod")?).await.map(nothing),
    }
}
