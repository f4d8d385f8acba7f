//! One limit: which files it touches, and how cgroups-rs writes it.

use std::fmt;
use std::io;

use cgroups_rs::fs as rs;
use cgroups_rs::fs::error::{Error, Result};
use cgroups_rs::fs::{Controller, cpu::CpuController, cpuset::CpuSetController};
use cgroups_rs::fs::{hugetlb::HugeTlbController, memory::MemController};
use pod::config::Resources;

use super::UpdateError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Limit {
    Weight(u64),
    Bandwidth {
        period: Option<u64>,
        quota: Option<i64>,
    },
    /// `swap` is memory and swap together on v1, swap alone on v2.
    Memory {
        limit: Option<i64>,
        swap: Option<i64>,
    },
    Cpus(String),
    Mems(String),
    Pages {
        size: String,
        limit: u64,
    },
    Raw {
        key: String,
        value: String,
    },
}

/// The limits that these resources give, in the order in which they are written.
pub(super) fn all_of(given: &Resources, v2: bool) -> std::result::Result<Vec<Limit>, UpdateError> {
    let mut found = Vec::new();
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    found.extend(text(&given.cpuset_cpus).map(Limit::Cpus));
    found.extend(text(&given.cpuset_mems).map(Limit::Mems));
    if let Ok(shares @ 1..) = u64::try_from(given.cpu_shares) {
        found.push(Limit::Weight(if v2 { weight(shares) } else { shares }));
    }
    let period = u64::try_from(given.cpu_period).ok().filter(|p| *p != 0);
    let quota = (given.cpu_quota != 0).then_some(given.cpu_quota);
    if period.is_some() || quota.is_some() {
        found.push(Limit::Bandwidth { period, quota });
    }
    let limit = (given.memory_limit != 0).then_some(given.memory_limit);
    let swap = swap(given, v2)?;
    if limit.is_some() || swap.is_some() {
        found.push(Limit::Memory { limit, swap });
    }
    let pages = given.hugepages.iter().cloned();
    found.extend(pages.map(|(size, limit)| Limit::Pages { size, limit }));
    for (key, value) in &given.unified {
        if !v2 || key.contains('/') || !key.contains('.') || key.starts_with("cgroup.") {
            return Err(UpdateError::NotUnified(key.clone()));
        }
        found.push(Limit::Raw { key: key.clone(), value: value.clone() });
    }
    Ok(found)
}

/// Nothing said of swap: none beyond the memory, as it is for a new container.
fn swap(given: &Resources, v2: bool) -> std::result::Result<Option<i64>, UpdateError> {
    Ok(match (given.memory_swap_limit, given.memory_limit) {
        (0, 0) => None,
        (0, limit) if limit > 0 && v2 => Some(0),
        (0, limit) => Some(limit),
        (sum, limit) if sum > 0 && sum < limit => {
            return Err(UpdateError::SwapBelow { limit, sum });
        }
        (sum, _) if !v2 || sum < 0 => Some(sum),
        (sum, limit) if limit > 0 => Some(sum - limit),
        _ => None,
    })
}

/// v1 shares 2 to 262144 onto v2 weights 1 to 10000, as libcontainer does when it creates the container.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

// === impl Limit ===

impl Limit {
    /// Its controller's name; raw keys exist only where every controller is in one place.
    pub(super) fn controller(&self) -> &'static str {
        match self {
            Self::Weight(_) | Self::Bandwidth { .. } | Self::Raw { .. } => "cpu",
            Self::Memory { .. } => "memory",
            Self::Cpus(_) | Self::Mems(_) => "cpuset",
            Self::Pages { .. } => "hugetlb",
        }
    }

    /// The files of both versions; those that a node lacks are not there to be saved.
    pub(super) fn files(&self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Weight(_) => &["cpu.shares", "cpu.weight"],
            Self::Bandwidth { .. } => &["cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.max"],
            Self::Memory { .. } => &[
                "memory.memsw.limit_in_bytes",
                "memory.limit_in_bytes",
                "memory.swap.max",
                "memory.max",
            ],
            Self::Cpus(_) => &["cpuset.cpus"],
            Self::Mems(_) => &["cpuset.mems"],
            Self::Pages { size, .. } => {
                return vec![
                    format!("hugetlb.{size}.limit_in_bytes"),
                    format!("hugetlb.{size}.max"),
                ];
            }
            Self::Raw { key, .. } => return vec![key.clone()],
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    pub(super) fn write(&self, cgroup: &rs::Cgroup) -> Result<()> {
        match self {
            Self::Weight(weight) => cpu(cgroup, |c| c.set_shares(*weight)),
            Self::Bandwidth { period, quota } => cpu(cgroup, |c| bandwidth(c, *period, *quota)),
            Self::Memory { limit, swap } => match cgroup.controller_of::<MemController>() {
                Some(memory) => write_memory(memory, *limit, *swap),
                None => Ok(()),
            },
            Self::Cpus(cpus) => cpuset(cgroup, |c| c.set_cpus(cpus)),
            Self::Mems(mems) => cpuset(cgroup, |c| c.set_mems(mems)),
            Self::Pages { size, limit } => pages(cgroup, size, *limit),
            Self::Raw { .. } => Ok(()),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight(n) => write!(f, "the cpu weight {n}"),
            Self::Bandwidth { period, quota } => {
                write!(f, "the cpu quota {} per {}", or_same(*quota), or_same(*period))
            }
            Self::Memory { limit, swap } => {
                write!(f, "the memory limit {} and swap {}", or_same(*limit), or_same(*swap))
            }
            Self::Cpus(list) => write!(f, "the cpus {list}"),
            Self::Mems(list) => write!(f, "the memory nodes {list}"),
            Self::Pages { size, limit } => write!(f, "{limit} bytes of {size} pages"),
            Self::Raw { key, value } => write!(f, "{key} to {value}"),
        }
    }
}

