//! From a process with every capability to the one that was asked for.
//!
//! The order is forced by the kernel: bounding set and ids need capabilities; a filter without `no_new_privs` needs
//! `CAP_SYS_ADMIN`, so it is kept until the filter is loaded, and only capset, write and execve come after it.

use std::io;

use wire::v1::{Kept, Rlimit};

use crate::failure::{At, Failure};
use crate::labels::Labels;
use crate::raw::{self, Limit};

const STAGE: &str = "privileges";
const LAST_KNOWN: u64 = 63;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Who the program runs as, all that it may and may not.
#[derive(Debug, Clone)]
pub struct Privileges {
    wanted: Kept,
    labels: Labels,
}

// === impl Privileges ===

impl Privileges {
    /// What a process is to have. To be called while /proc is the host's.
    pub fn of(wanted: Kept) -> Result<Self, Failure> {
        let labels = Labels::of(&wanted)?;
        Ok(Self { wanted, labels })
    }

    /// Becomes it. Afterwards only execve is left to do.
    pub fn assume(&self) -> Result<(), Failure> {
        // Keys of the daemon's session are nothing for a container, nor are those of another.
        raw::new_session_keyring().at(STAGE, || "taking a new session keyring".into())?;
        for limit in &self.wanted.rlimits {
            set_limit(limit)?;
        }
        self.bound().at(STAGE, || "bounding capabilities".into())?;
        self.become_user()?;
        if self.wanted.no_new_privileges {
            raw::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
                .at(STAGE, || "setting no_new_privs".into())?;
        }
        // With the last ids, for the kernel wants those who opened the file; before a filter that may forbid it.
        self.labels.hold_from_execve()?;
        self.keep_capabilities()
    }

    fn bound(&self) -> io::Result<()> {
        for cap in (0..=LAST_KNOWN).filter(|cap| self.wanted.bounding & (1 << cap) == 0) {
            match raw::prctl(libc::PR_CAPBSET_READ, cap, 0) {
                Ok(1) => raw::prctl(libc::PR_CAPBSET_DROP, cap, 0).map(drop)?,
                Ok(_) => {}
                // A number above the kernel's last capability.
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn become_user(&self) -> Result<(), Failure> {
        let who = || format!("becoming user {}:{}", self.wanted.uid, self.wanted.gid);
        raw::set_groups(&self.wanted.groups).at(STAGE, who)?;
        raw::prctl(libc::PR_SET_KEEPCAPS, 1, 0).at(STAGE, who)?;
        raw::set_ids(self.wanted.uid, self.wanted.gid).at(STAGE, who)?;
        raw::prctl(libc::PR_SET_KEEPCAPS, 0, 0).at(STAGE, who).map(drop)
    }

    fn keep_capabilities(&self) -> Result<(), Failure> {
        let doing = || "setting capabilities".to_owned();
        let inheritable = self.wanted.ambient;
        let admin = if self.wanted.filter.is_some() && !self.wanted.no_new_privileges {
            CAP_SYS_ADMIN
        } else {
            0
        };
        let held = raw::permitted().at(STAGE, doing)?;
        let permitted = (self.wanted.permitted | self.wanted.ambient) & held;
        let while_loading = (permitted | admin) & held;
        raw::set_capabilities(while_loading, while_loading, inheritable).at(STAGE, doing)?;
        raw::prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0).at(STAGE, doing)?;
        for cap in (0..=LAST_KNOWN).filter(|c| self.wanted.ambient & (1 << c) != 0) {
            raw::prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap).at(STAGE, doing)?;
        }
        if let Some(filter) = &self.wanted.filter {
            raw::load_seccomp(&filter.code, filter.flags)
                .at("seccomp", || "loading the filter".into())?;
        }
        raw::set_capabilities(self.wanted.effective & permitted, permitted, inheritable)
            .at(STAGE, doing)
    }
}

const PR_CAP_AMBIENT_RAISE: u64 = 2;
const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;

/// Raises hard limits to what a process is to have, where that is allowed: in a user namespace it is not any more.
pub fn raise_limits(limits: &[Rlimit]) {
    for limit in limits {
        if let Ok(Limit { soft, hard }) = raw::limit(limit.resource)
            && hard < limit.hard
        {
            // Refused: then it is clamped later.
            let _refused = raw::set_limit(limit.resource, Limit { soft, hard: limit.hard });
        }
    }
}

/// A limit above what this process may raise is clamped: the machine forbids it, and the daemon has said so once.
fn set_limit(limit: &Rlimit) -> Result<(), Failure> {
    let Rlimit { resource, soft, hard } = *limit;
    if raw::set_limit(resource, Limit { soft, hard }).is_ok() {
        return Ok(());
    }
    let now = raw::limit(resource).at(STAGE, || format!("reading limit {resource}"))?;
    let hard = hard.min(now.hard);
    raw::set_limit(resource, Limit { soft: soft.min(hard), hard })
        .at(STAGE, || format!("setting limit {resource}"))
}
