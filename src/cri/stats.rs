//! What pods and containers use, as the CRI tells it.

use cri_proto::cri;
use engine::PodView;
use engine::world::World;
use host::cgroup::stats::{Pressure, Sample, Stall};
use network::InterfaceCounters;
use pod::{Container, Sandbox};

use super::batch::{Batches, batches};
use super::usage::{ContainerUsage, Depth, Disk, Meter, PodUsage};
use super::{Answer, Services, failed, reply, status};

impl<W: World + Meter> Services<W> {
    pub(super) async fn stats_of_container(
        &self,
        request: cri::ContainerStatsRequest,
    ) -> Answer<cri::ContainerStatsResponse> {
        let found = self.engine.views().container(&request.container_id);
        let (pod, container) = found.map_err(failed)?;
        let pods = self.engine.world().measure(vec![pod], Depth::Containers).await;
        let mut all = pods.iter().flat_map(|pod| &pod.containers);
        let usage = all.find(|usage| usage.container.id == container.id);
        let usage = usage.ok_or_else(|| status::not_running(&container.id))?;
        Ok(cri::ContainerStatsResponse { stats: Some(self.container_stats(usage)) })
    }

    pub(super) async fn stats_of_containers(
        &self,
        request: cri::ListContainerStatsRequest,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let stats = self.selected_container_stats(request.filter.as_ref()).await;
        Ok(cri::ListContainerStatsResponse { stats })
    }

    pub(super) async fn container_stats_in_batches(
        &self,
        request: cri::StreamContainerStatsRequest,
    ) -> Answer<Batches<cri::StreamContainerStatsResponse>> {
        let stats = self.selected_container_stats(request.filter.as_ref()).await;
        let message = |container_stats| cri::StreamContainerStatsResponse { container_stats };
        Ok(batches(stats, message))
    }

    pub(super) async fn stats_of_sandbox(
        &self,
        request: cri::PodSandboxStatsRequest,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let pod = self.engine.views().pod(&request.pod_sandbox_id).map_err(failed)?;
        let pods = self.engine.world().measure(vec![pod], Depth::Pods).await;
        let usage = pods.first().ok_or_else(|| status::not_running(&request.pod_sandbox_id))?;
        Ok(cri::PodSandboxStatsResponse { stats: Some(self.sandbox_stats(usage)) })
    }

    pub(super) async fn stats_of_sandboxes(
        &self,
        request: cri::ListPodSandboxStatsRequest,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let stats = self.selected_sandbox_stats(request.filter.as_ref()).await;
        Ok(cri::ListPodSandboxStatsResponse { stats })
    }

    pub(super) async fn sandbox_stats_in_batches(
        &self,
        request: cri::StreamPodSandboxStatsRequest,
    ) -> Answer<Batches<cri::StreamPodSandboxStatsResponse>> {
        let stats = self.selected_sandbox_stats(request.filter.as_ref()).await;
        let message = |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse { pod_sandbox_stats };
        Ok(batches(stats, message))
    }

    async fn selected_container_stats(
        &self,
        filter: Option<&cri::ContainerStatsFilter>,
    ) -> Vec<cri::ContainerStats> {
        let passes = |container: &Container| {
            filter.is_none_or(|filter| {
                container.id.as_str().starts_with(&filter.id)
                    && container.sandbox.as_str().starts_with(&filter.pod_sandbox_id)
                    && reply::selects(&filter.label_selector, &container.config.labels)
            })
        };
        let pods = self.ready_pods(|pod| pod.visible().any(|container| passes(container)));
        let pods = self.engine.world().measure(pods, Depth::Containers).await;
        let all = pods.iter().flat_map(|pod| &pod.containers);
        all.filter(|usage| passes(&usage.container)).map(|u| self.container_stats(u)).collect()
    }

    async fn selected_sandbox_stats(
        &self,
        filter: Option<&cri::PodSandboxStatsFilter>,
    ) -> Vec<cri::PodSandboxStats> {
        let pods = self.ready_pods(|pod| {
            filter.is_none_or(|filter| {
                pod.sandbox.id.as_str().starts_with(&filter.id)
                    && reply::selects(&filter.label_selector, &pod.sandbox.config.labels)
            })
        });
        let pods = self.engine.world().measure(pods, Depth::Pods).await;
        pods.iter().map(|pod| self.sandbox_stats(pod)).collect()
    }

    pub(super) fn ready_pods(&self, passes: impl Fn(&PodView) -> bool) -> Vec<PodView> {
        let pods = self.engine.views().pods();
        pods.into_iter().filter(|pod| pod.sandbox.ready().is_some() && passes(pod)).collect()
    }

    fn container_stats(&self, of: &ContainerUsage) -> cri::ContainerStats {
        let (container, sample) = (&of.container, &of.sample);
        cri::ContainerStats {
            attributes: Some(container_attributes(container)),
            cpu: Some(self.cpu(container.id.as_str(), sample)),
            memory: Some(memory(sample)),
            writable_layer: of.disk.as_ref().map(|disk| writable_layer(sample, disk)),
            swap: Some(swap(container, sample)),
            io: Some(io(sample)),
        }
    }

