//! The container's record and its machine.
//!
//! ```text
//!           Created           Start            Started           Exited           Reaped
//! Creating --------> Created -------> Starting -------> Running ---------> Ending -------> Exited
//!    |                  |                |                |  Stop             ^               |
//!    | CreateFailed:    +----------------+----------------+------> Stopping --+        Remove |
//!    v undone, forgotten                                                                      v
//!                                                                       forgotten <------ Removing
//! ```
//! A `Stop` of a container that was never started goes the same way: its waiting init is killed.

use std::path::PathBuf;

use names::{ContainerId, ImageId, SandboxId};
use serde::{Deserialize, Serialize};

use crate::Time;
use crate::config::ContainerConfig;

/// What is promised about one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// What was asked for; `resources` as last updated.
    pub config: ContainerConfig,
    /// The image it runs.
    pub image: ImageId,
    /// The repository digest (or the id) of that image, as it was named.
    pub image_ref: String,
    /// The images that its volumes show, held as long as its own.
    #[serde(default)]
    pub volumes: Vec<VolumeImage>,
    /// The signal that asks it to stop, settled from its configuration and its image's.
    pub stop_signal: i32,
    /// Absolute path of its log; empty when discarded.
    pub log_path: PathBuf,
    /// When `CreateContainer` was accepted.
    pub created_at: Time,
    /// Where its life stands.
    pub phase: ContainerPhase,
    /// The user that launch resolved in the image; `None` until then.
    #[serde(default)]
    pub user: Option<User>,
}

/// The image of a volume, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeImage {
    /// Which of the configuration's mounts it is for.
    pub mount: usize,
    /// The image.
    pub id: ImageId,
}

/// The ids a container's process runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All supplemental groups.
    pub groups: Vec<u32>,
}

/// Where a container's life stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerPhase {
    /// Being made; nobody has been told of it.
    Creating,
    /// Its init waits for the start.
    Created {
        /// The waiting init.
        pid: i32,
    },
    /// Asked to start.
    Starting {
        /// The init.
        pid: i32,
    },
    /// Its program runs.
    Running {
        /// Its main process.
        pid: i32,
        /// Since when.
        started_at: Time,
    },
    /// Asked to stop. The grace lives in the calls that wait.
    Stopping {
        /// Its main process.
        pid: i32,
        /// `None` when it was never started.
        started_at: Option<Time>,
    },
    /// Its main process has ended; what it left in the cgroup is being ended. Never written.
    Ending {
        /// How the main process ended.
        how: Exit,
        /// `None` when it was never started.
        started_at: Option<Time>,
        /// When the main process ended.
        finished_at: Time,
    },
    /// Over.
    Exited {
        /// How.
        how: Exit,
        /// `None` when it was never started.
        started_at: Option<Time>,
        /// When.
        finished_at: Time,
    },
    /// Its files are being removed.
    Removing {
        /// As in `Exited`, so that its status can still be told.
        how: Exit,
        /// As in `Exited`.
        started_at: Option<Time>,
        /// As in `Exited`.
        finished_at: Time,
    },
}

impl ContainerPhase {
    /// Whether clients may see it.
    pub fn is_visible(&self) -> bool {
        !matches!(self, Self::Creating)
    }

    /// Whether its program is running, as the interface sees it.
    pub fn is_running(&self) -> bool {
        match self {
            Self::Running { .. }
            | Self::Stopping { started_at: Some(_), .. }
            | Self::Ending { .. } => true,
            Self::Creating
            | Self::Created { .. }
            | Self::Starting { .. }
            | Self::Stopping { started_at: None, .. }
            | Self::Exited { .. }
            | Self::Removing { .. } => false,
        }
    }

    /// Whether it is over for good.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Exited { .. } | Self::Removing { .. })
    }

    /// Its main process, while there is one.
    pub fn pid(&self) -> Option<i32> {
        match self {
            Self::Created { pid }
            | Self::Starting { pid }
            | Self::Running { pid, .. }
            | Self::Stopping { pid, .. } => Some(*pid),
            Self::Creating | Self::Ending { .. } | Self::Exited { .. } | Self::Removing { .. } => {
                None
            }
        }
    }

    /// When its program was started.
    pub fn started_at(&self) -> Option<Time> {
        match self {
            Self::Running { started_at, .. } => Some(*started_at),
            Self::Stopping { started_at, .. }
            | Self::Ending { started_at, .. }
            | Self::Exited { started_at, .. }
            | Self::Removing { started_at, .. } => *started_at,
            Self::Creating | Self::Created { .. } | Self::Starting { .. } => None,
        }
    }

    /// How and when it ended, once it is over.
    pub fn exit(&self) -> Option<(&Exit, Time)> {
        match self {
            Self::Exited { how, finished_at, .. } | Self::Removing { how, finished_at, .. } => {
                Some((how, *finished_at))
            }
            Self::Creating
            | Self::Created { .. }
            | Self::Starting { .. }
            | Self::Running { .. }
            | Self::Stopping { .. }
            | Self::Ending { .. } => None,
        }
    }
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// The kernel killed it for want of memory in its own cgroup.
    OomKilled,
    /// Its program could not be executed.
    StartFailed {
        /// Why.
        message: String,
    },
    /// Nobody can know: its shim is gone, or the node was restarted.
    Lost,
}

impl Exit {
    /// The exit code that clients see.
    pub fn code(&self) -> i32 {
        match self {
            Self::Code(code) => *code,
            Self::Signal(signal) => 128 + signal,
            Self::OomKilled => 137,
            Self::StartFailed { .. } => 128,
            Self::Lost => 255,
        }
    }

    /// The reason that clients see; kubelet shows it, and acts on `OOMKilled`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Code(0) => "Completed",
            Self::Code(_) | Self::Signal(_) => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartFailed { .. } => "StartError",
            Self::Lost => "Unknown",
        }
    }

    /// The message that clients see.
    pub fn message(&self) -> &str {
        match self {
            Self::StartFailed { message } => message,
            Self::Lost => "the shim ended, or the node was restarted",
            Self::Code(_) | Self::Signal(_) | Self::OomKilled => "",
        }
    }
}
