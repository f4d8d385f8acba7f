//! What a client asked for, in our own words: a sandbox's and a container's configuration after `src/cri/parse.rs`
//! has checked the shape of every field. Nothing here is a wire type; all of it is kept in records.
//!
//! Everything is compared by value: asking for the same name with another configuration is refused, and
//! [`SandboxConfig::difference`] names the field.

use std::collections::BTreeMap;
use std::net::IpAddr;

use names::{ContainerName, SandboxName};
use serde::{Deserialize, Serialize};

/// Labels or annotations: kept and echoed, never interpreted.
pub type Labels = BTreeMap<String, String>;

/// What `RunPodSandbox` was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// The unique key of the sandbox.
    pub name: SandboxName,
    /// UTS host name; empty means the node's own.
    pub hostname: String,
    /// Absolute directory that container log paths are relative to; empty means none.
    pub log_directory: String,
    /// `None`: the node's resolv.conf. `Some` and empty: an empty file.
    pub dns: Option<Dns>,
    /// Ports of the host that lead into the pod (a `host_port` of 0 is dropped by the parser).
    pub ports: Vec<PortMapping>,
    /// Echoed unchanged.
    pub labels: Labels,
    /// Echoed unchanged.
    pub annotations: Labels,
    /// The name of the runtime handler; empty is the default one.
    pub runtime_handler: String,
    /// Path (cgroupfs) or slice (systemd) that holds the pod's cgroup; empty means ours.
    pub cgroup_parent: String,
    /// Namespaced kernel parameters, validated.
    pub sysctls: BTreeMap<String, String>,
    /// Which namespaces are the pod's own.
    pub namespaces: Namespaces,
    /// The sandbox's own security context.
    pub security: SandboxSecurity,
    /// What the runtime itself costs, as the kubelet reckons it.
    pub overhead: Option<Resources>,
    /// The sum of the containers' resources.
    pub resources: Option<Resources>,
}

impl SandboxConfig {
    /// The first field in which the two differ, or `None` when they are the same.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let pairs = [
            (self.name == other.name, "config.metadata"),
            (self.hostname == other.hostname, "config.hostname"),
            (self.log_directory == other.log_directory, "config.log_directory"),
            (self.dns == other.dns, "config.dns_config"),
            (self.ports == other.ports, "config.port_mappings"),
            (self.labels == other.labels, "config.labels"),
            (self.annotations == other.annotations, "config.annotations"),
            (self.runtime_handler == other.runtime_handler, "runtime_handler"),
            (self.cgroup_parent == other.cgroup_parent, "config.linux.cgroup_parent"),
            (self.sysctls == other.sysctls, "config.linux.sysctls"),
            (
                self.namespaces == other.namespaces,
                "config.linux.security_context.namespace_options",
            ),
            (self.security == other.security, "config.linux.security_context"),
            (self.overhead == other.overhead, "config.linux.overhead"),
            (self.resources == other.resources, "config.linux.resources"),
        ];
        pairs.into_iter().find_map(|(same, field)| (!same).then_some(field))
    }
}

/// resolv.conf, as lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// One port of the host that leads into the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The port inside the pod.
    pub container_port: u16,
    /// The port on the host, never 0.
    pub host_port: u16,
    /// Only on this address of the host; `None` is all.
    pub host_ip: Option<IpAddr>,
}

/// Whose namespace of one kind a sandbox or a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Shared by the pod's containers.
    #[default]
    Pod,
    /// One per container (PID only).
    Container,
    /// The node's.
    Node,
    /// That of another container of the pod (PID only), named by `target`.
    Target,
}

/// The namespaces of a sandbox or a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Any mode.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// The container whose PID namespace `Target` means.
    #[serde(default)]
    pub target: Option<names::ContainerId>,
    /// The pod's own user namespace; `None`: the node's.
    #[serde(default)]
    pub user: Option<UserNamespace>,
}

/// The ids of a user namespace: one range of users and one of groups, both from 0 on inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Users.
    pub uids: IdRange,
    /// Groups.
    pub gids: IdRange,
}

/// Ids of the node that 0, 1, 2, … are in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// What 0 is on the node.
    pub first: u32,
    /// How many there are; never 0, and the last one is an id.
    pub length: u32,
}

/// The security context of a sandbox. There is no pause process, so users and groups are kept only to be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSecurity {
    /// Privileged containers are allowed only in a privileged sandbox.
    pub privileged: bool,
    /// Kept, and compared.
    pub readonly_rootfs: bool,
    /// Kept, and compared.
    pub run_as_user: Option<u32>,
    /// Kept, and compared.
    pub run_as_group: Option<u32>,
    /// Kept, and compared.
    pub supplemental_groups: Vec<u32>,
    /// Kept, and compared.
    pub seccomp: Option<SecurityProfile>,
    /// Kept, and compared.
    #[serde(default)]
    pub apparmor: Option<SecurityProfile>,
    /// What containers are labelled with that ask for nothing else.
    #[serde(default)]
    pub selinux: Option<SelinuxOptions>,
}

