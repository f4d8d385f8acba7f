//! Letting cgroups go.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use names::{ContainerId, SandboxId};

use super::{CgroupPath, Cgroups, PodCgroup, path::PREFIX, tree};
use crate::{FsError, ReleaseError, Released};

/// A cgroup stays busy after its last process was reaped, until a grace period of RCU has passed: 1 ms on a quiet node, 15 on
/// a busy one.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two tries, at most.
const PAUSE: Duration = Duration::from_millis(2);

impl Cgroups {
    /// Removes the pod's cgroup with all below it from every hierarchy. Kills nothing; the parent stays. Blocks: while
    /// processes remain, half a second.
    pub fn release_pod(&self, pod: &PodCgroup) -> Result<Released, ReleaseError> {
        self.release(pod)
    }

    /// The same for a container's cgroup.
    pub fn release(&self, path: &CgroupPath) -> Result<Released, ReleaseError> {
        let mut errors = Vec::new();
        let mut released = Released::AlreadyGone;
        let deadline = Instant::now() + PATIENCE;
        for dir in self.dirs(path) {
            released = remove_tree(&dir, deadline, &mut errors).and(released);
        }
        ReleaseError::unless_empty(format_args!("the cgroup {path}"), errors)?;
        Ok(released)
    }

    /// The pods that have a cgroup below one of these parents, in any hierarchy. An empty parent is ours.
    pub fn list_pods<P: AsRef<str>>(&self, parents: &[P]) -> Vec<PodCgroup> {
        let any = SandboxId::from_random([0; 32]);
        let parents = parents.iter().filter_map(|p| self.pod_path(p.as_ref(), &any).ok()?.parent());
        let mut found = BTreeSet::new();
        for parent in parents {
            let names = self.dirs(&parent).into_iter().flat_map(|dir| names_in(&dir));
            let ours = names.filter(|name| name.starts_with(PREFIX));
            found.extend(ours.filter_map(|name| PodCgroup::try_from(parent.child(&name)).ok()));
        }
        found.into_iter().collect()
    }

    /// The containers that have a cgroup in this pod's, in any hierarchy.
    pub fn list_containers(&self, pod: &PodCgroup) -> Vec<ContainerId> {
        let names = self.dirs(pod).into_iter().flat_map(|dir| names_in(&dir));
        let ids: BTreeSet<ContainerId> = names.filter_map(|name| name.parse().ok()).collect();
        ids.into_iter().collect()
    }
}

pub(super) fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Goes on past what will not go: its parent fails too, and both are told.
fn remove_tree(dir: &Path, deadline: Instant, errors: &mut Vec<FsError>) -> Released {
    let mut released = Released::AlreadyGone;
    match tree::bottom_up(dir) {
        Ok(dirs) => {
            for dir in dirs {
                match remove_one(&dir, deadline) {
                    Ok(one) => released = one.and(released),
                    Err(error) => errors.push(error),
                }
            }
        }
        Err(error) => errors.push(FsError::new("list the cgroup", dir, error)),
    }
    released
}

pub(super) fn remove_one(dir: &Path, deadline: Instant) -> Result<Released, FsError> {
    let mut pause = Duration::from_micros(500);
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(Released::Now),
            Err(error) if tree::is_gone(&error) => return Ok(Released::AlreadyGone),
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSE);
            }
            Err(error) => return Err(FsError::new("remove the cgroup", dir, error)),
        }
    }
}
