//! The calls that a kubelet makes, each bounded in time.

use std::time::Duration;

use crate::request::NAMESPACE;
use anyhow::{Context, Result, anyhow};
use cri_proto::cri::image_service_client::ImageServiceClient;
use cri_proto::cri::runtime_service_client::RuntimeServiceClient;
use cri_proto::cri::{
    Container, ContainerConfig, ContainerEventResponse, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, ExecRequest, ExecSyncRequest, ExecSyncResponse, GetEventsRequest,
    ImageSpec, ImageStatusRequest, ListContainerStatsRequest, ListContainersRequest,
    ListPodSandboxRequest, ListPodSandboxStatsRequest, PodSandbox, PodSandboxConfig,
    PodSandboxStatus, PodSandboxStatusRequest, PortForwardRequest, PullImageRequest,
    RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StatusRequest, StopContainerRequest, StopPodSandboxRequest,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

/// No call of these tests may take longer: one that does hangs.
const BOUND: Duration = Duration::from_mins(1);
const PULL_BOUND: Duration = Duration::from_mins(10);

/// One connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// A call that gives nothing back but its success, or one field of its answer.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($service:ident.$rpc:ident, $($arg:ident: $type:ty),*) -> $out:ty
        = $request:expr => $answer:expr;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                pub(crate) async fn $name(&self, $($arg: $type),*) -> Result<$out> {
                    let mut client = self.$service.clone();
                    let reply = bounded(stringify!($rpc), BOUND, Box::pin(client.$rpc($request))).await?;
                    $answer(reply)
                }
            )*
        }
    };
}

calls! {
    run_pod(runtime.run_pod_sandbox, config: &PodSandboxConfig) -> String
        = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() }
        => |reply: cri_proto::cri::RunPodSandboxResponse| Ok(reply.pod_sandbox_id);
    create(runtime.create_container, pod: &str, config: &ContainerConfig, sandbox: &PodSandboxConfig) -> String
        = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(sandbox.clone()),
        }
        => |reply: cri_proto::cri::CreateContainerResponse| Ok(reply.container_id);
    start(runtime.start_container, container: &str) -> ()
        = StartContainerRequest { container_id: container.to_owned() } => |_| Ok(());
    exec(runtime.exec_sync, container: &str, cmd: Vec<String>) -> ExecSyncResponse
        = ExecSyncRequest { container_id: container.to_owned(), cmd, timeout: 30 } => Ok;
    exec_url(runtime.exec, request: ExecRequest) -> String
        = request => |reply: cri_proto::cri::ExecResponse| Ok(reply.url);
    forward_url(runtime.port_forward, request: PortForwardRequest) -> String
        = request => |reply: cri_proto::cri::PortForwardResponse| Ok(reply.url);
    stop(runtime.stop_container, container: &str, grace: i64) -> ()
        = StopContainerRequest { container_id: container.to_owned(), timeout: grace } => |_| Ok(());
    remove(runtime.remove_container, container: &str) -> ()
        = RemoveContainerRequest { container_id: container.to_owned() } => |_| Ok(());
    stop_pod(runtime.stop_pod_sandbox, pod: &str) -> ()
        = StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() } => |_| Ok(());
    remove_pod(runtime.remove_pod_sandbox, pod: &str) -> ()
        = RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() } => |_| Ok(());
    container_status(runtime.container_status, container: &str) -> ContainerStatus
        = ContainerStatusRequest { container_id: container.to_owned(), verbose: false }
        => |reply: cri_proto::cri::ContainerStatusResponse| reply.status.context("no status");
    pod_status(runtime.pod_sandbox_status, pod: &str) -> PodSandboxStatus
        = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false }
        => |reply: cri_proto::cri::PodSandboxStatusResponse| reply.status.context("no status");
    containers(runtime.list_containers,) -> Vec<Container>
        = ListContainersRequest { filter: None }
        => |reply: cri_proto::cri::ListContainersResponse| Ok(reply.containers);
    pods(runtime.list_pod_sandbox,) -> Vec<PodSandbox>
        = ListPodSandboxRequest { filter: None }
        => |reply: cri_proto::cri::ListPodSandboxResponse| Ok(reply.items);
    container_stats(runtime.list_container_stats,) -> usize
        = ListContainerStatsRequest { filter: None }
        => |reply: cri_proto::cri::ListContainerStatsResponse| Ok(reply.stats.len());
    pod_stats(runtime.list_pod_sandbox_stats,) -> usize
        = ListPodSandboxStatsRequest { filter: None }
        => |reply: cri_proto::cri::ListPodSandboxStatsResponse| Ok(reply.stats.len());
    remove_image(images.remove_image, image: &ImageSpec) -> ()
        = RemoveImageRequest { image: Some(image.clone()) } => |_| Ok(());
    has_image(images.image_status, image: &ImageSpec) -> bool
        = ImageStatusRequest { image: Some(image.clone()), verbose: false }
        => |reply: cri_proto::cri::ImageStatusResponse| Ok(reply.image.is_some());
}

