//! Every rule as a table or a property.

use std::collections::BTreeSet;

use names::{ContainerName, Kind, SandboxName};
use oci_spec::runtime::{Capabilities, LinuxNamespaceType};
use pod::config::*;
use proptest::prelude::*;

use super::*;

mod confine;
mod modules;
mod mounts;
mod process;

struct Case {
    sandbox: SandboxConfig,
    container: ContainerConfig,
    image: ImageConfig,
    node: NodeFacts,
    place: Place,
    localhost: Option<String>,
    injected: Edits,
    apparmor: Option<String>,
    level: Option<String>,
}

impl Case {
    fn new() -> Self {
        Self {
            sandbox: sandbox(),
            container: container(),
            image: ImageConfig { cmd: vec!["/bin/sh".into()], ..ImageConfig::default() },
            node: NodeFacts::default(),
            place: Place {
                cgroup: "/ferropod/pod/c".into(),
                hostname: "/pod/hostname".into(),
                hosts: "/pod/hosts".into(),
                resolv_conf: "/pod/resolv.conf".into(),
                shm: "/pod/shm".into(),
                ..Place::default()
            },
            localhost: None,
            injected: Edits::default(),
            apparmor: None,
            level: None,
        }
    }

    fn build(&self) -> Result<Built, BuildError> {
        build(&Request {
            sandbox: &self.sandbox,
            sandbox_id: &SandboxId::from_random([1; 32]),
            container_id: &ContainerId::from_random([2; 32]),
            container: &self.container,
            image: &self.image,
            node: &self.node,
            place: &self.place,
            localhost_profile: self.localhost.as_deref(),
            injected: &self.injected,
            apparmor: self.apparmor.as_deref(),
            level: self.level.as_deref(),
        })
    }

    fn with(change: impl FnOnce(&mut Self)) -> Built {
        let mut case = Self::new();
        change(&mut case);
        case.build().unwrap()
    }

    fn refused(change: impl FnOnce(&mut Self)) -> BuildError {
        let mut case = Self::new();
        change(&mut case);
        case.build().unwrap_err()
    }
}

use names::{ContainerId, SandboxId};

fn sandbox() -> SandboxConfig {
    SandboxConfig {
        name: SandboxName { namespace: "n".into(), name: "p".into(), uid: "u".into(), attempt: 0 },
        hostname: "web-0".into(),
        log_directory: String::new(),
        dns: None,
        ports: vec![],
        labels: Labels::new(),
        annotations: Labels::new(),
        runtime_handler: String::new(),
        cgroup_parent: String::new(),
        sysctls: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
        namespaces: Namespaces::default(),
        security: SandboxSecurity::default(),
        overhead: None,
        resources: None,
    }
}

fn container() -> ContainerConfig {
    ContainerConfig {
        name: ContainerName { name: "c".into(), attempt: 0 },
        image: ImageSpec::default(),
        command: vec![],
        args: vec![],
        working_dir: String::new(),
        envs: vec![],
        mounts: vec![],
        devices: vec![],
        labels: Labels::new(),
        annotations: Labels::new(),
        cdi_devices: vec![],
        log_path: String::new(),
        stdio: Stdio::default(),
        stop_signal: None,
        stop_signal_enum: 0,
        resources: Resources::default(),
        security: ContainerSecurity::default(),
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn args(built: &Built) -> Vec<String> {
    built.spec.process().as_ref().unwrap().args().clone().unwrap()
}

fn env(built: &Built) -> Vec<String> {
    built.spec.process().as_ref().unwrap().env().clone().unwrap()
}

fn linux(built: &Built) -> &oci_spec::runtime::Linux {
    built.spec.linux().as_ref().unwrap()
}

fn caps(built: &Built) -> oci_spec::runtime::LinuxCapabilities {
    built.spec.process().as_ref().unwrap().capabilities().clone().unwrap()
}

fn set(names: &[&str]) -> Capabilities {
    names.iter().map(|n| n.parse().unwrap()).collect()
}

fn mount_at<'a>(built: &'a Built, at: &str) -> Option<&'a oci_spec::runtime::Mount> {
    built.spec.mounts().as_ref().unwrap().iter().find(|m| m.destination().as_os_str() == at)
}

fn options(built: &Built, at: &str) -> Vec<String> {
    mount_at(built, at).unwrap_or_else(|| panic!("no mount at {at}")).options().clone().unwrap()
}

fn volume(container: &str, host: &str) -> Mount {
    Mount { container_path: container.into(), host_path: host.into(), ..Mount::default() }
}
