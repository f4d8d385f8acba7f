//! /sys/fs/cgroup of a container on nodes with v1 hierarchies: a tmpfs with the container's own cgroup of each hierarchy
//! bound into it.
//!
//! libcontainer's own mount of type `cgroup` looks up the container's cgroups in /proc by the pid that its init has in the
//! container's PID namespace, while /proc is still the host's: it finds another process's, or none.

use std::fs;

use libcontainer::oci_spec::runtime::{Mount, MountBuilder, Spec};

use crate::failure::{At, Failure};

const STAGE: &str = "cgroup";
const POINT: &str = "/sys/fs/cgroup";

/// Puts binds in the place of the specification's mount of type `cgroup`. With the unified hierarchy alone nothing changes:
/// there a cgroup namespace shows the container its own.
pub(crate) fn bind_own(spec: &mut Spec) -> Result<(), Failure> {
    let table = fs::read_to_string("/proc/self/mountinfo")
        .at(STAGE, || "reading the mount table".into())?;
    let hierarchies = hierarchies(&table);
    let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().clone()).unwrap_or_default();
    let path = path.display().to_string();
    if hierarchies.is_empty() || path.is_empty() {
        return Ok(());
    }
    let mut mounts = Vec::new();
    for mount in spec.mounts().clone().unwrap_or_default() {
        if mount.typ().as_deref() == Some("cgroup") {
            mounts.extend(own(&mount, &hierarchies, &path)?);
        } else {
            mounts.push(mount);
        }
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

/// The names below /sys/fs/cgroup of the v1 hierarchies that have controllers.
fn hierarchies(table: &str) -> Vec<String> {
    let line = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let point = place.split(' ').nth(4)?;
        let mut kind = kind.split(' ');
        let name = point.strip_prefix(POINT)?.strip_prefix('/')?;
        let v1 = kind.next() == Some("cgroup") && !kind.any(|o| o.contains("name="));
        v1.then(|| name.to_owned())
    };
    table.lines().filter_map(line).collect()
}

fn own(mount: &Mount, hierarchies: &[String], path: &str) -> Result<Vec<Mount>, Failure> {
    let at = mount.destination().display().to_string();
    let access = mount.options().iter().flatten().find(|o| *o == "rw").map_or("ro", |_| "rw");
    let mut mounts =
        vec![build(&at, "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755"])?];
    for name in hierarchies {
        let source = format!("{POINT}/{name}{path}");
        // libcontainer joins what is there.
        fs::create_dir_all(&source).at(STAGE, || format!("making {source}"))?;
        let options = ["bind", "nosuid", "noexec", "nodev", access];
        mounts.push(build(&format!("{at}/{name}"), "bind", &source, &options)?);
    }
    Ok(mounts)
}

fn build(at: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount, Failure> {
    MountBuilder::default()
        .destination(at)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .at(STAGE, || format!("describing the mount at {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_v1_hierarchies_with_controllers_are_bound() {
        let table = "\
            30 25 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
            31 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            32 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            33 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            34 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            35 25 0:32 / /mnt/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(hierarchies(table), ["memory", "cpu,cpuacct"]);
    }
}
