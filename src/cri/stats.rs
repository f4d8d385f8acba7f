//! What pods and containers use.

use cri_proto::cri;
use engine::world::World;

use super::batch::{Batches, batches};
use super::{Answer, Services};

impl<W: World> Services<W> {
    pub(super) async fn stats_of_container(
        &self,
        _: cri::ContainerStatsRequest,
    ) -> Answer<cri::ContainerStatsResponse> {
        Err(super::status::unsupported("stats"))
    }
    pub(super) async fn stats_of_containers(
        &self,
        _: cri::ListContainerStatsRequest,
    ) -> Answer<cri::ListContainerStatsResponse> {
        Err(super::status::unsupported("stats"))
    }
    pub(super) async fn stats_of_sandbox(
        &self,
        _: cri::PodSandboxStatsRequest,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        Err(super::status::unsupported("stats"))
    }
    pub(super) async fn stats_of_sandboxes(
        &self,
        _: cri::ListPodSandboxStatsRequest,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        Err(super::status::unsupported("stats"))
    }
    pub(super) async fn descriptors(
        &self,
        _: cri::ListMetricDescriptorsRequest,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        Err(super::status::unsupported("stats"))
    }
    pub(super) async fn metrics(
        &self,
        _: cri::ListPodSandboxMetricsRequest,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        Err(super::status::unsupported("stats"))
    }
    pub(super) async fn container_stats_in_batches(
        &self,
        _: cri::StreamContainerStatsRequest,
    ) -> Answer<Batches<cri::StreamContainerStatsResponse>> {
        Ok(batches(Vec::new(), |container_stats| cri::StreamContainerStatsResponse {
            container_stats,
        }))
    }
    pub(super) async fn sandbox_stats_in_batches(
        &self,
        _: cri::StreamPodSandboxStatsRequest,
    ) -> Answer<Batches<cri::StreamPodSandboxStatsResponse>> {
        Err(super::status::unsupported("stats"))
    }
    pub(super) async fn metrics_in_batches(
        &self,
        _: cri::StreamPodSandboxMetricsRequest,
    ) -> Answer<Batches<cri::StreamPodSandboxMetricsResponse>> {
        Err(super::status::unsupported("stats"))
    }
}