/// Which profile of a security module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityProfile {
    /// The runtime's own.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One of the node's: seccomp's is a file (an absolute path), AppArmor's the name of a loaded profile.
    Localhost(String),
}

/// The parts of an SELinux label; those that are empty are the node's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxOptions {
    /// The SELinux user.
    pub user: String,
    /// The role.
    pub role: String,
    /// The type.
    pub kind: String,
    /// The level.
    pub level: String,
}

/// What `CreateContainer` was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Unique within the sandbox.
    pub name: ContainerName,
    /// The image: what the client wrote, to be resolved locally.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint, and drops its cmd.
    pub command: Vec<String>,
    /// Replaces the image's cmd.
    pub args: Vec<String>,
    /// Empty: the image's.
    pub working_dir: String,
    /// Over the image's, in order; values may be any bytes without NUL.
    pub envs: Vec<(String, Vec<u8>)>,
    /// In the order given.
    pub mounts: Vec<Mount>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Devices by their CDI names.
    #[serde(default)]
    pub cdi_devices: Vec<String>,
    /// Echoed unchanged.
    pub labels: Labels,
    /// Echoed unchanged.
    pub annotations: Labels,
    /// Relative to the sandbox's log directory; empty means discard.
    pub log_path: String,
    /// Where the container's input and output go.
    pub stdio: Stdio,
    /// The signal that asks it to stop (a kernel number); `None`: the image's, else SIGTERM.
    pub stop_signal: Option<i32>,
    /// `stop_signal` as the interface's own number, to be echoed.
    #[serde(default)]
    pub stop_signal_enum: i32,
    /// Limits.
    pub resources: Resources,
    /// The security context.
    pub security: ContainerSecurity,
}

/// A container's input and output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of the interface")]
pub struct Stdio {
    /// Standard input stays open for attachers.
    pub stdin: bool,
    /// It closes after the first of them.
    pub stdin_once: bool,
    /// All three are one terminal.
    pub tty: bool,
}

/// How the client named an image, echoed as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// A reference or an id.
    pub image: String,
    /// Echoed.
    pub annotations: Labels,
    /// What the user wrote in the pod.
    pub user_specified_image: String,
    /// The runtime handler the image is for.
    pub runtime_handler: String,
}

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of the interface")]
pub struct Mount {
    /// Absolute path in the container.
    pub container_path: String,
    /// Absolute path on the host; made as a directory when missing. Empty when `image` is given.
    pub host_path: String,
    /// The mount itself is read-only.
    pub readonly: bool,
    /// And so is everything below it.
    pub recursive_read_only: bool,
    /// Asked for, and echoed; acted upon where SELinux is on.
    pub selinux_relabel: bool,
    /// How later mounts travel.
    pub propagation: Propagation,
    /// Owners inside are those on the disk: what the pod's user namespace does to ids is undone. It is the pod's own.
    #[serde(default)]
    pub mapped: Option<UserNamespace>,
    /// It is the content of an image, and read-only.
    #[serde(default)]
    pub image: Option<ImageVolume>,
    /// What else is denied in it, and in all that is mounted below it.
    #[serde(default)]
    pub options: Vec<MountOption>,
}

/// The image, or the part of one, that a volume shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// What the client wrote, to be resolved locally.
    pub image: ImageSpec,
    /// A directory in the image, relative to its root; empty means the root.
    pub sub_path: String,
}

/// What is denied in a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountOption {
    /// To execute programs.
    NoExec,
    /// To gain rights by executing a program.
    NoSuid,
    /// To use devices.
    NoDev,
}

impl MountOption {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::NoExec, Self::NoSuid, Self::NoDev];

    /// As the interface and mount(8) write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoExec => "noexec",
            Self::NoSuid => "nosuid",
            Self::NoDev => "nodev",
        }
    }
}

/// How later mounts travel between host and container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path in the container.
    pub container_path: String,
    /// Path on the host: a device node, or a directory of them.
    pub host_path: String,
    /// Of `rwm`.
    pub permissions: String,
}

