//! What calls have beside configurations.

use std::time::Duration;

use cri_proto::cri;
use engine::world::Ends;

use super::container::words;
use super::{At, Invalid, known, not_empty};

/// No kernel executes more, with the usual limit of a stack.
const COMMAND_MAX: usize = 2 << 20;

/// A program and its arguments.
pub(crate) fn command(at: &At<'_>, wire: &[String]) -> Result<Vec<String>, Invalid> {
    not_empty(at, wire.first().map_or("", String::as_str))?;
    let bytes: usize = wire.iter().map(|word| word.len() + 1).sum();
    if bytes > COMMAND_MAX {
        return Err(
            at.invalid(format!("has {bytes} bytes, more than the {COMMAND_MAX} that may be"))
        );
    }
    words(at, wire)
}

/// Which ends of a process the client wants: at least one, and with a terminal there is no stderr.
pub(crate) fn ends(wanted: Ends) -> Result<Ends, Invalid> {
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return Err(At::root("stdin").invalid("one of stdin, stdout and stderr must be set"));
    }
    if wanted.tty && wanted.stderr {
        return Err(At::root("stderr").invalid("tty and stderr cannot both be true"));
    }
    Ok(wanted)
}

/// Ports of a pod.
pub(crate) fn forwarded(at: &At<'_>, wire: &[i32]) -> Result<Vec<u16>, Invalid> {
    let port = |(index, port): (usize, &i32)| {
        let known = u16::try_from(*port).ok().filter(|port| *port > 0);
        known.ok_or_else(|| at.item(index).invalid(format!("{port} is not a port")))
    };
    wire.iter().enumerate().map(port).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_no_kernel_takes_is_refused() {
        let words = |length| vec!["echo".to_owned(), "x".repeat(length)];
        command(&At::root("cmd"), &words(100_000)).unwrap();
        let error = command(&At::root("cmd"), &words(COMMAND_MAX)).unwrap_err().to_string();
        assert!(error.starts_with("cmd: has 2097158 bytes"), "{error}");
    }
}
