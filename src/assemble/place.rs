//! Where everything lies. Every path follows from an id, so that any later daemon finds it.
//!
//! ```text
//! <state>/p/<sandbox>/    hostname, hosts, resolv.conf, shm (a mount), shim.sock, exits, shim (its process), cgroup (its path, for the sweep)
//! <state>/c/<container>/  the bundle: config.json, kept (for execs), notify.sock
//! <state>/seccomp/        compiled programs
//! <root>/c/<container>/   upper and work of the container's overlay
//! ```

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use names::{ContainerId, SandboxId};

/// The directories below root and state.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pods: PathBuf,
    bundles: PathBuf,
    layers: PathBuf,
    seccomp: PathBuf,
}

impl Places {
    pub(crate) fn new(root: &Path, state: &Path) -> Self {
        Self {
            pods: state.join("p"),
            bundles: state.join("c"),
            layers: root.join("c"),
            seccomp: state.join("seccomp"),
        }
    }

    /// The state directory can be passed by every user of the host, and an environment or a pod's shared memory is
    /// nothing for them.
    pub(crate) fn make(&self) -> io::Result<()> {
        for dir in [&self.pods, &self.bundles, &self.layers, &self.seccomp] {
            std::fs::create_dir_all(dir)?;
            std::fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    pub(crate) fn pods(&self) -> &Path {
        &self.pods
    }

    pub(crate) fn bundles(&self) -> &Path {
        &self.bundles
    }

    pub(crate) fn layers(&self) -> &Path {
        &self.layers
    }

    pub(crate) fn seccomp(&self) -> String {
        text(&self.seccomp)
    }

    pub(crate) fn pod(&self, id: &SandboxId) -> PathBuf {
        self.pods.join(id.as_str())
    }

    pub(crate) fn shm(&self, id: &SandboxId) -> PathBuf {
        self.pod(id).join("shm")
    }

    pub(crate) fn exits(&self, id: &SandboxId) -> PathBuf {
        self.pod(id).join("exits")
    }

    pub(crate) fn shim(&self, id: &SandboxId) -> PathBuf {
        self.pod(id).join("shim")
    }

    pub(crate) fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.bundles.join(id.as_str())
    }

    pub(crate) fn writable(&self, id: &ContainerId) -> PathBuf {
        self.layers.join(id.as_str())
    }

    pub(crate) fn upper(&self, id: &ContainerId) -> PathBuf {
        self.writable(id).join("upper")
    }

    pub(crate) fn work(&self, id: &ContainerId) -> PathBuf {
        self.writable(id).join("work")
    }
}

/// A path of ours as text: configuration refuses directories that are not UTF-8.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