/// Limits; 0 and empty mean "not given", as in the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds of CPU time per period; -1 is unlimited.
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Bytes; -1 is unlimited.
    pub memory_limit: i64,
    /// Bytes of memory and swap together.
    pub memory_swap_limit: i64,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
    /// A list such as `0-3,5`.
    pub cpuset_cpus: String,
    /// A list such as `0`.
    pub cpuset_mems: String,
    /// Page size (`2MB`) and bytes.
    pub hugepages: Vec<(String, u64)>,
    /// Keys of cgroup v2, as they are.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    /// These after a change, in which what is not given stays as it is. A memory limit without one of memory and swap means none
    /// beyond the memory, as it does for a new container.
    #[must_use]
    pub fn changed(&self, change: &Self) -> Self {
        let number = |held, given| if given == 0 { held } else { given };
        let text =
            |held: &String, given: &String| if given.is_empty() { held } else { given }.clone();
        let swap = if change.memory_limit == 0 { self.memory_swap_limit } else { 0 };
        let given = |size: &String| change.hugepages.iter().any(|(given, _)| given == size);
        let kept = self.hugepages.iter().filter(|(size, _)| !given(size));
        Self {
            cpu_period: number(self.cpu_period, change.cpu_period),
            cpu_quota: number(self.cpu_quota, change.cpu_quota),
            cpu_shares: number(self.cpu_shares, change.cpu_shares),
            memory_limit: number(self.memory_limit, change.memory_limit),
            memory_swap_limit: number(swap, change.memory_swap_limit),
            oom_score_adj: number(self.oom_score_adj, change.oom_score_adj),
            cpuset_cpus: text(&self.cpuset_cpus, &change.cpuset_cpus),
            cpuset_mems: text(&self.cpuset_mems, &change.cpuset_mems),
            hugepages: kept.chain(&change.hugepages).cloned().collect(),
            unified: self.unified.clone().into_iter().chain(change.unified.clone()).collect(),
        }
    }
}

/// The security context of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of the interface")]
pub struct ContainerSecurity {
    /// Everything: capabilities, devices, unmasked /proc and /sys.
    pub privileged: bool,
    /// Capabilities to add: `ALL`, or names without `CAP_`, upper case.
    pub add_capabilities: Vec<String>,
    /// Capabilities to drop, applied after `add`.
    pub drop_capabilities: Vec<String>,
    /// Capabilities for the ambient set (and so for all others).
    pub add_ambient_capabilities: Vec<String>,
    /// The container's namespaces.
    pub namespaces: Namespaces,
    /// The user; `None`: the image's.
    pub user: Option<RunAs>,
    /// The primary group; only together with a user.
    pub group: Option<u32>,
    /// More groups.
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's own groups of the user count too.
    pub groups_policy: GroupsPolicy,
    /// The rootfs is read-only.
    pub readonly_rootfs: bool,
    /// No privileges by exec.
    pub no_new_privs: bool,
    /// Exactly these, no defaults.
    pub masked_paths: Vec<String>,
    /// Exactly these, no defaults.
    pub readonly_paths: Vec<String>,
    /// `None` is unconfined.
    pub seccomp: Option<SecurityProfile>,
    /// `None` is what the node can do.
    #[serde(default)]
    pub apparmor: Option<SecurityProfile>,
    /// `None`: the sandbox's.
    #[serde(default)]
    pub selinux: Option<SelinuxOptions>,
}

/// A user, by number or by name in the image's /etc/passwd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunAs {
    /// A uid.
    Uid(u32),
    /// A name that must exist in the image.
    Name(String),
}

/// Which supplemental groups a process has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// The image's groups of the user, and those given.
    #[default]
    Merge,
    /// Only those given.
    Strict,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_one_limit_leaves_the_others() {
        let pages = |all: &[(&str, u64)]| all.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect();
        let held = Resources {
            cpu_period: 100_000,
            cpu_quota: 20_000,
            cpu_shares: 512,
            memory_limit: 200,
            memory_swap_limit: 300,
            oom_score_adj: 500,
            cpuset_cpus: "0-3".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepages: pages(&[("2MB", 1), ("1GB", 2)]),
            unified: BTreeMap::from([("memory.high".to_owned(), "1".to_owned())]),
        };
        assert_eq!(held.changed(&Resources::default()), held);
        assert_eq!(Resources::default().changed(&held), held);
        let pin = Resources { cpuset_cpus: "1".to_owned(), ..Resources::default() };
        assert_eq!(held.changed(&pin), Resources { cpuset_cpus: "1".to_owned(), ..held.clone() });
        let less = Resources { memory_limit: 100, ..Resources::default() };
        let wanted = Resources { memory_limit: 100, memory_swap_limit: 0, ..held.clone() };
        assert_eq!(held.changed(&less), wanted);
        let more = Resources { hugepages: pages(&[("2MB", 7)]), ..Resources::default() };
        assert_eq!(held.changed(&more).hugepages, pages(&[("1GB", 2), ("2MB", 7)]));
    }

    #[test]
    fn a_mount_that_was_recorded_before_there_were_image_volumes_is_read() {
        let old = r#"{"container_path":"/v","host_path":"/h","readonly":true,
            "recursive_read_only":false,"selinux_relabel":false,"propagation":"Private"}"#;
        let read: Mount = serde_json::from_str(old).unwrap();
        let (container_path, host_path) = ("/v".to_owned(), "/h".to_owned());
        let want = Mount { container_path, host_path, readonly: true, ..Mount::default() };
        assert_eq!(read, want);
    }
}
