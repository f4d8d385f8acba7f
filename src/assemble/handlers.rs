//! The OCI runtimes that handlers name, and what each says of itself: asked once at the start.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ::host::cgroup::Layout;
use names::Kind;
use pod::step::Fault;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::place::text;
use crate::config::Config;

/// It prints a page and ends.
const WITHIN: Duration = Duration::from_secs(10);
const LONGEST: u64 = 1 << 20;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Those of the configuration, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handlers(BTreeMap<String, Handler>);

/// A runtime that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handler {
    path: PathBuf,
    pub(crate) can: Abilities,
}

/// What a runtime can do of what differs between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(crate) struct Abilities {
    pub(crate) user_namespaces: bool,
    pub(crate) recursive_read_only: bool,
    pub(crate) seccomp: bool,
    pub(crate) cgroup_v1: bool,
    pub(crate) cgroup_v2: bool,
}

/// Why a handler is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandlerError {
    #[error("execute {}", path.display())]
    Execute { path: PathBuf, source: io::Error },
    #[error("`{} features` gave no answer in {} s", path.display(), WITHIN.as_secs())]
    Silent { path: PathBuf },
    #[error("`{} features` ended with {status}: is it an OCI runtime of version 1.1 or newer?", path.display())]
    Refused { path: PathBuf, status: ExitStatus },
    #[error("`{} features` printed no features of an OCI runtime", path.display())]
    Strange { path: PathBuf, source: serde_json::Error },
    #[error("{} cannot use this node's cgroups, which are {layout}", path.display())]
    Cgroups { path: PathBuf, layout: &'static str },
}

/// A handler that is of no use, by name.
#[derive(Debug, thiserror::Error)]
#[error("runtime.handlers.{name}")]
pub(crate) struct Useless {
    pub(crate) name: String,
    pub(crate) source: HandlerError,
}

/// What the specification of OCI runtimes has a runtime print.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Features {
    mount_options: Vec<String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<String>,
    seccomp: Enabled,
    cgroup: Cgroup,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Enabled {
    enabled: bool,
}

/// A runtime that does not say is taken to know both.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cgroup {
    v1: Option<bool>,
    v2: Option<bool>,
}

impl Handlers {
    /// Asks each of them; one that cannot be used here is an error.
    pub(crate) async fn learn(config: &Config, layout: Layout) -> Result<Self, Useless> {
        let mut all = BTreeMap::new();
        for (name, handler) in &config.runtime.handlers {
            let learnt = learn(&handler.path, layout).await;
            let learnt = learnt.map_err(|source| Useless { name: name.clone(), source })?;
            all.insert(name.clone(), learnt);
        }
        Ok(Self(all))
    }

    /// What each can do.
    pub(crate) fn abilities(&self) -> BTreeMap<String, Abilities> {
        self.0.iter().map(|(name, handler)| (name.clone(), handler.can)).collect()
    }

    /// The program of a pod's handler; empty when launch makes its containers.
    pub(super) fn program(&self, name: &str) -> Result<String, Fault> {
        if name.is_empty() {
            return Ok(String::new());
        }
        let handler = self.0.get(name).ok_or_else(|| {
            let message = format!("the pod's runtime handler {name:?} is not configured any more");
            Fault::new(Kind::Refused, message)
        })?;
        Ok(text(&handler.path))
    }
}

/// Asks a runtime what it can do.
pub(crate) async fn learn(path: &Path, layout: Layout) -> Result<Handler, HandlerError> {
    let path = path.to_owned();
    let asked = tokio::time::timeout(WITHIN, ask(&path)).await;
    let Ok(answer) = asked else { return Err(HandlerError::Silent { path }) };
    let (status, printed) =
        answer.map_err(|source| HandlerError::Execute { path: path.clone(), source })?;
    if !status.success() {
        return Err(HandlerError::Refused { path, status });
    }
    let can = abilities(&printed)
        .map_err(|source| HandlerError::Strange { path: path.clone(), source })?;
    match layout {
        Layout::V1 | Layout::Hybrid if !can.cgroup_v1 => {
            Err(HandlerError::Cgroups { path, layout: "v1" })
        }
        Layout::V2 if !can.cgroup_v2 => Err(HandlerError::Cgroups { path, layout: "v2" }),
        _ => Ok(Handler { path, can }),
    }
}

async fn ask(path: &Path) -> io::Result<(ExitStatus, String)> {
    let mut child = Command::new(path)
        .arg("features")
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut printed = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(LONGEST).read_to_string(&mut printed).await?;
    }
    Ok((child.wait().await?, printed))
}

fn abilities(printed: &str) -> Result<Abilities, serde_json::Error> {
    let features: Features = serde_json::from_str(printed)?;
    let has = |list: &[String], word: &str| list.iter().any(|known| known == word);
    Ok(Abilities {
        user_namespaces: has(&features.linux.namespaces, "user"),
        recursive_read_only: has(&features.mount_options, "rro"),
        seccomp: features.linux.seccomp.enabled,
        cgroup_v1: features.linux.cgroup.v1.unwrap_or(true),
        cgroup_v2: features.linux.cgroup.v2.unwrap_or(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const RUNC: &str = r#"{"ociVersionMin":"1.0.0","mountOptions":["ro","rro"],
        "linux":{"namespaces":["pid","user"],"seccomp":{"enabled":true,"actions":[]},"cgroup":{"v1":true,"v2":false}}}"#;

    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    fn script(dir: &tempfile::TempDir, body: &str) -> PathBuf {
        let path = dir.path().join("runtime");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_runtime_is_asked_what_it_can_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(&dir, &format!("[ $1 = features ] && echo '{RUNC}'"));
        let found = learn(&path, Layout::Hybrid).await.unwrap();
        assert!(found.can.user_namespaces && found.can.recursive_read_only && found.can.seccomp);
        let wrong = learn(&path, Layout::V2).await.unwrap_err();
        assert!(wrong.to_string().contains("v2"), "{wrong}");
    }

    #[tokio::test]
    async fn what_is_no_runtime_is_told_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        for (body, word) in [("exit 3", "ended with"), ("echo hello", "printed no features")] {
            let wrong = learn(&script(&dir, body), Layout::V2).await.unwrap_err().to_string();
            assert!(wrong.contains(word) && wrong.contains("/runtime"), "{wrong}");
        }
        let wrong = learn(Path::new("/nowhere/runc"), Layout::V2).await.unwrap_err();
        assert!(wrong.to_string().contains("/nowhere/runc"), "{wrong}");
    }

    #[test]
    fn what_a_runtime_does_not_say_it_cannot_but_for_cgroups() {
        let can = abilities("{}").unwrap();
        assert!(!can.user_namespaces && !can.recursive_read_only && !can.seccomp);
        assert!(can.cgroup_v1 && can.cgroup_v2);
    }
}
