//! [`Meter`]: what pods use, read from files that are held open, a list on a few blocking threads.

mod layers;

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ::host::cgroup::stats::{Reader, Sample};
use ::host::cgroup::{CgroupPath, Cgroups};
use ::host::disk;
use engine::PodView;
use names::ContainerId;
use pod::config::NamespaceMode;
use pod::{Container, Sandbox, plan};

use super::Node;
use super::place::text;
use crate::cri::usage::{ContainerUsage, Depth, Disk, Meter, PodUsage, Processes};
use layers::Layers;

/// The kubelet asks every ten seconds or so.
const KEPT_FOR: i64 = 60_000_000_000;
/// A list is measured by so many threads, and no thread is begun for fewer pods than that.
const THREADS: usize = 4;
const LEAST: usize = 12;
/// The interface that every pod's default route leaves by.
const DEFAULT_INTERFACE: &str = "eth0";

/// What is kept between two measurements. Locked for look-ups only, never while anything is read.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// By cgroup.
    readers: Mutex<HashMap<String, (i64, Arc<Reader>)>>,
    layers: Layers,
    /// Where the writable layers' file system is mounted: it is for as long as the daemon runs.
    mountpoint: OnceLock<String>,
}

// === impl Kept ===

impl Kept {
    /// Lets go what nobody has asked for of late: its cgroup may be gone, and its files are held.
    fn forget_old(&self, now: i64) {
        let old = |at: i64| now.saturating_sub(at) > KEPT_FOR;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|_, (at, _)| !old(*at));
        drop(readers);
        self.layers.forget_old();
    }
}

impl Meter for Node {
    async fn measure(&self, pods: Vec<PodView>, depth: Depth) -> Vec<PodUsage> {
        let share = pods.len().div_ceil(THREADS).max(LEAST);
        let mut pods = pods.into_iter();
        let shares = std::iter::from_fn(|| {
            let share: Vec<_> = pods.by_ref().take(share).collect();
            (!share.is_empty()).then_some(share)
        });
        let begin = |share| {
            let node = self.clone();
            tokio::task::spawn_blocking(move || node.measure_share(share, depth))
        };
        let tasks: Vec<_> = shares.map(begin).collect();
        let mut measured = Vec::new();
        for task in tasks {
            measured.extend(task.await.unwrap_or_default());
        }
        measured
    }
}

/// The file system that the writable layers are on, the same for all.
#[derive(Debug)]
struct Under {
    mountpoint: String,
    space: disk::Space,
}

impl Node {
    fn measure_share(&self, pods: Vec<PodView>, depth: Depth) -> Vec<PodUsage> {
        self.kept.forget_old(::host::proc::now());
        let under = self.under_layers();
        let measured = pods.into_iter();
        let mut measured: Vec<_> =
            measured.filter_map(|pod| self.measure_pod(pod, depth, under.as_ref())).collect();
        if depth != Depth::Containers {
            self.count_interfaces(&mut measured);
        }
        measured
    }

    fn measure_pod(&self, pod: PodView, depth: Depth, under: Option<&Under>) -> Option<PodUsage> {
        let sandbox = &pod.sandbox;
        let path = &CgroupPath::from(super::host::pod_cgroup(sandbox).ok()?);
        let whole = depth != Depth::Containers;
        let sample = if whole { self.sample(path) } else { Sample::default() };
        let running = pod.visible().filter(|container| container.phase.is_running());
        let measured = running.filter_map(|c| self.measure_container(sandbox, c, depth, under));
        Some(PodUsage {
            sample,
            detail: (depth == Depth::Metrics).then(|| self.cgroups.detail(path)),
            processes: sample.pids.unwrap_or_default(),
            containers: measured.collect(),
            interfaces: Vec::new(),
            pod,
        })
    }

    fn measure_container(
        &self,
        sandbox: &Sandbox,
        container: &Arc<Container>,
        depth: Depth,
        under: Option<&Under>,
    ) -> Option<ContainerUsage> {
        let path = self.container_cgroup(sandbox, &container.id).ok()?;
        let metrics = depth == Depth::Metrics;
        let main = container.phase.pid();
        Some(ContainerUsage {
            container: Arc::clone(container),
            sample: self.sample(&path),
            detail: metrics.then(|| self.cgroups.detail(&path)),
            disk: under.and_then(|under| self.disk(&container.id, under)),
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

    fn disk(&self, id: &ContainerId, under: &Under) -> Option<Disk> {
        let used = self.kept.layers.of(id, &self.places.upper(id))?;
        Some(Disk { mountpoint: under.mountpoint.clone(), used, space: under.space })
    }

    fn under_layers(&self) -> Option<Under> {
        let layers = self.places.layers();
        let mountpoint = self
            .kept
            .mountpoint
            .get_or_init(|| disk::mount_point(layers).map(|path| text(&path)).unwrap_or_default());
        let space = disk::space(layers).ok()?;
        Some(Under { mountpoint: mountpoint.clone(), space })
    }

    /// Of the pods' own networks, the interface of the default route first.
    fn count_interfaces(&self, measured: &mut [PodUsage]) {
        let own = |usage: &&mut PodUsage| {
            usage.pod.sandbox.config.namespaces.network != NamespaceMode::Node
        };
        let pin = |usage: &PodUsage| {
            File::open(self.pins.path(&plan::netns_pin(&usage.pod.sandbox.id))).ok()
        };
        let pinned = measured.iter_mut().filter(own).filter_map(|u| pin(u).map(|pin| (u, pin)));
        let (pods, pins): (Vec<_>, Vec<_>) = pinned.unzip();
        for (usage, mut counters) in pods.into_iter().zip(::network::counters(&pins)) {
            counters.retain(|interface| interface.name != "lo");
            counters.sort_by_key(|interface| interface.name != DEFAULT_INTERFACE);
            usage.interfaces = counters;
        }
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