impl Client {
    pub(crate) async fn connect(endpoint: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .with_context(|| format!("endpoint {endpoint}"))?
            .connect()
            .await
            .with_context(|| format!("connect to {endpoint}"))?;
        let size = 16 << 20;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(size),
            images: ImageServiceClient::new(channel).max_decoding_message_size(size),
        })
    }

    /// Whether the runtime and its network say that they are ready.
    pub(crate) async fn is_ready(&self) -> Result<bool> {
        let mut client = self.runtime.clone();
        let reply =
            bounded("status", BOUND, Box::pin(client.status(StatusRequest { verbose: false })))
                .await?;
        let conditions = reply.status.map(|status| status.conditions).unwrap_or_default();
        Ok(conditions.len() >= 2 && conditions.iter().all(|condition| condition.status))
    }

    pub(crate) async fn pull(&self, image: &ImageSpec) -> Result<String> {
        let request = PullImageRequest { image: Some(image.clone()), ..Default::default() };
        let mut client = self.images.clone();
        Ok(bounded("pull_image", PULL_BOUND, Box::pin(client.pull_image(request))).await?.image_ref)
    }

    pub(crate) async fn pull_when_missing(&self, image: &ImageSpec) -> Result<()> {
        if !self.has_image(image).await? {
            self.pull(image).await?;
        }
        Ok(())
    }

    /// Removes every pod that these tests made and left.
    pub(crate) async fn remove_all(&self) -> Result<()> {
        for pod in self.pods().await? {
            if pod.metadata.is_some_and(|metadata| metadata.namespace == NAMESPACE) {
                self.stop_pod(&pod.id).await?;
                self.remove_pod(&pod.id).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn events(&self) -> Result<Streaming<ContainerEventResponse>> {
        let mut client = self.runtime.clone();
        bounded(
            "get_container_events",
            BOUND,
            Box::pin(client.get_container_events(GetEventsRequest {})),
        )
        .await
    }
}

async fn bounded<T>(
    name: &str,
    bound: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(bound, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(Refused { call: name.to_owned(), status: Box::new(status) }.into()),
        Err(_) => Err(anyhow!("{name}: no answer in {bound:?}")),
    }
}

/// A call that was answered with an error, or that was cut.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {:?}: {}", status.code(), status.message())]
struct Refused {
    call: String,
    status: Box<Status>,
}

/// Whether the connection failed, so that nobody knows what became of the call.
pub(crate) fn is_cut(error: &anyhow::Error) -> bool {
    let Some(Refused { status, .. }) = error.downcast_ref() else { return false };
    let by_transport = std::error::Error::source(status).is_some();
    by_transport || matches!(status.code(), Code::Unavailable | Code::Cancelled)
}
