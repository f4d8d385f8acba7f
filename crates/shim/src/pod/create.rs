//! Create: pipes or a terminal, the log, launch; Created when all of them are there.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};
use prost::Message;
use wire::v1::envelope::Body;
use wire::v1::failure::Kind;
use wire::v1::{Born, Create, Failure};

use super::Pod;
use super::launch::{By, Job, Start, or};
use super::start::set_nonblocking;
use crate::container::{Container, Input, Log, Phase, StartPipe, Ticket};
use crate::failure::{At, failure};
use crate::line::Stream;
use crate::output::Output;
use crate::poll::Token;
use crate::raw;
use crate::{log, namespaces};

const STAGE: &str = "create";
/// Without a deadline of the daemon's.
const LIMIT: Duration = Duration::from_mins(4);

/// What the shim reads of a [`wire::v1::CreateJob`].
#[derive(Clone, PartialEq, Message)]
struct Place {
    #[prost(string, tag = "2")]
    bundle: String,
    #[prost(string, tag = "11")]
    runtime: String,
    #[prost(uint32, tag = "25")]
    poststart_ms: u32,
}

/// The ends of a container's pipes that launch inherits. None is /dev/null.
#[derive(Debug, Default)]
struct Theirs {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Pod {
    pub(super) fn create(
        &mut self,
        ticket: Ticket,
        request: Create,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        if self.container_by_id(&request.container_id).is_some() {
            return Err(failure(Kind::Refused, STAGE, "a container of that id is here already"));
        }
        let place = Place::decode(request.job.as_slice());
        let place = place.map_err(|_| failure(Kind::Invalid, STAGE, "a job that is none"))?;
        let pid_namespace = self.target(&request.target_container_id)?;
        let number = self.number();
        let (mut container, theirs) = self.prepare(number, &request, ticket)?;
        (container.bundle, container.runtime) = (place.bundle, place.runtime);
        container.poststart =
            (place.poststart_ms > 0).then(|| Duration::from_millis(place.poststart_ms.into()));
        let (start, start_theirs) = pipe2(OFlag::O_CLOEXEC).at(STAGE, "making a pipe")?;
        set_nonblocking(&start).at(STAGE, "making a pipe")?;
        // An outside runtime knows nothing of that pipe.
        container.start = container.runtime.is_empty().then(|| StartPipe::new(start));
        let null = raw::duplicate(&self.null).at(STAGE, "duplicating /dev/null")?;
        let limit = match request.deadline_ms {
            0 => LIMIT,
            given => Duration::from_millis(given.into()),
        };
        self.containers.push(container);
        let launched = self.launch(Start {
            number,
            by: By::Launch,
            job: Job { create: Some(request.job), ..Job::default() },
            stdio: [&theirs.stdin, &theirs.stdout, &theirs.stderr].map(|fd| or(fd.as_ref(), &null)),
            pipe: Some(start_theirs.as_fd()),
            cgroup: fds.into_iter().next().filter(|_| !request.no_cgroup_fd),
            pid_namespace,
            limit: Some(limit),
        });
        if launched.is_err() {
            self.containers.retain(|container| container.number != number);
        } else if !request.log_path.is_empty() {
            self.open_log(number, request.log_path);
        }
        launched
    }

    /// The PID namespace of a container that runs. It has not been reaped, so that its pid is its own.
    fn target(&mut self, id: &str) -> Result<Option<OwnedFd>, Failure> {
        if id.is_empty() {
            return Ok(None);
        }
        let refused = |what: &str| {
            Err(failure(Kind::Refused, STAGE, format_args!("the target container {id} {what}")))
        };
        let Some(container) = self.container_by_id(id) else { return refused("does not exist") };
        let running = container.alive().filter(|_| container.started_at.is_some());
        let Some(pid) = running else { return refused("is not running") };
        match namespaces::namespace(pid, "pid") {
            Ok(found) => Ok(Some(found)),
            // It has just ended, and is about to be reaped.
            Err(_) => refused("is not running"),
        }
    }

