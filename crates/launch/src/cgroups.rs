//! A container's own cgroups on nodes with v1 hierarchies: made, limited and joined here, and shown in /sys/fs/cgroup.
//!
//! libcontainer would do the first three too, by the pid of a child written into each `cgroup.procs`: that takes a lock for
//! which every fork, exec and exit of the node waits, and after 0.1 s of quiet 8 to 16 ms pass before it is given. Who writes
//! `0` into `tasks` moves its own only thread, and the kernel (5.6 and later) takes no such lock: 0.02 to 0.05 ms. So launch
//! joins, libcontainer's children are born where they belong, and its staging root has no hierarchies that it could find.
//!
//! Its mount of type `cgroup` looks up the container's cgroups in /proc by the pid that its init has in the container's PID
//! namespace, while /proc is still the host's, and finds another process's, or none: the specification gets a tmpfs with binds.

mod limits;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxResources, Mount, MountBuilder, Spec};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, statfs};

use limits::Limit;
use process::failure::{At, Failure};

const STAGE: &str = "cgroup";
const POINT: &str = "/sys/fs/cgroup";
const HUGEPAGES: &str = "hugetlb";

/// What libcontainer is told of the container's cgroup when that is not its business: it joins the name to /sys/fs/cgroup.
pub(crate) const BLIND: &str = "/../../../q";
const BLIND_DIR: &str = "/q";

/// Who makes, limits and joins the container's cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CgroupOwner {
    /// On v2.
    Libcontainer,
    /// On v1 and hybrid.
    Launch,
}

/// The container's cgroup in each v1 hierarchy that has controllers.
#[derive(Debug)]
pub(crate) struct Own(Vec<Hierarchy>);

/// Limits of CPU time and of the number of processes. They would slow down and hinder the making of the container, in which
/// nothing of the image runs; a container that may use 1 % of a CPU would take half a second to make.
#[derive(Debug, Default)]
pub(crate) struct Late(Vec<(File, Limit)>);

#[derive(Debug)]
struct Hierarchy {
    /// Below /sys/fs/cgroup, such as `cpu,cpuacct`.
    name: String,
    dir: PathBuf,
    /// Open, because no path leads there from the staging root.
    tasks: File,
}

/// Takes out the limits of hugepages that nothing counts for this container. A kubelet sends one for each page size of the node, and
/// each container would fail for them.
pub(crate) fn keep_counted_hugepages(spec: &mut Spec, own: Option<&Own>) {
    let Some(linux) = spec.linux_mut() else { return };
    let path = linux.cgroups_path().clone().unwrap_or_default();
    let Some(resources) = linux.resources_mut() else { return };
    let Some(mut limits) = resources.hugepage_limits().clone() else { return };
    let unified = Path::new(POINT).join("cgroup.controllers").exists();
    match own.and_then(|own| own.dir(HUGEPAGES)) {
        Some(dir) => limits.retain(|limit| {
            dir.join(format!("hugetlb.{}.limit_in_bytes", limit.page_size())).exists()
        }),
        None if unified => {
            let above = path.parent().unwrap_or(&path);
            let above = Path::new(POINT).join(above.strip_prefix("/").unwrap_or(above));
            limits.retain(|limit| is_passed_on(&above, limit.page_size()));
        }
        // An outside runtime's own hierarchies.
        None => {}
    }
    resources.set_hugepage_limits(Some(limits).filter(|limits| !limits.is_empty()));
}

/// Whether cgroups in this one can limit the pages of a size.
fn is_passed_on(dir: &Path, size: &str) -> bool {
    let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    let counted = dir.join(format!("hugetlb.{size}.max")).exists();
    counted && enabled.split_whitespace().any(|controller| controller == HUGEPAGES)
}

// === impl Own ===

