//! Starting, ending and killing a runtime's daemon by a shell command.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::client::Client;

const BOUND: Duration = Duration::from_secs(20);

/// How to start a daemon.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// A shell command that stays in the foreground.
    pub(crate) command: String,
    pub(crate) endpoint: String,
    /// Where its output goes.
    pub(crate) log: Option<PathBuf>,
}

/// A daemon that was started here.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    pub(crate) pid: u32,
    /// From its start until it said that it is ready.
    pub(crate) ready_after: Duration,
    pub(crate) client: Client,
}

impl Recipe {
    pub(crate) async fn start(&self) -> Result<Daemon> {
        let begun = Instant::now();
        let mut child = self.spawn()?;
        let pid = child.id().context("the daemon ended at once")?;
        loop {
            if let Ok(client) = Client::connect(&self.endpoint).await
                && client.is_ready().await.unwrap_or(false)
            {
                return Ok(Daemon { child, pid, ready_after: begun.elapsed(), client });
            }
            if let Some(status) = child.try_wait()? {
                bail!("the daemon ended before it was ready: {status}");
            }
            if begun.elapsed() > BOUND {
                child.kill().await?;
                bail!("the daemon was not ready in {BOUND:?}");
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }

    /// Kills it before it may be ready.
    pub(crate) async fn start_and_kill(&self, after: Duration) -> Result<()> {
        let mut child = self.spawn()?;
        tokio::time::sleep(after).await;
        child.kill().await.context("kill the daemon")
    }

    fn spawn(&self) -> Result<Child> {
        Command::new("/bin/sh")
            .args(["-c", &format!("exec {}", self.command)])
            .stdin(Stdio::null())
            .stdout(self.output()?)
            .stderr(self.output()?)
            .spawn()
            .context("start the daemon")
    }

    fn output(&self) -> Result<Stdio> {
        let Some(path) = &self.log else { return Ok(Stdio::null()) };
        Ok(append(path)?.into())
    }
}

fn append(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path);
    file.with_context(|| format!("open {}", path.display()))
}

impl Daemon {
    /// Asks it to end.
    pub(crate) async fn stop(mut self) -> Result<()> {
        signal(self.pid, Signal::SIGTERM)?;
        if tokio::time::timeout(BOUND, self.child.wait()).await.is_err() {
            self.child.kill().await?;
            bail!("the daemon did not end in {BOUND:?} after SIGTERM");
        }
        Ok(())
    }

    /// Kills it without warning.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("kill the daemon")
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).context("pid")?;
    kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {pid}"))
}
