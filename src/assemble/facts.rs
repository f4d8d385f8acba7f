//! What the node is, gathered once at the start.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use host::cgroup::{Cgroups, Layout};
use spec::{CgroupLayout, NodeFacts, Rlimit};

use super::selinux;
use crate::config::Config;

/// Recursive read-only mounts came with `mount_setattr`, in Linux 5.12.
const RECURSIVE_READ_ONLY: (u32, u32) = (5, 12);

pub(super) fn gather(config: &Config, cgroups: &Cgroups) -> anyhow::Result<NodeFacts> {
    let bounding = bounding()?;
    let may_raise = bounding.iter().any(|cap| cap == "SYS_RESOURCE");
    Ok(NodeFacts {
        cgroups: match cgroups.layout() {
            Layout::V1 => CgroupLayout::V1,
            Layout::Hybrid => CgroupLayout::Hybrid,
            Layout::V2 => CgroupLayout::V2,
        },
        hierarchies: cgroups.v1().iter().filter_map(|h| file_name(h.point())).collect(),
        swap_limits: swap_limits(cgroups),
        hugetlb: counts_hugepages(cgroups),
        default_capabilities: config.runtime.capabilities.iter().map(|c| short_name(c)).collect(),
        rlimits: rlimits(config, may_raise)?,
        lowest_oom_score_adj: if may_raise { -1000 } else { own_oom_score_adj()? },
        devices_to_user: config.runtime.device_ownership_from_security_context,
        hostname: line("/proc/sys/kernel/hostname")?,
        recursive_read_only: host::proc::kernel().is_some_and(|v| v >= RECURSIVE_READ_ONLY),
        no_user_namespaces: host::idmap::try_in(&config.root)
            .err()
            .map(|error| engine::record::chain(&error)),
        default_seccomp: default_seccomp(config)?,
        apparmor: host::apparmor::enabled(),
        selinux: selinux::contexts(config)?,
        bounding,
    })
}

fn bounding() -> anyhow::Result<BTreeSet<String>> {
    let bits = host::proc::bounding_capabilities().context("bounding capabilities")?;
    let names = names::CAPABILITIES.iter().enumerate();
    Ok(names.filter(|(n, _)| bits & (1 << n) != 0).map(|(_, name)| (*name).to_owned()).collect())
}

