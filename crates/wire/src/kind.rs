//! The kinds of failure on the wire, and those that every room knows.

use names::Kind;

use crate::v1::failure;

impl From<failure::Kind> for Kind {
    fn from(kind: failure::Kind) -> Self {
        match kind {
            failure::Kind::Internal => Self::Internal,
            failure::Kind::Invalid => Self::Invalid,
            failure::Kind::NotFound => Self::NotFound,
            failure::Kind::Refused => Self::Refused,
            failure::Kind::TimedOut => Self::TimedOut,
            failure::Kind::Unsupported => Self::Unsupported,
        }
    }
}

impl From<Kind> for failure::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::NotFound => Self::NotFound,
            Kind::Invalid => Self::Invalid,
            Kind::Refused | Kind::AlreadyExists => Self::Refused,
            Kind::TimedOut => Self::TimedOut,
            Kind::Unsupported => Self::Unsupported,
            Kind::Cancelled
            | Kind::Unavailable
            | Kind::Exhausted
            | Kind::RegistryUnavailable
            | Kind::Internal => Self::Internal,
        }
    }
}
