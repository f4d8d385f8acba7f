//! Kinds of error as gRPC codes: nothing else here speaks of codes. What an error says is logged here, once.
#![deny(clippy::wildcard_enum_match_arm)]
#![expect(clippy::disallowed_methods, reason = "this is the file that speaks codes")]

use std::any::Any;
use std::error::Error;

use names::Kind;
use tonic::{Code, Status};
use tracing::{debug, error, warn};

use super::parse::Invalid;

/// The answer for an error: its chain is the message.
pub(crate) fn of(kind: Kind, error: &dyn Error) -> Status {
    let message = prefixed(kind, chain(error));
    match kind {
        Kind::Internal => error!(error = %message, "call failed"),
        Kind::NotFound | Kind::Cancelled => debug!(error = %message, "call failed"),
        Kind::AlreadyExists
        | Kind::Invalid
        | Kind::Refused
        | Kind::TimedOut
        | Kind::Unavailable
        | Kind::Exhausted
        | Kind::Unsupported
        | Kind::RegistryUnavailable => warn!(error = %message, "call failed"),
    }
    Status::new(code(kind), message)
}

/// A request that cannot be understood.
pub(crate) fn invalid(error: &Invalid) -> Status {
    of(error.kind(), error)
}

/// What is not built answers so.
pub(crate) fn unsupported(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not supported"))
}

/// Of what does not run there is nothing to measure.
pub(crate) fn not_running(what: &dyn std::fmt::Display) -> Status {
    Status::new(Code::FailedPrecondition, format!("{what} does not run"))
}

/// What was there a moment ago and is not any more.
pub(crate) fn vanished(what: &dyn std::fmt::Display) -> Status {
    Status::not_found(format!("{what} has been removed meanwhile"))
}

/// More calls under way than the configuration allows.
pub(crate) fn too_many() -> Status {
    Status::new(Code::ResourceExhausted, "too many calls are under way")
}

/// The client's own deadline.
pub(crate) fn too_late() -> Status {
    Status::new(Code::DeadlineExceeded, "the deadline of the call is over")
}

/// A bug: the call is lost, the daemon is not.
#[expect(clippy::needless_pass_by_value, reason = "what tower-http calls")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> http::Response<tonic::body::Body> {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "of an unknown kind".to_owned());
    error!(panic = %text, "call panicked");
    Status::internal(format!("panic: {text}")).into_http()
}

fn code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::Invalid => Code::InvalidArgument,
        Kind::Refused => Code::FailedPrecondition,
        Kind::TimedOut => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::Unavailable => Code::Unavailable,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Unsupported => Code::Unimplemented,
        // The kubelet's client strips the code only when it is UNKNOWN, and the kubelet then looks at how the
        // message begins: a better code would lose the meaning.
        Kind::RegistryUnavailable => Code::Unknown,
        Kind::Internal => Code::Internal,
    }
}

fn prefixed(kind: Kind, message: String) -> String {
    match kind {
        Kind::RegistryUnavailable => format!("RegistryUnavailable: {message}"),
        Kind::NotFound
        | Kind::AlreadyExists
        | Kind::Invalid
        | Kind::Refused
        | Kind::TimedOut
        | Kind::Cancelled
        | Kind::Unavailable
        | Kind::Exhausted
        | Kind::Unsupported
        | Kind::Internal => message,
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("read the manifest")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("connection refused")]
    struct Inner;

    #[test]
    fn a_registry_that_is_down_is_told_as_the_kubelet_reads_it() {
        let status = of(Kind::RegistryUnavailable, &Outer(Inner));
        assert_eq!(status.code(), Code::Unknown);
        let message = "RegistryUnavailable: read the manifest: connection refused";
        assert_eq!(status.message(), message);
    }

    #[test]
    fn what_is_not_there_is_not_found_with_its_chain() {
        let status = of(Kind::NotFound, &Outer(Inner));
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "read the manifest: connection refused");
    }

    #[test]
    fn a_panic_becomes_internal() {
        let response = panicked(Box::new("boom"));
        assert_eq!(response.headers()["grpc-status"], "13");
    }
}
