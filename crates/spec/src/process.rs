//! The process: what is run, with which environment, where.

use oci_spec::runtime::{Process, ProcessBuilder, UserBuilder};

use crate::request::{BuildError, Request};
use crate::{capabilities, limits, mounts, selinux};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SIGTERM: i32 = 15;
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

pub(crate) fn process(request: &Request<'_>) -> Result<Process, BuildError> {
    let container = request.container;
    let mut process = ProcessBuilder::default()
        .args(args(request)?)
        .env(env(request)?)
        .cwd(cwd(request)?)
        .terminal(container.stdio.tty)
        .user(UserBuilder::default().build()?)
        .capabilities(capabilities::capabilities(request)?)
        .oom_score_adj(limits::oom_score_adj(request)?)
        .build()?;
    process
        .set_rlimits(limits::rlimits(request)?)
        .set_no_new_privileges(container.security.no_new_privs.then_some(true))
        .set_apparmor_profile(request.apparmor.map(str::to_owned))
        .set_selinux_label(selinux::process(request)?);
    Ok(process)
}

/// The command replaces the entrypoint and drops the image's cmd; args replace the cmd.
fn args(request: &Request<'_>) -> Result<Vec<String>, BuildError> {
    let (container, image) = (request.container, request.image);
    let cmd = if container.args.is_empty() { &image.cmd } else { &container.args };
    let all = match container.command.as_slice() {
        [] => [image.entrypoint.as_slice(), cmd].concat(),
        command => [command, &container.args].concat(),
    };
    match all.first() {
        Some(first) if !first.is_empty() => without_nul("config.command", all),
        _ => Err(BuildError::NoCommand),
    }
}

fn without_nul(field: &str, list: Vec<String>) -> Result<Vec<String>, BuildError> {
    if list.iter().any(|s| s.contains('\0')) {
        return Err(BuildError::field(field, "contains a NUL byte"));
    }
    Ok(list)
}

/// Later wins; a name keeps the place where it first stood.
fn env(request: &Request<'_>) -> Result<Vec<String>, BuildError> {
    let hostname = match request.sandbox.hostname.as_str() {
        "" => &request.node.hostname,
        name => name,
    };
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if request.container.stdio.tty {
        env.push("TERM=xterm".to_owned());
    }
    for entry in &request.image.env {
        set(&mut env, entry.clone());
    }
    for (name, value) in &request.container.envs {
        set(&mut env, client_env(name, value)?);
    }
    for entry in &request.injected.env {
        set(&mut env, entry.clone());
    }
    without_nul("config.envs", env)
}

fn client_env(name: &str, value: &[u8]) -> Result<String, BuildError> {
    if name.is_empty() || name.contains('=') {
        return Err(BuildError::field("config.envs", format!("{name:?} is not a name")));
    }
    let value = str::from_utf8(value).map_err(|_| {
        BuildError::field("config.envs", format!("the value of {name} is not UTF-8"))
    })?;
    // A line break here becomes a line of its own wherever somebody writes a passwd entry from it.
    if name == "HOME" && value.contains(['\n', '\r']) {
        return Err(BuildError::field("config.envs", "HOME contains a line break"));
    }
    Ok(format!("{name}={value}"))
}

fn set(env: &mut Vec<String>, entry: String) {
    let name = |e: &str| e.split_once('=').map_or(e, |(n, _)| n).to_owned();
    let wanted = name(&entry);
    match env.iter_mut().find(|e| name(e) == wanted) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

fn cwd(request: &Request<'_>) -> Result<String, BuildError> {
    let (field, dir) = match request.container.working_dir.as_str() {
        "" => ("the image's working directory", request.image.working_dir.as_str()),
        dir => ("config.working_dir", dir),
    };
    if dir.is_empty() {
        return Ok("/".to_owned());
    }
    // An image may say `app` for `/app`.
    let absolute = if dir.starts_with('/') { dir.to_owned() } else { format!("/{dir}") };
    if absolute.contains('\0') {
        return Err(BuildError::field(field, "contains a NUL byte"));
    }
    Ok(mounts::clean(&absolute))
}

/// The working directory, and what the image calls volumes.
pub(crate) fn directories(request: &Request<'_>) -> Result<Vec<String>, BuildError> {
    let mut all = vec![cwd(request)?];
    for volume in &request.image.volumes {
        if volume.contains('\0') {
            return Err(BuildError::field(
                "the image's volume",
                format!("{volume:?} contains a NUL byte"),
            ));
        }
        all.push(mounts::clean(volume));
    }
    all.retain(|path| path != "/");
    Ok(all)
}

pub(crate) fn stop_signal(request: &Request<'_>) -> Result<i32, BuildError> {
    match (request.container.stop_signal, request.image.stop_signal.as_str()) {
        (Some(signal), _) => Ok(signal),
        (None, "") => Ok(SIGTERM),
        (None, text) => signal(text).ok_or_else(|| {
            BuildError::field("the image's stop signal", format!("{text:?} is no signal"))
        }),
    }
}

/// A signal as images write it.
fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        more => more.strip_prefix(sign)?.parse::<i32>().ok().filter(|n| (0..=30).contains(n)),
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return Some(SIGRTMIN + offset(rest, '+')?);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return Some(SIGRTMAX - offset(rest, '-')?);
    }
    let place = SIGNALS.iter().position(|s| *s == name)?;
    i32::try_from(place + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_understood_in_every_form() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGSYS", Some(31)),
            ("SIGWINCH", Some(28)),
            ("RTMIN", Some(34)),
            ("0", None),
            ("65", None),
            ("-1", None),
            ("SIGNOPE", None),
            ("RTMIN+99", None),
            ("SIG", None),
        ] {
            assert_eq!(signal(text), number, "{text}");
        }
    }
}
