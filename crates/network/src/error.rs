//! What can go wrong, one type per operation.

use std::io;
use std::path::PathBuf;

use names::{Kind, SandboxId};

use crate::netlink::NetlinkError;
use crate::{ParseCidrError, PortMapping};

/// A configuration that no network can be made of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The prefix leaves no room for an id, or the kernel takes no such name.
    #[error("interface prefix {0:?} must have 1 to 5 letters, digits, '-' or '_'")]
    Prefix(String),
    /// nftables takes no such name.
    #[error("nftables table name {0:?} must have 1 to 64 letters, digits, '-' or '_'")]
    Table(String),
    /// There is nothing to take addresses from.
    #[error("no pod address range is configured")]
    NoRange,
}

impl StartError {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// Ranges that new pods cannot take addresses from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// One is no range.
    #[error("pod_cidr")]
    Parse(#[from] ParseCidrError),
    /// All are of a family that this kernel does not have.
    #[error("pod_cidr: this kernel has no ipv6")]
    Unusable,
}

impl RangeError {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// A network that cannot be promised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Every address is leased.
    #[error("no free {family} address in the pod address ranges, {leased} are leased")]
    NoAddress {
        /// IPv4 or IPv6.
        family: &'static str,
        /// How many are.
        leased: usize,
    },
    /// The port leads to another pod.
    #[error("host {protocol} port {port} is held by sandbox {}", holder.as_str())]
    PortHeld {
        /// The transport.
        protocol: &'static str,
        /// The port.
        port: u16,
        /// Who has it.
        holder: SandboxId,
    },
    /// The pod maps one port of the host twice.
    #[error("host {protocol} port {port} is mapped twice by sandbox {}", sandbox.as_str())]
    PortTwice {
        /// The transport.
        protocol: &'static str,
        /// The port.
        port: u16,
        /// Who asked.
        sandbox: SandboxId,
    },
    /// The host address is of a family that pods here do not have.
    #[error("host port {}: pods have no address of the family of host_ip {:?}", .0.host_port, .0.host_ip)]
    NoSuchFamily(PortMapping),
    /// CNI is asked for and its configuration is missing or broken.
    #[error("cni: {0}")]
    NoConfiguration(String),
    /// An annotation that means a number does not hold one.
    #[error("annotation {name}: {value:?} is not a bandwidth such as 10M")]
    Bandwidth {
        /// The annotation.
        name: &'static str,
        /// What it holds.
        value: String,
    },
}

impl PlanError {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoAddress { .. } => Kind::Exhausted,
            Self::PortHeld { .. } => Kind::Refused,
            Self::PortTwice { .. } | Self::NoSuchFamily(_) | Self::Bandwidth { .. } => {
                Kind::Invalid
            }
            Self::NoConfiguration(_) => Kind::Unavailable,
        }
    }
}

/// A request to the kernel that failed. Its text is the step.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct KernelError(#[from] pub(crate) NetlinkError);

/// A network that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The kernel refused a step.
    #[error("network of sandbox {}", sandbox.as_str())]
    Kernel {
        /// Whose.
        sandbox: SandboxId,
        /// The step and the reason.
        #[source]
        source: KernelError,
    },
    /// The namespace could not be entered.
    #[error("enter network namespace {}", path.display())]
    Enter {
        /// Where it is pinned.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What all pods share could not be made.
    #[error("prepare the node's network")]
    Base(#[source] BaseError),
    /// A plugin failed.
    #[error("cni network of sandbox {}", sandbox.as_str())]
    Plugin {
        /// Whose.
        sandbox: SandboxId,
        /// Which, and what it said.
        #[source]
        source: PluginError,
    },
    /// No thread could be had.
    #[error("thread for the network of a sandbox")]
    Thread(#[source] io::Error),
}

impl AttachError {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Plugin { source, .. } => source.kind(),
            Self::Kernel { .. } | Self::Enter { .. } | Self::Base(_) | Self::Thread(_) => {
                Kind::Internal
            }
        }
    }
}

/// What all pods share could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// A setting below /proc/sys.
    #[error("write {value} to {}", path.display())]
    Sysctl {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        value: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the rules or a route.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A network that could not be let go. It is to be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetachError {
    /// The kernel refused steps; the others were done.
    #[error("release the network of sandbox {}: {}", sandbox.as_str(), chain(errors))]
    Kernel {
        /// Whose.
        sandbox: SandboxId,
        /// What was refused.
        errors: Vec<KernelError>,
    },
    /// Plugins failed; the others were called.
    #[error("release the cni network of sandbox {}: {}", sandbox.as_str(), chain(errors))]
    Plugins {
        /// Whose.
        sandbox: SandboxId,
        /// Which, and what they said.
        errors: Vec<PluginError>,
    },
    /// No thread could be had.
    #[error("thread for the network of a sandbox")]
    Thread(#[source] io::Error),
}

impl DetachError {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Plugins { errors, .. } => {
                errors.first().map_or(Kind::Internal, PluginError::kind)
            }
            Self::Kernel { .. } | Self::Thread(_) => Kind::Internal,
        }
    }
}

/// A CNI plugin that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// It is in none of the directories.
    #[error("plugin {plugin:?} is in none of {searched:?}")]
    Missing {
        /// Its type.
        plugin: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// It could not be started or spoken to.
    #[error("run plugin {plugin} {command}")]
    Run {
        /// Its type.
        plugin: String,
        /// ADD, DEL ...
        command: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("plugin {plugin} {command} took longer than {seconds} s and was killed")]
    TimedOut {
        /// Its type.
        plugin: String,
        /// ADD, DEL ...
        command: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// It said no.
    #[error("plugin {plugin} {command}: {message}")]
    Failed {
        /// Its type.
        plugin: String,
        /// ADD, DEL ...
        command: &'static str,
        /// CNI's error code; 0 when it gave none.
        code: u64,
        /// What it said.
        message: String,
    },
    /// What it printed is no result.
    #[error("plugin {plugin} {command} printed no valid result: {reason}")]
    Result {
        /// Its type.
        plugin: String,
        /// ADD, DEL ...
        command: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl PluginError {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::TimedOut { .. } => Kind::TimedOut,
            // "try again later"
            Self::Failed { code: 11, .. } | Self::Missing { .. } => Kind::Unavailable,
            Self::Run { .. } | Self::Failed { .. } | Self::Result { .. } => Kind::Internal,
        }
    }
}

fn chain<E: std::error::Error>(errors: &[E]) -> String {
    errors.iter().map(|e| told(e)).collect::<Vec<_>>().join("; ")
}

/// An error with its causes.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
