//! The client that people use.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Where crictl is, and whom it asks.
#[derive(Debug, Clone)]
pub(super) struct Crictl {
    program: PathBuf,
    endpoint: String,
}

impl Crictl {
    pub(super) fn new(program: &Path, endpoint: &str) -> Self {
        Self { program: program.to_owned(), endpoint: endpoint.to_owned() }
    }

    pub(super) fn command(&self, verb: &str, transport: &str, rest: &[&str]) -> Command {
        let mut command = program(&self.program);
        let endpoints =
            ["--config", "/dev/null", "--runtime-endpoint", &self.endpoint, "--image-endpoint"];
        command.args(endpoints).args([&self.endpoint, verb, "--transport", transport]).args(rest);
        command
    }
}

#[expect(clippy::disallowed_methods, reason = "a tool of the workbench may block and fork")]
pub(super) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A process that ends with its owner.
#[derive(Debug)]
pub(super) struct Running(pub(super) Child);

impl Running {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(
            command
                .spawn()
                .with_context(|| format!("start {}", command.get_program().display()))?,
        ))
    }

    /// Forwards a port of loopback to the same one of the pod.
    pub(super) fn forward(
        crictl: &Crictl,
        transport: &str,
        pod: &str,
        ports: &str,
    ) -> Result<Self> {
        let mut command = crictl.command("port-forward", transport, &[pod, ports]);
        let mut running = Self::start(command.stdout(Stdio::piped()))?;
        let mut line = String::new();
        let stdout = running.0.stdout.take().context("its output")?;
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut line)?;
        // It says more with each connection, and would end if nobody could read it.
        running.0.stdout = Some(stdout.into_inner());
        ensure!(line.starts_with("Forwarding from"), "crictl port-forward said {line:?}");
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(super) fn connect(port: u16) -> Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("connect to port {port}"))
}
