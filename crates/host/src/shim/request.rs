//! What a shim can be asked.

use std::io;
use std::os::fd::OwnedFd;

use names::{ContainerId, ExecId, Kind};
use tokio::sync::oneshot;
use wire::v1::{self, envelope::Body};

use super::connection::Request;
use super::{Client, Programs, copy};

/// Why a shim did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The connection ended before the answer came.
    #[error("the shim is gone")]
    Gone,
    /// The shim, or its launch, says no.
    #[error("{stage}: {message}")]
    Failed {
        /// Where it failed.
        stage: String,
        /// Why.
        message: String,
        /// What kind of failure it is.
        kind: Kind,
    },
    /// An answer to something else.
    #[error("the shim gave an answer of another kind")]
    Unexpected,
    /// A descriptor that should travel along.
    #[error("copy a descriptor for the shim")]
    Descriptor(#[source] io::Error),
}

impl RequestError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Gone => Kind::Unavailable,
            Self::Failed { kind, .. } => *kind,
            Self::Unexpected | Self::Descriptor(_) => Kind::Internal,
        }
    }

    /// Where the shim says that it failed: `start`, `user`, …
    pub fn stage(&self) -> Option<&str> {
        match self {
            Self::Failed { stage, .. } => Some(stage),
            Self::Gone | Self::Unexpected | Self::Descriptor(_) => None,
        }
    }
}

impl From<v1::Failure> for RequestError {
    fn from(failure: v1::Failure) -> Self {
        let kind = failure.kind().into();
        Self::Failed { stage: failure.stage, message: failure.message, kind }
    }
}

/// The pod's own namespaces, as the shim opened them.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// Network.
    pub net: Option<OwnedFd>,
    /// System V and POSIX queues.
    pub ipc: Option<OwnedFd>,
    /// Host name.
    pub uts: Option<OwnedFd>,
    /// The shared PID namespace.
    pub pid: Option<OwnedFd>,
    /// The user namespace that owns them.
    pub user: Option<OwnedFd>,
    /// The built-in init of that.
    pub init: Option<i32>,
}

/// An exec's ends of its pipes, or of its terminal.
#[derive(Debug, Default)]
pub struct ExecStdio {
    /// What it reads.
    pub stdin: Option<OwnedFd>,
    /// What it writes.
    pub stdout: Option<OwnedFd>,
    /// And complains to.
    pub stderr: Option<OwnedFd>,
    /// A writing end of what it reads, which the shim holds until it is told that the input has ended.
    pub input: Option<OwnedFd>,
}

/// A client's ends, for the shim to write to.
#[derive(Debug)]
pub struct Joining {
    /// Its input is wanted.
    pub stdin: bool,
    /// The writing end of a pipe.
    pub stdout: Option<OwnedFd>,
    /// The writing end of a pipe; never with a terminal.
    pub stderr: Option<OwnedFd>,
    /// The shim's end of the session's socket.
    pub session: OwnedFd,
}

/// What a client that has joined was given.
#[derive(Debug)]
pub struct Joined {
    /// The container has a terminal.
    pub tty: bool,
    /// What it may write to is `end`.
    pub stdin: bool,
    /// The master of the terminal, to be written to and sized, never read; else the writing end of the input.
    pub end: Option<OwnedFd>,
}

