//! What is asked for a sandbox, what was promised to it, and what it got.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use names::{SandboxId, SandboxName};
use serde::{Deserialize, Serialize};

use crate::cni::CniIntent;

/// A transport that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The name that CNI and people use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of the host that leads to one of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// The transport.
    pub protocol: Protocol,
    /// The pod's port.
    pub container_port: u16,
    /// The host's port; 0 maps nothing.
    pub host_port: u16,
    /// The host's address that is listened on; none, 0.0.0.0 and :: mean every one of that family.
    pub host_ip: Option<IpAddr>,
}

/// The pod's resolver, as plugins that set it up want to know it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options of resolv.conf.
    pub options: Vec<String>,
}

/// What a sandbox asks of its network.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whose network.
    pub sandbox: SandboxId,
    /// The pod's name, for plugins and for messages.
    pub name: SandboxName,
    /// Ports of the host.
    pub ports: Vec<PortMapping>,
    /// The pod's resolver, if it has its own.
    pub dns: Option<Dns>,
    /// The pod's cgroup, for plugins that classify by it.
    pub cgroup_parent: String,
    /// The sandbox's annotations: bandwidth, and for plugins that ask for them.
    pub annotations: BTreeMap<String, String>,
}

/// All that is needed to let the network of a sandbox go, by any later process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Whose network.
    pub sandbox: SandboxId,
    /// The pod's name.
    pub name: SandboxName,
    /// How it is made.
    pub wiring: Wiring,
}

/// The two ways to a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wiring {
    /// The embedded network.
    Native(NativeIntent),
    /// CNI plugins.
    Cni(Box<CniIntent>),
}

impl Intent {
    /// The addresses, as far as they are known: those leased, or those of the CNI result.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match &self.wiring {
            Wiring::Native(native) => native.addresses.clone(),
            Wiring::Cni(cni) => cni.addresses(),
        }
    }
}

/// A lease in the embedded network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeIntent {
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The host's end of the pod's link.
    pub link: String,
    /// Ports of the host that lead here; none has host port 0.
    pub ports: Vec<PortMapping>,
}

/// A network namespace that someone else made.
#[derive(Debug, Clone)]
pub struct Netns {
    /// Where it is pinned.
    pub path: PathBuf,
    /// The namespace itself.
    pub fd: Arc<OwnedFd>,
}

/// A network that stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// The pod's addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// The intent with what came of it; to be kept in place of the one that went in.
    pub intent: Intent,
}

/// How a release went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// Something was let go.
    Now,
    /// There was nothing left.
    AlreadyGone,
}
