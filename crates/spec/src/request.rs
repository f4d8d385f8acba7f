//! What a specification is made of, and what comes out.

use std::collections::BTreeSet;

use names::{ContainerId, Kind, SandboxId};
use oci_spec::runtime::Spec;
use pod::config::{ContainerConfig, SandboxConfig};

use crate::cdi::Edits;

/// Everything that a specification depends on.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The pod.
    pub sandbox: &'a SandboxConfig,
    /// Its id.
    pub sandbox_id: &'a SandboxId,
    /// The container's id.
    pub container_id: &'a ContainerId,
    /// What the client asked for.
    pub container: &'a ContainerConfig,
    /// What the image says.
    pub image: &'a ImageConfig,
    /// What this node can do.
    pub node: &'a NodeFacts,
    /// Where the pod's things are.
    pub place: &'a Place,
    /// The JSON of the `Localhost` seccomp profile, when one was asked for.
    pub localhost_profile: Option<&'a str>,
    /// What comes with its CDI devices.
    pub injected: &'a Edits,
    /// The AppArmor profile that it is to have, loaded.
    pub apparmor: Option<&'a str>,
    /// The SELinux level of the pod, where the client named none.
    pub level: Option<&'a str>,
}

/// What an image's configuration says of processes. Written by strangers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The program.
    pub entrypoint: Vec<String>,
    /// Its arguments, or the program when there is no entrypoint.
    pub cmd: Vec<String>,
    /// `user`, `uid`, `user:group`, …
    pub user: String,
    /// Empty: the root.
    pub working_dir: String,
    /// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`; empty: none.
    pub stop_signal: String,
    /// Directories that it wants to be kept apart: here they are part of the container's own root, and only made.
    pub volumes: Vec<String>,
}

/// How the node's cgroups are laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupLayout {
    /// Controllers in hierarchies of their own.
    V1,
    /// The same, and a unified hierarchy beside them.
    Hybrid,
    /// One hierarchy.
    #[default]
    V2,
}

/// A limit of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE`, …
    pub name: String,
    /// What holds.
    pub soft: u64,
    /// What it may be raised to.
    pub hard: u64,
}

/// What this node can do, learnt once at start, and what its configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of the node")]
pub struct NodeFacts {
    /// The daemon's bounding set: names without `CAP_`.
    pub bounding: BTreeSet<String>,
    /// What a container has when nothing is added or dropped.
    pub default_capabilities: Vec<String>,
    /// The lowest oom score adjustment that this daemon may set.
    pub lowest_oom_score_adj: i32,
    /// Limits of every process.
    pub rlimits: Vec<Rlimit>,
    /// The cgroup layout.
    pub cgroups: CgroupLayout,
    /// The directories below /sys/fs/cgroup that are hierarchies of their own.
    pub hierarchies: Vec<String>,
    /// Memory and swap are counted together (v1: memsw exists; v2: memory.swap.max exists).
    pub swap_limits: bool,
    /// The hugetlb controller can be used by a container.
    pub hugetlb: bool,
    /// A mount can be made read-only with all below it.
    pub recursive_read_only: bool,
    /// Why pods cannot have user namespaces of their own here, if they cannot.
    pub no_user_namespaces: Option<String>,
    /// Devices belong to the container's user, not to whom the host gives them.
    pub devices_to_user: bool,
    /// The node's name.
    pub hostname: String,
    /// The site's own JSON in place of the built-in `RuntimeDefault` profile.
    pub default_seccomp: Option<String>,
    /// The kernel enforces AppArmor.
    pub apparmor: bool,
    /// The labels that SELinux gives containers here; `None`: the kernel has none, or it is not to be used.
    pub selinux: Option<crate::selinux::Contexts>,
}

impl Default for NodeFacts {
    fn default() -> Self {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        Self {
            bounding: names::CAPABILITIES.iter().map(|n| (*n).to_owned()).collect(),
            default_capabilities: names(&crate::capabilities::USUAL),
            lowest_oom_score_adj: -1000,
            rlimits: vec![Rlimit { name: "RLIMIT_NOFILE".to_owned(), soft: 1024, hard: 524_288 }],
            cgroups: CgroupLayout::V2,
            hierarchies: Vec::new(),
            swap_limits: true,
            hugetlb: true,
            recursive_read_only: true,
            no_user_namespaces: None,
            devices_to_user: false,
            hostname: "localhost".to_owned(),
            default_seccomp: None,
            apparmor: false,
            selinux: None,
        }
    }
}

