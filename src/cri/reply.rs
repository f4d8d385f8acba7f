//! Our own words as the wire's. What a phase means to a client is told here and nowhere else.
#![deny(clippy::wildcard_enum_match_arm)]

use std::collections::HashMap;

use cri_proto::cri;
use pod::config::{
    IdRange, ImageSpec, Labels, Mount, NamespaceMode, Namespaces, Propagation, Resources,
};
use pod::{Container, ContainerPhase, Pod, Sandbox, SandboxPhase};

use super::parse::wire_signal;

/// A filter's labels must all be there.
pub(super) fn selects(selector: &HashMap<String, String>, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

// === sandboxes ===

pub(super) fn sandbox_state(sandbox: &Sandbox) -> cri::PodSandboxState {
    match sandbox.phase {
        SandboxPhase::Ready(_) => cri::PodSandboxState::SandboxReady,
        SandboxPhase::Creating
        | SandboxPhase::Stopping
        | SandboxPhase::NotReady
        | SandboxPhase::Removing => cri::PodSandboxState::SandboxNotready,
    }
}

pub(super) fn sandbox(sandbox: &Sandbox) -> cri::PodSandbox {
    let config = &sandbox.config;
    cri::PodSandbox {
        id: sandbox.id.to_string(),
        metadata: Some(sandbox_metadata(sandbox)),
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.created_at.0,
        labels: wire(&config.labels),
        annotations: wire(&config.annotations),
        runtime_handler: config.runtime_handler.clone(),
    }
}

pub(super) fn sandbox_status(sandbox: &Sandbox) -> cri::PodSandboxStatus {
    let config = &sandbox.config;
    let options = namespaces(&config.namespaces);
    cri::PodSandboxStatus {
        id: sandbox.id.to_string(),
        metadata: Some(sandbox_metadata(sandbox)),
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.created_at.0,
        network: Some(network(sandbox)),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(options) }),
        }),
        labels: wire(&config.labels),
        annotations: wire(&config.annotations),
        runtime_handler: config.runtime_handler.clone(),
    }
}

pub(super) fn sandbox_metadata(sandbox: &Sandbox) -> cri::PodSandboxMetadata {
    let name = sandbox.config.name.clone();
    let (uid, namespace, attempt) = (name.uid, name.namespace, name.attempt);
    cri::PodSandboxMetadata { name: name.name, uid, namespace, attempt }
}

pub(super) fn sandbox_info(pod: &Pod) -> HashMap<String, String> {
    let ready = pod.sandbox.ready();
    let info = serde_json::json!({
        "phase": format!("{:?}", pod.sandbox.phase),
        "shimPid": ready.map(|ready| ready.shim_pid),
        "initPid": ready.map(|ready| ready.init_pid).filter(|pid| *pid > 0),
        "claims": format!("{:?}", pod.sandbox.plan),
        "config": pod.sandbox.config,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

fn network(sandbox: &Sandbox) -> cri::PodSandboxNetworkStatus {
    let addresses = sandbox.ready().map(|ready| ready.addresses.as_slice()).unwrap_or_default();
    let mut addresses = addresses.iter().map(ToString::to_string);
    cri::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| cri::PodIp { ip }).collect(),
    }
}

fn namespaces(namespaces: &Namespaces) -> cri::NamespaceOption {
    let mode = |mode| {
        match mode {
            NamespaceMode::Pod => cri::NamespaceMode::Pod,
            NamespaceMode::Container => cri::NamespaceMode::Container,
            NamespaceMode::Node => cri::NamespaceMode::Node,
            NamespaceMode::Target => cri::NamespaceMode::Target,
        }
        .into()
    };
    cri::NamespaceOption {
        network: mode(namespaces.network),
        pid: mode(namespaces.pid),
        ipc: mode(namespaces.ipc),
        target_id: namespaces.target.as_ref().map(ToString::to_string).unwrap_or_default(),
        userns_options: namespaces.user.as_ref().map(|user| cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: vec![mapping(user.uids)],
            gids: vec![mapping(user.gids)],
        }),
    }
}

fn mapping(range: IdRange) -> cri::IdMapping {
    cri::IdMapping { host_id: range.first, container_id: 0, length: range.length }
}

// === containers ===

pub(super) fn container_state(container: &Container) -> cri::ContainerState {
    match container.phase {
        ContainerPhase::Creating
        | ContainerPhase::Created { .. }
        | ContainerPhase::Starting { .. }
        | ContainerPhase::Stopping { started_at: None, .. } => {
            cri::ContainerState::ContainerCreated
        }
        ContainerPhase::Running { .. }
        | ContainerPhase::Stopping { started_at: Some(_), .. }
        | ContainerPhase::Ending { .. } => cri::ContainerState::ContainerRunning,
        ContainerPhase::Exited { .. } | ContainerPhase::Removing { .. } => {
            cri::ContainerState::ContainerExited
        }
    }
}

