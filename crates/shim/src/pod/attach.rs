//! Attach: a client joins a container's main process, hears what it writes from now on, and leaves.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use wire::v1::envelope::Body;
use wire::v1::failure::Kind;
use wire::v1::{Attach, Attached, Failure};

use super::Pod;
use super::request::no_container;
use super::start::set_nonblocking;
use crate::attach::{Attacher, Farewell, MOST};
use crate::container::{Input, Phase};
use crate::failure::{At, failure};
use crate::line::Stream;
use crate::output::MAPPED;
use crate::raw;

const STAGE: &str = "attach";

impl Pod {
    pub(super) fn attach(
        &mut self,
        request: &Attach,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<(Body, Vec<OwnedFd>)>, Failure> {
        let own = self.number();
        let container = self.container_by_id(&request.container_id).ok_or_else(no_container)?;
        if container.started_at.is_none() || container.alive().is_none() {
            return Err(failure(Kind::Refused, STAGE, "the container is not running"));
        }
        let number = container.number;
        if self.attachers.iter().filter(|other| other.container == number).count() >= MOST {
            let text = format_args!("{MOST} clients are attached to the container already");
            return Err(failure(Kind::Refused, STAGE, text));
        }
        let mut fds = fds.into_iter();
        let stdout = request.stdout.then(|| fds.next()).flatten();
        let stderr = request.stderr.then(|| fds.next()).flatten();
        let Some(session) = fds.next() else {
            return Err(failure(Kind::Invalid, STAGE, "Attach comes with the session's socket"));
        };
        for fd in stdout.iter().chain(&stderr).chain([&session]) {
            set_nonblocking(fd).at(STAGE, "taking the client's ends")?;
        }
        let (answer, given) = self.input(number, request.stdin)?;
        let mut attacher = Attacher::new((own, number), session, stdout, stderr);
        attacher.watch(&self.poll).at(STAGE, "waiting for the client")?;
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.container(number).is_none_or(|container| container.output(stream).is_none()) {
                attacher.end(stream, &self.poll);
            }
        }
        self.attachers.push(attacher);
        if self.wide.is_empty() {
            self.wide = vec![0; MAPPED];
        }
        Ok(Some((Body::Attached(answer), given.into_iter().collect())))
    }

    /// The container's end that a client writes to. An input that is for one client alone is handed over: it ends with it.
    fn input(&mut self, number: u32, wanted: bool) -> Result<(Attached, Option<OwnedFd>), Failure> {
        let container = self.container(number).ok_or_else(no_container)?;
        let copy = |fd| raw::duplicate(fd).at(STAGE, "duplicating the input");
        if container.terminal {
            let terminal = container.stdout.as_ref().map(|output| copy(output.fd())).transpose()?;
            let stdin = wanted && container.input != Input::None && terminal.is_some();
            return Ok((Attached { tty: true, stdin }, terminal));
        }
        let given = match container.input {
            Input::Once if wanted => container.stdin.take(),
            Input::Kept if wanted => {
                container.stdin.as_ref().map(|fd| copy(fd.as_fd())).transpose()?
            }
            _ => None,
        };
        Ok((Attached { tty: false, stdin: given.is_some() }, given))
    }

    /// Gives every client of a container what it has written.
    pub(super) fn hand_on(&mut self, number: u32, stream: Stream, bytes: &[u8]) {
        for attacher in self.attachers.iter_mut().filter(|a| a.container == number) {
            attacher.give(stream, bytes, &self.poll);
        }
    }

    pub(super) fn stream_ended(&mut self, number: u32, stream: Stream) {
        for attacher in self.attachers.iter_mut().filter(|a| a.container == number) {
            attacher.end(stream, &self.poll);
        }
    }

    /// A container has ended, and what it wrote has been read: its clients' sessions end when they have had it.
    pub(super) fn conclude(&mut self, number: u32) {
        for attacher in self.attachers.iter_mut().filter(|a| a.container == number) {
            attacher.end_all(&self.poll);
        }
        self.dismiss();
    }

    /// The same, unless the disk holds up the reading.
    pub(super) fn conclude_if_read(&mut self, number: u32) {
        let Some(container) = self.container(number) else { return };
        let read = !container.outputs().any(|output| output.paused());
        if read && matches!(container.phase, Phase::Exited(_)) {
            self.conclude(number);
        }
    }

    pub(super) fn session_news(&mut self, number: u32) {
        let Some(at) = self.attachers.iter().position(|attacher| attacher.number == number) else {
            return;
        };
        if self.attachers.get(at).is_some_and(|attacher| attacher.hear(&self.poll)) {
            let mut attacher = self.attachers.swap_remove(at);
            attacher.let_go(&self.poll);
            self.left(attacher.container);
        }
    }

    /// A client has taken something.
    pub(super) fn tap_ready(&mut self, number: u32, stream: Stream) {
        let Some(attacher) = self.attachers.iter_mut().find(|a| a.number == number) else { return };
        attacher.go_on(stream, &self.poll);
        let container = attacher.container;
        self.resume(container);
        self.dismiss();
    }

    /// When the next client is to be cut.
    pub(super) fn next_cut(&self) -> Option<Instant> {
        self.attachers.iter().filter_map(Attacher::limit).min()
    }

    /// Cuts those that are behind.
    pub(super) fn cut(&mut self, now: Instant) {
        let late = |a: &Attacher| a.limit().is_some_and(|limit| limit <= now);
        while let Some(at) = self.attachers.iter().position(late) {
            let attacher = self.attachers.swap_remove(at);
            let container = attacher.container;
            attacher.part(Farewell::Behind, &self.poll);
            self.left(container);
        }
    }

    /// Ends every session, whatever its client has had.
    pub(super) fn cut_all(&mut self) {
        for attacher in std::mem::take(&mut self.attachers) {
            attacher.part(Farewell::Behind, &self.poll);
        }
    }

    fn dismiss(&mut self) {
        while let Some(at) = self.attachers.iter().position(Attacher::is_done) {
            let attacher = self.attachers.swap_remove(at);
            let container = attacher.container;
            attacher.part(Farewell::Ended, &self.poll);
            self.left(container);
        }
    }

    fn left(&mut self, container: u32) {
        self.attachers.shrink_to_fit();
        if self.attachers.is_empty() {
            self.wide = Vec::new();
        }
        self.resume(container);
    }

    /// Reads a container again, if nothing else holds it: that, the next read finds out.
    fn resume(&mut self, number: u32) {
        let Some(container) = self.containers.iter_mut().find(|c| c.number == number) else {
            return;
        };
        container.outputs().for_each(|output| output.resume(&self.poll));
    }
}
