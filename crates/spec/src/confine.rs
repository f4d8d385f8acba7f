//! What separates the container from the node: namespaces, covered paths, cgroup.

use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType,
};
use pod::config::{IdRange, NamespaceMode, Propagation};

use crate::request::{BuildError, CgroupLayout, Request};
use crate::{limits, mounts, seccomp, selinux};

/// Power meters tell what a neighbour computes (CVE-2020-8694).
const POWERCAP: &str = "/sys/devices/virtual/powercap";

pub(crate) fn linux(request: &Request<'_>) -> Result<Linux, BuildError> {
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(request)?)
        .cgroups_path(request.place.cgroup.as_str())
        .resources(limits::resources(request)?)
        .rootfs_propagation(root_propagation(request))
        .masked_paths(masked(request)?)
        .readonly_paths(readonly(request)?)
        .build()?;
    linux.set_seccomp(seccomp::seccomp(request)?).set_devices(None).set_sysctl(None);
    linux.set_mount_label(selinux::mount(request)?);
    if let Some(user) = &request.sandbox.namespaces.user {
        linux.set_uid_mappings(Some(vec![mapping(user.uids)?]));
        linux.set_gid_mappings(Some(vec![mapping(user.gids)?]));
    }
    Ok(linux)
}

fn namespaces(request: &Request<'_>) -> Result<Vec<LinuxNamespace>, BuildError> {
    let place = request.place;
    let pod = &request.sandbox.namespaces;
    let mut all = vec![namespace(LinuxNamespaceType::Mount, None)?];
    if pod.user.is_some() {
        all.push(namespace(LinuxNamespaceType::User, Some(&place.user_namespace))?);
    }
    if pod.network != NamespaceMode::Node {
        all.push(namespace(LinuxNamespaceType::Network, Some(&place.network_namespace))?);
        // The node's network comes with the node's host name.
        all.push(namespace(LinuxNamespaceType::Uts, Some(&place.uts_namespace))?);
    }
    if pod.ipc != NamespaceMode::Node {
        all.push(namespace(LinuxNamespaceType::Ipc, Some(&place.ipc_namespace))?);
    }
    all.extend(pid_namespace(request)?);
    if request.node.cgroups == CgroupLayout::V2 && !request.container.security.privileged {
        all.push(namespace(LinuxNamespaceType::Cgroup, None)?);
    }
    Ok(all)
}

fn pid_namespace(request: &Request<'_>) -> Result<Option<LinuxNamespace>, BuildError> {
    let place = request.place;
    let path = match request.container.security.namespaces.pid {
        NamespaceMode::Node => return Ok(None),
        NamespaceMode::Container => None,
        NamespaceMode::Pod => Some(&place.pid_namespace),
        NamespaceMode::Target => match &place.target_pid_namespace {
            None => {
                let field = "config.linux.security_context.namespace_options.target_id";
                return Err(BuildError::field(field, "the target container does not run"));
            }
            found => found.as_ref(),
        },
    };
    namespace(LinuxNamespaceType::Pid, path).map(Some)
}

fn namespace(
    kind: LinuxNamespaceType,
    path: Option<&String>,
) -> Result<LinuxNamespace, BuildError> {
    let builder = LinuxNamespaceBuilder::default().typ(kind);
    Ok(match path {
        Some(path) => builder.path(path.as_str()).build()?,
        None => builder.build()?,
    })
}

pub(crate) fn mapping(range: IdRange) -> Result<LinuxIdMapping, BuildError> {
    let builder = LinuxIdMappingBuilder::default().container_id(0_u32);
    Ok(builder.host_id(range.first).size(range.length).build()?)
}

/// libcontainer knows one propagation for the whole root; launch stages each source with its own below it.
fn root_propagation(request: &Request<'_>) -> &'static str {
    let both = request.container.mounts.iter().any(|m| m.propagation == Propagation::Bidirectional);
    if both { "shared" } else { "slave" }
}

fn masked(request: &Request<'_>) -> Result<Vec<String>, BuildError> {
    let security = &request.container.security;
    if security.privileged {
        return Ok(Vec::new());
    }
    let mut paths = checked("masked_paths", &security.masked_paths)?;
    if !paths.iter().any(|p| p == POWERCAP) {
        paths.push(POWERCAP.to_owned());
    }
    Ok(paths)
}

fn readonly(request: &Request<'_>) -> Result<Vec<String>, BuildError> {
    let security = &request.container.security;
    if security.privileged {
        return Ok(Vec::new());
    }
    let mut paths = checked("readonly_paths", &security.readonly_paths)?;
    let own_mount =
        request.container.mounts.iter().any(|m| mounts::clean(&m.container_path) == mounts::CGROUP);
    if request.node.cgroups != CgroupLayout::V2 && !own_mount {
        // libcontainer mounts v1 hierarchies, systemd's own among them, writable whatever the options say.
        let named = std::iter::once("systemd");
        let all = request.node.hierarchies.iter().map(String::as_str).filter(|h| *h != "systemd");
        paths.extend(all.chain(named).map(|h| format!("{}/{h}", mounts::CGROUP)));
        paths.push(mounts::CGROUP.to_owned());
    }
    Ok(paths)
}

fn checked(field: &str, paths: &[String]) -> Result<Vec<String>, BuildError> {
    match paths.iter().find(|p| !p.starts_with('/')) {
        Some(path) => {
            let field = format!("config.linux.security_context.{field}");
            Err(BuildError::field(field, format!("{path:?} is not absolute")))
        }
        None => Ok(paths.to_vec()),
    }
}
