//! Why a command is not carried out: a decision, not an error.

use names::{ContainerId, Kind, SandboxId};

/// The field that names a container to be looked into.
const TARGET: &str = "config.linux.security_context.namespace_options.target_id";

/// A command that does not fit the phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such container in this pod.
    #[error("container {0} does not exist")]
    NoContainer(ContainerId),
    /// Only a ready sandbox takes containers.
    #[error("sandbox {0} is not ready")]
    NotReady(SandboxId),
    /// The sandbox is on its way out.
    #[error("sandbox {0} is being stopped")]
    BeingStopped(SandboxId),
    /// The sandbox is on its way out.
    #[error("sandbox {0} is being removed")]
    BeingRemoved(SandboxId),
    /// Only a created container can be started.
    #[error("container {id} is {phase}, and only a created container can be started")]
    NotCreated {
        /// Which.
        id: ContainerId,
        /// Where it stands.
        phase: &'static str,
    },
    /// Only a running container can do this.
    #[error("container {id} is {phase}, not running")]
    NotRunning {
        /// Which.
        id: ContainerId,
        /// Where it stands.
        phase: &'static str,
    },
    /// Another container of the sandbox has this name and attempt.
    #[error("container {id} of this sandbox has the same name and attempt, and another {field}")]
    NameTaken {
        /// The holder.
        id: ContainerId,
        /// In what they differ.
        field: &'static str,
    },
    /// The name belongs to a container that is over.
    #[error("container {0} has the same name and attempt and has exited: remove it first")]
    NameOver(ContainerId),
    /// Ended first, removed then.
    #[error("sandbox {0} is still up")]
    SandboxUp(SandboxId),
    /// Ended first, removed then.
    #[error("container {0} is still up")]
    ContainerUp(ContainerId),
    /// The container whose PID namespace is to be joined is in another sandbox, or nowhere.
    #[error("{TARGET}: container {0} does not exist in this sandbox")]
    NoTarget(ContainerId),
    /// Its processes are to be seen, and there are none.
    #[error("{TARGET}: container {id} is {phase}, not running")]
    TargetNotRunning {
        /// Which.
        id: ContainerId,
        /// Where it stands.
        phase: &'static str,
    },
    /// A privileged container needs a privileged sandbox.
    #[error("config.linux.security_context.privileged: sandbox {0} is not privileged")]
    SandboxNotPrivileged(SandboxId),
    /// A container has no user namespace but its sandbox's.
    #[error(
        "config.linux.security_context.namespace_options.userns_options: differs from that of sandbox {0}"
    )]
    OtherUserNamespace(SandboxId),
    /// A volume has no ids but its sandbox's.
    #[error("config.mounts[{index}].uidMappings, gidMappings: differ from those of sandbox {id}")]
    OtherMappings {
        /// The sandbox.
        id: SandboxId,
        /// Which mount.
        index: usize,
    },
}

impl Refusal {
    /// What kind of error this is to the caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoContainer(_) | Self::NoTarget(_) => Kind::NotFound,
            Self::NameTaken { .. } => Kind::AlreadyExists,
            Self::SandboxNotPrivileged(_)
            | Self::OtherUserNamespace(_)
            | Self::OtherMappings { .. } => Kind::Invalid,
            Self::NotReady(_)
            | Self::BeingStopped(_)
            | Self::BeingRemoved(_)
            | Self::NotCreated { .. }
            | Self::NotRunning { .. }
            | Self::TargetNotRunning { .. }
            | Self::SandboxUp(_)
            | Self::ContainerUp(_)
            | Self::NameOver(_) => Kind::Refused,
        }
    }
}
