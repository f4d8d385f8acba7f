//! What only metrics ask for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::{CgroupPath, Cgroups, Layout};
use super::once;
use super::parse::{key, max, whole};

/// Beyond a [`super::Sample`]. Absent numbers are 0 or empty, as cAdvisor has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// Nanoseconds in user mode.
    pub cpu_user_ns: u64,
    /// And in the kernel.
    pub cpu_system_ns: u64,
    /// What a CPU quota did.
    pub throttling: Throttling,
    /// The most memory it ever had.
    pub memory_max_usage: u64,
    /// How often it met its memory limit.
    pub memory_failures: u64,
    /// Memory of the kernel for it.
    pub memory_kernel: u64,
    /// How often the kernel killed in it for want of memory.
    pub oom_kills: u64,
    /// Per block device.
    pub io: Vec<DeviceIo>,
    /// Per page size.
    pub huge_pages: Vec<HugePages>,
    /// What it is allowed.
    pub limits: Limits,
}

/// What a CPU quota did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods that passed.
    pub periods: u64,
    /// Those in which it was stopped.
    pub throttled_periods: u64,
    /// For how long.
    pub throttled_ns: u64,
}

/// Input and output on one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device's major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Such as `2MB`.
    pub size: String,
    /// Bytes now.
    pub usage: u64,
    /// The most it ever had; v2 does not count it, and then this is the usage.
    pub max_usage: u64,
}

/// What a cgroup is allowed. `None` is unlimited, or not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// As v1 counts them; on v2 made from the weight.
    pub cpu_shares: u64,
    /// Microseconds per period.
    pub cpu_quota: Option<u64>,
    /// Microseconds.
    pub cpu_period: u64,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes kept from reclaim when memory is short.
    pub memory_reservation: Option<u64>,
    /// Bytes of memory and swap on v1, of swap on v2.
    pub memory_swap: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

struct Dirs {
    cpu: PathBuf,
    cpuacct: PathBuf,
    memory: PathBuf,
    io: PathBuf,
}

impl Cgroups {
    /// Reads all of it. Blocks.
    pub fn detail(&self, path: &CgroupPath) -> Detail {
        let dir = |controller: &str| self.controller_dir(controller, path).unwrap_or_default();
        let unified = || self.unified().map(|unified| path.under(unified)).unwrap_or_default();
        let dirs = Dirs {
            cpu: dir("cpu"),
            cpuacct: dir("cpuacct"),
            memory: dir("memory"),
            io: dir("blkio"),
        };
        let mut detail = match self.layout() {
            Layout::V2 => detail_v2(&dirs),
            Layout::V1 | Layout::Hybrid => detail_v1(&dirs),
        };
        detail.oom_kills = self.oom_kills(path);
        detail.limits.pids = limit(&dir("pids"), "pids.max");
        // A hybrid node may have hugetlb on either version.
        let huge = self.controller_dir("hugetlb", path).unwrap_or_else(unified);
        detail.huge_pages = huge_pages(&huge);
        detail
    }
}

fn number(dir: &Path, name: &str) -> u64 {
    once(dir, name).and_then(|text| whole(&text)).unwrap_or_default()
}

fn limit(dir: &Path, name: &str) -> Option<u64> {
    once(dir, name).and_then(|text| max(&text))
}

fn detail_v1(dirs: &Dirs) -> Detail {
    let stat = once(&dirs.cpu, "cpu.stat").unwrap_or_default();
    let of = |name: &str| key(&stat, name).unwrap_or_default();
    let io = |name: &str| once(&dirs.io, name).unwrap_or_default();
    let bytes = io("blkio.throttle.io_service_bytes_recursive");
    let counts = io("blkio.throttle.io_serviced_recursive");
    Detail {
        cpu_user_ns: number(&dirs.cpuacct, "cpuacct.usage_user"),
        cpu_system_ns: number(&dirs.cpuacct, "cpuacct.usage_sys"),
        throttling: Throttling {
            periods: of("nr_periods"),
            throttled_periods: of("nr_throttled"),
            throttled_ns: of("throttled_time"),
        },
        memory_max_usage: number(&dirs.memory, "memory.max_usage_in_bytes"),
        memory_failures: number(&dirs.memory, "memory.failcnt"),
        memory_kernel: number(&dirs.memory, "memory.kmem.usage_in_bytes"),
        io: io_v1(&bytes, &counts),
        limits: Limits {
            cpu_shares: number(&dirs.cpu, "cpu.shares"),
            // -1 is no u64, and is unlimited.
            cpu_quota: limit(&dirs.cpu, "cpu.cfs_quota_us"),
            cpu_period: number(&dirs.cpu, "cpu.cfs_period_us"),
            memory: limit(&dirs.memory, "memory.limit_in_bytes"),
            memory_reservation: limit(&dirs.memory, "memory.soft_limit_in_bytes"),
            memory_swap: limit(&dirs.memory, "memory.memsw.limit_in_bytes"),
            pids: None,
        },
        ..Detail::default()
    }
}

