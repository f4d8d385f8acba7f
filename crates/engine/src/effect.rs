//! What runs beside a pod's task: each effect does its work in the world and comes back as events.

mod container;
mod sandbox;

use std::sync::Arc;

use names::ContainerId;
use pod::step::{Effect, Event};
use pod::{Container, Pod};
use tokio::sync::watch;

use crate::parts::Parts;
use crate::record::Pending;
use crate::world::{CreateOrder, ShimEvents, World};

/// All that an effect may use.
pub(crate) struct Context<W: World> {
    pub(crate) parts: Arc<Parts<W>>,
    pub(crate) pod: Pod,
    pub(crate) shim: Option<Arc<W::Shim>>,
    pub(crate) pending: Option<Pending>,
    pub(crate) order: Option<Box<CreateOrder>>,
    pub(crate) watch: watch::Receiver<Arc<Pod>>,
    pub(crate) shim_events: ShimEvents,
}

impl<W: World> Context<W> {
    fn container(&self, id: &ContainerId) -> Option<&Arc<Container>> {
        self.pod.containers.get(id)
    }
}

/// An effect that has ended.
pub(crate) struct Finished<W: World> {
    pub(crate) effect: Effect,
    pub(crate) events: Vec<Event>,
    pub(crate) shim: Option<Arc<W::Shim>>,
}

/// Does it.
pub(crate) async fn run<W: World>(effect: Effect, context: Context<W>) -> Finished<W> {
    let mut spawned = None;
    let events = match &effect {
        Effect::Establish => {
            let (event, shim) = sandbox::establish(&context).await;
            spawned = shim;
            vec![event]
        }
        Effect::TearDown => vec![sandbox::tear_down(&context).await],
        Effect::RemovePod => vec![sandbox::remove(&context).await],
        Effect::CreateContainer(id) => vec![container::create(&context, id).await],
        Effect::StartContainer(id) => vec![container::start(&context, id).await],
        Effect::SignalContainer(id) => {
            container::signal(&context, id).await;
            Vec::new()
        }
        Effect::KillContainer(id) => {
            container::kill(&context, id).await;
            Vec::new()
        }
        Effect::ReapContainer(id) => vec![container::reap(&context, id).await],
        Effect::RemoveContainer(id) => vec![container::remove(&context, id).await],
        Effect::UpdateContainer(id, resources) => {
            vec![container::update(&context, id, resources).await]
        }
    };
    Finished { effect, events, shim: spawned }
}

/// The container an effect is about.
pub(crate) fn subject(effect: &Effect) -> Option<&ContainerId> {
    match effect {
        Effect::Establish | Effect::TearDown | Effect::RemovePod => None,
        Effect::CreateContainer(id)
        | Effect::StartContainer(id)
        | Effect::SignalContainer(id)
        | Effect::KillContainer(id)
        | Effect::ReapContainer(id)
        | Effect::RemoveContainer(id)
        | Effect::UpdateContainer(id, _) => Some(id),
    }
}

/// Whether the second has to wait for the first.
pub(crate) fn excludes(running: &Effect, next: &Effect) -> bool {
    let at_any_time =
        |effect: &Effect| matches!(effect, Effect::SignalContainer(_) | Effect::KillContainer(_));
    if at_any_time(running) || at_any_time(next) {
        return running == next;
    }
    match (subject(running), subject(next)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
