//! What `build` is told of the node, the image and the container's place; gathered by others.

/// What an image's configuration says of processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `KEY=value`.
    pub env: Vec<String>,
    /// The entrypoint.
    pub entrypoint: Vec<String>,
    /// The default arguments.
    pub cmd: Vec<String>,
    /// `user`, `uid`, `user:group`, …
    pub user: String,
    /// Absolute, or empty.
    pub working_dir: String,
    /// A name or a number, or empty.
    pub stop_signal: String,
}

/// Which cgroup hierarchies the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Controllers on v1 only.
    V1,
    /// Controllers on v1, and the unified hierarchy beside them.
    Hybrid,
    /// The unified hierarchy only.
    V2,
}

/// A resource limit of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// As the kernel names it: `RLIMIT_NOFILE`.
    pub name: String,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// What this node is and may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// The cgroup layout.
    pub layout: Layout,
    /// Capabilities that the daemon has to give, as `CAP_…`.
    pub bounding: Vec<String>,
    /// Capabilities of a container that asks for none, as `CAP_…`.
    pub default_capabilities: Vec<String>,
    /// Limits of every container, already within what the daemon may set.
    pub rlimits: Vec<Rlimit>,
    /// The lowest `oom_score_adj` the daemon may give (-1000 with `CAP_SYS_RESOURCE`, else its own).
    pub lowest_oom_score_adj: i64,
    /// The node's host name.
    pub hostname: String,
    /// The machine, as `uname -m` names it.
    pub machine: String,
    /// The kernel can make a mount read-only with everything below it.
    pub recursive_read_only: bool,
    /// Directories of the v1 controllers (`/sys/fs/cgroup/memory`, …), to be made read-only in containers.
    pub v1_mount_points: Vec<String>,
    /// The site's own JSON in place of the built-in `RuntimeDefault` seccomp profile.
    pub default_seccomp: Option<String>,
}

/// Where the container's things are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The container's cgroup below the hierarchies' roots, absolute.
    pub cgroup: String,
    /// The pod's file for /etc/hostname.
    pub hostname_file: String,
    /// The pod's file for /etc/hosts.
    pub hosts_file: String,
    /// The pod's file for /etc/resolv.conf.
    pub resolv_file: String,
    /// The directory for /dev/shm.
    pub shm_dir: String,
    /// The pod's namespaces as launch will find them.
    pub handles: Handles,
    /// The PID namespace of the container that `Target` means.
    pub target_pid: Option<String>,
}

/// Paths such as `/proc/self/fd/4`, good in launch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handles {
    /// The network namespace.
    pub net: String,
    /// The IPC namespace.
    pub ipc: String,
    /// The UTS namespace.
    pub uts: String,
    /// The shared PID namespace.
    pub pid: String,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Its path in the container.
    pub path: String,
    /// `b`, `c` or `p`.
    pub kind: char,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of `rwm`, for the device cgroup.
    pub permissions: String,
}
