//! Why a job failed: the stage, the cause with its path, and what kind of failure it is.
//!
//! This is the word of the wire (`Failure`), so one type serves a whole program: it makes one thing and ends.

use std::error::Error;
use std::fmt;

pub use wire::v1::failure::Kind;

/// A job's failure.
#[derive(Debug)]
pub struct Failure {
    /// Where.
    pub stage: &'static str,
    /// What kind of failure it is.
    pub kind: Kind,
    /// What was being done, and what the kernel said.
    pub message: String,
}

impl Failure {
    /// A failure at a stage.
    pub fn new(stage: &'static str, kind: Kind, message: impl Into<String>) -> Self {
        Self { stage, kind, message: message.into() }
    }

    /// The request is wrong.
    pub fn invalid(stage: &'static str, message: impl Into<String>) -> Self {
        Self::new(stage, Kind::Invalid, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage, self.message)
    }
}

impl Error for Failure {}

/// Says at which stage, and in doing what, a step failed.
pub trait At<T> {
    /// Names the stage, and what was being done.
    fn at(self, stage: &'static str, doing: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Error> At<T> for Result<T, E> {
    fn at(self, stage: &'static str, doing: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(stage, Kind::Internal, format!("{}: {}", doing(), chain(&e))))
    }
}

/// An error and its causes on one line, none told twice.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_tells_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(chain(&error), "outer: inner");
        assert_eq!(
            Err::<(), _>(error).at("x", || "doing".into()).unwrap_err().to_string(),
            "x: doing: outer: inner"
        );
    }
}
