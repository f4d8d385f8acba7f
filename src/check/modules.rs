//! The kernel's security modules: what they can do for containers.

use super::Finding;
use crate::config::Config;

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    std::iter::once(apparmor(config)).chain(selinux(config)).collect()
}

/// A kernel without it is no fault of the node's.
fn apparmor(config: &Config) -> Finding {
    const SUBJECT: &str = "AppArmor";
    if !host::apparmor::enabled() {
        let fact = "not in this kernel: containers that name a profile are refused";
        return Finding::good(SUBJECT, fact);
    }
    let site = config.runtime.apparmor_profile.as_str();
    let ours = host::apparmor::DEFAULT;
    let name = if site.is_empty() { ours } else { site };
    match host::apparmor::is_loaded(name) {
        Err(error) => Finding::weak(
            SUBJECT,
            format!("profiles cannot be read: {}", engine::record::chain(&error)),
            "mount securityfs at /sys/kernel/security",
        ),
        Ok(true) => Finding::good(SUBJECT, format!("{name} is loaded")),
        Ok(false) if !site.is_empty() => Finding::weak(
            SUBJECT,
            format!("{name} is not loaded: containers run without a profile"),
            "load it by apparmor_parser, or correct runtime.apparmor_profile",
        ),
        Ok(false) if host::apparmor::parser().is_none() => Finding::weak(
            SUBJECT,
            "no apparmor_parser to load the default profile with: containers run without one",
            "install the package apparmor",
        ),
        Ok(false) => Finding::good(SUBJECT, format!("{ours} is loaded when the daemon starts")),
    }
}

/// Nothing is said where there is none.
fn selinux(config: &Config) -> Option<Finding> {
    const SUBJECT: &str = "SELinux";
    if !host::selinux::enabled() {
        return None;
    }
    let remedy = "install the policy's package for containers (container-selinux)";
    Some(match host::selinux::container_contexts() {
        _ if !config.runtime.selinux => {
            Finding::weak(SUBJECT, "containers are not labelled", "set runtime.selinux")
        }
        Ok(Some(found)) => Finding::good(SUBJECT, format!("containers are {}", found.process)),
        Ok(None) => Finding::weak(SUBJECT, "the policy has no labels for containers", remedy),
        Err(error) => Finding::weak(SUBJECT, engine::record::chain(&error), remedy),
    })
}
