//! A client at the ends of a process: a command of its own, or a container's main process. What is made here is plumbing
//! only: bytes pass by the shim (exec) or come from its fan-out (attach), and never stop here.

use std::future::ready;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use engine::world::{Ended, Ends, OpenOrder, Session, Terminal};
use host::shim::{ExecStdio, Joining, Master, RequestError};
use nix::fcntl::{FcntlArg, fcntl};
use pod::step::Fault;
use pod::{Container, Sandbox};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use wire::v1;

use super::exec::{Command, code, io_fault, job, pipe};
use super::shims::{LiveShim, asked};

/// How long a command has to end after its terminal has hung up.
const HUNG_UP: Duration = Duration::from_millis(500);
/// What a pipe holds: measured on a busy machine, half a GiB takes a half to a third of the time that it takes with 64 KiB.
const WIDE: i32 = 1 << 20;
const GONE: &str = "the shim went away";

type Input = Option<Box<dyn AsyncWrite + Send + Unpin>>;
type Output = Option<Box<dyn AsyncRead + Send + Unpin>>;

/// A terminal's master, for sizing it.
struct Window(Master);

impl Terminal for Window {
    fn resize(&self, width: u16, height: u16) -> Result<(), Fault> {
        self.0.resize(width, height).map_err(|e| io_fault("size of the terminal", &e))
    }
}

/// A command's input: ended by being shut down, never by being dropped, for the shim holds it open too.
struct Stdin<F> {
    pipe: Option<pipe::Sender>,
    end: F,
}

impl<F: Unpin> Stdin<F> {
    fn pipe(&mut self) -> io::Result<Pin<&mut pipe::Sender>> {
        self.pipe.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl<F: Fn() + Unpin> AsyncWrite for Stdin<F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pipe()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pipe()?.poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pipe.take().is_some() {
            (self.end)();
        }
        Poll::Ready(Ok(()))
    }
}

