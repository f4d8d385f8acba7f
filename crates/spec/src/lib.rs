//! DECIDE: what a container's process will be, as an OCI runtime specification.
//!
//! [`build`] is pure: from what the client asked for, what the image says, and facts of the node that others gathered.
#![forbid(unsafe_code)]

mod build;
mod error;
pub mod facts;

pub use build::build;
pub use error::BuildError;
pub use facts::{DeviceNode, Handles, ImageConfig, Layout, NodeFacts, Place, Rlimit};

use names::{ContainerId, SandboxId};
use pod::config::{ContainerConfig, SandboxConfig};

/// Everything that a specification follows from.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The pod's configuration.
    pub sandbox: &'a SandboxConfig,
    /// The pod's id.
    pub sandbox_id: &'a SandboxId,
    /// The container's id.
    pub container_id: &'a ContainerId,
    /// The container's configuration.
    pub container: &'a ContainerConfig,
    /// What the image says.
    pub image: &'a ImageConfig,
    /// What the node is.
    pub node: &'a NodeFacts,
    /// Where the container's things are.
    pub place: &'a Place,
    /// The devices that were asked for (all of the host's for a privileged container), resolved.
    pub devices: &'a [DeviceNode],
    /// The JSON of the `Localhost` seccomp profile.
    pub localhost_profile: Option<&'a str>,
}

/// A settled specification.
#[derive(Debug, Clone)]
pub struct Built {
    /// Complete but for `root.path` and `process.user`, which launch settles in the rootfs.
    pub spec: oci_spec::runtime::Spec,
    /// Whom launch shall look up.
    pub user: UserRequest,
    /// The signal that asks the container to stop, as the kernel numbers it.
    pub stop_signal: i32,
    /// HOME is to be taken from the image's passwd.
    pub set_home: bool,
}

/// A user as it was asked for; names are looked up in the rootfs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRequest {
    /// As the image writes it (`user`, `uid`, `user:group`, …); counts when neither `uid` nor `name` is set.
    pub image_user: String,
    /// By number.
    pub uid: Option<u32>,
    /// By name.
    pub name: Option<String>,
    /// The primary group.
    pub gid: Option<u32>,
    /// Supplemental groups.
    pub groups: Vec<u32>,
    /// Only those, not the image's own.
    pub strict_groups: bool,
}
