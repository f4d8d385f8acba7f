//! Limits, in the ranges that the kernel takes.

use cri_proto::cri::{HugepageLimit, LinuxContainerResources};
use pod::config::Resources;

use super::{At, Invalid};

pub(crate) fn resources(at: &At<'_>, wire: &LinuxContainerResources) -> Result<Resources, Invalid> {
    cpu(at, wire)?;
    at_least(&at.field("memory_limit_in_bytes"), wire.memory_limit_in_bytes, -1)?;
    at_least(&at.field("memory_swap_limit_in_bytes"), wire.memory_swap_limit_in_bytes, -1)?;
    within(&at.field("oom_score_adj"), wire.oom_score_adj, -1000, 1000)?;
    set_of_numbers(&at.field("cpuset_cpus"), &wire.cpuset_cpus)?;
    set_of_numbers(&at.field("cpuset_mems"), &wire.cpuset_mems)?;
    for key in wire.unified.keys() {
        cgroup_file(&at.field("unified"), key)?;
    }
    Ok(Resources {
        cpu_period: wire.cpu_period,
        cpu_quota: wire.cpu_quota,
        cpu_shares: wire.cpu_shares,
        memory_limit: wire.memory_limit_in_bytes,
        memory_swap_limit: wire.memory_swap_limit_in_bytes,
        oom_score_adj: wire.oom_score_adj,
        cpuset_cpus: wire.cpuset_cpus.clone(),
        cpuset_mems: wire.cpuset_mems.clone(),
        hugepages: hugepages(&at.field("hugepage_limits"), &wire.hugepage_limits)?,
        unified: wire.unified.clone().into_iter().collect(),
    })
}

fn cpu(at: &At<'_>, wire: &LinuxContainerResources) -> Result<(), Invalid> {
    if wire.cpu_period != 0 {
        within(&at.field("cpu_period"), wire.cpu_period, 1000, 1_000_000)?;
    }
    if wire.cpu_quota > 0 {
        at_least(&at.field("cpu_quota"), wire.cpu_quota, 1000)?;
    }
    at_least(&at.field("cpu_quota"), wire.cpu_quota, -1)?;
    within(&at.field("cpu_shares"), wire.cpu_shares, 0, 262_144)
}

fn hugepages(at: &At<'_>, wire: &[HugepageLimit]) -> Result<Vec<(String, u64)>, Invalid> {
    let limit = |(index, wire): (usize, &HugepageLimit)| {
        let at = at.item(index);
        page_size(&at.field("page_size"), &wire.page_size)?;
        Ok((wire.page_size.clone(), wire.limit))
    };
    wire.iter().enumerate().map(limit).collect()
}

/// Becomes part of a file's name: `hugetlb.2MB.max`.
fn page_size(at: &At<'_>, text: &str) -> Result<(), Invalid> {
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| text.strip_suffix(unit));
    let sound = digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
    if sound { Ok(()) } else { Err(at.invalid(format!("{text:?} is not a size such as 2MB"))) }
}

/// A key of `unified` is the name of a file in the container's cgroup.
fn cgroup_file(at: &At<'_>, key: &str) -> Result<(), Invalid> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
    let sound = key.contains('.') && !key.starts_with('.') && key.bytes().all(letter);
    if sound && !key.starts_with("cgroup.") {
        Ok(())
    } else {
        Err(at.invalid(format!("{key:?} is not a file of a controller such as memory.high")))
    }
}

fn set_of_numbers(at: &At<'_>, text: &str) -> Result<(), Invalid> {
    let number = |part: &str| part.parse::<u32>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(a, b)| a <= b),
        None => number(part).is_some(),
    };
    if text.is_empty() || text.split(',').all(range) {
        return Ok(());
    }
    Err(at.invalid(format!("{text:?} is not a list such as 0-3,5")))
}

fn at_least(at: &At<'_>, value: i64, least: i64) -> Result<(), Invalid> {
    if value < least { Err(at.invalid(format!("{value} is less than {least}"))) } else { Ok(()) }
}

fn within(at: &At<'_>, value: i64, least: i64, most: i64) -> Result<(), Invalid> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(at.invalid(format!("{value} is not between {least} and {most}")))
}
