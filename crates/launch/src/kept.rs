//! What a specification asks for its processes, in the words of the kernel: for the last steps of the container's own, and kept in
//! the bundle for further ones.

use std::fs;
use std::path::Path;

use libcontainer::capabilities::CapabilityExt;
use libcontainer::oci_spec::runtime::{Capabilities, PosixRlimit, PosixRlimitType, Process, Spec};
use wire::v1::{ExecJob, Filter, IdMap, Kept, Rlimit};

use crate::idmap::Ids;
use crate::seccomp;
use process::failure::{At, Failure};

const STAGE: &str = "exec";

/// Of a process as it is resolved, with the filter of its container.
pub(crate) fn of(process: &Process, filter: Option<Filter>, ids: Option<Ids>) -> Kept {
    let user = process.user();
    let caps = process.capabilities().as_ref();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Kept {
        cwd: process.cwd().display().to_string(),
        env: process.env().clone().unwrap_or_default(),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        bounding: bits(caps.and_then(|caps| caps.bounding().as_ref())),
        effective: bits(caps.and_then(|caps| caps.effective().as_ref())),
        permitted: bits(caps.and_then(|caps| caps.permitted().as_ref())),
        ambient: bits(caps.and_then(|caps| caps.ambient().as_ref())),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: process.rlimits().iter().flatten().map(rlimit).collect(),
        oom_score_adj: process.oom_score_adj().unwrap_or(0),
        apparmor_profile: text(process.apparmor_profile()),
        selinux_label: text(process.selinux_label()),
        filter,
        user: ids.map(IdMap::from),
    }
}

/// What a container's creation has kept; of one that an older launch has made, what its specification says.
pub(crate) fn for_exec(job: &ExecJob) -> Result<Kept, Failure> {
    match process::kept::read(&job.bundle)? {
        Some(kept) => Ok(kept),
        None => from_specification(job),
    }
}

fn from_specification(job: &ExecJob) -> Result<Kept, Failure> {
    let path = Path::new(&job.bundle).join("config.json");
    let doing = || format!("reading {}", path.display());
    let text = fs::read(&path).at(STAGE, doing)?;
    let spec: Spec = serde_json::from_slice(&text).at(STAGE, doing)?;
    let process = spec.process().as_ref().ok_or_else(|| Failure::invalid(STAGE, "no process"))?;
    Ok(of(process, seccomp::filter_of(&spec, &job.seccomp_cache)?, Ids::of(&spec)?))
}

fn bits(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().fold(0, |all, capability| all | capability.to_cap().bitmask())
}

fn rlimit(limit: &PosixRlimit) -> Rlimit {
    Rlimit { resource: number(limit.typ()), soft: limit.soft(), hard: limit.hard() }
}

/// The kernel's, from `asm-generic/resource.h`.
fn number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}
