//! Mounts, cgroups, processes, sockets and files.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Scope;
use crate::process::{Process, all};

/// Layers of images are deep and stay; a container's or a pod's own directories are not deeper.
const DEPTH: usize = 5;

/// Mounts at or below our directories, and those whose options name one of them.
pub(super) fn mounts(scope: &Scope) -> Result<BTreeSet<String>> {
    let table = read("/proc/self/mountinfo")?;
    let ours = table.lines().filter(|line| scope.under.iter().any(|dir| mentions(line, dir)));
    Ok(ours.filter_map(describe_mount).collect())
}

/// Without its ids, which change.
fn describe_mount(line: &str) -> Option<String> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let kind = right.split(' ').next()?;
    Some(format!("{point} ({kind} {root})"))
}

fn mentions(line: &str, dir: &Path) -> bool {
    let dir = dir.to_string_lossy();
    line.match_indices(dir.as_ref()).any(|(at, found)| {
        matches!(line.as_bytes().get(at + found.len()), None | Some(b'/' | b' ' | b',' | b':'))
    })
}

/// Directories below our cgroups, in every hierarchy.
pub(super) fn cgroups(scope: &Scope) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies()? {
        for parent in &scope.cgroups {
            let top = hierarchy.join(parent.trim_start_matches('/'));
            walk(&top, usize::MAX, &mut |path, metadata| {
                if metadata.is_dir() {
                    found.insert(path.display().to_string());
                }
            });
        }
    }
    Ok(found)
}

/// Where each cgroup hierarchy is mounted.
pub(super) fn hierarchies() -> Result<BTreeSet<PathBuf>> {
    let table = read("/proc/self/mountinfo")?;
    let cgroup = table.lines().filter(|line| line.contains(" - cgroup"));
    Ok(cgroup.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect())
}

/// Processes of this network namespace, ourselves and those above us excepted, and those in our cgroups; by name and number, since
/// a daemon that was started again has another pid.
pub(super) fn processes(scope: &Scope) -> Result<BTreeSet<String>> {
    let all = all();
    let netns = fs::read_link("/proc/thread-self/ns/net").context("our network namespace")?;
    let above = above(&all);
    let ours = |process: &&Process| {
        let in_netns = fs::read_link(format!("/proc/{}/ns/net", process.pid)).ok();
        let shares = in_netns.is_some_and(|other| other == netns);
        let below = !process.zombie && !above.contains(&process.pid);
        below && (shares || in_cgroups(process.pid, scope))
    };
    let mut found = BTreeSet::new();
    for process in all.values().filter(ours) {
        let numbered = (1_u32..).map(|n| format!("{} #{n}", process.name));
        found.extend(numbered.into_iter().find(|name| !found.contains(name)));
    }
    Ok(found)
}

fn above(all: &std::collections::BTreeMap<u32, Process>) -> BTreeSet<u32> {
    let first = std::process::id();
    std::iter::successors(Some(first), |pid| all.get(pid).map(|process| process.parent)).collect()
}

fn in_cgroups(pid: u32, scope: &Scope) -> bool {
    let Ok(cgroups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return false };
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.into_iter().any(|path| {
        scope.cgroups.iter().any(|parent| Path::new(path).starts_with(Path::new(parent)))
    })
}

/// Bound unix sockets below our directories.
pub(super) fn sockets(scope: &Scope) -> Result<BTreeSet<String>> {
    let table = read("/proc/thread-self/net/unix")?;
    let paths = table.lines().filter_map(|line| line.split_whitespace().nth(7));
    let ours = paths.filter(|path| scope.under.iter().any(|dir| Path::new(path).starts_with(dir)));
    Ok(ours.map(str::to_owned).collect())
}

/// Files and directories below our directories.
pub(super) fn files(scope: &Scope) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for dir in &scope.under {
        walk(dir, DEPTH, &mut |path, _| {
            found.insert(path.display().to_string());
        });
    }
    found
}

/// Calls for everything below, on one file system; what vanishes meanwhile is not there.
fn walk(dir: &Path, depth: usize, found: &mut impl FnMut(&Path, &fs::Metadata)) {
    let Ok(top) = fs::symlink_metadata(dir) else { return };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        found(&entry.path(), &metadata);
        if metadata.is_dir() && metadata.dev() == top.dev() && depth > 1 {
            walk(&entry.path(), depth - 1, found);
        }
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_ours_when_it_names_our_directory_and_not_one_that_only_begins_alike() {
        let line = "36 25 0:33 / /run/x/state/m rw - overlay overlay rw,upperdir=/v/x/up";
        assert!(mentions(line, Path::new("/run/x/state")));
        assert!(mentions(line, Path::new("/v/x")));
        assert!(!mentions(line, Path::new("/run/x/sta")));
        assert_eq!(describe_mount(line).unwrap(), "/run/x/state/m (overlay /)");
    }
}
