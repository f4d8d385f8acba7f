//! What a specification's resources are in the files of v1.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::STAGE;
use process::failure::{At, Failure, Kind};

const NONSENSE: [Option<i32>; 2] = [Some(libc::EINVAL), Some(libc::ERANGE)];

/// A controller, a file of it, and what is written there.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) controller: &'static str,
    pub(super) file: String,
    pub(super) value: String,
}

impl Limit {
    fn new(controller: &'static str, file: impl Into<String>, value: String) -> Self {
        Self { controller, file: file.into(), value }
    }

    /// What the kernel takes for nonsense is the client's fault.
    pub(super) fn write(&self, mut file: &File, path: &Path) -> Result<(), Failure> {
        let doing = || format!("writing {} into {}", self.value, path.display());
        let written = file.write_all(self.value.as_bytes());
        let nonsense = matches!(&written, Err(e) if NONSENSE.contains(&e.raw_os_error()));
        let kind = if nonsense { Kind::Invalid } else { Kind::Internal };
        written.at(STAGE, doing).map_err(|failure| Failure { kind, ..failure })
    }

    pub(super) fn is_late(&self) -> bool {
        matches!(self.controller, "cpu" | "pids")
    }
}

/// What every container may use, whatever its specification allows: the same devices that libcontainer adds on v2.
const DEVICES: [&str; 12] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
    "c *:* m",
    "b *:* m",
];

/// In the order in which the kernel takes them.
pub(super) fn of(resources: &LinuxResources) -> Result<Vec<Limit>, Failure> {
    if resources.block_io().is_some() || resources.network().is_some() || resources.rdma().is_some()
    {
        return Err(Failure::invalid(STAGE, "limits of block devices, network or RDMA"));
    }
    let mut limits = Vec::new();
    limits.extend(resources.cpu().iter().flat_map(cpu));
    limits.extend(resources.memory().iter().flat_map(memory));
    for huge in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", huge.page_size());
        limits.push(Limit::new("hugetlb", file, huge.limit().to_string()));
    }
    if let Some(pids) = resources.pids() {
        let most = if pids.limit() > 0 { pids.limit().to_string() } else { "max".to_owned() };
        limits.push(Limit::new("pids", "pids.max", most));
    }
    for rule in resources.devices().iter().flatten() {
        limits.push(Limit::new("devices", device_file(rule.allow()), rule.to_string()));
    }
    limits.extend(DEVICES.map(|rule| Limit::new("devices", device_file(true), rule.to_owned())));
    Ok(limits)
}

fn device_file(allow: bool) -> &'static str {
    if allow { "devices.allow" } else { "devices.deny" }
}

/// A quota is held against the period that is there.
fn cpu(cpu: &LinuxCpu) -> impl Iterator<Item = Limit> {
    let number = |n: Option<u64>| n.filter(|n| *n != 0).map(|n| n.to_string());
    let quota = cpu.quota().filter(|n| *n != 0).map(|n| n.to_string());
    [
        ("cpu", "cpu.shares", number(cpu.shares())),
        ("cpu", "cpu.cfs_period_us", number(cpu.period())),
        ("cpu", "cpu.cfs_quota_us", quota),
        ("cpuset", "cpuset.cpus", cpu.cpus().clone()),
        ("cpuset", "cpuset.mems", cpu.mems().clone()),
    ]
    .into_iter()
    .filter_map(|(controller, file, value)| Some(Limit::new(controller, file, value?)))
}

/// The sum with swap may never be below the limit of memory alone, and is unlimited at first.
fn memory(memory: &LinuxMemory) -> impl Iterator<Item = Limit> {
    let number = |n: Option<i64>| n.filter(|n| *n != 0).map(|n| n.to_string());
    [
        ("memory.limit_in_bytes", number(memory.limit())),
        ("memory.memsw.limit_in_bytes", number(memory.swap())),
        ("memory.soft_limit_in_bytes", number(memory.reservation())),
    ]
    .into_iter()
    .filter_map(|(file, value)| Some(Limit::new("memory", file, value?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use libcontainer::oci_spec::runtime::{
        LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxResourcesBuilder,
    };

    #[test]
    fn limits_come_in_an_order_that_the_kernel_takes_and_denial_before_what_is_allowed() {
        let cpu =
            LinuxCpuBuilder::default().shares(102_u64).quota(5000).period(10_000_u64).cpus("0");
        let memory = LinuxMemoryBuilder::default().limit(1 << 20).swap(1 << 20);
        let none = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().unwrap();
        let resources = LinuxResourcesBuilder::default()
            .cpu(cpu.build().unwrap())
            .memory(memory.build().unwrap())
            .devices(vec![none])
            .build()
            .unwrap();
        let limits = of(&resources).unwrap();
        let told: Vec<_> =
            limits.iter().map(|limit| (limit.file.as_str(), limit.value.as_str())).collect();
        assert_eq!(
            told[..7],
            [
                ("cpu.shares", "102"),
                ("cpu.cfs_period_us", "10000"),
                ("cpu.cfs_quota_us", "5000"),
                ("cpuset.cpus", "0"),
                ("memory.limit_in_bytes", "1048576"),
                ("memory.memsw.limit_in_bytes", "1048576"),
                ("devices.deny", "a *:* rwm"),
            ]
        );
        assert!(told[7..].iter().all(|(file, _)| *file == "devices.allow") && told.len() == 19);
    }
}
