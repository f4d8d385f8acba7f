//! Metrics of pods and containers, under cAdvisor's names: what the kubelet hands to Prometheus.

use cri_proto::cri;
use engine::world::World;
use host::cgroup::stats::{Detail, Sample};
use network::InterfaceCounters;

use super::batch::{Batches, batches};
use super::usage::{ContainerUsage, Depth, Disk, Meter, PodUsage, Processes};
use super::{Answer, Services};
use table::TABLE;

mod table;

/// Labels of every metric, as cAdvisor has them in a kubelet.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// A pod or a container, as far as it was measured. Rows of the table find what they need, or have no value.
#[derive(Debug)]
struct Source<'a> {
    sample: &'a Sample,
    detail: Option<&'a Detail>,
    disk: Option<&'a Disk>,
    processes: Option<&'a Processes>,
    interfaces: &'a [InterfaceCounters],
    /// Nanoseconds since 1970.
    started_at: Option<i64>,
    /// In the order of `LABELS`.
    labels: [String; 6],
}

/// One value of a row: the values of its own labels, and the number.
type Value = (Vec<String>, u64);

impl<W: World + Meter> Services<W> {
    pub(super) async fn descriptors(
        &self,
        _: cri::ListMetricDescriptorsRequest,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        let descriptors = TABLE.iter().map(table::Row::descriptor).collect();
        Ok(cri::ListMetricDescriptorsResponse { descriptors })
    }

    pub(super) async fn metrics(
        &self,
        _: cri::ListPodSandboxMetricsRequest,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        let pod_metrics = self.all_metrics().await;
        Ok(cri::ListPodSandboxMetricsResponse { pod_metrics })
    }

    pub(super) async fn metrics_in_batches(
        &self,
        _: cri::StreamPodSandboxMetricsRequest,
    ) -> Answer<Batches<cri::StreamPodSandboxMetricsResponse>> {
        let metrics = self.all_metrics().await;
        Ok(batches(metrics, |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }))
    }

    async fn all_metrics(&self) -> Vec<cri::PodSandboxMetrics> {
        let pods = self.engine.world().measure(self.ready_pods(|_| true), Depth::Metrics).await;
        pods.iter().map(of_pod).collect()
    }
}

fn of_pod(of: &PodUsage) -> cri::PodSandboxMetrics {
    let sandbox = &of.pod.sandbox;
    let container_metrics = of.containers.iter().map(|container| cri::ContainerMetrics {
        container_id: container.container.id.to_string(),
        metrics: container_source(of, container).metrics(),
    });
    cri::PodSandboxMetrics {
        pod_sandbox_id: sandbox.id.to_string(),
        metrics: pod_source(of).metrics(),
        container_metrics: container_metrics.collect(),
    }
}

fn pod_source(of: &PodUsage) -> Source<'_> {
    let name = &of.pod.sandbox.config.name;
    Source {
        sample: &of.sample,
        detail: of.detail.as_ref(),
        disk: None,
        processes: None,
        interfaces: &of.interfaces,
        started_at: Some(of.pod.sandbox.created_at.0),
        labels: [
            String::new(),
            cgroup(of),
            String::new(),
            String::new(),
            name.namespace.clone(),
            name.name.clone(),
        ],
    }
}

fn container_source<'a>(pod: &'a PodUsage, of: &'a ContainerUsage) -> Source<'a> {
    let (name, container) = (&pod.pod.sandbox.config.name, &of.container);
    Source {
        sample: &of.sample,
        detail: of.detail.as_ref(),
        disk: of.disk.as_ref(),
        processes: Some(&of.processes),
        interfaces: &[],
        started_at: container.phase.started_at().map(|at| at.0),
        labels: [
            container.config.name.name.clone(),
            format!("{}/{}", cgroup(pod), container.id),
            container.image_ref.clone(),
            container.id.to_string(),
            name.namespace.clone(),
            name.name.clone(),
        ],
    }
}

fn cgroup(of: &PodUsage) -> String {
    of.pod.sandbox.plan.cgroup().unwrap_or_default().to_owned()
}

impl Source<'_> {
    fn metrics(&self) -> Vec<cri::Metric> {
        TABLE.iter().flat_map(|row| row.metrics(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::cgroup::stats::{DeviceIo, HugePages, Memory, Pressure};
    use std::collections::BTreeSet;

    #[test]
    fn every_value_has_a_label_for_each_key_of_its_descriptor() {
        let sample = Sample {
            at: 1_000_000_000,
            cpu_ns: Some(2_500_000_000),
            memory: Some(Memory::default()),
            pids: Some(1),
            cpu_pressure: Some(Pressure::default()),
            memory_pressure: Some(Pressure::default()),
            io_pressure: Some(Pressure::default()),
        };
        let mut detail = Detail { io: vec![DeviceIo::default()], ..Detail::default() };
        detail.huge_pages.push(HugePages::default());
        detail.limits.cpu_quota = Some(1);
        let processes = Processes { open_files_soft: Some(1024), ..Processes::default() };
        let disk = Disk {
            mountpoint: "/".to_owned(),
            used: host::disk::Usage::default(),
            space: host::disk::Space { bytes: 1, bytes_available: 1, inodes: 1, inodes_free: 1 },
        };
        let source = Source {
            sample: &sample,
            detail: Some(&detail),
            disk: Some(&disk),
            processes: Some(&processes),
            interfaces: &[InterfaceCounters::default()],
            started_at: Some(1),
            labels: Default::default(),
        };
        let metrics = source.metrics();
        let mut seen = BTreeSet::new();
        for metric in &metrics {
            let row = TABLE.iter().find(|row| row.name == metric.name).unwrap();
            let keys = row.descriptor().label_keys;
            assert_eq!(metric.label_values.len(), keys.len(), "{}", metric.name);
            seen.insert(metric.name.as_str());
        }
        assert_eq!(seen.len(), TABLE.len(), "every row has a value where all is measured");
        let cpu = metrics.iter().find(|m| m.name == "container_cpu_usage_seconds_total").unwrap();
        assert_eq!(cpu.value.as_ref().unwrap().value, 2);
    }

    #[test]
    fn names_are_there_once_and_explained() {
        let names: BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len());
        assert_eq!(TABLE.len(), 56, "critest's list");
        assert!(TABLE.iter().all(|row| !row.help.is_empty()));
    }
}
