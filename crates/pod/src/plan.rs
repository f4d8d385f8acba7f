//! Claims: what a sandbox or a container holds of the node and what outlives the daemon on purpose. A claim is data whose
//! name follows from an id, so any later process can find and release it with no memory of the one that made it.

use names::SandboxId;
use serde::{Deserialize, Serialize};

/// One thing held by the kernel, the disk or a network plugin on behalf of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// The sandbox's directory of files: hostname, hosts, resolv.conf, the shim's socket and exit file.
    Files,
    /// The pod's cgroup in every hierarchy: the path below their roots.
    Cgroup {
        /// For example `/kubepods/burstable/pod1/ferropod-<id>`.
        path: String,
    },
    /// The shim process.
    Shim,
    /// The pod's own namespaces, held by the shim; the network one is pinned under this name.
    Namespaces {
        /// The file below `/run/netns`, when the pod has a network namespace of its own.
        pin: Option<String>,
    },
    /// The tmpfs behind /dev/shm.
    Shm,
    /// Addresses, links, routes, host ports: in the words of the network room.
    Network {
        /// Enough to undo it after a restart.
        intent: String,
    },
}

impl Claim {
    /// The claim's name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Cgroup { .. } => "cgroup",
            Self::Shim => "shim",
            Self::Namespaces { .. } => "namespaces",
            Self::Shm => "shm",
            Self::Network { .. } => "network",
        }
    }
}

/// What a sandbox will hold, in the order of making. Undoing it is a fold in another fixed order: see [`Plan::undo`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan(pub Vec<Claim>);

impl Plan {
    /// The order of release. The network goes first, while its namespace is there; the shim ends before its cgroup, and its files go
    /// last, because the exit file is read until then.
    pub fn undo(&self) -> Vec<&Claim> {
        let mut order: Vec<&Claim> = self.0.iter().collect();
        order.sort_by_key(|claim| match claim {
            Claim::Network { .. } => 0,
            Claim::Namespaces { .. } => 1,
            Claim::Shim => 2,
            Claim::Shm => 3,
            Claim::Cgroup { .. } => 4,
            Claim::Files => 5,
        });
        order
    }

    /// The network claim's intent.
    pub fn network(&self) -> Option<&str> {
        self.0.iter().find_map(|claim| match claim {
            Claim::Network { intent } => Some(intent.as_str()),
            Claim::Files
            | Claim::Cgroup { .. }
            | Claim::Shim
            | Claim::Namespaces { .. }
            | Claim::Shm => None,
        })
    }

    /// The pod cgroup's path below the hierarchies' roots.
    pub fn cgroup(&self) -> Option<&str> {
        self.0.iter().find_map(|claim| match claim {
            Claim::Cgroup { path } => Some(path.as_str()),
            Claim::Files
            | Claim::Network { .. }
            | Claim::Shim
            | Claim::Namespaces { .. }
            | Claim::Shm => None,
        })
    }
}

/// The name under `/run/netns` of a sandbox's network namespace.
pub fn netns_pin(id: &SandboxId) -> String {
    format!("ferropod-{id}")
}
