//! The main loop: it owns everything the shim holds, and never waits for anything but the poll.

mod attach;
mod connection;
mod create;
mod ending;
mod exec;
mod exit;
mod launch;
mod logging;
mod request;
mod start;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use wire::v1::Exited;

use crate::attach::Attacher;
use crate::container::{Container, Exec, Launch};
use crate::line::Stream;
use crate::log::Logs;
use crate::namespaces::Namespaces;
use crate::poll::{Poll, Token};
use crate::raw;
use connection::Connection;
use ending::Ending;

/// An exit that the disk did not take is offered again.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// What a shim is started with.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) listen: OwnedFd,
    pub(crate) birth: OwnedFd,
    pub(crate) exits: OwnedFd,
}

/// What is executed for a container and for its further processes.
#[derive(Debug)]
struct Programs {
    launch: OwnedFd,
    /// A daemon that knows none has launch do all.
    enter: Option<OwnedFd>,
}

/// A pod's processes, and what belongs to them.
#[derive(Debug)]
pub(crate) struct Pod {
    poll: Poll,
    listen: OwnedFd,
    /// Until Commit.
    birth: Option<OwnedFd>,
    exits: OwnedFd,
    signals: SignalFd,
    logs: Logs,
    null: OwnedFd,
    connection: Option<Connection>,
    connections: u32,
    programs: Option<Programs>,
    namespaces: Option<Namespaces>,
    containers: Vec<Container>,
    execs: Vec<Exec>,
    launches: Vec<Launch>,
    attachers: Vec<Attacher>,
    /// What is read into while there are attachers; empty else.
    wide: Vec<u8>,
    numbers: u32,
    /// A child may be waiting to be reaped.
    reap: bool,
    /// Exits that the exit file did not take.
    unrecorded: Vec<Exited>,
    ending: Option<Ending>,
    over: bool,
}

impl Pod {
    pub(crate) fn new(inherited: Inherited) -> Result<Self, Errno> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let null = raw::null()?;
        let (poll, logs) = (Poll::new()?, Logs::new()?);
        let Inherited { listen, birth, exits } = inherited;
        // Whoever has knocked may be gone again.
        start::set_nonblocking(&listen)?;
        poll.read(&listen, Token::Listen)?;
        poll.read(&birth, Token::Birth)?;
        poll.read(&signals, Token::Signals)?;
        poll.read(logs.ready(), Token::LogDone)?;
        Ok(Self {
            poll,
            listen,
            birth: Some(birth),
            exits,
            signals,
            logs,
            null,
            connection: None,
            connections: 0,
            programs: None,
            namespaces: None,
            containers: Vec::new(),
            execs: Vec::new(),
            launches: Vec::new(),
            attachers: Vec::new(),
            wide: Vec::new(),
            numbers: 0,
            reap: false,
            unrecorded: Vec::new(),
            ending: None,
            over: false,
        })
    }

    /// Runs until the pod is over.
    pub(crate) fn run(mut self) {
        while !self.over {
            for token in self.poll.wait(self.next_deadline()) {
                self.ready(token);
            }
            self.settle();
        }
    }

    fn ready(&mut self, token: Token) {
        match token {
            Token::Listen => self.accept(),
            Token::Connection => self.receive(),
            Token::Birth => self.birth_ended(),
            Token::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap = true;
            }
            Token::LogDone => self.logged(),
            Token::Launch(number) => self.hear(number),
            Token::Stdout(number) => drop(self.read_output(number, Stream::Stdout)),
            Token::Stderr(number) => drop(self.read_output(number, Stream::Stderr)),
            Token::Start(number) => self.start_news(number),
            Token::Session(number) => self.session_news(number),
            Token::TapOut(number) => self.tap_ready(number, Stream::Stdout),
            Token::TapErr(number) => self.tap_ready(number, Stream::Stderr),
        }
    }

    /// What follows from what was read.
    fn settle(&mut self) {
        loop {
            self.expire();
            if !std::mem::take(&mut self.reap) {
                break;
            }
            self.reap_children();
        }
        self.record_again();
        self.go_on_ending();
        self.flush();
    }

    /// The daemon is gone, and nobody knows of this pod but it.
    fn birth_ended(&mut self) {
        // A Commit may have come just before.
        self.receive();
        if let Some(birth) = self.birth.take() {
            self.poll.forget(&birth);
            self.end(None);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let launches = self.launches.iter().filter_map(|launch| launch.deadline);
        let execs = self.execs.iter().filter_map(|exec| exec.deadline);
        let exits = self.containers.iter().filter_map(|container| container.telling);
        let ending = self.ending.as_ref().map(Ending::next);
        let record = (!self.unrecorded.is_empty()).then(|| Instant::now() + RECORD_AGAIN);
        let all = launches.chain(execs).chain(exits).chain(ending).chain(record);
        all.chain(self.next_cut()).min()
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let launches: Vec<u32> =
            self.launches.iter().filter(|l| over(l.deadline)).map(|l| l.number).collect();
        for number in launches {
            self.launch_timed_out(number);
        }
        let execs: Vec<u32> =
            self.execs.iter().filter(|e| over(e.deadline)).map(|e| e.number).collect();
        for number in execs {
            self.exec_timed_out(number);
        }
        let exits: Vec<u32> =
            self.containers.iter().filter(|c| over(c.telling)).map(|c| c.number).collect();
        for number in exits {
            self.tell_exit(number);
        }
        self.cut(now);
    }

    fn number(&mut self) -> u32 {
        self.numbers = self.numbers.wrapping_add(1);
        self.numbers
    }

    fn container(&mut self, number: u32) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.number == number)
    }

    fn container_by_id(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.id == id)
    }

    fn exec(&mut self, number: u32) -> Option<&mut Exec> {
        self.execs.iter_mut().find(|exec| exec.number == number)
    }
}
