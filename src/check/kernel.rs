//! The kernel: its version, its features, what it lets us do.

use std::path::Path;

use nix::sys::utsname::uname;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::Finding;

/// `mount_setattr`, and so recursive read-only mounts, came with 5.12; cgroup.kill with 5.14; what Bidirectional volumes take (to
/// join a mount to the group of another) with 5.15.
const OLDEST: (u32, u32) = (5, 15);

/// Capabilities without which no pod runs: number, name.
const NEEDED: [(u32, &str); 12] = [
    (0, "CHOWN"),
    (1, "DAC_OVERRIDE"),
    (3, "FOWNER"),
    (5, "KILL"),
    (6, "SETGID"),
    (7, "SETUID"),
    (8, "SETPCAP"),
    (12, "NET_ADMIN"),
    (18, "SYS_CHROOT"),
    (19, "SYS_PTRACE"),
    (21, "SYS_ADMIN"),
    (27, "MKNOD"),
];
const SYS_RESOURCE: u32 = 24;

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![version(), path_resolution(), overlay(), seccomp()];
    findings.extend(namespaces());
    findings.extend(capabilities());
    findings.push(limits());
    findings
}

fn version() -> Finding {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    match version_of(&release) {
        Some(version) if version >= OLDEST => Finding::good("kernel", release),
        _ => Finding::bad(
            "kernel",
            format!("{release:?} is older than {}.{}", OLDEST.0, OLDEST.1),
            "boot a newer kernel; Debian 12 has 6.1",
        ),
    }
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn path_resolution() -> Finding {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(_) => Finding::good("openat2", "works"),
        Err(error) => Finding::bad(
            "openat2",
            error.to_string(),
            "needs Linux 5.6, and a seccomp profile around this process that lets it pass",
        ),
    }
}

fn overlay() -> Finding {
    let known = read("/proc/filesystems").lines().any(|line| line.ends_with("\toverlay"));
    if known || Path::new("/sys/module/overlay").exists() {
        return Finding::good("overlayfs", "known to the kernel");
    }
    Finding::bad(
        "overlayfs",
        "unknown to the kernel",
        "modprobe overlay, and list it in /etc/modules",
    )
}

fn seccomp() -> Finding {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail");
    if actions.contains("errno") {
        return Finding::good("seccomp", "filters work");
    }
    Finding::bad("seccomp", "no filters", "boot a kernel with CONFIG_SECCOMP_FILTER")
}

fn namespaces() -> Option<Finding> {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let missing: Vec<_> =
        kinds.into_iter().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect();
    (!missing.is_empty()).then(|| {
        let fact = format!("missing: {}", missing.join(", "));
        Finding::bad("namespaces", fact, "boot a kernel with CONFIG_NAMESPACES and its parts")
    })
}

fn capabilities() -> Vec<Finding> {
    let Some(held) = bounding_set(&read("/proc/self/status")) else {
        return vec![Finding::bad("capabilities", "unknown", "mount /proc")];
    };
    let has = |number: u32| held >> number & 1 == 1;
    let missing: Vec<_> =
        NEEDED.iter().filter(|(number, _)| !has(*number)).map(|(_, name)| *name).collect();
    let mut findings = Vec::new();
    findings.push(if missing.is_empty() {
        Finding::good("capabilities", "all that pods need")
    } else {
        let fact = format!("missing: {}", missing.join(", "));
        Finding::bad("capabilities", fact, "run it as root, outside any container")
    });
    if !has(SYS_RESOURCE) {
        findings.push(Finding::weak(
            "CAP_SYS_RESOURCE",
            "missing: oom_score_adj cannot be lowered (shims stay at 0, guaranteed pods are killed like others), \
             hard rlimits cannot be raised",
            "give it to the service, or run it outside the container that takes it away",
        ));
    }
    findings
}

fn bounding_set(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Each pod holds an inotify instance at most for its CNI configuration: one in all; what is scarce are fds and pids.
fn limits() -> Finding {
    let pids = read("/proc/sys/kernel/pid_max").trim().parse::<u64>().unwrap_or_default();
    if pids >= 65_536 {
        return Finding::good("pid_max", pids.to_string());
    }
    Finding::weak("pid_max", pids.to_string(), "sysctl kernel.pid_max=4194304")
}

pub(super) fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_whatever_follows_them() {
        assert_eq!(version_of("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(version_of("5.15"), Some((5, 15)));
        assert_eq!(version_of(""), None);
    }

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        let status = "Name:\tx\nCapEff:\t0000000001000000\n";
        assert_eq!(bounding_set(status), Some(1 << SYS_RESOURCE));
        assert_eq!(bounding_set(""), None);
    }
}
