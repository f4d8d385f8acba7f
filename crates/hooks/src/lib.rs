//! Hooks of the OCI runtime specification: programs that a container's `config.json` names, run at stages of its life with the
//! container's state on their standard input.
//!
//! * this file: what a `config.json` says of them, and the state that they are given;
//! * `run`: one of them, from its start to its end or its limit.
//!
//! Whoever calls [`Config::run`] is already where the stage belongs: launch in the container's namespaces or in the node's, the
//! daemon in the node's. Hence no namespaces here, no threads (launch has one), no libcontainer, no async and nothing unsafe.
//!
//! # Decisions
//! * The state is in the pipe before the program starts: nobody waits for a program that does not read, and nobody is killed by
//!   SIGPIPE. A pipe, because programs open /dev/stdin, which a socket refuses.
//! * What a program writes is nobody's log: the end of it is quoted when the program fails.
//! * The specification waits for ever for a hook without a timeout; a client does not. After [`PATIENCE`] it is killed, so
//!   that the error names it, and not only that something took too long.
//! * A program that is killed goes with its process group.
//! * With [`Config::tied`] it ends with the parent of its caller, which looks for that every 20 ms: a signal for that moment is
//!   not inherited, and would need unsafe code between fork and exec.

mod run;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a hook may run that has no timeout: less than launch has for the whole container.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Before [`Stage::CreateRuntime`], and otherwise the same.
    Prestart,
    /// On the node, when the container's namespaces and mounts are there.
    CreateRuntime,
    /// In the container's namespaces, when its root is not yet the root; the program is the node's.
    CreateContainer,
    /// In the container, before its program.
    StartContainer,
    /// On the node, after the container's program has been executed.
    Poststart,
    /// On the node, when the container is gone.
    Poststop,
}

/// What a `config.json` says that matters to hooks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    oci_version: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
    #[serde(default)]
    root: Root,
    #[serde(default)]
    process: Process,
    #[serde(default)]
    hooks: BTreeMap<Stage, Option<Vec<Hook>>>,
    /// Hooks end with the parent of this process.
    #[serde(skip)]
    tied: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Root {
    #[serde(default)]
    path: PathBuf,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Process {
    #[serde(default)]
    env: Vec<String>,
}

/// A program to run.
#[derive(Debug, Clone, Deserialize)]
struct Hook {
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    /// In seconds.
    timeout: Option<u64>,
}

/// Whose hooks they are.
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its directory, where `config.json` is.
    pub bundle: &'a Path,
    /// Its main process, in the PID namespace of the stage; none when it has ended.
    pub pid: Option<i32>,
}

/// `config.json` cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file.
    #[error("read {}", .path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in it.
    #[error("understand {}", .path.display())]
    Text {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A hook did not do what it was there for.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be started.
    #[error("{stage} hook {} cannot be executed", .path.display())]
    Start {
        /// When.
        stage: Stage,
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("{stage} hook {} ended with {status}{}", .path.display(), and_said(.said))]
    Ended {
        /// When.
        stage: Stage,
        /// The program.
        path: PathBuf,
        /// How.
        status: ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// It did not end.
    #[error("{stage} hook {} did not end within {} s and was killed{}", .path.display(), .limit.as_secs(), and_said(.said))]
    TimedOut {
        /// When.
        stage: Stage,
        /// The program.
        path: PathBuf,
        /// What it had.
        limit: Duration,
        /// The end of what it wrote.
        said: String,
    },
    /// Nobody waits for it any more.
    #[error("{stage} hook {} was killed, because who waits for it has ended", .path.display())]
    Orphaned {
        /// When.
        stage: Stage,
        /// The program.
        path: PathBuf,
    },
}

fn and_said(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// The state, as the runtime specification lays it out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    annotations: &'a HashMap<String, String>,
}

// === impl Stage ===

impl Stage {
    /// As `config.json` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl HookError ===

impl HookError {
    /// What kind of failure it is.
    pub fn kind(&self) -> names::Kind {
        names::Kind::Internal
    }
}

impl ReadError {
    /// What kind of failure it is.
    pub fn kind(&self) -> names::Kind {
        names::Kind::Internal
    }
}

// === impl Hook ===

impl Hook {
    fn limit(&self) -> Duration {
        self.timeout.map_or(PATIENCE, Duration::from_secs)
    }
}

// === impl Config ===

impl Config {
    /// Reads that of a bundle.
    pub fn of(bundle: &Path) -> Result<Self, ReadError> {
        let path = bundle.join("config.json");
        let text = std::fs::read(&path)
            .map_err(|source| ReadError::File { path: path.clone(), source })?;
        Self::parse(&text).map_err(|source| ReadError::Text { path, source })
    }

    /// Understands the text of one.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// With hooks that are killed when the parent of this process ends: it waits for nothing else.
    #[must_use]
    pub fn tied(mut self) -> Self {
        self.tied = true;
        self
    }

    /// How long the hooks of a stage may take; none take no time.
    pub fn within(&self, stage: Stage) -> Duration {
        self.at(stage).map(Hook::limit).fold(Duration::ZERO, Duration::saturating_add)
    }

    /// Whether there is anything to run.
    pub fn has(&self, stage: Stage) -> bool {
        self.at(stage).next().is_some()
    }

    /// `root.path`.
    pub fn root(&self) -> &Path {
        &self.root.path
    }

    /// Runs the hooks of a stage in their order, up to the first that fails, in the directory `cwd`.
    pub fn run(&self, stage: Stage, of: Container<'_>, cwd: &Path) -> Result<(), HookError> {
        self.results(stage, of, cwd).collect()
    }

    /// Runs all hooks of a stage: one that fails does not keep the others from running.
    pub fn run_all(&self, stage: Stage, of: Container<'_>, cwd: &Path) -> Vec<HookError> {
        self.results(stage, of, cwd).filter_map(Result::err).collect()
    }

    fn results<'a>(
        &'a self,
        stage: Stage,
        of: Container<'a>,
        cwd: &'a Path,
    ) -> impl Iterator<Item = Result<(), HookError>> + 'a {
        let told = self.state(stage, of);
        let one = move |hook| {
            let run = run::Run { stage, hook, cwd, env: self.env(stage, hook), tied: self.tied };
            run.run(&told)
        };
        self.at(stage).map(one)
    }

    fn at(&self, stage: Stage) -> impl Iterator<Item = &Hook> {
        self.hooks.get(&stage).into_iter().flatten().flatten()
    }

    /// A program of the container that is given no environment has the container's, as with runc.
    fn env<'a>(&'a self, stage: Stage, hook: &'a Hook) -> &'a [String] {
        if stage == Stage::StartContainer && hook.env.is_empty() {
            &self.process.env
        } else {
            &hook.env
        }
    }

    fn state(&self, stage: Stage, of: Container<'_>) -> io::Result<Vec<u8>> {
        let all = State {
            oci_version: &self.oci_version,
            id: of.id,
            status: stage.status(),
            pid: of.pid,
            bundle: of.bundle,
            annotations: &self.annotations,
        };
        serde_json::to_vec(&all).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests;
