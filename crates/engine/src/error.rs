//! Why a call came to nothing.

use names::{Kind, SandboxId};
use pod::Refusal;
use pod::step::Fault;

/// Why a call came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The pod says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something acted and could not.
    #[error("{}", .0.message)]
    Failed(Fault),
    /// No such id.
    #[error("{0} {1:?} does not exist")]
    NotFound(&'static str, String),
    /// Several ids begin so.
    #[error("several {0} ids begin with {1:?}")]
    Ambiguous(&'static str, String),
    /// No id.
    #[error("{0} id is empty")]
    EmptyId(&'static str),
    /// The name is held by another configuration.
    #[error("sandbox {id} has the same metadata and another {field}")]
    SandboxDiffers {
        /// The holder.
        id: SandboxId,
        /// In what they differ.
        field: &'static str,
    },
    /// The name is held by a sandbox that has ended.
    #[error("sandbox {0} has the same metadata and is not ready: remove it first")]
    SandboxOver(SandboxId),
    /// A field that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The pod's task has ended meanwhile.
    #[error("{0} has been removed meanwhile")]
    Vanished(String),
}

impl EngineError {
    /// What kind of error this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused(refusal) => refusal.kind(),
            Self::Failed(fault) => fault.kind,
            Self::NotFound(..) | Self::Vanished(_) => Kind::NotFound,
            Self::Ambiguous(..) | Self::EmptyId(_) | Self::Invalid(_) => Kind::Invalid,
            Self::SandboxDiffers { .. } => Kind::AlreadyExists,
            Self::SandboxOver(_) => Kind::Refused,
        }
    }
}

impl From<Fault> for EngineError {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}
