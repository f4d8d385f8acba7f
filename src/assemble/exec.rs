//! A command in a container: its own cgroup, the shim's exec, the end; with its output collected, a bounded pump.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::world::{ExecOrder, ExecOutput};
use host::cgroup::ExecPlace;
use host::shim::{ExecStdio, RequestError};
use names::{ContainerId, ExecId, Kind};
use pod::step::Fault;
use pod::{Container, Sandbox};
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use wire::v1;

use super::host::pod_cgroup;
use super::place::text;
use super::shims::{LiveShim, asked};
use super::{Node, blocking, fault};

/// Each stream's share of the interface's 16 MiB, with room for the rest of the message. What is more is read and dropped.
const KEPT: usize = (8 << 20) - (64 << 10);
/// The kernel's own limit of what a pipe may hold.
const MOST_IN_PIPE: u64 = 1 << 20;
/// When a command's cgroup is tried to be removed.
const AGAIN: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(500), Duration::from_secs(3)];
/// How long a command that was killed may take to be reaped before its cgroup is let go.
const REAPED: Duration = Duration::from_secs(2);

/// The commands whose end somebody waits for.
#[derive(Debug, Clone, Default)]
pub(super) struct Execs(Arc<Mutex<HashMap<ExecId, oneshot::Sender<v1::ExecExited>>>>);

impl Execs {
    /// Where its end will be told. To be asked before it is begun.
    pub(super) fn wait_for(&self, id: &ExecId) -> oneshot::Receiver<v1::ExecExited> {
        let (sender, receiver) = oneshot::channel();
        self.with(|execs| execs.insert(id.clone(), sender));
        receiver
    }

    pub(super) fn tell(&self, exited: v1::ExecExited) {
        let id: Option<ExecId> = exited.exec_id.parse().ok();
        if let Some(waiting) = id.and_then(|id| self.with(|execs| execs.remove(&id))) {
            // Its caller may have gone.
            drop(waiting.send(exited));
        }
    }

    /// The shim is gone: nobody is told any more.
    pub(super) fn clear(&self) {
        self.with(HashMap::clear);
    }

    fn forget(&self, id: &ExecId) {
        self.with(|execs| execs.remove(id));
    }

    // The lock guards a look-up or an insertion; a panic cannot leave the map half-changed.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut HashMap<ExecId, oneshot::Sender<v1::ExecExited>>) -> T,
    ) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A command and its own cgroup. Dropped before its end was told, it is killed with all that it started.
pub(super) struct Command {
    node: Node,
    client: host::shim::Client,
    execs: Execs,
    id: ExecId,
    /// None: its end was told.
    place: Option<ExecPlace>,
    ended: Option<oneshot::Receiver<v1::ExecExited>>,
    /// How long it has to end by itself.
    grace: Duration,
}

impl Command {
    /// Makes its cgroup.
    pub(super) async fn prepare(
        shim: &LiveShim,
        sandbox: &Sandbox,
        container: &ContainerId,
        grace: Duration,
    ) -> Result<(Self, Option<OwnedFd>), Fault> {
        let random = host::proc::random_id();
        let id = ExecId::from_random(random.map_err(|e| io_fault("random id", &e))?);
        let (pod, container) = (pod_cgroup(sandbox)?, container.clone());
        let (node, client, execs) = (shim.node.clone(), shim.client.clone(), shim.execs.clone());
        // A caller that goes meanwhile leaves a command to be dropped, not a cgroup that nobody knows of.
        let made = tokio::spawn(async move {
            let (maker, exec) = (node.clone(), id.clone());
            let (cgroup, place) = blocking(move || {
                let made = maker.cgroups.exec_place(&pod, &container, &exec);
                made.map_err(|e| fault(e.kind(), &e))
            })
            .await?;
            let ended = Some(execs.wait_for(&id));
            let place = Some(place);
            Ok((Self { node, client, execs, id, place, ended, grace }, cgroup))
        });
        made.await.unwrap_or_else(|e| Err(Fault::new(Kind::Internal, e.to_string())))
    }

