//! Start: libcontainer's init waits at a socket for the word; then it execs, or says why it could not. What an outside runtime
//! has made waits in that runtime's own way: a launch runs the runtime once more. A launch also runs the hooks of the moment after.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket,
};
use wire::v1::envelope::Body;
use wire::v1::failure::Kind;
use wire::v1::{Failure, StartJob, Started};

use super::Pod;
use super::launch::{By, Job, Start};
use super::request::no_container;
use crate::container::{Phase, StartNews, Ticket};
use crate::failure::{At, failure};
use crate::output::now;
use crate::poll::Token;
use crate::raw;

const STAGE: &str = "start";
/// For an outside runtime; hooks have what they say on top.
const LIMIT: Duration = Duration::from_mins(1);
/// In a directory of the container's id within its bundle, which is where libcontainer keeps its state.
const SOCKET: &str = "notify.sock";
/// What libcontainer's own client says; its server reads to the end and looks at nothing.
const WORD: &[u8] = b"start container";

impl Pod {
    pub(super) fn start(
        &mut self,
        ticket: Ticket,
        id: &str,
    ) -> Result<Option<(Body, Vec<OwnedFd>)>, Failure> {
        let container = self.container_by_id(id).ok_or_else(no_container)?;
        match (&container.phase, container.started_at) {
            (Phase::Created, _) => {}
            (Phase::Running, Some(at)) => {
                return Ok(Some((Body::Started(Started { at }), Vec::new())));
            }
            _ => {
                return Err(failure(
                    Kind::Refused,
                    STAGE,
                    "the container is not waiting for its start",
                ));
            }
        }
        if !container.runtime.is_empty() {
            let number = container.number;
            return self.have_launch_start(ticket, number).map(|()| None);
        }
        let directory = format!("{}/{id}", container.bundle);
        notify(&directory).map_err(|error| {
            let text = format_args!("waking the container at {directory}/{SOCKET}: {error}");
            failure(Kind::Internal, STAGE, text)
        })?;
        container.phase = Phase::Starting(ticket);
        let number = container.number;
        let start = self.containers.iter().find(|container| container.number == number);
        if let Some(pipe) = start.and_then(|container| container.start.as_ref()) {
            self.poll.read(&pipe.fd, Token::Start(number)).ok();
        }
        Ok(None)
    }

    fn have_launch_start(&mut self, ticket: Ticket, number: u32) -> Result<(), Failure> {
        let Some(container) = self.container(number) else { return Err(no_container()) };
        let job = StartJob {
            container_id: container.id.clone(),
            bundle: container.bundle.clone(),
            runtime: container.runtime.clone(),
            pid: container.born.as_ref().map_or(0, |born| born.pid),
        };
        let limit = LIMIT + container.poststart.unwrap_or_default();
        // Launch may answer at once.
        container.phase = Phase::Starting(ticket);
        let launched = self.launch_start(number, job, limit);
        if let Some(container) = self.container(number).filter(|_| launched.is_err()) {
            container.phase = Phase::Created;
        }
        launched
    }

    fn launch_start(&mut self, number: u32, job: StartJob, limit: Duration) -> Result<(), Failure> {
        let null = raw::duplicate(&self.null).at(STAGE, "duplicating /dev/null")?;
        self.launch(Start {
            number,
            by: By::Launch,
            job: Job { start: Some(job), ..Job::default() },
            stdio: [null.as_fd(); 3],
            pipe: None,
            cgroup: None,
            pid_namespace: None,
            limit: Some(limit),
        })
    }

    /// The runtime has started the container, or hooks have been run, or launch has said why not: then its process, which still waits
    /// or should not go on, is of no use.
    pub(super) fn started_outside(&mut self, number: u32, result: Result<(), Failure>) {
        let Some(container) = self.container(number) else { return };
        let Phase::Starting(ticket) = container.phase else { return };
        container.phase = Phase::Running;
        match result {
            Ok(()) => {
                let at = now();
                container.started_at = Some(at);
                self.answer(ticket, Body::Started(Started { at }), Vec::new());
            }
            Err(refusal) => {
                container.start_error = Some(refusal.message.clone());
                if let Some(pid) = container.alive() {
                    raw::kill(pid, 9).ok();
                }
                self.refuse(ticket, refusal);
            }
        }
    }

    /// The pipe has something, or its other end was closed.
    pub(super) fn start_news(&mut self, number: u32) {
        let Some(container) = self.container(number) else { return };
        let Some(pipe) = &mut container.start else { return };
        let news = pipe.read();
        if news == StartNews::Nothing {
            return;
        }
        let pipe = container.start.take();
        if let Some(pipe) = pipe {
            self.poll.forget(&pipe.fd);
        }
        let Some(container) = self.container(number) else { return };
        let Phase::Starting(ticket) = container.phase else { return };
        let hooks = container.poststart.is_some();
        if hooks && news == StartNews::Executed {
            return self.run_hooks(ticket, number);
        }
        container.phase = Phase::Running;
        match news {
            StartNews::Failed(message) => {
                let refusal = failure(Kind::Internal, STAGE, &message);
                container.start_error = Some(message);
                self.refuse(ticket, refusal);
            }
            StartNews::Executed | StartNews::Nothing => {
                let at = now();
                container.started_at = Some(at);
                self.answer(ticket, Body::Started(Started { at }), Vec::new());
            }
        }
        // It may have ended while it was held for its hooks' sake.
        self.reap |= hooks;
    }

    fn run_hooks(&mut self, ticket: Ticket, number: u32) {
        let Err(refusal) = self.have_launch_start(ticket, number) else { return };
        if let Some(container) = self.container(number) {
            container.phase = Phase::Starting(ticket);
        }
        self.started_outside(number, Err(refusal));
    }
}

/// Says the word. The path of the socket may be longer than an address holds, so its directory is opened first.
fn notify(directory: &str) -> io::Result<()> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let directory = File::options().read(true).custom_flags(flags).open(directory)?;
    let kinds = (AddressFamily::Unix, SockType::Stream);
    let stream = socket(kinds.0, kinds.1, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    connect(stream.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
    send(stream.as_raw_fd(), WORD, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

pub(super) fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(fd.as_raw_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}
