//! What goes wrong here, as it is told to the daemon.

use std::fmt::Display;

use wire::v1::Failure;
use wire::v1::failure::Kind;

/// A failure at a stage.
pub(crate) fn failure(kind: Kind, stage: &str, message: impl Display) -> Failure {
    Failure { stage: stage.to_owned(), message: message.to_string(), kind: kind.into() }
}

/// What the kernel refused.
pub(crate) trait At<T> {
    fn at(self, stage: &str, what: &str) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, nix::errno::Errno> {
    fn at(self, stage: &str, what: &str) -> Result<T, Failure> {
        self.map_err(|error| {
            failure(Kind::Internal, stage, format_args!("{what}: {}", error.desc()))
        })
    }
}

impl<T> At<T> for Result<T, wire::SocketError> {
    fn at(self, stage: &str, what: &str) -> Result<T, Failure> {
        self.map_err(|error| failure(Kind::Internal, stage, format_args!("{what}: {error}")))
    }
}
