//! Calls about containers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::cri;
use engine::world::World;
use engine::{EngineError, PodView};
use pod::Container;

use super::batch::{Batches, batches};
use super::parse::{self, At};
use super::{Answer, Services, failed, note, reply};

impl<W: World> Services<W> {
    pub(super) async fn make_container(
        &self,
        mut request: cri::CreateContainerRequest,
    ) -> Answer<cri::CreateContainerResponse> {
        note("sandbox", &request.pod_sandbox_id);
        self.whole_target(request.config.as_mut())?;
        let at = At::root("config");
        let config = parse::container_config(&at, request.config.as_ref())?;
        self.known_handler(&at.field("image"), &config.image)?;
        for (index, mount) in config.mounts.iter().enumerate() {
            if let Some(volume) = &mount.image {
                self.known_handler(&at.field("mounts").item(index).field("image"), &volume.image)?;
            }
        }
        let sandbox = &request.pod_sandbox_id;
        let id = self.engine.create_container(sandbox, config).await.map_err(failed)?;
        note("container", &id);
        Ok(cri::CreateContainerResponse { container_id: id.into() })
    }

    /// As all ids, that of the container to be looked into may be given by its beginning.
    fn whole_target(&self, config: Option<&mut cri::ContainerConfig>) -> Answer<()> {
        let security = config.and_then(|config| config.linux.as_mut()?.security_context.as_mut());
        let named = security.and_then(|security| security.namespace_options.as_mut());
        let targets =
            |options: &cri::NamespaceOption| options.pid == cri::NamespaceMode::Target as i32;
        let Some(options) = named.filter(|options| targets(options)) else { return Ok(()) };
        match self.engine.views().container(&options.target_id) {
            Ok((_, container)) => options.target_id = container.id.to_string(),
            Err(error @ EngineError::Ambiguous(..)) => return Err(failed(error)),
            // What is none is told with the rest of the configuration.
            Err(_) => {}
        }
        Ok(())
    }

    pub(super) async fn start(
        &self,
        request: cri::StartContainerRequest,
    ) -> Answer<cri::StartContainerResponse> {
        note("container", &request.container_id);
        self.engine.start_container(&request.container_id).await.map_err(failed)?;
        Ok(cri::StartContainerResponse {})
    }

    pub(super) async fn stop(
        &self,
        request: cri::StopContainerRequest,
    ) -> Answer<cri::StopContainerResponse> {
        note("container", &request.container_id);
        let grace = parse::seconds(&At::root("timeout"), request.timeout)?;
        let grace = grace.unwrap_or(Duration::ZERO);
        self.engine.stop_container(&request.container_id, grace).await.map_err(failed)?;
        Ok(cri::StopContainerResponse {})
    }

    pub(super) async fn remove(
        &self,
        request: cri::RemoveContainerRequest,
    ) -> Answer<cri::RemoveContainerResponse> {
        note("container", &request.container_id);
        self.engine.remove_container(&request.container_id).await.map_err(failed)?;
        Ok(cri::RemoveContainerResponse {})
    }

    pub(super) async fn update(
        &self,
        request: cri::UpdateContainerResourcesRequest,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        note("container", &request.container_id);
        At::root("windows").unasked(request.windows.is_some())?;
        let at = At::root("linux");
        let resources = parse::resources(&at, at.required(request.linux.as_ref())?)?;
        self.engine.update_container(&request.container_id, resources).await.map_err(failed)?;
        Ok(cri::UpdateContainerResourcesResponse {})
    }

    pub(super) async fn reopen_log(
        &self,
        request: cri::ReopenContainerLogRequest,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        note("container", &request.container_id);
        self.engine.reopen_log(&request.container_id).await.map_err(failed)?;
        Ok(cri::ReopenContainerLogResponse {})
    }

    pub(super) async fn one_container(
        &self,
        request: cri::ContainerStatusRequest,
    ) -> Answer<cri::ContainerStatusResponse> {
        let found = self.engine.views().container(&request.container_id);
        let (pod, container) = found.map_err(failed)?;
        let info =
            if request.verbose { reply::container_info(&pod, &container) } else { HashMap::new() };
        Ok(cri::ContainerStatusResponse { status: Some(self.container_status(&container)), info })
    }

    pub(super) async fn containers(
        &self,
        request: cri::ListContainersRequest,
    ) -> Answer<cri::ListContainersResponse> {
        let containers = self.selected_containers(request.filter.as_ref())?;
        Ok(cri::ListContainersResponse { containers })
    }

    pub(super) async fn containers_in_batches(
        &self,
        request: cri::StreamContainersRequest,
    ) -> Answer<Batches<cri::StreamContainersResponse>> {
        let containers = self.selected_containers(request.filter.as_ref())?;
        Ok(batches(containers, |containers| cri::StreamContainersResponse { containers }))
    }

    fn selected_containers(
        &self,
        filter: Option<&cri::ContainerFilter>,
    ) -> Answer<Vec<cri::Container>> {
        let state = filter.and_then(|filter| filter.state.as_ref());
        let state = state.map(|state| parse::container_state(state.state)).transpose()?;
        let passes = |container: &&Arc<Container>| {
            filter.is_none_or(|filter| {
                container.id.as_str().starts_with(&filter.id)
                    && container.sandbox.as_str().starts_with(&filter.pod_sandbox_id)
                    && reply::selects(&filter.label_selector, &container.config.labels)
            }) && state.is_none_or(|state| state == reply::container_state(container))
        };
        let pods = self.engine.views().pods();
        let containers = pods.iter().flat_map(|pod| pod.visible());
        Ok(containers.filter(passes).map(|container| reply::container(container)).collect())
    }

    pub(super) fn container_statuses(&self, pod: &PodView) -> Vec<cri::ContainerStatus> {
        pod.visible().map(|container| self.container_status(container)).collect()
    }

    fn container_status(&self, container: &Container) -> cri::ContainerStatus {
        reply::container_status(container, self.written(container))
    }

    /// What the user wrote for the image. Where the kubelet tells only the id, the image's first name.
    fn written(&self, container: &Container) -> String {
        let spec = &container.config.image;
        if !spec.user_specified_image.is_empty() {
            return spec.user_specified_image.clone();
        }
        let named = || {
            let image = self.images.find(container.image.as_str())?;
            image.tags.first().or_else(|| image.digests.first()).cloned()
        };
        let by_id =
            [container.image.as_str(), container.image.hex()].contains(&spec.image.as_str());
        by_id.then(named).flatten().unwrap_or_else(|| spec.image.clone())
    }
}