    /// Begins it. Gives the master of its terminal, if it has one.
    pub(super) async fn begin(
        &mut self,
        job: v1::ExecJob,
        timeout: Option<Duration>,
        (stdio, cgroup): (ExecStdio, Option<OwnedFd>),
    ) -> Result<Option<OwnedFd>, RequestError> {
        let dirs = self.place.as_ref().map(|place| self.node.cgroups.exec_dirs(place));
        let job = v1::ExecJob {
            bundle: bundle(&self.node, &job.container_id),
            seccomp_cache: self.node.places.seccomp(),
            cgroups: dirs.unwrap_or_default(),
            ..job
        };
        let request = v1::Exec {
            exec_id: self.id.to_string(),
            container_id: job.container_id.clone(),
            tty: job.tty,
            job: job.encode_to_vec(),
            timeout_ms: timeout.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            tied: true,
            ..v1::Exec::default()
        };
        let begun = self.client.exec(request, stdio, cgroup).await;
        if begun.is_err() {
            self.over();
        }
        Ok(begun?.1)
    }

    /// Tells the shim, which holds the command's input open too, that there is no more. Nobody waits for that.
    pub(super) fn input_ender(&self) -> impl Fn() + Send + Unpin + use<> {
        let (client, id) = (self.client.clone(), self.id.clone());
        move || {
            let (client, id) = (client.clone(), id.clone());
            // A command that has ended has no input any more.
            tokio::spawn(async move { drop(client.end_input(&id).await) });
        }
    }

    /// Waits for its end. None: the shim went away.
    pub(super) async fn ended(&mut self) -> Option<v1::ExecExited> {
        let exited = self.ended.as_mut()?.await.ok();
        self.over();
        exited
    }

    /// It has ended, or never began; its cgroup goes, and nobody waits for that.
    fn over(&mut self) {
        self.execs.forget(&self.id);
        self.ended = None;
        let Some(place) = self.place.take() else { return };
        tokio::spawn(let_go(self.node.clone(), place));
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        let (Some(place), ended) = (self.place.take(), self.ended.take()) else { return };
        let (node, client, execs) = (self.node.clone(), self.client.clone(), self.execs.clone());
        let (id, grace) = (self.id.clone(), self.grace);
        // Without a runtime the daemon is ending, and the shim kills what is tied to it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(grace).await;
            // A shim that is gone took the command with it.
            drop(client.kill_exec(&id).await);
            if let Some(ended) = ended {
                drop(tokio::time::timeout(REAPED, ended).await);
            }
            execs.forget(&id);
            let (own, doomed) = (node.clone(), place.clone());
            let kill = move || {
                // Its main process may have ended long before what it started.
                if let Err(error) = own.cgroups.kill(doomed.path()) {
                    tracing::warn!("{}", engine::record::chain(&error));
                }
            };
            // An error means that it panicked.
            drop(tokio::task::spawn_blocking(kill).await);
            let_go(node, place).await;
        });
    }
}

/// Again and again: a launch that has said why it could not is still to end. What a command leaves running keeps its cgroup.
async fn let_go(node: Node, place: ExecPlace) {
    for pause in AGAIN {
        tokio::time::sleep(pause).await;
        let (node, place) = (node.clone(), place.clone());
        let released = tokio::task::spawn_blocking(move || release(&node, &place)).await;
        if released.unwrap_or(true) {
            return;
        }
    }
}

/// Whether there is nothing more to be released. Blocks, for a few milliseconds.
fn release(node: &Node, place: &ExecPlace) -> bool {
    let released = node.cgroups.release_exec(place);
    if let Err(error) = &released {
        tracing::debug!("{}", engine::record::chain(error));
    }
    !released.is_err_and(|error| error.is_busy())
}