impl Own {
    /// Makes them. On a node with the unified hierarchy alone there are none, and libcontainer sees to the container's.
    pub(crate) fn make(spec: &Spec) -> Result<Option<Self>, Failure> {
        let names = hierarchies().at(STAGE, || format!("looking for hierarchies in {POINT}"))?;
        let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().clone()).unwrap_or_default();
        let path = path.display().to_string();
        if names.is_empty() || path.is_empty() {
            return Ok(None);
        }
        let own = names.into_iter().map(|name| Hierarchy::make(name, &path));
        Ok(Some(Self(own.collect::<Result<_, Failure>>()?)))
    }

    /// Puts binds in the place of the specification's mount of type `cgroup`.
    pub(crate) fn show(&self, spec: &mut Spec) -> Result<(), Failure> {
        let mut mounts = Vec::new();
        for mount in spec.mounts().clone().unwrap_or_default() {
            if mount.typ().as_deref() == Some("cgroup") {
                mounts.extend(self.binds(&mount)?);
            } else {
                mounts.push(mount);
            }
        }
        spec.set_mounts(Some(mounts));
        Ok(())
    }

    /// Sets the limits, before anything runs in them; gives those that are set when the container's process waits to be started.
    pub(crate) fn limit(&self, resources: &LinuxResources) -> Result<Late, Failure> {
        let mut late = Vec::new();
        // Rules for devices are a dozen, each written for itself.
        let mut last: Option<(PathBuf, File)> = None;
        for limit in limits::of(resources)? {
            let Some(dir) = self.dir(limit.controller) else {
                let message = format!("this node has no {} cgroup", limit.controller);
                return Err(Failure::invalid(STAGE, message));
            };
            let path = dir.join(&limit.file);
            let file = match last.take() {
                Some((open, file)) if open == path => file,
                _ => OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .at(STAGE, || format!("opening {}", path.display()))?,
            };
            if limit.is_late() {
                late.push((file, limit));
            } else {
                limit.write(&file, &path)?;
                last = Some((path, file));
            }
        }
        Ok(Late(late))
    }

    /// Moves this process, which has one thread, into all of them; its children are born there.
    pub(crate) fn join(&self) -> Result<(), Failure> {
        self.0.iter().try_for_each(|own| {
            (&own.tasks).write_all(b"0").at(STAGE, || format!("joining {}", own.dir.display()))
        })
    }

    fn dir(&self, controller: &str) -> Option<&Path> {
        let has = |own: &&Hierarchy| own.name.split(',').any(|name| name == controller);
        self.0.iter().find(has).map(|own| own.dir.as_path())
    }

    fn binds(&self, mount: &Mount) -> Result<Vec<Mount>, Failure> {
        let at = mount.destination().display().to_string();
        let access = mount.options().iter().flatten().find(|o| *o == "rw").map_or("ro", |_| "rw");
        let mut mounts =
            vec![build(&at, "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755"])?];
        for own in &self.0 {
            let options = ["bind", "nosuid", "noexec", "nodev", access];
            let source = own.dir.display().to_string();
            mounts.push(build(&format!("{at}/{}", own.name), "bind", &source, &options)?);
        }
        Ok(mounts)
    }
}

impl Late {
    /// Sets them.
    pub(crate) fn set(&self) -> Result<(), Failure> {
        self.0.iter().try_for_each(|(file, limit)| limit.write(file, Path::new(&limit.file)))
    }
}

impl Hierarchy {
    fn make(name: String, path: &str) -> Result<Self, Failure> {
        let point = Path::new(POINT).join(&name);
        let dir = PathBuf::from(format!("{}{path}", point.display()));
        match fs::create_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => fs::create_dir_all(&dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
        .at(STAGE, || format!("making {}", dir.display()))?;
        if name.split(',').any(|controller| controller == "cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                inherit(&point, &dir, file)?;
            }
        }
        let tasks = OpenOptions::new().write(true).open(dir.join("tasks"));
        let tasks = tasks.at(STAGE, || format!("opening {}/tasks", dir.display()))?;
        Ok(Self { name, dir, tasks })
    }
}

/// Makes the directory of the staging root that libcontainer takes for the container's cgroup on a node with the unified hierarchy
/// alone, which it believes in because of what [`crate::rootfs`] has put there. It writes a pid into a plain file, where with v1
/// hierarchies it would read the mount table for each of them. When a creation fails it would wait 0.1 s for the directory to go:
/// that it cannot write to a `cgroup.kill` which is a directory ends that at once, and its words on it are not told.
pub(crate) fn blind() -> Result<(), Failure> {
    let doing = || format!("making {BLIND_DIR} in the staging root");
    let made = fs::create_dir(format!("{BLIND_DIR}/cgroup.kill"));
    made.and_then(|()| File::create_new(format!("{BLIND_DIR}/cgroup.procs")))
        .at(STAGE, doing)
        .map(drop)
}

