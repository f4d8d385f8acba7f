//! Limits of a cgroup, all of them or none.
//!
//! Written through cgroups-rs' typed controllers. The files that a change touches are read before it, and written back
//! when a later step is refused.

mod limit;

use std::fs;
use std::path::PathBuf;

use cgroups_rs::fs as rs;
use names::Kind;
use pod::config::Resources;

use super::establish::Mounted;
use super::{CgroupPath, Cgroups, Layout, file, tree};
use crate::FsError;
use limit::Limit;

/// The limit that was refused; those before it have their old values again.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The kernel said no.
    #[error("set {limit} of the cgroup {path}")]
    Set {
        /// What was set.
        limit: String,
        /// The cgroup.
        path: String,
        /// What cgroups-rs says.
        #[source]
        source: rs::error::Error,
    },
    /// A file that the kernel or the node's cgroup version lacks.
    #[error(transparent)]
    File(FsError),
    /// Raw keys exist on cgroup v2 only.
    #[error("resources.unified[{0:?}]: not a file of cgroup v2 on this node")]
    NotUnified(String),
    /// Memory and swap together are less than memory alone.
    #[error(
        "resources.memory_swap_limit_in_bytes: {sum} is less than memory_limit_in_bytes {limit}"
    )]
    SwapBelow {
        /// Of memory.
        limit: i64,
        /// Of both.
        sum: i64,
    },
}

impl UpdateError {
    /// What kind of failure this is. The kernel's EINVAL is the client's.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Set { source, .. } => match limit::errno(source) {
                Some(libc::EINVAL | libc::ERANGE) => Kind::Invalid,
                Some(libc::EBUSY) => Kind::Refused,
                Some(libc::ENOENT) => Kind::NotFound,
                _ => Kind::Internal,
            },
            Self::File(error) => error.kind(),
            Self::NotUnified(_) | Self::SwapBelow { .. } => Kind::Invalid,
        }
    }
}

/// The content of a file before it was changed.
struct Saved {
    path: PathBuf,
    text: String,
}

impl Cgroups {
    /// Sets the limits that are given (0 and empty are not). On an error all have their old values. Blocks.
    pub fn update(&self, path: &CgroupPath, resources: &Resources) -> Result<(), UpdateError> {
        let limits = limit::all_of(resources, self.layout() == Layout::V2)?;
        if !limits.is_empty() {
            let cgroup = rs::Cgroup::load(Box::new(Mounted::of(self)), path.relative());
            let mut saved = Vec::new();
            for limit in &limits {
                self.save(path, limit, &mut saved);
                if let Err(error) = self.set(path, limit, &cgroup) {
                    put_back(&saved);
                    return Err(error);
                }
            }
        }
        if resources.oom_score_adj != 0 {
            self.set_oom_score_adj(path, resources.oom_score_adj);
        }
        Ok(())
    }

    fn save(&self, path: &CgroupPath, limit: &Limit, into: &mut Vec<Saved>) {
        let Some(dir) = self.controller_dir(limit.controller(), path) else { return };
        for file in limit.files() {
            let path = dir.join(file);
            if let Ok(text) = fs::read_to_string(&path) {
                into.push(Saved { path, text: text.trim().to_owned() });
            }
        }
    }

    fn set(
        &self,
        path: &CgroupPath,
        limit: &Limit,
        cgroup: &rs::Cgroup,
    ) -> Result<(), UpdateError> {
        match limit {
            Limit::Raw { key, value } => {
                let dir = self
                    .controller_dir("", path)
                    .ok_or_else(|| UpdateError::NotUnified(key.clone()))?;
                let path = dir.join(key);
                file::write(&path, value)
                    .map_err(|e| UpdateError::File(FsError::new("write", &path, e)))
            }
            limit => limit.write(cgroup).map_err(|source| UpdateError::Set {
                limit: limit.to_string(),
                path: path.as_str().to_owned(),
                source,
            }),
        }
    }

    /// Every process of the cgroup gets it. Lowering needs `CAP_SYS_RESOURCE`: where it is missing this is told and no more.
    fn set_oom_score_adj(&self, path: &CgroupPath, value: i64) {
        for pid in self.pids(path).unwrap_or_default() {
            let file = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
            match file::write(&file, &value.to_string()) {
                Ok(()) => {}
                Err(error)
                    if tree::is_gone(&error) || error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => tracing::warn!(pid, value, %error, "oom_score_adj not set"),
            }
        }
    }
}

/// Twice, because one limit may allow another only after it has been put back itself (memory and memory+swap, quota and
/// period).
fn put_back(saved: &[Saved]) {
    for _ in 0..2 {
        for Saved { path, text } in saved.iter().rev() {
            if let Err(error) = file::write(path, text) {
                tracing::debug!(?path, %error, "old limit not written back");
            }
        }
    }
}
