//! The sandbox's record and its machine.
//!
//! ```text
//!            Established              Stop, ShimGone            TornDown
//! Creating ---------------> Ready --------------------> Stopping --------> NotReady
//!    |                                                     ^  (claims left)    |
//!    | EstablishFailed: undone, forgotten                  +------ Remove -----+--> Removing --> forgotten
//! ```
//! `Creating` is invisible, so undoing it breaks no promise.

use std::net::IpAddr;

use names::SandboxId;
use serde::{Deserialize, Serialize};

use crate::config::SandboxConfig;
use crate::{Plan, Time};

/// What is promised about one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// What was asked for.
    pub config: SandboxConfig,
    /// When `RunPodSandbox` was accepted.
    pub created_at: Time,
    /// Where its life stands.
    pub phase: SandboxPhase,
    /// What it holds until it is stopped.
    pub plan: Plan,
    /// The SELinux level that sets it apart, where the node has SELinux and the client named none.
    #[serde(default)]
    pub level: Option<String>,
}

/// Where a sandbox's life stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxPhase {
    /// Its claims are being established; nobody has been told of it.
    Creating,
    /// All claims hold.
    Ready(Ready),
    /// Its containers are being ended and its claims released.
    Stopping,
    /// It holds nothing but its record and its containers' files.
    NotReady,
    /// What is left is being removed.
    Removing,
}

/// What a ready sandbox has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its addresses, the primary one first; none with the host's network.
    pub addresses: Vec<IpAddr>,
    /// The shim's process id.
    pub shim_pid: i32,
    /// The shim's start time, which tells it from a later process of that id.
    pub shim_start: u64,
    /// The built-in init of a shared PID namespace; 0 without one.
    pub init_pid: i32,
}

impl Sandbox {
    /// Whether clients may see it.
    pub fn is_visible(&self) -> bool {
        match self.phase {
            SandboxPhase::Creating => false,
            SandboxPhase::Ready(_)
            | SandboxPhase::Stopping
            | SandboxPhase::NotReady
            | SandboxPhase::Removing => true,
        }
    }

    /// What it has while it is ready.
    pub fn ready(&self) -> Option<&Ready> {
        match &self.phase {
            SandboxPhase::Ready(ready) => Some(ready),
            SandboxPhase::Creating
            | SandboxPhase::Stopping
            | SandboxPhase::NotReady
            | SandboxPhase::Removing => None,
        }
    }
}
