//! Clients killed in the middle of what they do: exec, attach and port-forward, over both transports in turn.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Check;
use super::crictl::{Crictl, Running, connect};
use super::scene::{Input, SAYS, Scene};
use super::standing::Standing;

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];
/// For what the first ones make for all that follow.
const FIRST: usize = 24;
/// On loopback, for forwards.
const PORT: u16 = 19_100;
/// So much has been said when a client is killed.
const BEGUN: usize = 64 << 10;

pub(super) async fn measure(
    scene: &Scene,
    crictl: &Crictl,
    daemon: u32,
    times: usize,
) -> Result<Check> {
    scene.make_noise(16)?;
    let repeater = scene.start("repeater", "exec cat", Input::Open).await?;
    let target = Target {
        crictl: crictl.clone(),
        container: scene.container.clone(),
        repeater: repeater.clone(),
        pod: scene.pod.clone(),
    };
    let target = tokio::task::spawn_blocking(move || target.killed(FIRST)).await??;
    // Not the peak of the first ones.
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    let before = Standing::now(daemon, Scene::name())?;
    tokio::task::spawn_blocking(move || target.killed(times)).await??;
    let (settled, after) = before.settled(daemon, Scene::name()).await?;
    scene.remove(&repeater).await?;
    Ok(Check::new(settled, &format!("{times} clients killed"), &before.told(after)))
}

struct Target {
    crictl: Crictl,
    container: String,
    repeater: String,
    pod: String,
}

impl Target {
    fn killed(self, times: usize) -> Result<Self> {
        for n in 0..times {
            let transport = TRANSPORTS.get(n % 2).copied().unwrap_or_default();
            let killed = match n / 2 % 3 {
                0 => self.exec(transport),
                1 => self.attach(transport),
                _ => self.forward(transport),
            };
            killed.with_context(|| format!("client {n} over {transport}"))?;
        }
        Ok(self)
    }

    fn exec(&self, transport: &str) -> Result<()> {
        let rest = ["-i", &self.container, "cat", "/dev/zero"];
        let mut client = piped(&mut self.crictl.command("exec", transport, &rest))?;
        let mut stdout = client.0.stdout.take().context("its output")?;
        stdout.read_exact(&mut vec![0; BEGUN]).context("its command's output")
    }

    fn attach(&self, transport: &str) -> Result<()> {
        let mut client =
            piped(&mut self.crictl.command("attach", transport, &["-i", &self.repeater]))?;
        client.0.stdin.as_mut().context("its input")?.write_all(b"word\n")?;
        let mut stdout = client.0.stdout.take().context("its output")?;
        stdout.read_exact(&mut [0; 5]).context("its container's output")
    }

    fn forward(&self, transport: &str) -> Result<()> {
        let ports = format!("{PORT}:{SAYS}");
        let _client = Running::forward(&self.crictl, transport, &self.pod, &ports)?;
        let mut said = vec![0; BEGUN];
        match connect(PORT)?.read_exact(&mut said) {
            Ok(()) if said.iter().any(|byte| *byte != 0) => Ok(()),
            Ok(()) => bail!("the pod said something else"),
            Err(error) => Err(error).context("the pod's output"),
        }
    }
}

fn piped(command: &mut Command) -> Result<Running> {
    Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
}
