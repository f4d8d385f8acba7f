//! DECIDE: what a pod is, what may happen to it, and what must then be true.
//!
//! A [`Pod`] is a sandbox with its containers: the unit of serial work. [`step`](step::step) is a pure and total function from a
//! pod and an [`Input`] to the next pod, the [`Effect`]s that must follow, the facts to tell watchers and the callers whose
//! wait is over; or a [`Refusal`]. It knows no clock (time is passed in), no I/O, no async and no wire type, so every pair of
//! phase and input can be tested.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what the client asked for, in our own words |
//! | [`plan`] | claims: what a sandbox or a container holds of the node, as data |
//! | [`sandbox`], [`container`] | the records: phases that carry exactly what exists in them |
//! | [`step`] | the two state machines |
//! | [`refusal`] | why not |
//!
//! # Decisions
//! * The domain's configuration types live here and `spec` reads them: both rooms decide, neither acts.
//! * `Ending` is the short phase between the main process's exit and the moment when its cgroup is empty and the OOM verdict is read.
//!   It is never written: the shim's exit file holds the same fact, and recovery starts again from there.
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod config;
pub mod container;
pub mod plan;
pub mod refusal;
pub mod sandbox;
pub mod step;

use std::collections::BTreeMap;
use std::sync::Arc;

use names::ContainerId;
use serde::{Deserialize, Serialize};

pub use container::{Container, ContainerPhase, Exit, User, VolumeImage};
pub use plan::{Claim, Plan};
pub use refusal::Refusal;
pub use sandbox::{Ready, Sandbox, SandboxPhase};
pub use step::{Command, Effect, Event, Input, Outcome, Step, Told};

/// Nanoseconds since the epoch, of the wall clock.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Time(pub i64);

/// A sandbox with its containers. Cheap to clone: every part is shared until it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The sandbox's record.
    pub sandbox: Arc<Sandbox>,
    /// The containers' records.
    pub containers: BTreeMap<ContainerId, Arc<Container>>,
}

impl Pod {
    /// A pod whose sandbox has been planned and nothing else.
    pub fn new(sandbox: Sandbox) -> Self {
        Self { sandbox: Arc::new(sandbox), containers: BTreeMap::new() }
    }

    /// The containers that a client may see: those whose creation is done.
    pub fn visible(&self) -> impl Iterator<Item = &Arc<Container>> {
        self.containers.values().filter(|c| c.phase.is_visible())
    }
}