/// Our ends of a process's pipes.
#[derive(Default)]
struct Pipes {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

/// Runs a command with a client at its ends. It runs when this returns; a program that is not there is told as its end.
pub(super) async fn open(
    shim: &LiveShim,
    sandbox: &Sandbox,
    order: OpenOrder,
) -> Result<Session, Fault> {
    let OpenOrder { container, pid, command: args, ends, window } = order;
    let grace = if ends.tty { HUNG_UP } else { Duration::ZERO };
    let (mut command, cgroup) = Command::prepare(shim, sandbox, &container.id, grace).await?;
    let (pipes, theirs) = if ends.tty { Default::default() } else { pipes(ends)? };
    let job = v1::ExecJob {
        tty: ends.tty,
        width: window.map_or(0, |(width, _)| width.into()),
        height: window.map_or(0, |(_, height)| height.into()),
        ..job(shim, &container, pid, args)
    };
    let master = match command.begin(job, None, (theirs, cgroup)).await {
        Ok(master) => master.map(terminal).transpose()?,
        Err(RequestError::Failed { stage, message, .. }) if stage == "start" => {
            return Ok(not_started(message));
        }
        Err(error) => return Err(asked(&error)),
    };
    let (stdin, stdout, terminal) = if let Some(master) = master {
        on_terminal(ends, &master)
    } else {
        let stdin = pipes.stdin.map(|pipe| Stdin { pipe: Some(pipe), end: command.input_ender() });
        (stdin.map(|stdin| Box::new(stdin) as Box<_>), output(pipes.stdout), None)
    };
    let ended = Box::pin(async move { end(command.ended().await) });
    let stderr = output(pipes.stderr);
    Ok(Session { stdin, stdout, stderr, terminal, leaves_with_input: false, ended })
}

fn end(exited: Option<v1::ExecExited>) -> Ended {
    match exited {
        None => Ended::Lost(GONE.to_owned()),
        Some(exited) if exited.start_error.is_empty() => Ended::Exited(code(&exited)),
        Some(exited) => Ended::NotStarted(exited.start_error),
    }
}

fn not_started(why: String) -> Session {
    let ended = Box::pin(ready(Ended::NotStarted(why)));
    let leaves_with_input = false;
    Session { stdin: None, stdout: None, stderr: None, terminal: None, leaves_with_input, ended }
}

/// Puts a client at the ends of a container's main process, until it goes or the container ends.
pub(super) async fn attach(
    shim: &LiveShim,
    container: &Container,
    ends: Ends,
) -> Result<Session, Fault> {
    let (pipes, given) = pipes(Ends { stdin: false, stderr: ends.stderr && !ends.tty, ..ends })?;
    let (ours, socket) = StdStream::pair().map_err(|e| io_fault("socket pair", &e))?;
    let joining = Joining {
        stdin: ends.stdin,
        stdout: given.stdout,
        stderr: given.stderr,
        session: socket.into(),
    };
    let joined = shim.client.attach(&container.id, joining).await.map_err(|e| asked(&e))?;
    let session = listen(ours).map_err(|e| io_fault("socket", &e))?;
    let (stdin, terminal) = match joined.end {
        Some(end) if joined.tty => {
            let (stdin, _, sized) =
                on_terminal(Ends { stdin: joined.stdin, ..ends }, &terminal(end)?);
            (stdin, sized)
        }
        Some(end) => (input(Some(sender(end)?)), None),
        None => (None, None),
    };
    let (stdout, stderr) = (output(pipes.stdout), output(pipes.stderr));
    let wanted = &container.config.stdio;
    let leaves_with_input = stdin.is_some() && (wanted.tty || !wanted.stdin_once);
    let ended = Box::pin(farewell(session));
    Ok(Session { stdin, stdout, stderr, terminal, leaves_with_input, ended })
}

/// What the shim says at the end of a session.
async fn farewell(mut session: UnixStream) -> Ended {
    let mut word = [0];
    match session.read(&mut word).await {
        Ok(1) if word == *b"e" => Ended::Detached,
        Ok(1) if word == *b"b" => Ended::Behind,
        _ => Ended::Lost(GONE.to_owned()),
    }
}

fn listen(socket: StdStream) -> io::Result<UnixStream> {
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// The pipes that are asked for: our ends and theirs.
fn pipes(ends: Ends) -> Result<(Pipes, ExecStdio), Fault> {
    let (mut ours, mut theirs) = (Pipes::default(), ExecStdio::default());
    if ends.stdin {
        let (reader, writer) = io::pipe().map_err(|e| io_fault("pipe", &e))?;
        widen(&reader);
        theirs.input = Some(writer.try_clone().map_err(|e| io_fault("pipe", &e))?.into());
        (ours.stdin, theirs.stdin) = (Some(sender(writer.into())?), Some(reader.into()));
    }
    if ends.stdout {
        let (reader, writer) = pipe()?;
        widen(&writer);
        (ours.stdout, theirs.stdout) = (Some(reader), Some(writer));
    }
    if ends.stderr {
        let (reader, writer) = pipe()?;
        widen(&writer);
        (ours.stderr, theirs.stderr) = (Some(reader), Some(writer));
    }
    Ok((ours, theirs))
}

/// The kernel may refuse it: the usual size does, with more changes from one process to the other.
fn widen(pipe: &impl AsRawFd) {
    fcntl(pipe.as_raw_fd(), FcntlArg::F_SETPIPE_SZ(WIDE)).ok();
}

fn on_terminal(ends: Ends, master: &Master) -> (Input, Output, Option<Box<dyn Terminal>>) {
    let stdin = ends.stdin.then(|| Box::new(master.clone()) as Box<_>);
    let stdout = ends.stdout.then(|| Box::new(master.clone()) as Box<_>);
    (stdin, stdout, Some(Box::new(Window(master.clone()))))
}

fn terminal(fd: OwnedFd) -> Result<Master, Fault> {
    Master::new(fd).map_err(|e| io_fault("terminal", &e))
}

fn sender(fd: OwnedFd) -> Result<pipe::Sender, Fault> {
    pipe::Sender::from_owned_fd(fd).map_err(|e| io_fault("pipe", &e))
}

fn input(pipe: Option<pipe::Sender>) -> Input {
    pipe.map(|pipe| Box::new(pipe) as Box<_>)
}

fn output(pipe: Option<pipe::Receiver>) -> Output {
    pipe.map(|pipe| Box::new(pipe) as Box<_>)
}
