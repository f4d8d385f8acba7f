//! Cgroups: which layout, which controllers, which driver.

use std::path::Path;

use super::Finding;
use super::kernel::read;
use crate::assemble::SYSTEMD_RUNS;
use crate::config::{CgroupDriver, Config};

const ROOT: &str = "/sys/fs/cgroup";
const NEEDED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// How cgroups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// One tree.
    V2,
    /// A tree for each controller, and a v2 tree beside them.
    Hybrid,
    /// A tree for each controller.
    V1,
    None,
}

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mounts = read("/proc/self/mountinfo");
    let layout = layout(&mounts);
    let name = match layout {
        Layout::V2 => "v2",
        Layout::Hybrid => "v1 with a v2 tree beside it (hybrid)",
        Layout::V1 => "v1",
        Layout::None => {
            let remedy = "mount -t cgroup2 none /sys/fs/cgroup";
            return vec![Finding::bad("cgroups", "none mounted at /sys/fs/cgroup", remedy)];
        }
    };
    vec![
        Finding::good("cgroups", name),
        controllers(&available(layout, &mounts)),
        driver(config.cgroup_driver, layout, Path::new(SYSTEMD_RUNS).exists()),
    ]
}

fn layout(mountinfo: &str) -> Layout {
    let kind = |at: &str| mounts(mountinfo).find(|(path, ..)| *path == at).map(|(_, kind, _)| kind);
    let v1 = mounts(mountinfo).any(|(path, kind, _)| path.starts_with(ROOT) && kind == "cgroup");
    match (kind(ROOT), kind("/sys/fs/cgroup/unified"), v1) {
        (Some("cgroup2"), ..) => Layout::V2,
        (_, Some("cgroup2"), true) => Layout::Hybrid,
        (_, _, true) => Layout::V1,
        _ => Layout::None,
    }
}

/// Path, type and superblock options of every mount.
fn mounts(mountinfo: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    mountinfo.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut words = kind.split(' ');
        Some((place.split(' ').nth(4)?, words.next()?, words.nth(1)?))
    })
}

fn available(layout: Layout, mountinfo: &str) -> Vec<String> {
    if layout == Layout::V2 {
        let all = read("/sys/fs/cgroup/cgroup.controllers");
        return all.split_whitespace().map(str::to_owned).collect();
    }
    let v1 = mounts(mountinfo).filter(|(_, kind, _)| *kind == "cgroup");
    v1.flat_map(|(.., options)| options.split(',').map(str::to_owned)).collect()
}

fn controllers(available: &[String]) -> Finding {
    let missing: Vec<_> =
        NEEDED.into_iter().filter(|name| !available.iter().any(|has| has == name)).collect();
    if missing.is_empty() {
        return Finding::good("controllers", NEEDED.join(", "));
    }
    Finding::bad(
        "controllers",
        format!("missing: {}", missing.join(", ")),
        "take cgroup_disable= and cgroup_no_v1= from the kernel's command line; some boards need \
         cgroup_enable=memory there",
    )
}

fn driver(configured: CgroupDriver, layout: Layout, systemd_runs: bool) -> Finding {
    let subject = "cgroup driver";
    let possible = layout == Layout::V2 && systemd_runs;
    match configured {
        CgroupDriver::Systemd if !possible => Finding::bad(
            subject,
            "systemd is configured, and needs cgroup v2 with systemd as the node's init",
            "set cgroup_driver = \"cgroupfs\", in the kubelet's configuration too",
        ),
        CgroupDriver::Systemd => Finding::good(subject, "systemd"),
        CgroupDriver::Auto if possible => Finding::good(subject, "systemd (detected)"),
        CgroupDriver::Auto => Finding::good(subject, "cgroupfs (detected)"),
        CgroupDriver::Cgroupfs if possible => Finding::weak(
            subject,
            "cgroupfs, although systemd runs this node and may move what it did not make",
            "set cgroup_driver = \"systemd\", in the kubelet's configuration too",
        ),
        CgroupDriver::Cgroupfs => Finding::good(subject, "cgroupfs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn layouts_are_told_apart_by_what_is_mounted_where() {
        assert_eq!(layout(V2), Layout::V2);
        assert_eq!(layout(HYBRID), Layout::Hybrid);
        assert_eq!(layout(&HYBRID.replace("cgroup2", "tmpfs")), Layout::V1);
        assert_eq!(layout(""), Layout::None);
    }

    #[test]
    fn controllers_of_v1_are_those_that_are_mounted() {
        let all = available(Layout::Hybrid, HYBRID);
        assert!(all.iter().any(|name| name == "memory"));
        assert!(controllers(&all).fact.contains("missing: cpu"));
    }
}