fn detail_v2(dirs: &Dirs) -> Detail {
    let stat = once(&dirs.cpu, "cpu.stat").unwrap_or_default();
    let of = |name: &str| key(&stat, name).unwrap_or_default();
    let events = once(&dirs.memory, "memory.events").unwrap_or_default();
    let memory = once(&dirs.memory, "memory.stat").unwrap_or_default();
    let cpu_max = once(&dirs.cpu, "cpu.max").unwrap_or_default();
    let (quota, period) = cpu_max.trim().split_once(' ').unwrap_or_default();
    Detail {
        cpu_user_ns: of("user_usec") * 1000,
        cpu_system_ns: of("system_usec") * 1000,
        throttling: Throttling {
            periods: of("nr_periods"),
            throttled_periods: of("nr_throttled"),
            throttled_ns: of("throttled_usec") * 1000,
        },
        memory_max_usage: number(&dirs.memory, "memory.peak"),
        memory_failures: key(&events, "max").unwrap_or_default(),
        memory_kernel: key(&memory, "kernel").unwrap_or_default(),
        io: io_v2(&once(&dirs.io, "io.stat").unwrap_or_default()),
        limits: Limits {
            cpu_shares: shares(number(&dirs.cpu, "cpu.weight")),
            cpu_quota: quota.parse().ok(),
            cpu_period: period.parse().unwrap_or_default(),
            memory: limit(&dirs.memory, "memory.max"),
            memory_reservation: limit(&dirs.memory, "memory.low"),
            memory_swap: limit(&dirs.memory, "memory.swap.max"),
            pids: None,
        },
        ..Detail::default()
    }
}

/// The way back from a weight, as the kubelet reckons it.
fn shares(weight: u64) -> u64 {
    if weight == 0 { 0 } else { 2 + (weight - 1) * 262_142 / 9_999 }
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `8:0 Read 4096`, in one file bytes and in one counts.
fn io_v1(bytes: &str, counts: &str) -> Vec<DeviceIo> {
    let mut devices: BTreeMap<(u32, u32), DeviceIo> = BTreeMap::new();
    for (text, is_bytes) in [(bytes, true), (counts, false)] {
        for line in text.lines() {
            let mut words = line.split(' ');
            let Some((major, minor)) = words.next().and_then(device) else { continue };
            let (Some(what), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) else {
                continue;
            };
            let new = || DeviceIo { major, minor, ..DeviceIo::default() };
            let one = devices.entry((major, minor)).or_insert_with(new);
            match (what, is_bytes) {
                ("Read", true) => one.read_bytes = value,
                ("Write", true) => one.write_bytes = value,
                ("Read", false) => one.reads = value,
                ("Write", false) => one.writes = value,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 …`
fn io_v2(text: &str) -> Vec<DeviceIo> {
    text.lines().filter_map(io_line_v2).collect()
}

fn io_line_v2(line: &str) -> Option<DeviceIo> {
    let mut words = line.split(' ');
    let (major, minor) = words.next().and_then(device)?;
    let mut one = DeviceIo { major, minor, ..DeviceIo::default() };
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        let value = value.parse().unwrap_or_default();
        match name {
            "rbytes" => one.read_bytes = value,
            "wbytes" => one.write_bytes = value,
            "rios" => one.reads = value,
            "wios" => one.writes = value,
            _ => {}
        }
    }
    Some(one)
}

/// The sizes that the kernel has, and 0 for those that the cgroup does not count.
fn huge_pages(dir: &Path) -> Vec<HugePages> {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let sizes = sizes.filter_map(|entry| page_size(entry.file_name().to_str()?));
    sizes
        .map(|size| {
            let v1 = once(dir, &format!("hugetlb.{size}.usage_in_bytes"));
            let now = v1.or_else(|| once(dir, &format!("hugetlb.{size}.current")));
            let usage = now.and_then(|text| whole(&text)).unwrap_or_default();
            let most = number(dir, &format!("hugetlb.{size}.max_usage_in_bytes"));
            HugePages { size, usage, max_usage: most.max(usage) }
        })
        .collect()
}

/// `hugepages-2048kB` is `2MB`.
fn page_size(name: &str) -> Option<String> {
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        _ if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        _ if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_is_the_same_whichever_version_tells_it() {
        let one = DeviceIo {
            major: 8,
            minor: 16,
            read_bytes: 4096,
            write_bytes: 8192,
            reads: 1,
            writes: 2,
        };
        let bytes = "8:16 Read 4096\n8:16 Write 8192\n8:16 Sync 1\nTotal 12288\n";
        assert_eq!(io_v1(bytes, "8:16 Read 1\n8:16 Write 2\n"), [one]);
        assert_eq!(io_v2("8:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0\n7:0 \n")[0], one);
    }

    #[test]
    fn page_sizes_have_the_names_that_cgroups_give_them() {
        let names = ["hugepages-64kB", "hugepages-2048kB", "hugepages-1048576kB"];
        assert_eq!(names.map(|n| page_size(n).unwrap()), ["64KB", "2MB", "1GB"]);
        assert_eq!(page_size("x"), None);
    }
}
