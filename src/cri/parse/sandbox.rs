//! A sandbox's configuration.

use std::collections::{BTreeMap, HashMap};

use cri_proto::cri;
use names::SandboxName;
use pod::config::{
    Dns, NamespaceMode, Namespaces, PortMapping, Protocol, SandboxConfig, SandboxSecurity,
};

use super::security::{self, Whose};
use super::{
    At, Invalid, absolute_or_empty, ident, ids, known, name, no_way_up, not_empty, plain, resources,
};

/// What a UTS namespace holds.
const HOSTNAME_MAX: usize = 64;

/// Those of the IPC namespace, beside `fs.mqueue.*`.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// `at` is where the configuration is; the handler stands beside it in the request.
pub(crate) fn sandbox_config(
    at: &At<'_>,
    wire: Option<&cri::PodSandboxConfig>,
    runtime_handler: &str,
) -> Result<SandboxConfig, Invalid> {
    let wire = at.required(wire)?;
    at.field("windows").unasked(wire.windows.is_some())?;
    hostname(&at.field("hostname"), &wire.hostname)?;
    absolute_or_empty(&at.field("log_directory"), &wire.log_directory)?;
    let absent = cri::LinuxPodSandboxConfig::default();
    let linux = wire.linux.as_ref().unwrap_or(&absent);
    let at_linux = at.field("linux");
    no_way_up(&at_linux.field("cgroup_parent"), &linux.cgroup_parent)?;
    let (namespaces, security) = context(&at_linux, linux.security_context.as_ref())?;
    let limits = |name, wire: Option<&cri::LinuxContainerResources>| {
        wire.map(|wire| resources(&at_linux.field(name), wire)).transpose()
    };
    Ok(SandboxConfig {
        name: metadata(&at.field("metadata"), wire.metadata.as_ref())?,
        hostname: wire.hostname.clone(),
        log_directory: wire.log_directory.clone(),
        dns: wire
            .dns_config
            .as_ref()
            .map(|dns| resolver(&at.field("dns_config"), dns))
            .transpose()?,
        ports: ports(&at.field("port_mappings"), &wire.port_mappings, &namespaces)?,
        labels: wire.labels.clone().into_iter().collect(),
        annotations: wire.annotations.clone().into_iter().collect(),
        runtime_handler: runtime_handler.to_owned(),
        cgroup_parent: linux.cgroup_parent.clone(),
        sysctls: sysctls(&at_linux.field("sysctls"), &linux.sysctls, &namespaces)?,
        overhead: limits("overhead", linux.overhead.as_ref())?,
        resources: limits("resources", linux.resources.as_ref())?,
        namespaces,
        security,
    })
}

/// One of those that are configured; the empty name is Ferropod's own.
pub(crate) fn handler<'a, T>(
    at: &At<'_>,
    name: &str,
    configured: &'a BTreeMap<String, T>,
) -> Result<Option<&'a T>, Invalid> {
    match configured.get(name) {
        None if !name.is_empty() => {
            let known: Vec<&str> = configured.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(at.invalid(format!("no such handler: {name:?} (configured: {known})")))
        }
        found => Ok(found),
    }
}

fn metadata(at: &At<'_>, wire: Option<&cri::PodSandboxMetadata>) -> Result<SandboxName, Invalid> {
    let wire = at.required(wire)?;
    Ok(SandboxName {
        namespace: part(&at.field("namespace"), &wire.namespace)?,
        name: part(&at.field("name"), &wire.name)?,
        uid: part(&at.field("uid"), &wire.uid)?,
        attempt: wire.attempt,
    })
}

/// Becomes a value in `CNI_ARGS`, where `;` parts the pairs.
fn part(at: &At<'_>, text: &str) -> Result<String, Invalid> {
    if text.contains(';') { Err(at.invalid(format!("{text:?} has a ';'"))) } else { name(at, text) }
}

fn hostname(at: &At<'_>, text: &str) -> Result<(), Invalid> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if text.len() > HOSTNAME_MAX {
        return Err(at.invalid(format!("{text:?} is longer than {HOSTNAME_MAX} bytes")));
    }
    if text.bytes().all(letter) {
        return Ok(());
    }
    Err(at.invalid(format!("{text:?} is not a host name")))
}

fn resolver(at: &At<'_>, wire: &cri::DnsConfig) -> Result<Dns, Invalid> {
    let lines =
        [("servers", &wire.servers), ("searches", &wire.searches), ("options", &wire.options)];
    for (field, words) in lines {
        let at = at.field(field);
        for (index, word) in words.iter().enumerate() {
            one_word(&at.item(index), word)?;
        }
    }
    Ok(Dns {
        servers: wire.servers.clone(),
        searches: wire.searches.clone(),
        options: wire.options.clone(),
    })
}

