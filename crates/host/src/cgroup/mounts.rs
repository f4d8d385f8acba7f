//! Which hierarchies are mounted where.

use std::path::{Path, PathBuf};

use names::Kind;

use crate::FsError;

/// Which versions of cgroups a node mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Controllers on v1, no cgroup2 at all.
    V1,
    /// Controllers on v1, and cgroup2 beside them.
    Hybrid,
    /// Only cgroup2.
    V2,
}

/// One mounted v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    controllers: Vec<String>,
    point: PathBuf,
}

impl Hierarchy {
    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Its controllers, such as `cpu` and `cpuacct`.
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// Why the node's cgroups cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// A file of /proc.
    #[error(transparent)]
    Read(FsError),
    /// No hierarchy is mounted.
    #[error("no cgroup hierarchy is mounted")]
    NoneMounted,
    /// The systemd driver was asked for where systemd does not own the one hierarchy.
    #[error("the systemd cgroup driver needs a cgroup v2 node, and this one is {0:?}")]
    SystemdNeedsV2(Layout),
}

impl DetectError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read(error) => error.kind(),
            Self::NoneMounted | Self::SystemdNeedsV2(_) => Kind::Unsupported,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) layout: Layout,
    pub(super) v1: Vec<Hierarchy>,
    pub(super) unified: Option<PathBuf>,
}

pub(super) fn detect() -> Result<Found, DetectError> {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map_err(FsError::at("read", Path::new(path)))
            .map_err(DetectError::Read)
    };
    let controllers = read("/proc/cgroups")?;
    parse(&read("/proc/self/mountinfo")?, &controllers).ok_or(DetectError::NoneMounted)
}

fn parse(mountinfo: &str, proc_cgroups: &str) -> Option<Found> {
    let known: Vec<&str> = proc_cgroups
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut v1: Vec<Hierarchy> = Vec::new();
    let mut unified: Option<PathBuf> = None;
    for (point, kind, options) in mountinfo.lines().filter_map(mount) {
        match kind {
            "cgroup" => {
                let options = options.split(',').filter(|option| known.contains(option));
                let controllers: Vec<String> = options.map(str::to_owned).collect();
                // A hierarchy may be mounted twice, and name=systemd has no controllers.
                if !controllers.is_empty() && !v1.iter().any(|h| h.controllers == controllers) {
                    v1.push(Hierarchy { controllers, point });
                }
            }
            // Others (Cilium) mount cgroup2 at places of their own: the node's is below /sys/fs/cgroup.
            "cgroup2" if unified.as_ref().is_none_or(|u| !is_usual(u) && is_usual(&point)) => {
                unified = Some(point);
            }
            _ => {}
        }
    }
    let layout = match (v1.is_empty(), &unified) {
        (true, None) => return None,
        (true, Some(_)) => Layout::V2,
        (false, Some(_)) => Layout::Hybrid,
        (false, None) => Layout::V1,
    };
    Some(Found { layout, v1, unified })
}

fn is_usual(point: &Path) -> bool {
    point.starts_with("/sys/fs/cgroup")
}

/// Mount point, type and super block options of a line of mountinfo.
fn mount(line: &str) -> Option<(PathBuf, &str, &str)> {
    let (front, back) = line.split_once(" - ")?;
    let point = front.split(' ').nth(4)?;
    let mut back = back.split(' ');
    Some((PathBuf::from(point), back.next()?, back.nth(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CGROUPS: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\ncpuacct\t1\t1\t1\nmemory\t2\t1\t1\n";

    fn line(point: &str, kind: &str, options: &str) -> String {
        format!("31 23 0:28 / {point} rw,relatime shared:4 - {kind} {kind} {options}\n")
    }

    #[test]
    fn a_hybrid_node_has_controllers_on_v1_and_cgroup2_beside_them() {
        let text = [
            line("/sys/fs/cgroup", "tmpfs", "rw,mode=755"),
            line("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            line("/elsewhere", "cgroup", "rw,cpu,cpuacct"),
            line("/sys/fs/cgroup/memory", "cgroup", "rw,memory"),
            line("/sys/fs/cgroup/systemd", "cgroup", "rw,xattr,name=systemd"),
            line("/run/cilium/cgroupv2", "cgroup2", "rw"),
            line("/sys/fs/cgroup/unified", "cgroup2", "rw,nsdelegate"),
        ];
        let found = parse(&text.concat(), CGROUPS).unwrap();
        assert_eq!(found.layout, Layout::Hybrid);
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        let points: Vec<&Path> = found.v1.iter().map(Hierarchy::point).collect();
        assert_eq!(points, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory"].map(Path::new));
        assert!(found.v1[0].has("cpuacct"));
    }

    #[test]
    fn the_versions_that_are_mounted_make_the_layout() {
        let v1 = line("/sys/fs/cgroup/memory", "cgroup", "rw,memory");
        let v2 = line("/sys/fs/cgroup", "cgroup2", "rw");
        assert_eq!(parse(&v1, CGROUPS).unwrap().layout, Layout::V1);
        assert_eq!(parse(&v2, CGROUPS).unwrap().layout, Layout::V2);
        assert_eq!(parse(&line("/", "ext4", "rw"), CGROUPS), None);
    }
}
