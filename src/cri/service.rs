//! The tables: each RPC, and the function that answers it.

use cri_proto::cri::image_service_server::ImageService;
use cri_proto::cri::runtime_service_server::RuntimeService;
use cri_proto::cri::{
    AttachRequest, AttachResponse, CheckpointContainerRequest, CheckpointContainerResponse,
    CheckpointPodRequest, CheckpointPodResponse, ContainerEventResponse, ContainerStatsRequest,
    ContainerStatsResponse, ContainerStatusRequest, ContainerStatusResponse,
    CreateContainerRequest, CreateContainerResponse, ExecRequest, ExecResponse, ExecSyncRequest,
    ExecSyncResponse, GetEventsRequest, ImageFsInfoRequest, ImageFsInfoResponse,
    ImageStatusRequest, ImageStatusResponse, ListContainerStatsRequest, ListContainerStatsResponse,
    ListContainersRequest, ListContainersResponse, ListImagesRequest, ListImagesResponse,
    ListMetricDescriptorsRequest, ListMetricDescriptorsResponse, ListPodSandboxMetricsRequest,
    ListPodSandboxMetricsResponse, ListPodSandboxRequest, ListPodSandboxResponse,
    ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStatsRequest,
    PodSandboxStatsResponse, PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest,
    PortForwardResponse, PullImageRequest, PullImageResponse, RemoveContainerRequest,
    RemoveContainerResponse, RemoveImageRequest, RemoveImageResponse, RemovePodSandboxRequest,
    RemovePodSandboxResponse, ReopenContainerLogRequest, ReopenContainerLogResponse,
    RestorePodRequest, RestorePodResponse, RunPodSandboxRequest, RunPodSandboxResponse,
    RuntimeConfigRequest, RuntimeConfigResponse, StartContainerRequest, StartContainerResponse,
    StatusRequest, StatusResponse, StopContainerRequest, StopContainerResponse,
    StopPodSandboxRequest, StopPodSandboxResponse, StreamContainerStatsRequest,
    StreamContainerStatsResponse, StreamContainersRequest, StreamContainersResponse,
    StreamImagesRequest, StreamImagesResponse, StreamPodSandboxMetricsRequest,
    StreamPodSandboxMetricsResponse, StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse,
    StreamPodSandboxesRequest, StreamPodSandboxesResponse, UpdateContainerResourcesRequest,
    UpdateContainerResourcesResponse, UpdatePodSandboxResourcesRequest,
    UpdatePodSandboxResourcesResponse, UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse,
    VersionRequest, VersionResponse,
};
use engine::world::World;
use tonic::{Request, Response, Status};

use super::batch::Batches;
use super::usage::Meter;
use super::{Services, status};

/// `method(Request) -> Response = function`, and for streams the name of the associated type as well.
macro_rules! table {
    (
        $service:ident:
        answered { $($call:ident($in:ty) -> $out:ty = $function:ident;)* }
        streamed { $($many:ident($many_in:ty) -> $stream:ident of $item:ty = $source:ident;)* }
        unsupported { $($absent:ident($absent_in:ty) -> $absent_out:ty;)* }
    ) => {
        #[tonic::async_trait]
        impl<W: World + Meter> $service for Services<W> {
            $(async fn $call(&self, request: Request<$in>) -> Result<Response<$out>, Status> {
                self.$function(request.into_inner()).await.map(Response::new)
            })*
            $(type $stream = Batches<$item>;
            async fn $many(
                &self,
                request: Request<$many_in>,
            ) -> Result<Response<Batches<$item>>, Status> {
                self.$source(request.into_inner()).await.map(Response::new)
            })*
            $(async fn $absent(
                &self,
                _: Request<$absent_in>,
            ) -> Result<Response<$absent_out>, Status> {
                Err(status::unsupported(stringify!($absent)))
            })*
        }
    };
}

table! {
    RuntimeService:
    answered {
        version(VersionRequest) -> VersionResponse = version;
        status(StatusRequest) -> StatusResponse = runtime_status;
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse = cgroup_driver;
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse = set_pod_cidr;

        run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse = run_sandbox;
        stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse = stop_sandbox;
        remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse = remove_sandbox;
        pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse = sandbox_status;
        list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse = list_sandboxes;
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse = update_sandbox;

        create_container(CreateContainerRequest) -> CreateContainerResponse = make_container;
        start_container(StartContainerRequest) -> StartContainerResponse = start;
        stop_container(StopContainerRequest) -> StopContainerResponse = stop;
        remove_container(RemoveContainerRequest) -> RemoveContainerResponse = remove;
        list_containers(ListContainersRequest) -> ListContainersResponse = containers;
        container_status(ContainerStatusRequest) -> ContainerStatusResponse = one_container;
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse = update;
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse = reopen_log;
        exec_sync(ExecSyncRequest) -> ExecSyncResponse = run_command;
        exec(ExecRequest) -> ExecResponse = stream_command;
        attach(AttachRequest) -> AttachResponse = stream_container;
        port_forward(PortForwardRequest) -> PortForwardResponse = stream_ports;

        container_stats(ContainerStatsRequest) -> ContainerStatsResponse = stats_of_container;
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse = stats_of_containers;
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse = stats_of_sandbox;
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse = stats_of_sandboxes;
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse = descriptors;
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse = metrics;
    }
    streamed {
        stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesStream of StreamPodSandboxesResponse = sandboxes_in_batches;
        stream_containers(StreamContainersRequest) -> StreamContainersStream of StreamContainersResponse = containers_in_batches;
        stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsStream of StreamContainerStatsResponse = container_stats_in_batches;
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsStream of StreamPodSandboxStatsResponse = sandbox_stats_in_batches;
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsStream of StreamPodSandboxMetricsResponse = metrics_in_batches;
        get_container_events(GetEventsRequest) -> GetContainerEventsStream of ContainerEventResponse = events;
    }
    unsupported {
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
        restore_pod(RestorePodRequest) -> RestorePodResponse;
    }
}

table! {
    ImageService:
    answered {
        list_images(ListImagesRequest) -> ListImagesResponse = images;
        image_status(ImageStatusRequest) -> ImageStatusResponse = one_image;
        pull_image(PullImageRequest) -> PullImageResponse = pull;
        remove_image(RemoveImageRequest) -> RemoveImageResponse = remove_image;
        image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse = image_usage;
    }
    streamed {
        stream_images(StreamImagesRequest) -> StreamImagesStream of StreamImagesResponse = images_in_batches;
    }
    unsupported {}
}