pub(super) fn container(container: &Container) -> cri::Container {
    let config = &container.config;
    cri::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.sandbox.to_string(),
        metadata: Some(container_metadata(container)),
        image: Some(image_spec(&config.image)),
        image_ref: container.image_ref.clone(),
        state: container_state(container).into(),
        created_at: container.created_at.0,
        labels: wire(&config.labels),
        annotations: wire(&config.annotations),
        image_id: container.image.to_string(),
    }
}

/// `written` is what the user wrote for the image.
pub(super) fn container_status(container: &Container, written: String) -> cri::ContainerStatus {
    let config = &container.config;
    let exit = container.phase.exit();
    let (reason, message) = exit.map(|(how, _)| (how.reason(), how.message())).unwrap_or_default();
    let stop_signal = match config.stop_signal_enum {
        0 => wire_signal(container.stop_signal),
        asked => asked,
    };
    cri::ContainerStatus {
        id: container.id.to_string(),
        metadata: Some(container_metadata(container)),
        state: container_state(container).into(),
        created_at: container.created_at.0,
        started_at: container.phase.started_at().map_or(0, |at| at.0),
        finished_at: exit.map_or(0, |(_, at)| at.0),
        exit_code: exit.map_or(0, |(how, _)| how.code()),
        image: Some(cri::ImageSpec { image: written, ..image_spec(&config.image) }),
        image_ref: container.image_ref.clone(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        labels: wire(&config.labels),
        annotations: wire(&config.annotations),
        mounts: mounts(container),
        log_path: container.log_path.to_string_lossy().into_owned(),
        resources: Some(cri::ContainerResources {
            linux: Some(resources(&config.resources)),
            windows: None,
        }),
        image_id: container.image.to_string(),
        user: container.user.as_ref().map(user),
        stop_signal,
    }
}

pub(super) fn container_metadata(container: &Container) -> cri::ContainerMetadata {
    let name = container.config.name.clone();
    cri::ContainerMetadata { name: name.name, attempt: name.attempt }
}

pub(super) fn container_info(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let info = serde_json::json!({
        "sandboxID": pod.sandbox.id,
        "phase": format!("{:?}", container.phase),
        "pid": container.phase.pid(),
        "config": info_config(container),
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// Without the values of the environment, which may be secrets.
fn info_config(container: &Container) -> serde_json::Value {
    let mut config = container.config.clone();
    for (_, value) in &mut config.envs {
        value.clear();
    }
    serde_json::to_value(config).unwrap_or_default()
}

fn image_spec(image: &ImageSpec) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.image.clone(),
        annotations: wire(&image.annotations),
        user_specified_image: image.user_specified_image.clone(),
        runtime_handler: image.runtime_handler.clone(),
        image_ref: String::new(),
    }
}

fn user(user: &pod::User) -> cri::ContainerUser {
    cri::ContainerUser {
        linux: Some(cri::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.groups.iter().map(|group| i64::from(*group)).collect(),
        }),
    }
}

fn mounts(container: &Container) -> Vec<cri::Mount> {
    let one = |(index, volume): (usize, &Mount)| {
        let found = container.volumes.iter().find(|found| found.mount == index);
        mount(volume, found.map(|found| found.id.to_string()).unwrap_or_default())
    };
    container.config.mounts.iter().enumerate().map(one).collect()
}

/// `image_ref` is the image that a volume shows, by its id: a kubelet without this field asks `ImageStatus` for the same, and critest
/// compares it with `PullImageResponse.image_ref`. (The interface's own words would also allow a repository digest.)
fn mount(mount: &Mount, image_ref: String) -> cri::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => cri::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    let image = mount.image.as_ref();
    cri::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        recursive_read_only: mount.recursive_read_only,
        uid_mappings: mount.mapped.iter().map(|ids| mapping(ids.uids)).collect(),
        gid_mappings: mount.mapped.iter().map(|ids| mapping(ids.gids)).collect(),
        image: image.map(|image| cri::ImageSpec { image_ref, ..image_spec(&image.image) }),
        image_sub_path: image.map(|image| image.sub_path.clone()).unwrap_or_default(),
        mount_options: mount.options.iter().map(|option| option.as_str().to_owned()).collect(),
    }
}

fn resources(limits: &Resources) -> cri::LinuxContainerResources {
    let hugepage = |(size, limit): &(String, u64)| cri::HugepageLimit {
        page_size: size.clone(),
        limit: *limit,
    };
    cri::LinuxContainerResources {
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_shares: limits.cpu_shares,
        memory_limit_in_bytes: limits.memory_limit,
        oom_score_adj: limits.oom_score_adj,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        hugepage_limits: limits.hugepages.iter().map(hugepage).collect(),
        unified: wire(&limits.unified),
        memory_swap_limit_in_bytes: limits.memory_swap_limit,
    }
}

pub(super) fn wire(map: &Labels) -> HashMap<String, String> {
    map.clone().into_iter().collect()
}