/// Where the pod's things are on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The container's own cgroup: absolute below the hierarchies' roots.
    pub cgroup: String,
    /// The pod's files.
    pub hostname: String,
    /// With the node's network a copy of the node's.
    pub hosts: String,
    /// Made from `dns_config` or from the node's.
    pub resolv_conf: String,
    /// The pod's /dev/shm; the node's own when the pod uses the node's ipc namespace.
    pub shm: String,
    /// How launch finds the pod's namespaces.
    pub network_namespace: String,
    /// See `network_namespace`.
    pub ipc_namespace: String,
    /// See `network_namespace`.
    pub uts_namespace: String,
    /// See `network_namespace`; the one shared by the pod.
    pub pid_namespace: String,
    /// See `network_namespace`.
    pub user_namespace: String,
    /// The PID namespace of the container that `Target` names.
    pub target_pid_namespace: Option<String>,
}

impl Default for Place {
    fn default() -> Self {
        let text = str::to_owned;
        Self {
            cgroup: String::new(),
            hostname: String::new(),
            hosts: String::new(),
            resolv_conf: String::new(),
            shm: text("/dev/shm"),
            network_namespace: text("/proc/self/fd/4"),
            ipc_namespace: text("/proc/self/fd/5"),
            uts_namespace: text("/proc/self/fd/6"),
            pid_namespace: text("/proc/self/fd/7"),
            user_namespace: text("/proc/self/fd/8"),
            target_pid_namespace: None,
        }
    }
}

/// A specification and what launch still has to settle.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// The specification.
    pub spec: Spec,
    /// Who the process runs as, to be found in the image.
    pub user: UserRequest,
    /// The kernel's number of the signal that asks the container to stop.
    pub stop_signal: i32,
    /// Devices of the host, to be found by launch (`CreateJob.devices`).
    pub devices: Vec<DeviceRequest>,
    /// Every device of the host (`CreateJob.all_devices`).
    pub all_devices: bool,
    /// Directories that are made where they are missing (`CreateJob.directories`).
    pub directories: Vec<String>,
    /// Sources of mounts that are not made when they are missing (`CreateJob.deny_missing`).
    pub must_exist: Vec<String>,
    /// The label of the container's root filesystem (`Rootfs.label`).
    pub mount_label: Option<String>,
    /// Host paths that are given that label first (`CreateJob.relabel`).
    pub relabel: Vec<String>,
}

impl Built {
    /// The specification as JSON.
    pub fn json(&self) -> Result<Vec<u8>, BuildError> {
        serde_json::to_vec(&self.spec).map_err(BuildError::Json)
    }
}

/// Who the process runs as (`CreateJob.user`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRequest {
    /// As the image writes it; used when neither uid nor name is given.
    pub image_user: String,
    /// By number.
    pub uid: Option<u32>,
    /// By name, in the image's passwd.
    pub name: String,
    /// The primary group.
    pub gid: Option<u32>,
    /// More groups.
    pub groups: Vec<u32>,
    /// No groups of the image.
    pub strict_groups: bool,
}

/// A device of the host, or a directory of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRequest {
    /// Where the container sees it.
    pub container_path: String,
    /// Where it is.
    pub host_path: String,
    /// Of `rwm`.
    pub permissions: String,
    /// What a CDI file says of the node itself; `None`: all is the host's.
    pub own: Option<OwnNode>,
}

/// A node that need not be the host's. What is not said here is the host's; owners are the container's user and group, unless that is root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnNode {
    /// Its kind (`c`, `b`, `u`, `p`), major and minor number.
    pub number: Option<(char, i64, i64)>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
}

/// Why there is no specification.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Neither client nor image say what to run.
    #[error(
        "no command specified: config.command, config.args and the image's entrypoint and cmd are empty"
    )]
    NoCommand,
    /// A field has a value that cannot be.
    #[error("{field}: {why}")]
    Field {
        /// The field as the interface names it.
        field: String,
        /// What is wrong.
        why: String,
    },
    /// The kubelet looks for the first word.
    #[error("RROUnsupported: {0} cannot be recursively read-only on this kernel")]
    RecursiveReadOnly(String),
    /// A profile of AppArmor where there is none.
    #[error(
        "config.linux.security_context.apparmor: the profile {0:?} cannot be had: this kernel has no AppArmor"
    )]
    NoApparmor(String),
    /// A file that is to be a seccomp profile is none.
    #[error("{at} is no seccomp profile")]
    Profile {
        /// Who names it, and which.
        at: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The specification cannot be written.
    #[error("writing the specification")]
    Json(#[source] serde_json::Error),
    /// A part of the specification was refused by its builder: a bug here.
    #[error("assembling the specification")]
    Assemble(#[from] oci_spec::OciSpecError),
}

impl BuildError {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoCommand | Self::Field { .. } | Self::Profile { .. } => Kind::Invalid,
            Self::RecursiveReadOnly(_) | Self::NoApparmor(_) => Kind::Unsupported,
            Self::Json(_) | Self::Assemble(_) => Kind::Internal,
        }
    }

    pub(crate) fn field(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Field { field: field.into(), why: why.into() }
    }
}