fn short_name(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// On a hybrid node the unified hierarchy may have the controller: but containers have no limits there.
fn counts_hugepages(cgroups: &Cgroups) -> bool {
    match cgroups.layout() {
        Layout::V2 => cgroups.unified().is_some_and(|root| has_controller(root, "hugetlb")),
        _ => cgroups.v1().iter().any(|h| h.controllers().iter().any(|c| c == "hugetlb")),
    }
}

/// Kernels may be built without, and kubelets speak of all page sizes all the same.
fn has_controller(unified: &Path, name: &str) -> bool {
    let controllers = std::fs::read_to_string(unified.join("cgroup.controllers"));
    controllers.is_ok_and(|text| text.split_whitespace().any(|controller| controller == name))
}

/// Kernels count swap only when they were built and told to.
fn swap_limits(cgroups: &Cgroups) -> bool {
    let memory = cgroups.v1().iter().find(|h| h.controllers().iter().any(|c| c == "memory"));
    match (memory, cgroups.unified()) {
        (Some(memory), _) => memory.point().join("memory.memsw.limit_in_bytes").exists(),
        (None, Some(root)) => counts_swap(root),
        (None, None) => true,
    }
}

/// The root itself has no limits: one below it tells.
fn counts_swap(unified: &Path) -> bool {
    let below = std::fs::read_dir(unified).into_iter().flatten().flatten();
    let limited = below.map(|entry| entry.path()).find(|dir| dir.join("memory.max").exists());
    limited.is_none_or(|dir| dir.join("memory.swap.max").exists())
}

/// Limits within what this daemon may set: without `CAP_SYS_RESOURCE` its own hard limit is the highest.
fn rlimits(config: &Config, may_raise: bool) -> anyhow::Result<Vec<Rlimit>> {
    let own = std::fs::read_to_string("/proc/self/limits").context("read /proc/self/limits")?;
    let clamp = |(name, soft, hard): (String, u64, u64)| {
        let highest = if may_raise { u64::MAX } else { own_hard(&own, &name).unwrap_or(hard) };
        let hard = hard.min(highest);
        Rlimit { name: kernel_name(&name), soft: soft.min(hard), hard }
    };
    Ok(config.rlimits().into_iter().map(clamp).collect())
}

fn kernel_name(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper.starts_with("RLIMIT_") { upper } else { format!("RLIMIT_{upper}") }
}

/// The hard limit's column of /proc/self/limits.
fn own_hard(limits: &str, name: &str) -> Option<u64> {
    let title = match kernel_name(name).as_str() {
        "RLIMIT_NOFILE" => "Max open files",
        "RLIMIT_NPROC" => "Max processes",
        "RLIMIT_CORE" => "Max core file size",
        "RLIMIT_MEMLOCK" => "Max locked memory",
        "RLIMIT_STACK" => "Max stack size",
        "RLIMIT_FSIZE" => "Max file size",
        "RLIMIT_CPU" => "Max cpu time",
        "RLIMIT_AS" => "Max address space",
        "RLIMIT_DATA" => "Max data size",
        "RLIMIT_MSGQUEUE" => "Max msgqueue size",
        "RLIMIT_SIGPENDING" => "Max pending signals",
        _ => return None,
    };
    let line = limits.lines().find_map(|line| line.strip_prefix(title))?;
    let hard = line.split_whitespace().nth(1)?;
    if hard == "unlimited" { Some(u64::MAX) } else { hard.parse().ok() }
}

fn own_oom_score_adj() -> anyhow::Result<i32> {
    line("/proc/self/oom_score_adj")?.parse().context("/proc/self/oom_score_adj")
}

/// Parsed once here, so that a profile that is none is told at the start and not by every container.
fn default_seccomp(config: &Config) -> anyhow::Result<Option<String>> {
    let path = &config.runtime.seccomp_profile;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let at = || format!("runtime.seccomp_profile {}", path.display());
    let json = std::fs::read_to_string(path).with_context(at)?;
    spec::check_site_profile(&json).with_context(at)?;
    Ok(Some(json))
}

fn line(path: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_limit_is_read_from_its_column() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n\
                      Max core file size        0                    unlimited            bytes\n";
        assert_eq!(own_hard(limits, "nofile"), Some(524_288));
        assert_eq!(own_hard(limits, "RLIMIT_CORE"), Some(u64::MAX));
        assert_eq!(own_hard(limits, "nonsense"), None);
    }

    #[test]
    fn what_a_kernel_counts_is_asked_of_its_cgroups() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str| root.path().join(name);
        assert!(!has_controller(root.path(), "hugetlb"));
        let mut controllers = std::fs::File::create(file("cgroup.controllers")).unwrap();
        std::io::Write::write_all(&mut controllers, b"cpu hugetlb pids\n").unwrap();
        assert!(has_controller(root.path(), "hugetlb"));
        assert!(!has_controller(root.path(), "huge"));
        assert!(counts_swap(root.path()), "nothing tells otherwise");
        std::fs::create_dir(file("system.slice")).unwrap();
        std::fs::File::create(file("system.slice/memory.max")).unwrap();
        assert!(!counts_swap(root.path()));
        std::fs::File::create(file("system.slice/memory.swap.max")).unwrap();
        assert!(counts_swap(root.path()));
    }

    #[test]
    fn capabilities_may_be_named_short() {
        assert_eq!(short_name("net_raw"), "NET_RAW");
        assert_eq!(short_name("CAP_KILL"), "KILL");
    }
}