fn or_same(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "unchanged".to_owned(), |value| value.to_string())
}

fn cpu(cgroup: &rs::Cgroup, set: impl FnOnce(&CpuController) -> Result<()>) -> Result<()> {
    cgroup.controller_of::<CpuController>().map_or(Ok(()), set)
}

fn cpuset(cgroup: &rs::Cgroup, set: impl FnOnce(&CpuSetController) -> Result<()>) -> Result<()> {
    cgroup.controller_of::<CpuSetController>().map_or(Ok(()), set)
}

/// On v1 the pair that lies between old and new may exceed the parent's share in one order and not in the other.
fn bandwidth(cpu: &CpuController, period: Option<u64>, quota: Option<i64>) -> Result<()> {
    if Controller::v2(cpu) {
        return cpu.set_cfs_quota_and_period(quota, period);
    }
    let set_period = || period.map_or(Ok(()), |p| cpu.set_cfs_period(p));
    let set_quota = || quota.map_or(Ok(()), |q| cpu.set_cfs_quota(q));
    set_period().and_then(|()| set_quota()).or_else(|_| set_quota().and_then(|()| set_period()))
}

/// v1 keeps memory <= memory+swap at each write. Without swap accounting there is only the first.
fn write_memory(memory: &MemController, limit: Option<i64>, swap: Option<i64>) -> Result<()> {
    let v1 = !Controller::v2(memory);
    let file = if v1 { "memory.memsw.limit_in_bytes" } else { "memory.swap.max" };
    let has_swap = Controller::path(memory).join(file).exists();
    let set_limit = || limit.map_or(Ok(()), |limit| memory.set_limit(limit));
    let set_swap = |swap: Option<i64>| match swap.filter(|_| has_swap) {
        Some(swap) => memory.set_memswap_limit(swap),
        None => Ok(()),
    };
    if v1 && limit == Some(-1) {
        return set_swap(Some(-1)).and_then(|()| set_limit()).and_then(|()| set_swap(swap));
    }
    match set_limit() {
        Err(error) if v1 && errno(&error) == Some(libc::EINVAL) => {
            set_swap(swap.or(limit))?;
            set_limit()
        }
        other => other.and_then(|()| set_swap(swap)),
    }
}

/// kubelet sends every page size of the node, whether or not the kernel counts them.
fn pages(cgroup: &rs::Cgroup, size: &str, limit: u64) -> Result<()> {
    match cgroup.controller_of::<HugeTlbController>() {
        Some(c) if Controller::exists(c) && counts(c, size) => c.set_limit_in_bytes(size, limit),
        Some(_) | None => Ok(()),
    }
}

fn counts(pages: &HugeTlbController, size: &str) -> bool {
    let has = |file: String| Controller::path(pages).join(file).exists();
    has(format!("hugetlb.{size}.limit_in_bytes")) || has(format!("hugetlb.{size}.max"))
}

/// The kernel's error number below a cgroups-rs error.
pub(super) fn errno(error: &Error) -> Option<i32> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<io::Error>()?.raw_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_not_written() {
        assert_eq!(all_of(&Resources::default(), true).unwrap(), []);
        assert_eq!(all_of(&Resources::default(), false).unwrap(), []);
    }

    #[test]
    fn swap_is_alone_on_v2_and_together_with_memory_on_v1() {
        let given = Resources { memory_limit: 100, memory_swap_limit: 150, ..Resources::default() };
        let memory = |limit, swap| vec![Limit::Memory { limit: Some(limit), swap }];
        assert_eq!(all_of(&given, false).unwrap(), memory(100, Some(150)));
        assert_eq!(all_of(&given, true).unwrap(), memory(100, Some(50)));
        let less = Resources { memory_swap_limit: 99, ..given.clone() };
        assert!(all_of(&less, false).is_err() && all_of(&less, true).is_err());
        let silent = Resources { memory_swap_limit: 0, ..given.clone() };
        assert_eq!(all_of(&silent, false).unwrap(), memory(100, Some(100)));
        assert_eq!(all_of(&silent, true).unwrap(), memory(100, Some(0)));
        let unlimited = Resources { memory_limit: -1, ..silent };
        assert_eq!(all_of(&unlimited, true).unwrap(), memory(-1, Some(-1)));
        let given = Resources { memory_swap_limit: -1, ..given };
        assert_eq!(all_of(&given, true).unwrap(), memory(100, Some(-1)));
    }

    #[test]
    fn shares_become_weights_as_libcontainer_makes_them() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }

    #[test]
    fn a_raw_key_leads_nowhere_else() {
        for key in ["../memory.max", "cgroup.procs", "memory"] {
            let unified = [(key.to_owned(), "1".to_owned())].into();
            assert!(all_of(&Resources { unified, ..Resources::default() }, true).is_err(), "{key}");
        }
    }
}
