//! Running one plugin: its words in, its words out, bounded in time and size.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::PluginError;

/// A plugin that prints more is cut.
const LARGEST_OUTPUT: u64 = 1024 * 1024;
const LARGEST_COMPLAINT: u64 = 8 * 1024;

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Status,
    Gc,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }
}

/// One call of one plugin.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) verb: Verb,
    pub(crate) plugin: &'a str,
    pub(crate) bin_dirs: &'a [PathBuf],
    pub(crate) timeout: Duration,
    pub(crate) config: Value,
    /// The `CNI_` variables that this verb has.
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// Where a plugin's program lies.
pub(crate) fn find(plugin: &str, dirs: &[PathBuf]) -> Option<PathBuf> {
    dirs.iter().map(|dir| dir.join(plugin)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

impl Call<'_> {
    /// What the plugin printed; null when that was nothing.
    pub(crate) async fn run(&self) -> Result<Value, PluginError> {
        let program = find(self.plugin, self.bin_dirs).ok_or_else(|| PluginError::Missing {
            plugin: self.plugin.to_owned(),
            searched: self.bin_dirs.to_vec(),
        })?;
        let mut child = self.spawn(&program).map_err(|e| self.not_run(e))?;
        let group = Group::of(&child);
        let answer = tokio::time::timeout(self.timeout, self.talk(&mut child)).await;
        let Ok(answer) = answer else {
            return Err(PluginError::TimedOut {
                plugin: self.plugin.to_owned(),
                command: self.verb.name(),
                seconds: self.timeout.as_secs(),
            });
        };
        group.ended();
        let (succeeded, output, complaint) = answer.map_err(|e| self.not_run(e))?;
        if succeeded { self.read(&output) } else { Err(self.failure(&output, &complaint)) }
    }

    fn spawn(&self, program: &Path) -> io::Result<Child> {
        let path = std::env::join_paths(self.bin_dirs).map_err(io::Error::other)?;
        Command::new(program)
            .env("CNI_COMMAND", self.verb.name())
            .env("CNI_PATH", path)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    async fn talk(&self, child: &mut Child) -> io::Result<(bool, Vec<u8>, Vec<u8>)> {
        let (input, output, complaint) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let config = self.config.to_string();
        let write = async {
            let Some(mut input) = input else { return Ok(()) };
            match input.write_all(config.as_bytes()).await {
                // It has made up its mind without reading: what it says then counts.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                done => done,
            }
        };
        let (written, output, complaint, status) = tokio::join!(
            write,
            bounded(output, LARGEST_OUTPUT),
            bounded(complaint, LARGEST_COMPLAINT),
            child.wait(),
        );
        written?;
        Ok((status?.success(), output?, complaint?))
    }

    fn read(&self, output: &[u8]) -> Result<Value, PluginError> {
        if output.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(output).map_err(|e| PluginError::Result {
            plugin: self.plugin.to_owned(),
            command: self.verb.name(),
            reason: e.to_string(),
        })
    }

    fn not_run(&self, source: io::Error) -> PluginError {
        PluginError::Run { plugin: self.plugin.to_owned(), command: self.verb.name(), source }
    }

    /// A plugin that follows the rules prints an error object; of the others, what they wrote is all there is.
    fn failure(&self, output: &[u8], complaint: &[u8]) -> PluginError {
        let said: Option<Value> = serde_json::from_slice(output).ok();
        let text = |key: &str| said.as_ref().and_then(|s| s.get(key)).and_then(Value::as_str);
        let message = match (text("msg"), text("details")) {
            (Some(msg), Some(details)) if !details.is_empty() => format!("{msg} ({details})"),
            (Some(msg), _) => msg.to_owned(),
            (None, _) => {
                let words = if complaint.trim_ascii().is_empty() { output } else { complaint };
                let words = String::from_utf8_lossy(words.trim_ascii());
                words.chars().take(1_000).collect()
            }
        };
        let message = if message.is_empty() { "it said nothing".to_owned() } else { message };
        let code = said.as_ref().and_then(|s| s.get("code")).and_then(Value::as_u64).unwrap_or(0);
        let (plugin, command) = (self.plugin.to_owned(), self.verb.name());
        PluginError::Failed { plugin, command, code, message }
    }
}

/// A plugin and what it started: it calls others for addresses. All of it is killed when this is dropped before the
/// plugin ended, be it that time ran out or that the caller went away.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: &Child) -> Self {
        Self(leader.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.0.map(|group| killpg(group, Signal::SIGKILL)) {
            tracing::debug!(error = %e, "cni plugin was gone before it was killed");
        }
    }
}

/// Reads to the end, keeps the beginning.
async fn bounded<R: AsyncRead + Unpin>(from: Option<R>, limit: u64) -> io::Result<Vec<u8>> {
    let Some(mut from) = from else { return Ok(Vec::new()) };
    let mut kept = Vec::new();
    (&mut from).take(limit).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(kept)
}