    fn prepare(
        &mut self,
        number: u32,
        request: &Create,
        ticket: Ticket,
    ) -> Result<(Container, Theirs), Failure> {
        let mut theirs = Theirs::default();
        let (mut stdin, mut stdout, mut stderr) = (None, None, None);
        if !request.tty {
            let pipe = || pipe2(OFlag::O_CLOEXEC).at(STAGE, "making a pipe");
            let ((out, out_theirs), (err, err_theirs)) = (pipe()?, pipe()?);
            if request.stdin {
                let (in_theirs, ours) = pipe()?;
                (stdin, theirs.stdin) = (Some(ours), Some(in_theirs));
            }
            let out = Output::new(out, Stream::Stdout, Token::Stdout(number), &self.poll);
            let err = Output::new(err, Stream::Stderr, Token::Stderr(number), &self.poll);
            stdout = Some(out.at(STAGE, "reading the output")?);
            stderr = Some(err.at(STAGE, "reading the output")?);
            (theirs.stdout, theirs.stderr) = (Some(out_theirs), Some(err_theirs));
        }
        let container = Container {
            number,
            id: request.container_id.clone(),
            bundle: String::new(),
            runtime: String::new(),
            poststart: None,
            born: None,
            phase: Phase::Launching,
            started_at: None,
            terminal: request.tty,
            stdout,
            stderr,
            stdin,
            input: match (request.stdin, request.stdin_once) {
                (false, _) => Input::None,
                (true, true) => Input::Once,
                (true, false) => Input::Kept,
            },
            start: None,
            start_error: None,
            log: if request.log_path.is_empty() { Log::None } else { Log::Opening },
            in_flight: 0,
            dropped: 0,
            creating: Some(ticket),
            reopening: None,
            forgetting: None,
            telling: None,
            failed: false,
        };
        Ok((container, theirs))
    }

    fn open_log(&mut self, number: u32, path: String) {
        self.logs.submit(log::Job::Open(number, path.into()));
    }

    pub(super) fn container_launched(
        &mut self,
        number: u32,
        result: Result<(Born, Option<OwnedFd>), Failure>,
    ) {
        if self.container(number).is_some_and(|container| container.is_starting_outside()) {
            return self.started_outside(number, result.map(drop));
        }
        match result {
            Ok((born, terminal)) => {
                let token = Token::Stdout(number);
                let opened = terminal
                    .map(|fd| Output::new(fd, Stream::Stdout, token, &self.poll))
                    .transpose();
                let Some(container) = self.container(number) else { return };
                container.born = Some(born);
                container.phase = Phase::Created;
                if let Ok(Some(output)) = opened {
                    container.stdout = Some(output);
                }
                self.answer_create(number);
            }
            Err(failure) => {
                let Some(container) = self.container(number) else { return };
                if let Some(ticket) = container.creating.take() {
                    self.refuse(ticket, failure);
                }
                self.bury(number);
            }
        }
    }

    /// Answers once the process is born and the log is open.
    pub(super) fn answer_create(&mut self, number: u32) {
        let Some(container) = self.container(number) else { return };
        if container.born.is_none() || container.log == Log::Opening {
            return;
        }
        let Some(ticket) = container.creating.take() else { return };
        if let Log::Failed(message) = &container.log {
            let refusal = failure(Kind::Internal, "log", message);
            container.failed = true;
            if let Some(pid) = container.alive() {
                raw::kill(pid, 9).ok();
            }
            return self.refuse(ticket, refusal);
        }
        let created = container.created();
        self.answer(ticket, Body::Created(created), Vec::new());
    }

    pub(super) fn forget(&mut self, ticket: Ticket, id: &str) -> Option<(Body, Vec<OwnedFd>)> {
        let done = Body::Done(wire::v1::Done {});
        let Some(container) = self.container_by_id(id) else { return Some((done, Vec::new())) };
        container.forgetting = Some(ticket);
        let number = container.number;
        match (&container.phase, container.alive()) {
            (Phase::Launching, _) => self.kill_launch(number, "the container is forgotten"),
            (Phase::Exited(_), _) => self.bury(number),
            (_, Some(pid)) => kill_main(pid),
            (_, None) => {}
        }
        None
    }
}

fn kill_main(pid: Pid) {
    raw::kill(pid, 9).ok();
}