fn bundle(node: &Node, container: &str) -> String {
    container.parse().map(|id| text(&node.places.bundle(&id))).unwrap_or_default()
}

/// A command in a container, which is killed for memory neither sooner nor later than the container is by now.
pub(super) fn job(
    shim: &LiveShim,
    container: &Container,
    pid: i32,
    args: Vec<String>,
) -> v1::ExecJob {
    let score = i32::try_from(container.config.resources.oom_score_adj).ok();
    v1::ExecJob {
        container_id: container.id.to_string(),
        pid,
        args,
        oom_score_adj: score.map(|score| score.max(shim.node.facts.lowest_oom_score_adj)),
        ..v1::ExecJob::default()
    }
}

pub(super) async fn run(
    shim: &LiveShim,
    sandbox: &Sandbox,
    order: ExecOrder,
) -> Result<ExecOutput, Fault> {
    let container = &order.container.id;
    let (mut command, cgroup) = Command::prepare(shim, sandbox, container, Duration::ZERO).await?;
    let (mut stdout, stdout_end) = pipe()?;
    let (mut stderr, stderr_end) = pipe()?;
    let (stdout_end, stderr_end) = (Some(stdout_end), Some(stderr_end));
    let stdio = ExecStdio { stdout: stdout_end, stderr: stderr_end, ..ExecStdio::default() };
    let job = job(shim, &order.container, order.pid, order.command.clone());
    let begun = command.begin(job, order.timeout, (stdio, cgroup)).await;
    begun.map_err(|e| refused(&e))?;
    let mut output = ExecOutput::default();
    let exited = {
        let pump = async {
            tokio::join!(
                fill(&mut stdout, &mut output.stdout),
                fill(&mut stderr, &mut output.stderr)
            )
        };
        let ended = command.ended();
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
    let exited = exited.ok_or_else(|| Fault::new(Kind::Unavailable, "the shim went away"))?;
    // All that the command itself wrote is in the pipes now; a child that holds them open is not waited for.
    drain(&stdout, &mut output.stdout);
    drain(&stderr, &mut output.stderr);
    outcome(&order, &exited, output)
}

/// A program that is not there is the caller's mistake, and no word about the container.
fn refused(error: &RequestError) -> Fault {
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
    output.code = code(exited);
    Ok(output)
}

/// As a shell tells it.
pub(super) fn code(exited: &v1::ExecExited) -> i32 {
    if exited.signal == 0 { exited.code } else { 128 + exited.signal }
}

/// A pipe of which we read.
pub(super) fn pipe() -> Result<(pipe::Receiver, OwnedFd), Fault> {
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

/// What is in a pipe now. Read as it is, for tokio tries only what its driver has found readable, and that may be told after
/// the command's end.
fn drain(from: &pipe::Receiver, to: &mut Vec<u8>) {
    let Ok(fd) = from.as_fd().try_clone_to_owned() else { return };
    let mut pipe = std::fs::File::from(fd).take(MOST_IN_PIPE);
    let mut buffer = vec![0; 16 << 10];
    loop {
        match pipe.read(&mut buffer) {
            Ok(n @ 1..) => keep(to, buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => return,
        }
    }
}

fn keep(to: &mut Vec<u8>, bytes: &[u8]) {
    let room = KEPT.saturating_sub(to.len()).min(bytes.len());
    to.extend_from_slice(bytes.get(..room).unwrap_or_default());
}

pub(super) fn io_fault(what: &str, error: &io::Error) -> Fault {
    Fault::new(Kind::Internal, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn what_is_in_a_pipe_is_found_before_the_driver_tells_of_it() {
        let (ours, theirs) = pipe().unwrap();
        let mut theirs = std::fs::File::from(theirs);
        let mut found = Vec::new();
        drain(&ours, &mut found);
        theirs.write_all(b"begun\n").unwrap();
        drain(&ours, &mut found);
        drain(&ours, &mut found);
        assert_eq!(found, b"begun\n");
    }
}
