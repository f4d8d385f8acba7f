//! The node: where the daemon stands, what its configuration points to, what stands beside it.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::{Finding, Verdict, handlers};
use crate::assemble;
use crate::config::Config;
use crate::serve::place;

const ROOM: u64 = 2 << 30;
const PROGRAMS: [&str; 3] = ["ferropod-shim", "ferropod-launch", "ferropod-enter"];

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = vec![mount_namespace(), programs(config), disk(config), state(config)];
    findings.push(user_namespaces(config));
    findings.extend(handlers::findings(config));
    findings.extend(vendors_devices(config));
    findings.extend(network(config));
    findings
}

fn mount_namespace() -> Finding {
    match place::in_init_mount_namespace() {
        Ok(()) => Finding::good("mount namespace", "PID 1's"),
        Err(_) => Finding::bad(
            "mount namespace",
            "not PID 1's: pins of network namespaces and Bidirectional mounts would not reach the host",
            "take PrivateTmp, ProtectSystem and the like out of the unit, or use nsenter --mount=/proc/1/ns/mnt",
        ),
    }
}

fn programs(config: &Config) -> Finding {
    let Some(dir) = config.programs() else {
        return Finding::bad(
            "programs",
            "this program's directory is unknown",
            "set runtime.programs",
        );
    };
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|name| !dir.join(name).is_file()).collect();
    if missing.is_empty() {
        return Finding::good("programs", format!("in {}", dir.display()));
    }
    let fact = format!("{} not in {}", missing.join(" and "), dir.display());
    Finding::bad("programs", fact, "install all four together, or set runtime.programs")
}

/// Most nodes have none, and nothing to hear of it.
fn vendors_devices(config: &Config) -> Option<Finding> {
    const SUBJECT: &str = "CDI devices";
    let registry = assemble::cdi::registry(&config.runtime.cdi_spec_dirs);
    let names: Vec<&str> = registry.names().collect();
    let fact = match names.len() {
        0 => "none".to_owned(),
        1..=8 => names.join(", "),
        many => format!("{many}"),
    };
    let wrong: Vec<String> = registry.not_understood().collect();
    if !wrong.is_empty() {
        let fact = format!("{fact}; not understood: {}", wrong.join("; "));
        let remedy = "have the vendor's tool write the file again, or remove it";
        return Some(Finding::weak(SUBJECT, fact, remedy));
    }
    let gone = registry.programs().into_iter().filter(|(program, _)| !Path::new(program).is_file());
    let gone: Vec<String> =
        gone.map(|(program, file)| format!("{program} of {}", file.display())).collect();
    if !gone.is_empty() {
        let fact = format!("{fact}; hooks that are not there: {}", gone.join(", "));
        let remedy = "install the vendor's tools, or have the file written again";
        return Some(Finding::weak(SUBJECT, fact, remedy));
    }
    (!names.is_empty()).then(|| Finding::good(SUBJECT, fact))
}

fn user_namespaces(config: &Config) -> Finding {
    match host::idmap::try_in(&nearest(&config.root)) {
        Ok(()) => Finding::good("user namespaces", "work for pods (hostUsers: false)"),
        Err(error) => Finding::weak(
            "user namespaces",
            format!("none for pods (hostUsers: false): {}", engine::record::chain(&error)),
            "boot Linux 5.19 or newer, and put root on ext4, xfs, btrfs or (6.3) tmpfs",
        ),
    }
}

fn disk(config: &Config) -> Finding {
    let there = nearest(&config.root);
    let Ok(room) = statvfs(&there) else {
        let fact = format!("{} cannot be asked", there.display());
        return Finding::bad("disk", fact, "set root to a directory on a local disk");
    };
    let free = room.blocks_available().saturating_mul(room.fragment_size());
    let fact = format!("{} MiB free for {}", free >> 20, config.root.display());
    if free >= ROOM {
        return Finding::good("disk", fact);
    }
    Finding::weak("disk", fact, "images and containers need room: 2 GiB at the least")
}

/// What a reboot ends should end with it, and be fast.
fn state(config: &Config) -> Finding {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};
    let there = nearest(&config.state);
    let fact = format!("{} on {}", config.state.display(), there.display());
    match statfs(&there) {
        Ok(what) if what.filesystem_type() == TMPFS_MAGIC => Finding::good("state", fact),
        _ => Finding::weak(
            "state",
            format!("{fact}, which is no tmpfs: each pod waits for the disk"),
            "set state to a directory below /run",
        ),
    }
}

/// The network crate knows what either network needs.
pub(super) fn network(config: &Config) -> Vec<Finding> {
    match assemble::network_config(config) {
        Ok(config) => network::check(&config).into_iter().map(Finding::from).collect(),
        Err(error) => {
            let remedy = "correct the network's part of the configuration";
            vec![Finding::bad("network", format!("{error:#}"), remedy)]
        }
    }
}

impl From<network::Finding> for Finding {
    fn from(found: network::Finding) -> Self {
        let verdict = match found.verdict {
            network::Verdict::Good => Verdict::Good,
            network::Verdict::Warning => Verdict::Weak,
            network::Verdict::Bad => Verdict::Bad,
        };
        Self { subject: found.what, verdict, fact: found.detail, remedy: found.remedy }
    }
}

/// The directory itself or, where it is still to be made, the one above that exists.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("/")).to_owned()
}
