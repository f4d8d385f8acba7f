//! What calls have beside configurations.

use std::time::Duration;

use cri_proto::cri;

use super::container::words;
use super::{At, Invalid, known, not_empty};

/// A program and its arguments.
pub(crate) fn command(at: &At<'_>, wire: &[String]) -> Result<Vec<String>, Invalid> {
    not_empty(at, wire.first().map_or("", String::as_str))?;
    words(at, wire)
}

/// `None` is 0, whose meaning differs from call to call.
pub(crate) fn seconds(at: &At<'_>, value: i64) -> Result<Option<Duration>, Invalid> {
    let seconds = u64::try_from(value).map_err(|_| at.invalid(format!("{value} is negative")))?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

pub(crate) fn sandbox_state(value: i32) -> Result<cri::PodSandboxState, Invalid> {
    known(&At::root("filter.state"), value)
}

pub(crate) fn container_state(value: i32) -> Result<cri::ContainerState, Invalid> {
    known(&At::root("filter.state"), value)
}