    fn sandbox_stats(&self, of: &PodUsage) -> cri::PodSandboxStats {
        let (sandbox, sample) = (&of.pod.sandbox, &of.sample);
        let linux = cri::LinuxPodSandboxStats {
            cpu: Some(self.cpu(sandbox.id.as_str(), sample)),
            memory: Some(memory(sample)),
            network: network(sample, &of.interfaces),
            process: Some(cri::ProcessUsage {
                timestamp: sample.at,
                process_count: some(of.processes),
            }),
            containers: of.containers.iter().map(|c| self.container_stats(c)).collect(),
            io: Some(io(sample)),
        };
        let attributes = Some(sandbox_attributes(sandbox));
        cri::PodSandboxStats { attributes, linux: Some(linux), windows: None }
    }

    fn cpu(&self, id: &str, sample: &Sample) -> cri::CpuUsage {
        self.rates.forget_old(sample.at);
        cri::CpuUsage {
            timestamp: sample.at,
            usage_core_nano_seconds: value(sample.cpu_ns),
            usage_nano_cores: value(self.rates.of(id, sample)),
            psi: sample.cpu_pressure.map(psi),
        }
    }
}

fn sandbox_attributes(sandbox: &Sandbox) -> cri::PodSandboxAttributes {
    cri::PodSandboxAttributes {
        id: sandbox.id.to_string(),
        metadata: Some(reply::sandbox_metadata(sandbox)),
        labels: reply::wire(&sandbox.config.labels),
        annotations: reply::wire(&sandbox.config.annotations),
    }
}

fn container_attributes(container: &Container) -> cri::ContainerAttributes {
    cri::ContainerAttributes {
        id: container.id.to_string(),
        metadata: Some(reply::container_metadata(container)),
        labels: reply::wire(&container.config.labels),
        annotations: reply::wire(&container.config.annotations),
    }
}

fn memory(sample: &Sample) -> cri::MemoryUsage {
    let memory = sample.memory.as_ref();
    let left = memory.and_then(|m| Some(m.limit?.saturating_sub(m.working_set)));
    cri::MemoryUsage {
        timestamp: sample.at,
        working_set_bytes: value(memory.map(|m| m.working_set)),
        available_bytes: value(left),
        usage_bytes: value(memory.map(|m| m.usage)),
        rss_bytes: value(memory.map(|m| m.rss)),
        page_faults: value(memory.map(|m| m.page_faults)),
        major_page_faults: value(memory.map(|m| m.major_page_faults)),
        psi: sample.memory_pressure.map(psi),
    }
}

/// The limit as it was asked for: of memory and swap together.
fn swap(container: &Container, sample: &Sample) -> cri::SwapUsage {
    let limits = &container.config.resources;
    let limit = u64::try_from(limits.memory_swap_limit - limits.memory_limit).ok();
    let limit = limit.filter(|_| limits.memory_swap_limit > 0);
    let used = sample.memory.map(|memory| memory.swap);
    cri::SwapUsage {
        timestamp: sample.at,
        swap_available_bytes: value(
            limit.zip(used).map(|(limit, used)| limit.saturating_sub(used)),
        ),
        swap_usage_bytes: value(used),
    }
}

fn io(sample: &Sample) -> cri::IoUsage {
    cri::IoUsage { timestamp: sample.at, psi: sample.io_pressure.map(psi) }
}

fn writable_layer(sample: &Sample, disk: &Disk) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: sample.at,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: disk.mountpoint.clone() }),
        used_bytes: some(disk.used.bytes),
        inodes_used: some(disk.used.inodes),
    }
}

fn network(sample: &Sample, interfaces: &[InterfaceCounters]) -> Option<cri::NetworkUsage> {
    let (default, others) = interfaces.split_first()?;
    Some(cri::NetworkUsage {
        timestamp: sample.at,
        default_interface: Some(interface(default)),
        interfaces: others.iter().map(interface).collect(),
    })
}

fn interface(of: &InterfaceCounters) -> cri::NetworkInterfaceUsage {
    cri::NetworkInterfaceUsage {
        name: of.name.clone(),
        rx_bytes: some(of.rx_bytes),
        rx_errors: some(of.rx_errors),
        tx_bytes: some(of.tx_bytes),
        tx_errors: some(of.tx_errors),
    }
}

fn psi(pressure: Pressure) -> cri::PsiStats {
    let data = |stall: Stall| cri::PsiData {
        total: stall.total_us,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    cri::PsiStats { full: Some(data(pressure.full)), some: Some(data(pressure.some)) }
}

fn value(value: Option<u64>) -> Option<cri::UInt64Value> {
    value.and_then(some)
}

#[expect(clippy::unnecessary_wraps, reason = "what the wire has")]
fn some(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}