impl Client {
    /// Gives the shim the programs that it shall use from now on; tells what it holds. [`Client::connect`] does this.
    pub async fn hello(&self, programs: Programs<'_>) -> Result<v1::State, RequestError> {
        let hello = v1::Hello { version: wire::VERSION };
        let fds = vec![copy(programs.launch)?, copy(programs.enter)?];
        match self.ask(Body::Hello(hello), fds).await? {
            (Body::State(state), _) => Ok(state),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Makes the pod's namespaces. A second call gets the same ones.
    pub async fn open_namespaces(
        &self,
        request: v1::OpenNamespaces,
    ) -> Result<Namespaces, RequestError> {
        let answer = self.ask(Body::OpenNamespaces(request), Vec::new()).await?;
        let (Body::Namespaces(told), fds) = answer else { return Err(RequestError::Unexpected) };
        let mut fds = fds.into_iter();
        let mut next = |told: bool| if told { fds.next() } else { None };
        Ok(Namespaces {
            net: next(told.net),
            ipc: next(told.ipc),
            uts: next(told.uts),
            pid: next(told.pid),
            user: next(told.user),
            init: (told.init_pid != 0).then_some(told.init_pid),
        })
    }

    /// From now on the shim outlives this daemon.
    pub async fn commit(&self) -> Result<(), RequestError> {
        self.do_it(Body::Commit(v1::Commit {}), Vec::new()).await
    }

    /// Creates a container, born in this cgroup where it can be.
    pub async fn create(
        &self,
        mut request: v1::Create,
        cgroup: Option<OwnedFd>,
    ) -> Result<v1::Created, RequestError> {
        request.no_cgroup_fd = cgroup.is_none();
        match self.ask(Body::Create(request), cgroup.into_iter().collect()).await? {
            (Body::Created(created), _) => Ok(created),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Lets a created container's program be executed; tells when that was.
    pub async fn start(&self, container: &ContainerId) -> Result<i64, RequestError> {
        let request = v1::Start { container_id: container.to_string() };
        match self.ask(Body::Start(request), Vec::new()).await? {
            (Body::Started(started), _) => Ok(started.at),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Signals a container's main process.
    pub async fn signal(&self, container: &ContainerId, signal: i32) -> Result<(), RequestError> {
        let container_id = container.to_string();
        self.do_it(Body::Signal(v1::Signal { container_id, signal }), Vec::new()).await
    }

    /// Starts a further process in a container, and gives its pid and the master of its terminal, if it has one. Its end comes
    /// as an event.
    pub async fn exec(
        &self,
        mut request: v1::Exec,
        stdio: ExecStdio,
        cgroup: Option<OwnedFd>,
    ) -> Result<(i32, Option<OwnedFd>), RequestError> {
        request.stdin = stdio.stdin.is_some();
        request.stdout = stdio.stdout.is_some();
        request.stderr = stdio.stderr.is_some();
        request.no_cgroup_fd = cgroup.is_none();
        request.hold_input = stdio.input.is_some();
        let fds = [stdio.stdin, stdio.stdout, stdio.stderr, cgroup, stdio.input];
        let fds = fds.into_iter().flatten().collect();
        match self.ask(Body::Exec(request), fds).await? {
            (Body::ExecStarted(started), mut fds) => Ok((started.pid, fds.pop())),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Kills an exec with all that it started; the event tells its end.
    pub async fn kill_exec(&self, exec: &ExecId) -> Result<(), RequestError> {
        let request = v1::KillExec { exec_id: exec.to_string() };
        self.do_it(Body::KillExec(request), Vec::new()).await
    }

    /// Closes the end of an exec's input that the shim holds.
    pub async fn end_input(&self, exec: &ExecId) -> Result<(), RequestError> {
        let request = v1::EndInput { exec_id: exec.to_string() };
        self.do_it(Body::EndInput(request), Vec::new()).await
    }

    /// Closes a container's log and opens its path again.
    pub async fn reopen_log(&self, container: &ContainerId) -> Result<(), RequestError> {
        let request = v1::ReopenLog { container_id: container.to_string() };
        self.do_it(Body::ReopenLog(request), Vec::new()).await
    }

    /// Joins a client to a container's main process, until one of them closes the session's socket.
    pub async fn attach(
        &self,
        container: &ContainerId,
        joining: Joining,
    ) -> Result<Joined, RequestError> {
        let request = v1::Attach {
            container_id: container.to_string(),
            stdin: joining.stdin,
            stdout: joining.stdout.is_some(),
            stderr: joining.stderr.is_some(),
        };
        let fds = [joining.stdout, joining.stderr, Some(joining.session)];
        match self.ask(Body::Attach(request), fds.into_iter().flatten().collect()).await? {
            (Body::Attached(told), mut fds) => {
                Ok(Joined { tty: told.tty, stdin: told.stdin, end: fds.pop() })
            }
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Sizes the terminal of a container. That of an exec is sized by who has it.
    pub async fn resize(
        &self,
        container: &ContainerId,
        (width, height): (u32, u32),
    ) -> Result<(), RequestError> {
        let container_id = container.to_string();
        let request = v1::Resize { container_id, width, height, ..v1::Resize::default() };
        self.do_it(Body::Resize(request), Vec::new()).await
    }

    /// Makes the shim forget a container, which it kills and reaps first if it must.
    pub async fn forget(&self, container: &ContainerId) -> Result<(), RequestError> {
        let request = v1::Forget { container_id: container.to_string() };
        self.do_it(Body::Forget(request), Vec::new()).await
    }

    /// Makes the shim kill and reap what is left, flush its logs and exit.
    pub async fn shutdown(&self) -> Result<(), RequestError> {
        self.do_it(Body::Shutdown(v1::Shutdown {}), Vec::new()).await
    }

    /// Whether the connection has ended.
    pub fn is_gone(&self) -> bool {
        self.requests.is_closed()
    }

    async fn do_it(&self, body: Body, fds: Vec<OwnedFd>) -> Result<(), RequestError> {
        match self.ask(body, fds).await? {
            (Body::Done(_), _) => Ok(()),
            _ => Err(RequestError::Unexpected),
        }
    }

    async fn ask(
        &self,
        body: Body,
        fds: Vec<OwnedFd>,
    ) -> Result<(Body, Vec<OwnedFd>), RequestError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { body, fds, answer };
        self.requests.send(Box::new(request)).map_err(|_| RequestError::Gone)?;
        match answered.await {
            Ok((Body::Failure(failure), _)) => Err(failure.into()),
            Ok(answer) => Ok(answer),
            Err(_) => Err(RequestError::Gone),
        }
    }
}
