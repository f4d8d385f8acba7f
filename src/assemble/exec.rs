//! A command in a container with its output collected: pipes, the shim's exec, a bounded pump, the end.

use std::io;
use std::os::fd::OwnedFd;

use engine::world::{ExecOrder, ExecOutput};
use host::cgroup::ExecPlace;
use host::shim::{ExecStdio, RequestError};
use names::{ExecId, Kind};
use pod::Sandbox;
use pod::step::Fault;
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use wire::v1;

use super::host::pod_cgroup;
use super::place::text;
use super::shims::{LiveShim, asked};
use super::{Node, blocking, fault};

/// Each stream's share of the interface's 16 MiB, with room for the rest of the message. What is more is read and dropped.
const KEPT: usize = (8 << 20) - (64 << 10);

/// Kills the command when its caller goes away before its end.
struct KillOnDrop<'s> {
    shim: &'s LiveShim,
    id: Option<ExecId>,
}

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        self.shim.forget_exec(&id);
        let client = self.shim.client.clone();
        // A shim that is gone took the command with it.
        tokio::spawn(async move { drop(client.kill_exec(&id).await) });
    }
}

pub(super) async fn run(
    shim: &LiveShim,
    sandbox: &Sandbox,
    order: ExecOrder,
) -> Result<ExecOutput, Fault> {
    let random = host::proc::random_id();
    let id = ExecId::from_random(random.map_err(|e| io_fault("random id", &e))?);
    let node = shim.node.clone();
    let pod = pod_cgroup(sandbox)?;
    let (container, exec) = (order.container.id.clone(), id.clone());
    let (cgroup, place) = blocking(move || {
        node.cgroups.exec_place(&pod, &container, &exec).map_err(|e| fault(e.kind(), &e))
    })
    .await?;
    let done = attend(shim, &order, &id, (cgroup, &place)).await;
    release(&shim.node, place);
    done
}

async fn attend(
    shim: &LiveShim,
    order: &ExecOrder,
    id: &ExecId,
    (cgroup, place): (Option<OwnedFd>, &ExecPlace),
) -> Result<ExecOutput, Fault> {
    let (mut stdout, stdout_end) = pipe()?;
    let (mut stderr, stderr_end) = pipe()?;
    let stdio = ExecStdio { stdin: None, stdout: Some(stdout_end), stderr: Some(stderr_end) };
    let ended = shim.await_exec(id);
    let mut kill = KillOnDrop { shim, id: Some(id.clone()) };
    shim.client
        .exec(request(shim, order, id, place), stdio, cgroup)
        .await
        .map_err(|e| begun(&e))?;
    let mut output = ExecOutput::default();
    let exited = {
        let pump = async {
            tokio::join!(
                fill(&mut stdout, &mut output.stdout),
                fill(&mut stderr, &mut output.stderr)
            )
        };
        tokio::pin!(pump);
        tokio::pin!(ended);
        let mut pumped = false;
        loop {
            // Cancel-safe: both futures are kept and polled again.
            tokio::select! {
                exited = &mut ended => break exited,
                _ = &mut pump, if !pumped => pumped = true,
            }
        }
    };
    kill.id = None;
    let exited = exited.map_err(|_| Fault::new(Kind::Unavailable, "the shim went away"))?;
    // All that the command itself wrote is in the pipes now; a child that holds them open is not waited for.
    drain(&mut stdout, &mut output.stdout);
    drain(&mut stderr, &mut output.stderr);
    outcome(order, &exited, output)
}

/// A program that is not there is the caller's mistake, and no word about the container.
fn begun(error: &RequestError) -> Fault {
    if error.stage() == Some("start") { fault(Kind::Invalid, error) } else { asked(error) }
}

fn outcome(
    order: &ExecOrder,
    exited: &v1::ExecExited,
    mut output: ExecOutput,
) -> Result<ExecOutput, Fault> {
    let command = order.command.join(" ");
    if exited.timed_out {
        let message = format!("command {command:?} timed out and was killed");
        return Err(Fault::new(Kind::TimedOut, message));
    }
    if !exited.start_error.is_empty() {
        let message = format!("exec {command:?}: {}", exited.start_error);
        return Err(Fault::new(Kind::Invalid, message));
    }
    output.code = if exited.signal == 0 { exited.code } else { 128 + exited.signal };
    Ok(output)
}

fn request(shim: &LiveShim, order: &ExecOrder, id: &ExecId, place: &ExecPlace) -> v1::Exec {
    let node = &shim.node;
    let container = &order.container.id;
    let job = v1::ExecJob {
        container_id: container.to_string(),
        bundle: text(&node.places.bundle(container)),
        pid: order.pid,
        args: order.command.clone(),
        tty: false,
        seccomp_cache: node.places.seccomp(),
        cgroups: node.cgroups.exec_dirs(place),
        env: Vec::new(),
        cwd: String::new(),
    };
    let timeout = order.timeout.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
    v1::Exec {
        exec_id: id.to_string(),
        container_id: container.to_string(),
        job: job.encode_to_vec(),
        timeout_ms: timeout,
        tied: true,
        ..v1::Exec::default()
    }
}

/// The command's cgroup goes; the answer does not wait for it.
fn release(node: &Node, place: ExecPlace) {
    let node = node.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = node.cgroups.release_exec(&place) {
            tracing::debug!("{}", engine::record::chain(&error));
        }
    });
}

fn pipe() -> Result<(pipe::Receiver, OwnedFd), Fault> {
    let (ours, theirs) = io::pipe().map_err(|e| io_fault("pipe", &e))?;
    let ours = pipe::Receiver::from_owned_fd(ours.into()).map_err(|e| io_fault("pipe", &e))?;
    Ok((ours, theirs.into()))
}

async fn fill(from: &mut pipe::Receiver, to: &mut Vec<u8>) {
    let mut buffer = vec![0; 16 << 10];
    // An error of a pipe's reading end is its end.
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        keep(to, buffer.get(..n).unwrap_or_default());
    }
}

fn drain(from: &mut pipe::Receiver, to: &mut Vec<u8>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.try_read(&mut buffer) {
        keep(to, buffer.get(..n).unwrap_or_default());
    }
}

fn keep(to: &mut Vec<u8>, bytes: &[u8]) {
    let room = KEPT.saturating_sub(to.len()).min(bytes.len());
    to.extend_from_slice(bytes.get(..room).unwrap_or_default());
}

fn io_fault(what: &str, error: &io::Error) -> Fault {
    Fault::new(Kind::Internal, format!("{what}: {error}"))
}
