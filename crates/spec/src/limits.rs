//! Limits: of the cgroup, of the process, and its rank when memory runs out.

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxHugepageLimit,
    LinuxHugepageLimitBuilder, LinuxMemory, LinuxMemoryBuilder, LinuxResources,
    LinuxResourcesBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
};
use pod::config::Resources;

use crate::request::{BuildError, CgroupLayout, Request};

const UNLIMITED: i64 = -1;

pub(crate) fn resources(request: &Request<'_>) -> Result<LinuxResources, BuildError> {
    let asked = &request.container.resources;
    let mut cpu = LinuxCpuBuilder::default();
    if asked.cpu_period > 0 {
        cpu = cpu.period(asked.cpu_period.unsigned_abs());
    }
    if asked.cpu_quota != 0 {
        cpu = cpu.quota(asked.cpu_quota);
    }
    if asked.cpu_shares > 0 {
        cpu = cpu.shares(asked.cpu_shares.unsigned_abs());
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(asked.cpuset_cpus.clone());
    }
    if !asked.cpuset_mems.is_empty() {
        cpu = cpu.mems(asked.cpuset_mems.clone());
    }
    let mut resources =
        LinuxResourcesBuilder::default().cpu(cpu.build()?).devices(devices(request)?);
    if let Some(memory) = memory(asked, request.node.swap_limits)? {
        resources = resources.memory(memory);
    }
    if request.node.hugetlb && !asked.hugepages.is_empty() {
        resources = resources.hugepage_limits(hugepages(asked)?);
    }
    if !asked.unified.is_empty() {
        if request.node.cgroups != CgroupLayout::V2 {
            let why = "needs cgroup v2, which this node has not";
            return Err(BuildError::field("config.linux.resources.unified", why));
        }
        resources = resources.unified(
            asked.unified.clone().into_iter().collect::<std::collections::HashMap<_, _>>(),
        );
    }
    Ok(resources.build()?)
}

/// Memory and swap are always written together: the kernel refuses a limit above the sum.
fn memory(asked: &Resources, swap_limits: bool) -> Result<Option<LinuxMemory>, BuildError> {
    let (limit, sum) = (asked.memory_limit, asked.memory_swap_limit);
    if limit == 0 && sum == 0 {
        return Ok(None);
    }
    let mut memory = LinuxMemoryBuilder::default();
    if limit != 0 {
        memory = memory.limit(limit);
    }
    if swap_limits {
        memory = memory.swap(swap(limit, sum)?);
    }
    Ok(Some(memory.build()?))
}

fn swap(limit: i64, sum: i64) -> Result<i64, BuildError> {
    match (limit, sum) {
        // Nothing said of swap: none beyond memory.
        (limit, 0) => Ok(limit),
        (_, UNLIMITED) | (UNLIMITED, _) => Ok(UNLIMITED),
        (0, sum) => {
            let why = format!("{sum} is of memory and swap: it needs memory_limit_in_bytes");
            Err(BuildError::field("config.linux.resources.memory_swap_limit_in_bytes", why))
        }
        (limit, sum) if sum < limit => {
            let why = format!("{sum} is less than memory_limit_in_bytes {limit}");
            Err(BuildError::field("config.linux.resources.memory_swap_limit_in_bytes", why))
        }
        (_, sum) => Ok(sum),
    }
}

fn hugepages(asked: &Resources) -> Result<Vec<LinuxHugepageLimit>, BuildError> {
    let one = |(size, limit): &(String, u64)| {
        let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
        Ok(LinuxHugepageLimitBuilder::default().page_size(size.clone()).limit(limit).build()?)
    };
    asked.hugepages.iter().map(one).collect()
}

/// Nothing but what launch adds for devices that exist; privileged: everything.
fn devices(request: &Request<'_>) -> Result<Vec<LinuxDeviceCgroup>, BuildError> {
    let all = LinuxDeviceCgroupBuilder::default()
        .allow(request.container.security.privileged)
        .access("rwm")
        .build()?;
    Ok(vec![all])
}

pub(crate) fn rlimits(request: &Request<'_>) -> Result<Option<Vec<PosixRlimit>>, BuildError> {
    let one = |limit: &crate::request::Rlimit| {
        let kind: PosixRlimitType = serde_json::from_value(serde_json::Value::String(
            limit.name.clone(),
        ))
        .map_err(|_| BuildError::field("rlimits", format!("{:?} is no limit", limit.name)))?;
        Ok(PosixRlimitBuilder::default()
            .typ(kind)
            .soft(limit.soft.min(limit.hard))
            .hard(limit.hard)
            .build()?)
    };
    let all: Result<Vec<_>, BuildError> = request.node.rlimits.iter().map(one).collect();
    Ok(Some(all?).filter(|l| !l.is_empty()))
}

pub(crate) fn oom_score_adj(request: &Request<'_>) -> Result<i32, BuildError> {
    let asked = request.container.resources.oom_score_adj;
    let adj =
        i32::try_from(asked).ok().filter(|n| (-1000..=1000).contains(n)).ok_or_else(|| {
            BuildError::field(
                "config.linux.resources.oom_score_adj",
                format!("{asked} is not from -1000 to 1000"),
            )
        })?;
    Ok(adj.max(request.node.lowest_oom_score_adj))
}
