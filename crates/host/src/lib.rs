//! DO: what the node's kernel holds for a pod, made so or let go.
//!
//! One module per kind of thing. Each makes its things under names computed from ids, so that a later daemon finds them
//! with no memory of this one, and each release is idempotent: what is gone already counts as released, an error does not
//! stop the rest, and all errors are reported together. Nothing here is released by `Drop`, except descriptors.
//!
//! | module | what |
//! |---|---|
//! | [`cgroup`] | pod and container cgroups on v1, hybrid and v2: make, kill, release, update, statistics |
//! | [`netns`] | pins of network namespaces in `/run/netns` |
//! | [`dial`] | connections to a port inside a network namespace |
//! | [`shm`] | a pod's `/dev/shm` |
//! | [`idmap`] | whether user namespaces of pods go here |
//! | [`files`] | files replaced whole, a pod's hostname, hosts and resolv.conf, directory trees |
//! | [`apparmor`], [`selinux`] | what the kernel's security modules have for containers |
//! | [`seal`] | the programs beside the daemon, where no container can write them |
//! | [`spawn`] | shims as processes |
//! | [`shim`] | the client of a shim's socket |
//! | [`proc`] | facts of /proc, pidfds, clock, random ids |
//! | [`disk`] | how much a directory or a file system holds |
//! | [`code`] | pages of code that only the start needed |
//! | [`heap`] | what this program's allocator keeps |
//!
//! It may not depend on `engine`, `ledger` or tonic: it knows neither what was promised nor who asked. Of `pod` it uses
//! only configuration types. tokio is here for readiness of the shim's socket, of connections into pods and of systemd's answers,
//! and to wait for `apparmor_parser`;
//! everything else blocks, and says so.
//!
//! # Decisions
//! * Unsafe code lives in `raw`, one system call per function.
//! * cgroups-rs makes the v1 cgroups of a pod and writes limits. It knows v1 or v2 but no hybrid, parses mountinfo at every
//!   call, and on v2 writes every controller at every level; so it is given our own list of mounts through its `Hierarchy`
//!   trait, and the unified hierarchy is made here.

pub mod apparmor;
pub mod cgroup;
pub mod code;
pub mod dial;
pub mod disk;
mod fault;
pub mod files;
pub mod heap;
pub mod idmap;
pub mod netns;
pub mod proc;
#[expect(unsafe_code, reason = "the fence: system calls that nix does not wrap")]
mod raw;
pub mod seal;
pub mod selinux;
pub mod shim;
pub mod shm;
pub mod spawn;

pub use fault::{FsError, ReleaseError};

/// What a release found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// It was there, and is gone now.
    Now,
    /// There was nothing to let go.
    AlreadyGone,
}

impl Released {
    /// `Now` when either was.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self == Self::Now { self } else { other }
    }
}
