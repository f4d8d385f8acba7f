//! One request, one answer: here or later.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;
use wire::v1::envelope::Body;
use wire::v1::failure::Kind;
use wire::v1::{Done, Failure, Hello, OpenNamespaces, Resize, Signal, State};

use super::{Pod, Programs};
use crate::container::{Container, Ticket};
use crate::failure::{At, failure};
use crate::namespaces::Namespaces;
use crate::raw;

/// None: the answer comes later.
type Answer = Result<Option<(Body, Vec<OwnedFd>)>, Failure>;

const DONE: Answer = Ok(Some((Body::Done(Done {}), Vec::new())));

impl Pod {
    pub(super) fn request(&mut self, ticket: Ticket, body: Option<Body>, fds: Vec<OwnedFd>) {
        let greeted = self.connection.as_ref().is_some_and(|open| open.greeted);
        let answer = match body {
            Some(Body::Hello(hello)) => self.hello(hello, fds),
            Some(_) if !greeted => {
                Err(failure(Kind::Refused, "hello", "the first word of a connection is Hello"))
            }
            Some(_) if self.ending.is_some() => {
                Err(failure(Kind::Refused, "shutdown", "the shim is ending"))
            }
            Some(body) => self.perform(ticket, body, fds),
            None => Err(unknown()),
        };
        match answer {
            Ok(Some((body, fds))) => self.answer(ticket, body, fds),
            Ok(None) => {}
            Err(failure) => self.refuse(ticket, failure),
        }
    }

    fn perform(&mut self, ticket: Ticket, body: Body, fds: Vec<OwnedFd>) -> Answer {
        match body {
            Body::OpenNamespaces(request) => self.open_namespaces(request),
            Body::Commit(_) => self.commit(),
            Body::Create(request) => self.create(ticket, request, fds).map(|()| None),
            Body::Start(request) => self.start(ticket, &request.container_id),
            Body::Signal(request) => self.signal(&request),
            Body::Exec(request) => self.start_exec(ticket, request, fds).map(|()| None),
            Body::KillExec(request) => self.kill_exec(&request.exec_id).and(DONE),
            Body::EndInput(request) => self.end_input(&request.exec_id).and(DONE),
            Body::ReopenLog(request) => {
                self.reopen_log(ticket, &request.container_id).map(|()| None)
            }
            Body::Resize(request) => self.resize(&request),
            Body::Attach(request) => self.attach(&request, fds),
            Body::Forget(request) => Ok(self.forget(ticket, &request.container_id)),
            Body::Shutdown(_) => {
                self.end(Some(ticket));
                Ok(None)
            }
            _ => Err(unknown()),
        }
    }

    fn hello(&mut self, _hello: Hello, fds: Vec<OwnedFd>) -> Answer {
        let mut fds = fds.into_iter();
        let Some(launch) = fds.next() else {
            return Err(failure(Kind::Invalid, "hello", "Hello comes with the launch program"));
        };
        self.programs = Some(Programs { launch, enter: fds.next() });
        if let Some(connection) = &mut self.connection {
            connection.greeted = true;
        }
        let state = State {
            version: wire::VERSION,
            pid: Pid::this().as_raw(),
            committed: self.birth.is_none(),
            containers: self.containers.iter().filter_map(Container::state).collect(),
            init_pid: self.namespaces.as_ref().and_then(|n| n.init).map_or(0, Pid::as_raw),
        };
        Ok(Some((Body::State(state), Vec::new())))
    }

    fn open_namespaces(&mut self, request: OpenNamespaces) -> Answer {
        let namespaces = match self.namespaces.take() {
            Some(opened) => opened,
            None => Namespaces::open(request)?,
        };
        let (reply, fds) = self.namespaces.insert(namespaces).reply()?;
        Ok(Some((Body::Namespaces(reply), fds)))
    }

    fn commit(&mut self) -> Answer {
        if let Some(birth) = self.birth.take() {
            self.poll.forget(&birth);
        }
        DONE
    }

    fn signal(&mut self, request: &Signal) -> Answer {
        let container = self.container_by_id(&request.container_id).ok_or_else(no_container)?;
        let pid = container
            .alive()
            .ok_or_else(|| failure(Kind::NotFound, "signal", "the container has no process"))?;
        // By number: real-time signals have no name here.
        if !(1..=64).contains(&request.signal) {
            let text = format_args!("{} is no signal", request.signal);
            return Err(failure(Kind::Invalid, "signal", text));
        }
        raw::kill(pid, request.signal).at("signal", "signalling")?;
        DONE
    }

    fn resize(&mut self, request: &Resize) -> Answer {
        let none = || failure(Kind::NotFound, "resize", "no such terminal");
        let size = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let (width, height) = (size(request.width), size(request.height));
        if !request.exec_id.is_empty() {
            // Whoever has the master of an exec's terminal sizes it.
            return Err(none());
        }
        let container = self.container_by_id(&request.container_id).ok_or_else(no_container)?;
        let terminal = container.stdout.as_ref().filter(|_| container.terminal);
        raw::resize(terminal.ok_or_else(none)?.fd(), width, height)
            .at("resize", "setting the size of the terminal")?;
        DONE
    }
}

pub(super) fn no_container() -> Failure {
    failure(Kind::NotFound, "container", "no such container")
}

fn unknown() -> Failure {
    failure(Kind::Unsupported, "request", "this shim does not know that word")
}
