//! From what a client asked for to what an OCI runtime does: one pure function, [`build`].
//!
//! * [`request`]: what goes in ([`Request`], [`ImageConfig`], [`NodeFacts`], [`Place`]) and what comes out ([`Built`]);
//! * `process`: command, environment, working directory, stop signal;
//! * `mounts`: the defaults, the pod's files, volumes;
//! * `capabilities`: the five sets;
//! * `limits`: cgroup resources, rlimits, oom score;
//! * `seccomp` and `profile`: `RuntimeDefault`, `Localhost`;
//! * [`apparmor`]: which profile; [`selinux`]: which labels;
//! * `confine`: namespaces, masked and read-only paths;
//! * [`cdi`]: what vendors' files say of devices; `injected`: that, in the terms of a specification.
//!
//! It may not depend on nix, files, the clock or libcontainer: it decides, so that every rule can be tested as a table.
//! What needs the kernel or the image's files is left open and settled by launch: `root.path`, `process.user` (from
//! [`UserRequest`]), bind sources, and host devices ([`Built::devices`]).
//!
//! # Decisions
//! * The pod's sysctls and host name are set once by the shim, in the namespaces it makes; a container's specification
//!   has neither.
//! * A capability that the daemon lacks is left out: asking for it would fail the whole container.
//! * The annotations `cdi.k8s.io/…` are no orders: they are older than the interface's own field, and what a pod's author may write
//!   must not give devices.
//! * `noNewPrivileges` is present only when true: libcontainer takes an explicit false for "load the filter last".
//! * The pod's own hosts file is bound with the node's network too, as a copy: a container must not write the node's.
//! * A pod with a user namespace and the node's network gets the node's sysfs bound: a sysfs of one's own takes a network of
//!   one's own. What such a pod mounts cannot reach the node, so Bidirectional is refused.
//! * AppArmor's `RuntimeDefault` has no effect on a kernel without it, but a profile that was named is refused: who names one
//!   relies on it. SELinux options have no effect without SELinux: a kubelet sends a pod's options to every node, those without
//!   it among them, and the peers ignore them there too.
#![forbid(unsafe_code)]

pub mod apparmor;
mod capabilities;
pub mod cdi;
mod confine;
mod injected;
mod limits;
mod mounts;
mod process;
mod profile;
pub mod request;
mod seccomp;
pub mod selinux;

use std::collections::HashMap;

pub use mounts::image_source;
pub use seccomp::check_site_profile;

pub use cdi::{CdiError, Edits, Registry};
use oci_spec::runtime::{RootBuilder, Spec, SpecBuilder};
pub use request::{
    BuildError, Built, CgroupLayout, DeviceRequest, ImageConfig, NodeFacts, OwnNode, Place,
    Request, Rlimit, UserRequest,
};

/// The specification of a container, or the first field that cannot be had.
pub fn build(request: &Request<'_>) -> Result<Built, BuildError> {
    let process = process::process(request)?;
    let linux = confine::linux(request)?;
    let root = RootBuilder::default()
        .path("/rootfs")
        .readonly(request.container.security.readonly_rootfs)
        .build()?;
    let spec: Spec = SpecBuilder::default()
        .version("1.2.0")
        .root(root)
        .process(process)
        .linux(linux)
        .mounts(mounts::mounts(request)?)
        .annotations(annotations(request))
        .build()?;
    let mut spec = without_defaults(spec);
    spec.set_hooks(injected::hooks(request.injected)?);
    Ok(Built {
        spec,
        user: user(request),
        stop_signal: process::stop_signal(request)?,
        devices: devices(request),
        all_devices: request.container.security.privileged,
        directories: process::directories(request)?,
        must_exist: injected::sources(request.injected),
        mount_label: selinux::mount(request)?,
        relabel: selinux::relabel(request),
    })
}

/// The builders fill what was not said with values of their own; a specification says only what was decided.
fn without_defaults(mut spec: Spec) -> Spec {
    spec.set_hostname(None).set_hooks(None).set_domainname(None);
    spec
}

/// Facts for people and outside runtimes. The client's annotations are its own: none becomes an order.
fn annotations(request: &Request<'_>) -> HashMap<String, String> {
    let facts = [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.container-name", request.container.name.name.as_str()),
        ("io.kubernetes.cri.sandbox-id", request.sandbox_id.as_str()),
        ("io.kubernetes.cri.sandbox-name", request.sandbox.name.name.as_str()),
        ("io.kubernetes.cri.sandbox-namespace", request.sandbox.name.namespace.as_str()),
    ];
    facts.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn user(request: &Request<'_>) -> UserRequest {
    let security = &request.container.security;
    let (uid, name) = match &security.user {
        Some(pod::config::RunAs::Uid(uid)) => (Some(*uid), String::new()),
        Some(pod::config::RunAs::Name(name)) => (None, name.clone()),
        None => (None, String::new()),
    };
    UserRequest {
        image_user: request.image.user.clone(),
        uid,
        name,
        gid: security.group,
        groups: [security.supplemental_groups.as_slice(), &request.injected.gids].concat(),
        strict_groups: security.groups_policy == pod::config::GroupsPolicy::Strict,
    }
}

fn devices(request: &Request<'_>) -> Vec<DeviceRequest> {
    let one = |d: &pod::config::Device| DeviceRequest {
        container_path: d.container_path.clone(),
        host_path: d.host_path.clone(),
        permissions: if d.permissions.is_empty() {
            "rwm".to_owned()
        } else {
            d.permissions.clone()
        },
        own: request.node.devices_to_user.then(OwnNode::default),
    };
    let asked = request.container.devices.iter().map(one);
    asked.chain(request.injected.nodes.iter().map(injected::device)).collect()
}

#[cfg(test)]
mod tests;