/// Whether libcontainer speaks of the directory that [`blind`] makes.
pub(crate) fn is_blind(text: &str) -> bool {
    text.contains(BLIND)
}

/// A new cpuset is empty, and nothing can run in it: it gets what its parent has.
fn inherit(point: &Path, dir: &Path, file: &str) -> Result<String, Failure> {
    let path = dir.join(file);
    let doing = || format!("reading {}", path.display());
    let own = fs::read_to_string(&path).at(STAGE, doing)?.trim().to_owned();
    if !own.is_empty() || dir == point {
        return Ok(own);
    }
    let parents = inherit(point, dir.parent().unwrap_or(point), file)?;
    write(&path, &parents)?;
    Ok(parents)
}

fn write(path: &Path, value: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes()))
        .at(STAGE, || format!("writing {value} into {}", path.display()))
}

/// The names below /sys/fs/cgroup of the v1 hierarchies that have controllers. Not from the mount table, which takes 2 ms to read
/// where there are 1,000 mounts.
fn hierarchies() -> std::io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/cgroup")?;
    let controllers = controllers(&table);
    let mut names = Vec::new();
    if controllers.is_empty() {
        return Ok(names);
    }
    for entry in fs::read_dir(POINT)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = name.split(',').any(|part| controllers.contains(&part));
        // A link leads to one that has several.
        if known && entry.file_type()?.is_dir() {
            let kind = statfs(&entry.path())?.filesystem_type();
            names.extend((kind == CGROUP_SUPER_MAGIC).then_some(name));
        }
    }
    names.sort();
    Ok(names)
}

/// The controllers that are in v1 hierarchies, by a process's own table.
fn controllers(table: &str) -> Vec<&str> {
    let lists = table.lines().filter_map(|line| line.split(':').nth(1));
    lists
        .filter(|names| !names.contains('='))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .collect()
}

/// Where v1 hierarchies without controllers are, such as systemd's own.
pub(crate) fn named(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(named_point)
}

fn named_point(line: &str) -> Option<&str> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let named = kind.next() == Some("cgroup") && kind.any(|o| o.contains("name="));
    place.split(' ').nth(4).filter(|point| named && point.starts_with(POINT))
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
    fn only_v1_hierarchies_with_controllers_are_the_containers() {
        let table = "\
            30 25 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
            31 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            32 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            33 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            34 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            35 25 0:32 / /mnt/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(named(table).collect::<Vec<_>>(), ["/sys/fs/cgroup/systemd"]);
        let own = "7:memory:/a\n5:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/\n";
        assert_eq!(controllers(own), ["memory", "cpu", "cpuacct"]);
        assert_eq!(controllers("0::/a\n"), [""; 0]);
        let found = hierarchies().unwrap();
        assert!(found.iter().all(|name| !["systemd", "unified"].contains(&name.as_str())));
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounted = |name: &String| table.contains(&format!(" {POINT}/{name} "));
        assert!(found.iter().all(mounted), "{found:?}");
    }

    #[test]
    fn an_empty_cpuset_gets_what_the_nearest_above_has() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("pod/container");
        fs::create_dir_all(&dir).unwrap();
        let put = |dir: &Path, text: &str| {
            File::create(dir.join("cpuset.cpus")).unwrap().write_all(text.as_bytes()).unwrap();
        };
        put(root.path(), "0-3\n");
        put(&root.path().join("pod"), "\n");
        put(&dir, "\n");
        assert_eq!(inherit(root.path(), &dir, "cpuset.cpus").unwrap(), "0-3");
        assert!(
            fs::read_to_string(root.path().join("pod/cpuset.cpus")).unwrap().starts_with("0-3")
        );
        put(&dir, "1\n");
        assert_eq!(inherit(root.path(), &dir, "cpuset.cpus").unwrap(), "1");
    }
}
