//! What the node is, gathered once at the start.

use anyhow::Context;
use host::cgroup::{Cgroups, Layout};
use spec::{NodeFacts, Rlimit};

use super::place::text;
use crate::config::Config;

/// Capabilities by number, as <linux/capability.h> has them.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Recursive read-only mounts came with `mount_setattr`, in Linux 5.12.
const RECURSIVE_READ_ONLY: (u32, u32) = (5, 12);

pub(super) fn gather(config: &Config, cgroups: &Cgroups) -> anyhow::Result<NodeFacts> {
    let bounding = bounding()?;
    let may_raise = bounding.iter().any(|cap| cap == "CAP_SYS_RESOURCE");
    Ok(NodeFacts {
        layout: match cgroups.layout() {
            Layout::V1 => spec::Layout::V1,
            Layout::Hybrid => spec::Layout::Hybrid,
            Layout::V2 => spec::Layout::V2,
        },
        default_capabilities: config.runtime.capabilities.iter().map(|c| full_name(c)).collect(),
        rlimits: rlimits(config, may_raise)?,
        lowest_oom_score_adj: if may_raise { -1000 } else { own_oom_score_adj()? },
        hostname: line("/proc/sys/kernel/hostname")?,
        machine: std::env::consts::ARCH.to_owned(),
        recursive_read_only: host::proc::kernel().is_some_and(|v| v >= RECURSIVE_READ_ONLY),
        v1_mount_points: cgroups.v1().iter().map(|h| text(h.point())).collect(),
        default_seccomp: default_seccomp(config)?,
        bounding,
    })
}

fn bounding() -> anyhow::Result<Vec<String>> {
    let bits = host::proc::bounding_capabilities().context("bounding capabilities")?;
    let names = CAPABILITIES.iter().enumerate();
    Ok(names.filter(|(n, _)| bits & (1 << n) != 0).map(|(_, name)| (*name).to_owned()).collect())
}

fn full_name(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
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

fn own_oom_score_adj() -> anyhow::Result<i64> {
    line("/proc/self/oom_score_adj")?.parse().context("/proc/self/oom_score_adj")
}

fn default_seccomp(config: &Config) -> anyhow::Result<Option<String>> {
    let path = &config.runtime.seccomp_profile;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let json = std::fs::read_to_string(path);
    json.map(Some).with_context(|| format!("runtime.seccomp_profile {}", path.display()))
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
    fn capabilities_may_be_named_short() {
        assert_eq!(full_name("net_raw"), "CAP_NET_RAW");
        assert_eq!(full_name("CAP_KILL"), "CAP_KILL");
    }
}
