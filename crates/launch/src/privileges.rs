//! From a process with every capability to the one that was asked for.
//!
//! The order is forced by the kernel: bounding set and ids need capabilities; a filter without `no_new_privs` needs
//! `CAP_SYS_ADMIN`, so it is kept until the filter is loaded, and only capset, write and execve come after it.

use std::io;

use libcontainer::capabilities::CapabilityExt;
use libcontainer::oci_spec::runtime::{
    Capability, LinuxCapabilities, PosixRlimit, PosixRlimitType, Process,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::failure::{At, Failure};
use crate::label::Labels;
use crate::raw;
use crate::seccomp::Program;

const STAGE: &str = "privileges";
const LAST_KNOWN: u64 = 63;

/// Who the program runs as, all that it may and may not.
#[derive(Debug, Clone)]
pub(crate) struct Privileges {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    bounding: u64,
    effective: u64,
    permitted: u64,
    ambient: u64,
    no_new_privs: bool,
    rlimits: Vec<PosixRlimit>,
    filter: Option<Program>,
    labels: Labels,
}

impl Privileges {
    /// What a specification's process asks for.
    pub(crate) fn of(process: &Process, filter: Option<Program>, labels: Labels) -> Self {
        let user = process.user();
        let none = LinuxCapabilities::default();
        let (caps, given) = match process.capabilities() {
            Some(caps) => (caps, true),
            None => (&none, false),
        };
        let set = |set: &Option<libcontainer::oci_spec::runtime::Capabilities>| {
            if given { set.iter().flatten().fold(0, |all, c| all | bit(*c)) } else { 0 }
        };
        Self {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            bounding: set(caps.bounding()),
            effective: set(caps.effective()),
            permitted: set(caps.permitted()),
            ambient: set(caps.ambient()),
            no_new_privs: process.no_new_privileges().unwrap_or(false),
            rlimits: process.rlimits().clone().unwrap_or_default(),
            filter,
            labels,
        }
    }

    /// Becomes it. Afterwards only execve is left to do.
    pub(crate) fn assume(&self) -> Result<(), Failure> {
        // Keys of the daemon's session are nothing for a container, nor are those of another.
        raw::new_session_keyring().at(STAGE, || "taking a new session keyring".into())?;
        for limit in &self.rlimits {
            set_limit(limit)?;
        }
        self.bound().at(STAGE, || "bounding capabilities".into())?;
        self.become_user()?;
        if self.no_new_privs {
            raw::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
                .at(STAGE, || "setting no_new_privs".into())?;
        }
        // With the last ids, for the kernel wants those who opened the file; before a filter that may forbid it.
        self.labels.hold_from_execve()?;
        self.keep_capabilities()
    }

    fn bound(&self) -> io::Result<()> {
        for cap in 0..=LAST_KNOWN {
            let wanted = self.bounding & (1 << cap) != 0;
            match raw::prctl(libc::PR_CAPBSET_READ, cap, 0) {
                Ok(1) if !wanted => raw::prctl(libc::PR_CAPBSET_DROP, cap, 0).map(drop)?,
                Ok(_) => {}
                // The first number above the kernel's last capability.
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn become_user(&self) -> Result<(), Failure> {
        let who = || format!("becoming user {}:{}", self.uid, self.gid);
        raw::set_groups(&self.groups).at(STAGE, who)?;
        raw::prctl(libc::PR_SET_KEEPCAPS, 1, 0).at(STAGE, who)?;
        raw::set_ids(self.uid, self.gid).at(STAGE, who)?;
        raw::prctl(libc::PR_SET_KEEPCAPS, 0, 0).at(STAGE, who).map(drop)
    }

    fn keep_capabilities(&self) -> Result<(), Failure> {
        let doing = || "setting capabilities".to_owned();
        let inheritable = self.ambient;
        let admin =
            if self.filter.is_some() && !self.no_new_privs { bit(Capability::SysAdmin) } else { 0 };
        let held = raw::permitted().at(STAGE, doing)?;
        let permitted = (self.permitted | self.ambient) & held;
        let while_loading = (permitted | admin) & held;
        raw::set_capabilities(while_loading, while_loading, inheritable).at(STAGE, doing)?;
        raw::prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0).at(STAGE, doing)?;
        for cap in (0..=LAST_KNOWN).filter(|c| self.ambient & (1 << c) != 0) {
            raw::prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap).at(STAGE, doing)?;
        }
        if let Some(filter) = &self.filter {
            raw::load_seccomp(&filter.code, filter.flags)
                .at("seccomp", || "loading the filter".into())?;
        }
        raw::set_capabilities(self.effective & permitted, permitted, inheritable).at(STAGE, doing)
    }
}

const PR_CAP_AMBIENT_RAISE: u64 = 2;
const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;

fn bit(capability: Capability) -> u64 {
    capability.to_cap().bitmask()
}

/// Raises hard limits to what a process is to have, where that is allowed: in a user namespace it is not any more.
pub(crate) fn raise_limits(process: &Process) {
    for limit in process.rlimits().iter().flatten() {
        let resource = resource(limit.typ());
        if let Ok((soft, hard)) = getrlimit(resource)
            && hard < limit.hard()
        {
            // Refused: then it is clamped later.
            let _refused = setrlimit(resource, soft, limit.hard());
        }
    }
}

/// A limit above what this process may raise is clamped: the machine forbids it, and the daemon has said so once.
fn set_limit(limit: &PosixRlimit) -> Result<(), Failure> {
    let resource = resource(limit.typ());
    if setrlimit(resource, limit.soft(), limit.hard()).is_ok() {
        return Ok(());
    }
    let (_, hard) = getrlimit(resource).at(STAGE, || format!("reading limit {:?}", limit.typ()))?;
    let clamped = limit.hard().min(hard);
    setrlimit(resource, limit.soft().min(clamped), clamped)
        .at(STAGE, || format!("setting limit {:?}", limit.typ()))
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}