fn one_word(at: &At<'_>, word: &str) -> Result<(), Invalid> {
    not_empty(at, word)?;
    plain(at, word)?;
    if word.contains(' ') { Err(at.invalid(format!("{word:?} has a space"))) } else { Ok(()) }
}

/// A mapping without host port maps nothing; nor does any on the node's own network.
fn ports(
    at: &At<'_>,
    wire: &[cri::PortMapping],
    namespaces: &Namespaces,
) -> Result<Vec<PortMapping>, Invalid> {
    let mut ports = Vec::new();
    for (index, wire) in wire.iter().enumerate() {
        let at = at.item(index);
        let mapping = port(&at, wire)?;
        if mapping.host_port != 0 && namespaces.network == NamespaceMode::Pod {
            ports.push(mapping);
        }
    }
    Ok(ports)
}

fn port(at: &At<'_>, wire: &cri::PortMapping) -> Result<PortMapping, Invalid> {
    let protocol = match known(&at.field("protocol"), wire.protocol)? {
        cri::Protocol::Tcp => Protocol::Tcp,
        cri::Protocol::Udp => Protocol::Udp,
        cri::Protocol::Sctp => Protocol::Sctp,
    };
    let container_port = port_number(&at.field("container_port"), wire.container_port)?;
    let host_port = port_number(&at.field("host_port"), wire.host_port)?;
    if container_port == 0 && host_port != 0 {
        return Err(at.field("container_port").invalid("is 0, but host_port is not"));
    }
    let host_ip = match wire.host_ip.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| at.field("host_ip").invalid(format!("{text:?} is not an address")))?,
        ),
    };
    Ok(PortMapping { protocol, container_port, host_port, host_ip })
}

fn port_number(at: &At<'_>, value: i32) -> Result<u16, Invalid> {
    u16::try_from(value).map_err(|_| at.invalid(format!("{value} is not a port")))
}

fn sysctls(
    at: &At<'_>,
    wire: &HashMap<String, String>,
    namespaces: &Namespaces,
) -> Result<BTreeMap<String, String>, Invalid> {
    let sysctl = |(key, value): (&String, &String)| {
        let at = at.field(key);
        let name = sysctl_name(&at, key, namespaces)?;
        plain(&at, value)?;
        Ok((name, value.clone()))
    };
    wire.iter().map(sysctl).collect()
}

/// Dotted; `net/ipv4/conf/eth0.1/x` is how a name with dots of its own is written.
fn sysctl_name(at: &At<'_>, key: &str, namespaces: &Namespaces) -> Result<String, Invalid> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/' | b'_' | b'-');
    if !key.bytes().all(letter) || key.contains("..") || key.contains("//") {
        return Err(at.invalid("is not the name of a sysctl"));
    }
    let dotted = key.replace('/', ".");
    let of_ipc = IPC_SYSCTLS.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.");
    let mode = match (of_ipc, dotted.starts_with("net.")) {
        (true, _) => namespaces.ipc,
        (_, true) => namespaces.network,
        _ => return Err(at.invalid("is not a sysctl of a namespace")),
    };
    if mode == NamespaceMode::Node {
        return Err(at.invalid("would change the node: the pod shares that namespace with it"));
    }
    Ok(key.to_owned())
}

#[expect(deprecated, reason = "old clients send it, and it counts where the new field is absent")]
fn context(
    at: &At<'_>,
    wire: Option<&cri::LinuxSandboxSecurityContext>,
) -> Result<(Namespaces, SandboxSecurity), Invalid> {
    let Some(wire) = wire else { return Ok(Default::default()) };
    let at = at.field("security_context");
    let options = at.field("namespace_options");
    let namespaces =
        security::namespaces(&options, wire.namespace_options.as_ref(), Whose::Sandbox)?;
    let policy = at.field("supplemental_groups_policy");
    known::<cri::SupplementalGroupsPolicy>(&policy, wire.supplemental_groups_policy)?;
    let run_as_user = ident::optional(&at.field("run_as_user"), wire.run_as_user.as_ref())?;
    let run_as_group = ident::optional(&at.field("run_as_group"), wire.run_as_group.as_ref())?;
    if run_as_group.is_some() && run_as_user.is_none() {
        return Err(at.field("run_as_group").invalid("needs run_as_user"));
    }
    let old = &wire.seccomp_profile_path;
    let security = SandboxSecurity {
        privileged: wire.privileged,
        readonly_rootfs: wire.readonly_rootfs,
        run_as_user,
        run_as_group,
        supplemental_groups: ids(&at.field("supplemental_groups"), &wire.supplemental_groups)?,
        seccomp: security::seccomp(&at, wire.seccomp.as_ref(), old)?,
        apparmor: security::apparmor(&at, wire.apparmor.as_ref(), "")?,
        selinux: security::selinux(&at, wire.selinux_options.as_ref())?,
    };
    Ok((namespaces, security))
}
