//! Why there is no such container.

use names::Kind;

/// A field that cannot be carried out; the message names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Neither the request nor the image says what to run.
    #[error("config.command: neither the request nor the image {0:?} names a command")]
    NoCommand(String),
    /// A field with a value that cannot be.
    #[error("{field}: {reason}")]
    Field {
        /// The field's path.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel or the request cannot make a mount read-only all the way down. The kubelet looks for the prefix.
    #[error("RROUnsupported: {0}")]
    RecursiveReadOnly(String),
}

impl BuildError {
    /// What kind of error this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoCommand(_) | Self::Field { .. } => Kind::Invalid,
            Self::RecursiveReadOnly(_) => Kind::Unsupported,
        }
    }
}
