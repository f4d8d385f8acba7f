//! Calls about sandboxes.

use std::collections::HashMap;

use cri_proto::cri;
use engine::PodView;
use engine::world::World;

use super::batch::{Batches, batches};
use super::parse::{self, At};
use super::{Answer, Services, failed, note, reply};

impl<W: World> Services<W> {
    pub(super) async fn run_sandbox(
        &self,
        request: cri::RunPodSandboxRequest,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let at = At::root("config");
        let config = parse::sandbox_config(&at, request.config.as_ref(), &request.runtime_handler)?;
        let handler = At::root("runtime_handler");
        let outside = parse::handler(&handler, &request.runtime_handler, &self.node.handlers)?;
        if config.namespaces.user.is_some() {
            let at = At::root("config.linux.security_context.namespace_options.userns_options");
            if let Some(why) = &self.node.no_user_namespaces {
                return Err(at.impossible(why).into());
            }
            if outside.is_some_and(|can| !can.user_namespaces) {
                return Err(at.impossible("the pod's runtime handler has none").into());
            }
        }
        let id = self.engine.run_sandbox(config).await.map_err(failed)?;
        note("sandbox", &id);
        Ok(cri::RunPodSandboxResponse { pod_sandbox_id: id.into() })
    }

    pub(super) async fn stop_sandbox(
        &self,
        request: cri::StopPodSandboxRequest,
    ) -> Answer<cri::StopPodSandboxResponse> {
        note("sandbox", &request.pod_sandbox_id);
        self.engine.stop_sandbox(&request.pod_sandbox_id).await.map_err(failed)?;
        Ok(cri::StopPodSandboxResponse {})
    }

    pub(super) async fn remove_sandbox(
        &self,
        request: cri::RemovePodSandboxRequest,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        note("sandbox", &request.pod_sandbox_id);
        self.engine.remove_sandbox(&request.pod_sandbox_id).await.map_err(failed)?;
        Ok(cri::RemovePodSandboxResponse {})
    }

    pub(super) async fn update_sandbox(
        &self,
        request: cri::UpdatePodSandboxResourcesRequest,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        note("sandbox", &request.pod_sandbox_id);
        let limits = |name, wire: Option<&cri::LinuxContainerResources>| {
            wire.map(|wire| parse::resources(&At::root(name), wire)).transpose()
        };
        let overhead = limits("overhead", request.overhead.as_ref())?;
        let resources = limits("resources", request.resources.as_ref())?;
        let id = &request.pod_sandbox_id;
        self.engine.update_sandbox(id, overhead, resources).await.map_err(failed)?;
        Ok(cri::UpdatePodSandboxResourcesResponse {})
    }

    pub(super) async fn sandbox_status(
        &self,
        request: cri::PodSandboxStatusRequest,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let pod = self.engine.views().pod(&request.pod_sandbox_id).map_err(failed)?;
        Ok(cri::PodSandboxStatusResponse {
            status: Some(reply::sandbox_status(&pod.sandbox)),
            info: if request.verbose { reply::sandbox_info(&pod) } else { HashMap::new() },
            containers_statuses: self.container_statuses(&pod),
            timestamp: self.engine.stamp().0,
        })
    }

    pub(super) async fn list_sandboxes(
        &self,
        request: cri::ListPodSandboxRequest,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let items = self.selected_sandboxes(request.filter.as_ref())?;
        Ok(cri::ListPodSandboxResponse { items })
    }

    pub(super) async fn sandboxes_in_batches(
        &self,
        request: cri::StreamPodSandboxesRequest,
    ) -> Answer<Batches<cri::StreamPodSandboxesResponse>> {
        let items = self.selected_sandboxes(request.filter.as_ref())?;
        Ok(batches(items, |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    fn selected_sandboxes(
        &self,
        filter: Option<&cri::PodSandboxFilter>,
    ) -> Answer<Vec<cri::PodSandbox>> {
        let state = filter.and_then(|filter| filter.state.as_ref());
        let state = state.map(|state| parse::sandbox_state(state.state)).transpose()?;
        let passes = |pod: &PodView| {
            let sandbox = &pod.sandbox;
            filter.is_none_or(|filter| {
                sandbox.id.as_str().starts_with(&filter.id)
                    && reply::selects(&filter.label_selector, &sandbox.config.labels)
            }) && state.is_none_or(|state| state == reply::sandbox_state(sandbox))
        };
        let pods = self.engine.views().pods();
        Ok(pods.iter().filter(|pod| passes(pod)).map(|pod| reply::sandbox(&pod.sandbox)).collect())
    }
}
