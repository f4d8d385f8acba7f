//! The published state: immutable, swapped whole. A reader takes what there is and waits for nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use names::SandboxId;
use pod::{Container, Pod, Sandbox};
use tokio::sync::mpsc;

use crate::error::EngineError;
use crate::message::Message;

/// A pod as it stood when it was last published.
pub type PodView = Arc<Pod>;

/// One pod's place in the index.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) pod: PodView,
    pub(crate) mailbox: mpsc::UnboundedSender<Box<Message>>,
}

/// All pods.
#[derive(Debug, Default)]
pub struct Views {
    index: ArcSwap<BTreeMap<SandboxId, Entry>>,
}

impl Views {
    pub(crate) fn publish(&self, id: &SandboxId, entry: &Entry) {
        self.index.rcu(|index| {
            let mut next = BTreeMap::clone(index);
            next.insert(id.clone(), entry.clone());
            next
        });
    }

    pub(crate) fn withdraw(&self, id: &SandboxId) {
        self.index.rcu(|index| {
            let mut next = BTreeMap::clone(index);
            next.remove(id);
            next
        });
    }

    pub(crate) fn entries(&self) -> Arc<BTreeMap<SandboxId, Entry>> {
        self.index.load_full()
    }

    /// The pods that clients may see.
    pub fn pods(&self) -> Vec<PodView> {
        let index = self.index.load();
        index.values().filter(|e| e.pod.sandbox.is_visible()).map(|e| e.pod.clone()).collect()
    }

    /// The pod whose id begins so.
    ///
    /// # Errors
    /// None has such an id, or several.
    pub fn pod(&self, prefix: &str) -> Result<PodView, EngineError> {
        Ok(self.entry(prefix)?.pod)
    }

    pub(crate) fn entry(&self, prefix: &str) -> Result<Entry, EngineError> {
        let index = self.index.load();
        let mut found = index
            .iter()
            .filter(|(id, entry)| id.as_str().starts_with(prefix) && entry.pod.sandbox.is_visible())
            .map(|(_, entry)| entry.clone());
        one(prefix, "sandbox", &mut found)
    }

    /// The container whose id begins so, and its pod.
    ///
    /// # Errors
    /// None has such an id, or several.
    pub fn container(&self, prefix: &str) -> Result<(PodView, Arc<Container>), EngineError> {
        self.container_entry(prefix).map(|(entry, container)| (entry.pod, container))
    }

    pub(crate) fn container_entry(
        &self,
        prefix: &str,
    ) -> Result<(Entry, Arc<Container>), EngineError> {
        let index = self.index.load();
        let mut found = index.values().flat_map(|entry| {
            entry
                .pod
                .visible()
                .filter(|container| container.id.as_str().starts_with(prefix))
                .map(|container| (entry.clone(), container.clone()))
        });
        one(prefix, "container", &mut found)
    }

    /// Every sandbox and container with a record, visible or not: what a sweep must leave alone.
    pub(crate) fn everything(&self) -> (Vec<Arc<Sandbox>>, Vec<Arc<Container>>) {
        let index = self.index.load();
        let sandboxes = index.values().map(|entry| entry.pod.sandbox.clone()).collect();
        let containers =
            index.values().flat_map(|entry| entry.pod.containers.values().cloned()).collect();
        (sandboxes, containers)
    }
}

fn one<T>(
    prefix: &str,
    what: &'static str,
    found: &mut impl Iterator<Item = T>,
) -> Result<T, EngineError> {
    if prefix.is_empty() {
        return Err(EngineError::EmptyId(what));
    }
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(EngineError::Ambiguous(what, prefix.to_owned())),
        (None, _) => Err(EngineError::NotFound(what, prefix.to_owned())),
    }
}
