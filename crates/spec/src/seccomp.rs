//! Which system calls a container may make.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use pod::config::SecurityProfile;

use crate::capabilities;
use crate::profile::{self, Test};
use crate::request::{BuildError, Request};

const LOCALHOST: &str = "config.linux.security_context.seccomp.localhost_ref";
const SITE: &str = "runtime.seccomp_profile";
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

pub(crate) fn seccomp(request: &Request<'_>) -> Result<Option<LinuxSeccomp>, BuildError> {
    let security = &request.container.security;
    if security.privileged {
        return Ok(None);
    }
    match &security.seccomp {
        None | Some(SecurityProfile::Unconfined) => Ok(None),
        Some(SecurityProfile::RuntimeDefault) => match &request.node.default_seccomp {
            Some(site) => read(site, || SITE.to_owned()).map(Some),
            None => runtime_default(request).map(Some),
        },
        Some(SecurityProfile::Localhost(path)) => localhost(request, path).map(Some),
    }
}

fn localhost(request: &Request<'_>, path: &str) -> Result<LinuxSeccomp, BuildError> {
    let text = request
        .localhost_profile
        .ok_or_else(|| BuildError::field(LOCALHOST, format!("{path} was not read")))?;
    read(text, || format!("{LOCALHOST}: {path}"))
}

fn read(text: &str, at: impl FnOnce() -> String) -> Result<LinuxSeccomp, BuildError> {
    serde_json::from_str(text).map_err(|source| BuildError::Profile { at: at(), source })
}

/// Whether the site's text is a profile.
pub fn check_site_profile(text: &str) -> Result<(), BuildError> {
    read(text, || SITE.to_owned()).map(drop)
}

fn runtime_default(request: &Request<'_>) -> Result<LinuxSeccomp, BuildError> {
    let held = capabilities::held(request)?;
    let mut rules = vec![rule(profile::ALLOWED, LinuxSeccompAction::ScmpActAllow, None, &[])?];
    for (names, tests) in profile::ALLOWED_IF {
        for test in *tests {
            rules.push(rule(names, LinuxSeccompAction::ScmpActAllow, None, &[*test])?);
        }
    }
    for (capability, names) in profile::ALLOWED_WITH {
        if held.contains(*capability) {
            rules.push(rule(names, LinuxSeccompAction::ScmpActAllow, None, &[])?);
        }
    }
    if !held.contains("SYS_ADMIN") {
        rules.push(rule(
            &["clone"],
            LinuxSeccompAction::ScmpActAllow,
            None,
            &[profile::NO_NEW_NAMESPACE],
        )?);
        // Its flags are in memory, where a filter cannot look; libc falls back to clone.
        rules.push(rule(&["clone3"], LinuxSeccompAction::ScmpActErrno, Some(ENOSYS), &[])?);
    }
    let mut profile = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .syscalls(rules)
        .build()?;
    profile.set_architectures(architectures());
    Ok(profile)
}

fn architectures() -> Option<Vec<Arch>> {
    match std::env::consts::ARCH {
        "x86_64" => Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]),
        "aarch64" => Some(vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]),
        _ => None,
    }
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    errno: Option<u32>,
    tests: &[Test],
) -> Result<LinuxSyscall, BuildError> {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut rule = LinuxSyscallBuilder::default().names(names).action(action).build()?;
    let args: Result<Vec<_>, _> = tests.iter().map(arg).collect();
    rule.set_errno_ret(errno).set_args(Some(args?).filter(|a| !a.is_empty()));
    Ok(rule)
}

fn arg(test: &Test) -> Result<LinuxSeccompArg, BuildError> {
    let compare = |index: usize, value: u64, op: LinuxSeccompOperator| {
        LinuxSeccompArgBuilder::default().index(index).value(value).op(op)
    };
    let argument = match *test {
        Test::Equals(index, value) => {
            compare(index, value, LinuxSeccompOperator::ScmpCmpEq).build()
        }
        Test::Below(index, value) => compare(index, value, LinuxSeccompOperator::ScmpCmpLt).build(),
        Test::NoneOf(index, mask) => {
            compare(index, mask, LinuxSeccompOperator::ScmpCmpMaskedEq).value_two(0_u64).build()
        }
    };
    Ok(argument?)
}
