//! A pod as a kubelet asks for it: a PID namespace per container, the runtime's seccomp profile, a memory limit.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cri_proto::cri::{
    ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, SecurityProfile, security_profile::ProfileType,
};

/// In the environment of every container's process, so that it is known from the runtime's own.
pub(crate) const MARK: &str = "FERROPOD_LOAD";

/// How long a container runs before it is stopped: as PID 1 it does not hear TERM until it has set its handler, and would
/// be killed only when its grace is over.
pub(crate) const SETTLES: Duration = Duration::from_millis(10);

/// Of all pods of these tests.
pub(crate) const NAMESPACE: &str = "load";

/// What all pods of a run have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct Template {
    /// Image of the containers: ends at once on TERM, and has a shell.
    #[arg(long, default_value = "127.0.0.1:5000/bench/app:1")]
    pub(crate) image: String,
    /// The program in that image that only waits.
    #[arg(long, default_value = "/pause")]
    pub(crate) waits: String,
    /// Cgroup parent of the pods; empty leaves it to the runtime.
    #[arg(long, default_value = "")]
    pub(crate) cgroup_parent: String,
    /// Where the pods' log directories are made.
    #[arg(long, default_value = "/tmp/ferropod-load")]
    pub(crate) logs: PathBuf,
}

impl Template {
    pub(crate) fn sandbox(&self, name: &str, attempt: u32) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: NAMESPACE.to_owned(),
                attempt,
            }),
            hostname: name.to_owned(),
            log_directory: self.logs.join(name).to_string_lossy().into_owned(),
            labels: [("io.kubernetes.pod.name".to_owned(), name.to_owned())].into(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent.clone(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    seccomp: Some(runtime_default()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// A container that only waits for its end.
    pub(crate) fn waiting(&self, pod: &str, name: &str) -> ContainerConfig {
        self.container(pod, name, vec![self.waits.clone()])
    }

    pub(crate) fn container(&self, pod: &str, name: &str, command: Vec<String>) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(self.image()),
            command,
            envs: vec![KeyValue { key: MARK.to_owned(), value: pod.into() }],
            labels: [("io.kubernetes.container.name".to_owned(), name.to_owned())].into(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                resources: Some(resources()),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    seccomp: Some(runtime_default()),
                    masked_paths: strings(&["/proc/kcore", "/proc/keys", "/sys/firmware"]),
                    readonly_paths: strings(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }

    pub(crate) fn image(&self) -> ImageSpec {
        ImageSpec { image: self.image.clone(), ..Default::default() }
    }
}

fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn resources() -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_shares: 102,
        memory_limit_in_bytes: 256 << 20,
        oom_score_adj: 900,
        ..Default::default()
    }
}

fn runtime_default() -> SecurityProfile {
    SecurityProfile { profile_type: ProfileType::RuntimeDefault.into(), ..Default::default() }
}

pub(crate) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
