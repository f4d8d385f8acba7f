//! [`Meter`]: what pods use, read from files that are held open.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ::host::cgroup::stats::{Reader, Sample};
use ::host::cgroup::{CgroupPath, Cgroups};
use ::host::disk;
use ::network::InterfaceCounters;
use engine::PodView;
use names::ContainerId;
use pod::config::NamespaceMode;
use pod::{Container, Sandbox, plan};

use super::Node;
use super::place::text;
use crate::cri::usage::{ContainerUsage, Depth, Disk, Meter, PodUsage, Processes};

/// Beyond so many entries a writable layer is not counted to its end: one container must not hold up the list.
const MOST_ENTRIES: u64 = 200_000;
/// A layer of more entries than that is counted anew only after a while.
const LARGE: u64 = 2_000;
const LARGE_FOR: i64 = 30_000_000_000;
/// The kubelet asks every ten seconds or so.
const KEPT_FOR: i64 = 60_000_000_000;
/// The interface that every pod's default route leaves by.
const DEFAULT_INTERFACE: &str = "eth0";

/// What is kept between two measurements. Locked for look-ups only, never while anything is read.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// By cgroup.
    readers: Mutex<HashMap<String, (i64, Arc<Reader>)>>,
    layers: Mutex<HashMap<ContainerId, (i64, disk::Usage)>>,
}

// === impl Kept ===

impl Kept {
    /// Lets go what nobody has asked for of late: its cgroup may be gone, and its files are held.
    fn forget_old(&self, now: i64) {
        let old = |at: i64| now.saturating_sub(at) > KEPT_FOR;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|_, (at, _)| !old(*at));
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(|_, (at, _)| !old(*at));
    }
}

impl Meter for Node {
    async fn measure(&self, pods: Vec<PodView>, depth: Depth) -> Vec<PodUsage> {
        let node = self.clone();
        let measured = tokio::task::spawn_blocking(move || {
            node.kept.forget_old(::host::proc::now());
            let measured = pods.into_iter().filter_map(|pod| node.measure_pod(&pod, depth));
            measured.collect()
        });
        measured.await.unwrap_or_default()
    }
}

impl Node {
    fn measure_pod(&self, pod: &PodView, depth: Depth) -> Option<PodUsage> {
        let sandbox = &pod.sandbox;
        let path = &CgroupPath::from(super::host::pod_cgroup(sandbox).ok()?);
        let whole = depth != Depth::Containers;
        let sample = if whole { self.sample(path) } else { Sample::default() };
        let running = pod.visible().filter(|container| container.phase.is_running());
        let measured =
            running.filter_map(|container| self.measure_container(sandbox, container, depth));
        Some(PodUsage {
            sample,
            detail: (depth == Depth::Metrics).then(|| self.cgroups.detail(path)),
            processes: sample.pids.unwrap_or_default(),
            containers: measured.collect(),
            interfaces: if whole { self.interfaces(sandbox) } else { Vec::new() },
            pod: Arc::clone(pod),
        })
    }

    fn measure_container(
        &self,
        sandbox: &Sandbox,
        container: &Arc<Container>,
        depth: Depth,
    ) -> Option<ContainerUsage> {
        let path = self.container_cgroup(sandbox, &container.id).ok()?;
        let metrics = depth == Depth::Metrics;
        let main = container.phase.pid();
        Some(ContainerUsage {
            container: Arc::clone(container),
            sample: self.sample(&path),
            detail: metrics.then(|| self.cgroups.detail(&path)),
            disk: self.disk(&container.id),
            processes: if metrics {
                processes(&self.cgroups, &path, main)
            } else {
                Processes::default()
            },
        })
    }

    fn sample(&self, path: &CgroupPath) -> Sample {
        let key = path.as_str();
        let held = || self.kept.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = held().get(key).map(|(_, reader)| Arc::clone(reader));
        let reader = kept.unwrap_or_else(|| Arc::new(self.cgroups.reader(path)));
        let sample = reader.read();
        if sample.cpu_ns.is_some() {
            held().insert(key.to_owned(), (sample.at, reader));
        } else {
            held().remove(key);
        }
        sample
    }

    fn disk(&self, id: &ContainerId) -> Option<Disk> {
        let upper = self.places.upper(id);
        let used = self.layer(id, &upper)?;
        let space = disk::space(&upper).ok()?;
        let mountpoint = disk::mount_point(&upper).map(|path| text(&path)).unwrap_or_default();
        Some(Disk { mountpoint, used, space })
    }

    fn layer(&self, id: &ContainerId, upper: &Path) -> Option<disk::Usage> {
        let now = ::host::proc::now();
        let held = || self.kept.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = held().get(id).copied();
        if let Some((at, used)) = kept
            && used.inodes > LARGE
            && now.saturating_sub(at) < LARGE_FOR
        {
            return Some(used);
        }
        let used = disk::usage(upper, MOST_ENTRIES).ok()?;
        if used.inodes > LARGE {
            held().insert(id.clone(), (now, used));
        }
        Some(used)
    }

    /// Those of the pod's own network, that of the default route first.
    fn interfaces(&self, sandbox: &Sandbox) -> Vec<InterfaceCounters> {
        if sandbox.config.namespaces.network == NamespaceMode::Node {
            return Vec::new();
        }
        let pin = self.pins.path(&plan::netns_pin(&sandbox.id));
        let counted = File::open(pin).and_then(|netns| ::network::counters(netns.as_fd()));
        let mut counters = counted.unwrap_or_default();
        counters.retain(|interface| interface.name != "lo");
        counters.sort_by_key(|interface| interface.name != DEFAULT_INTERFACE);
        counters
    }
}

fn processes(cgroups: &Cgroups, path: &CgroupPath, main: Option<i32>) -> Processes {
    let pids = cgroups.pids(path).unwrap_or_default();
    let mut found = Processes {
        count: pids.len() as u64,
        open_files_soft: main.and_then(open_files_soft),
        ..Processes::default()
    };
    for pid in pids {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in entries.flatten() {
            found.descriptors += 1;
            let target = entry.path().read_link().unwrap_or_default();
            found.sockets +=
                u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
    }
    found
}

fn open_files_soft(pid: i32) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
