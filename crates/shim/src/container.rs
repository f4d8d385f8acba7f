//! What the shim holds of a container, an exec, and a launch at work.
//!
//! ```text
//! Launching ──born──> Created ──start──> Starting ──exec'd──> Running ──> Exited ──forget──> gone
//!     └────────────────── any of them may end ─────────────────────────────┘
//! ```

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Pid, read};
use std::os::fd::AsRawFd;
use wire::v1::{Born, ContainerState, Created, Exited};
use wire::{Decoder, Outbox};

use crate::line::Stream;
use crate::output::Output;

/// A request to be answered, and the connection that it came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) connection: u32,
    pub(crate) id: u64,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) number: u32,
    pub(crate) id: String,
    pub(crate) bundle: String,
    /// The OCI runtime that has made it and starts it; empty: launch.
    pub(crate) runtime: String,
    /// Launch has hooks to run when it has been started, which may take so long.
    pub(crate) poststart: Option<Duration>,
    pub(crate) born: Option<Born>,
    pub(crate) phase: Phase,
    pub(crate) started_at: Option<i64>,
    pub(crate) terminal: bool,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    /// The end that attached clients write to; closing it would tell the process that there is no more.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) input: Input,
    pub(crate) start: Option<StartPipe>,
    pub(crate) start_error: Option<String>,
    pub(crate) log: Log,
    /// Bytes of records that the log thread has not written yet.
    pub(crate) in_flight: usize,
    pub(crate) dropped: u64,
    /// Create has not been answered.
    pub(crate) creating: Option<Ticket>,
    pub(crate) reopening: Option<Ticket>,
    pub(crate) forgetting: Option<Ticket>,
    /// Ended, and not told before this moment unless its log is written.
    pub(crate) telling: Option<Instant>,
    /// It goes away when it has ended, and nobody hears of it.
    pub(crate) failed: bool,
}

#[derive(Debug)]
pub(crate) enum Phase {
    Launching,
    Created,
    Starting(Ticket),
    Running,
    Exited(Exited),
    /// Its log is being closed.
    Leaving,
}

/// What becomes of a container's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// It has none.
    None,
    /// It ends with the first client that is given it.
    Once,
    /// It stays open for the next client.
    Kept,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Log {
    /// Output is thrown away.
    None,
    Opening,
    Open,
    Failed(String),
}

#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) number: u32,
    pub(crate) id: String,
    pub(crate) request: Ticket,
    pub(crate) pid: Option<Pid>,
    pub(crate) cgroup: Option<OwnedFd>,
    /// A writing end of its stdin, which has no end without us.
    pub(crate) input: Option<OwnedFd>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) tied: bool,
    pub(crate) timed_out: bool,
}

/// A launch that has not answered.
#[derive(Debug)]
pub(crate) struct Launch {
    /// That of its container or exec.
    pub(crate) number: u32,
    pub(crate) pid: Pid,
    pub(crate) control: OwnedFd,
    pub(crate) outbox: Outbox,
    pub(crate) decoder: Decoder,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cgroup: Option<OwnedFd>,
}

/// The pipe on which a process says why it could not become its program.
#[derive(Debug)]
pub(crate) struct StartPipe {
    pub(crate) fd: OwnedFd,
    text: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StartNews {
    Nothing,
    Executed,
    Failed(String),
}

// === impl Container ===

impl Container {
    /// The main process, while there is one that has not been reaped.
    pub(crate) fn alive(&self) -> Option<Pid> {
        match self.phase {
            Phase::Exited(_) | Phase::Leaving => None,
            Phase::Launching | Phase::Created | Phase::Starting(_) | Phase::Running => {
                self.born.as_ref().map(|born| Pid::from_raw(born.pid))
            }
        }
    }

    /// Its runtime is at work, or hooks are or will be. How it ends is of interest only when launch has said whether it began.
    pub(crate) fn is_starting_outside(&self) -> bool {
        matches!(self.phase, Phase::Starting(_))
            && (self.start.is_none() || self.poststart.is_some())
    }

    pub(crate) fn output(&mut self, stream: Stream) -> &mut Option<Output> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    pub(crate) fn outputs(&mut self) -> impl Iterator<Item = &mut Output> {
        [&mut self.stdout, &mut self.stderr].into_iter().flatten()
    }

    pub(crate) fn created(&self) -> Created {
        let born = self.born.clone().unwrap_or_default();
        Created { pid: born.pid, uid: born.uid, gid: born.gid, groups: born.groups }
    }

    /// None: it is on its way out.
    pub(crate) fn state(&self) -> Option<ContainerState> {
        if self.failed || matches!(self.phase, Phase::Leaving) {
            return None;
        }
        let born = self.born.clone().unwrap_or_default();
        let exited = match &self.phase {
            Phase::Exited(exited) => Some(exited.clone()),
            _ => None,
        };
        Some(ContainerState {
            container_id: self.id.clone(),
            pid: self.alive().map_or(0, Pid::as_raw),
            started: self.started_at.is_some(),
            started_at: self.started_at.unwrap_or(0),
            exited,
            log_bytes_dropped: self.dropped,
            uid: born.uid,
            gid: born.gid,
            groups: born.groups,
        })
    }
}

// === impl StartPipe ===

impl StartPipe {
    /// What is told is one short text.
    const LONGEST: usize = 8 << 10;

    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, text: Vec::new() }
    }

    /// Reads what is there. `stage\0message` is what a process writes that could not go on.
    pub(crate) fn read(&mut self) -> StartNews {
        let mut buffer = [0; 512];
        loop {
            match read(self.fd.as_raw_fd(), &mut buffer) {
                Ok(0) => break,
                Ok(count) if self.text.len() < Self::LONGEST => {
                    self.text.extend_from_slice(buffer.get(..count).unwrap_or_default());
                }
                Err(Errno::EAGAIN) => return StartNews::Nothing,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        if self.text.is_empty() { StartNews::Executed } else { StartNews::Failed(self.message()) }
    }

    fn message(&self) -> String {
        let text = String::from_utf8_lossy(&self.text);
        match text.split_once('\0') {
            Some((stage, message)) if !matches!(stage, "" | "start" | "exec") => {
                format!("{stage}: {message}")
            }
            Some((_, message)) => message.to_owned(),
            None => text.into_owned(),
        }
    }
}
