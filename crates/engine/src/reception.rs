//! One task decides who a sandbox's name belongs to: a new sandbox, or the one there is. It waits for nothing but its mailbox.

use std::sync::Arc;

use names::SandboxId;
use pod::config::SandboxConfig;
use pod::step::Wait;
use pod::{Claim, Plan, Pod, Sandbox, SandboxPhase};
use tokio::sync::{mpsc, oneshot};

use crate::error::EngineError;
use crate::message::{Answer, Message};
use crate::parts::Parts;
use crate::task::PodTask;
use crate::view::{Entry, PodView};
use crate::world::World;

/// The id, and where its readiness will be told.
pub(crate) type Admitted = Result<(SandboxId, oneshot::Receiver<Answer>), EngineError>;

/// A sandbox that is asked for.
struct Visit {
    config: SandboxConfig,
    reply: oneshot::Sender<Admitted>,
}

/// Where sandboxes are asked for.
#[derive(Clone)]
pub(crate) struct Reception {
    visits: mpsc::UnboundedSender<Visit>,
}

impl Reception {
    pub(crate) fn open<W: World>(parts: Arc<Parts<W>>) -> Self {
        let (visits, mut mailbox) = mpsc::unbounded_channel::<Visit>();
        tokio::spawn(async move {
            while let Some(visit) = mailbox.recv().await {
                // The visitor may have gone; what was begun goes on.
                drop(visit.reply.send(admit(&parts, visit.config)));
            }
        });
        Self { visits }
    }

    pub(crate) async fn run(&self, config: SandboxConfig) -> Admitted {
        let (reply, admitted) = oneshot::channel();
        let gone = || EngineError::Vanished("the reception".to_owned());
        self.visits.send(Visit { config, reply }).map_err(|_| gone())?;
        admitted.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn admit<W: World>(parts: &Arc<Parts<W>>, config: SandboxConfig) -> Admitted {
    let entries = parts.views.entries();
    match entries.values().find(|entry| entry.pod.sandbox.config.name == config.name) {
        Some(held) => admit_again(held, &config),
        None => admit_new(parts, config),
    }
}

fn admit_again(held: &Entry, config: &SandboxConfig) -> Admitted {
    let id = held.pod.sandbox.id.clone();
    let (reply, answer) = oneshot::channel();
    match join(&held.pod, config)? {
        Some(wait) => {
            // It may become ready before the task reads this: the command waits on the phase, not on the moment.
            let message = Message::Join { wait, reply };
            held.mailbox
                .send(Box::new(message))
                .map_err(|_| EngineError::Vanished(format!("sandbox {id}")))?;
        }
        None => drop(reply.send(Ok(None))),
    }
    Ok((id, answer))
}

fn admit_new<W: World>(parts: &Arc<Parts<W>>, config: SandboxConfig) -> Admitted {
    let sandbox = plan(parts, config)?;
    let id = sandbox.id.clone();
    let pod = Pod::new(sandbox);
    let mailbox = mpsc::unbounded_channel();
    parts.views.publish(&id, &Entry { pod: Arc::new(pod.clone()), mailbox: mailbox.0.clone() });
    let (reply, answer) = oneshot::channel();
    tokio::spawn(PodTask::new(parts.clone(), pod, mailbox).begin(reply));
    Ok((id, answer))
}

/// What the sandbox will hold: nothing is left to choose when it is carried out.
fn plan<W: World>(parts: &Arc<Parts<W>>, config: SandboxConfig) -> Result<Sandbox, EngineError> {
    let world = &parts.world;
    let id = SandboxId::from_random(world.random());
    let cgroup = world.pod_cgroup(&config.cgroup_parent, &id)?;
    let mut sandbox = Sandbox {
        id: id.clone(),
        config,
        created_at: world.now(),
        phase: SandboxPhase::Creating,
        plan: Plan::default(),
        level: None,
    };
    sandbox.level = level(parts, &sandbox);
    let network = world.plan(&sandbox)?;
    let pin = network.is_some().then(|| pod::plan::netns_pin(&id));
    let claims = [
        Claim::Files,
        Claim::Cgroup { path: cgroup },
        Claim::Shim,
        Claim::Namespaces { pin },
        Claim::Shm,
    ];
    let network = network.map(|intent| Claim::Network { intent });
    sandbox.plan = Plan(claims.into_iter().chain(network).collect());
    Ok(sandbox)
}

/// Taken for as long as the sandbox has a record: only one sandbox at a time is planned.
fn level<W: World>(parts: &Arc<Parts<W>>, sandbox: &Sandbox) -> Option<String> {
    parts.world.facts().selinux.as_ref()?;
    let entries = parts.views.entries();
    let taken = |level: &str| {
        entries.values().any(|entry| entry.pod.sandbox.level.as_deref() == Some(level))
    };
    Some(spec::selinux::free_level(&sandbox.id, taken))
}

/// What joining a sandbox of the same name means.
fn join(held: &PodView, asked: &SandboxConfig) -> Result<Option<Wait>, EngineError> {
    let Sandbox { id, config, phase, .. } = &*held.sandbox;
    if let Some(field) = config.difference(asked) {
        return Err(EngineError::SandboxDiffers { id: id.clone(), field });
    }
    match phase {
        SandboxPhase::Creating => Ok(Some(Wait::Ready)),
        SandboxPhase::Ready(_) => Ok(None),
        SandboxPhase::Stopping | SandboxPhase::NotReady | SandboxPhase::Removing => {
            Err(EngineError::SandboxOver(id.clone()))
        }
    }
}
