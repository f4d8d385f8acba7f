//! Clients at the ends of a container's main process: what it writes goes to each of them, besides its log.
//!
//! ```text
//! output ── read ──> log
//!              └──> Tap (the client's pipe; what it does not take waits here, and holds the output) ──> client
//! ```

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::{read, write};

use crate::line::Stream;
use crate::output::MAPPED;
use crate::poll::{Poll, Token};

/// Clients of one container.
pub(crate) const MOST: usize = 16;
/// How long one read of a container's output waits for a client to take it.
const PATIENCE: Duration = Duration::from_secs(10);
/// What waits for a client of a container that has ended and whose children write on: as much as a pipe holds at most.
const MOST_WAITING: usize = 1 << 20;

/// One client.
#[derive(Debug)]
pub(crate) struct Attacher {
    pub(crate) number: u32,
    pub(crate) container: u32,
    session: OwnedFd,
    stdout: Option<Tap>,
    stderr: Option<Tap>,
    /// No more will come.
    over: bool,
}

/// A client's pipe, for one stream.
#[derive(Debug)]
struct Tap {
    pipe: OwnedFd,
    token: Token,
    /// Read from the container and not taken by the client, from `sent` on.
    waiting: Vec<u8>,
    sent: usize,
    /// Something waits, and is to be taken until then.
    until: Option<Instant>,
}

/// What a client is told when its session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// It has had everything.
    Ended,
    /// It took too long.
    Behind,
}

/// The client has closed its pipe.
#[derive(Debug)]
struct Closed;

// === impl Attacher ===

impl Attacher {
    pub(crate) fn new(
        (number, container): (u32, u32),
        session: OwnedFd,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Self {
        let stdout = stdout.map(|pipe| Tap::new(pipe, Token::TapOut(number)));
        let stderr = stderr.map(|pipe| Tap::new(pipe, Token::TapErr(number)));
        Self { number, container, session, stdout, stderr, over: false }
    }

    pub(crate) fn watch(&self, poll: &Poll) -> Result<(), Errno> {
        poll.read(&self.session, Token::Session(self.number))
    }

    /// Whether it keeps a container's stream from being read.
    pub(crate) fn holds(&self, container: u32, stream: Stream) -> bool {
        self.container == container && self.tap(stream).is_some_and(|tap| tap.until.is_some())
    }

    /// Hands over what was read.
    pub(crate) fn give(&mut self, stream: Stream, bytes: &[u8], poll: &Poll) {
        if self.over {
            return;
        }
        let slot = self.slot(stream);
        if let Some(tap) = slot
            && tap.give(bytes, poll).is_err()
            && let Some(tap) = slot.take()
        {
            tap.close(poll);
        }
    }

    /// Its pipe has room again.
    pub(crate) fn go_on(&mut self, stream: Stream, poll: &Poll) {
        let slot = self.slot(stream);
        let Some(tap) = slot else { return };
        let sent = tap.flush(poll);
        let empty = tap.until.is_none();
        if (sent.is_err() || (empty && self.over))
            && let Some(tap) = self.slot(stream).take()
        {
            tap.close(poll);
        }
    }

    /// A stream has ended: so does the client's, when it has had what waits.
    pub(crate) fn end(&mut self, stream: Stream, poll: &Poll) {
        let slot = self.slot(stream);
        if slot.as_ref().is_some_and(|tap| tap.until.is_none())
            && let Some(tap) = slot.take()
        {
            tap.close(poll);
        }
    }

    /// The container has ended, and all it wrote has been given.
    pub(crate) fn end_all(&mut self, poll: &Poll) {
        self.over = true;
        self.end(Stream::Stdout, poll);
        self.end(Stream::Stderr, poll);
    }

    /// Whether it has had everything.
    pub(crate) fn is_done(&self) -> bool {
        self.over && self.stdout.is_none() && self.stderr.is_none()
    }

    /// When it is to be cut, if it takes nothing until then.
    pub(crate) fn limit(&self) -> Option<Instant> {
        let taps = [&self.stdout, &self.stderr].into_iter().flatten();
        taps.filter_map(|tap| tap.until).min()
    }

    /// Its socket has something to say. Gives whether the client is gone.
    pub(crate) fn hear(&self, poll: &Poll) -> bool {
        let mut said = [0; 64];
        match read(self.session.as_raw_fd(), &mut said) {
            Ok(0) => {}
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => return false,
            Err(_) => return true,
        }
        let mut fds = [PollFd::new(self.session.as_fd(), PollFlags::empty())];
        let gone = poll_now(&mut fds);
        if !gone {
            // It has only ended its half: from now on its hanging up alone counts.
            poll.hang_up(&self.session, Token::Session(self.number)).ok();
        }
        gone
    }

    /// Ends the session.
    pub(crate) fn part(mut self, farewell: Farewell, poll: &Poll) {
        let word = match farewell {
            Farewell::Ended => b"e",
            Farewell::Behind => b"b",
        };
        // Its outputs end before the word: who hears it finds them whole.
        self.let_go(poll);
        send(self.session.as_raw_fd(), word, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT).ok();
    }

    /// The client is gone.
    pub(crate) fn let_go(&mut self, poll: &Poll) {
        for tap in [self.stdout.take(), self.stderr.take()].into_iter().flatten() {
            tap.close(poll);
        }
        poll.forget(&self.session);
    }

    fn tap(&self, stream: Stream) -> Option<&Tap> {
        match stream {
            Stream::Stdout => self.stdout.as_ref(),
            Stream::Stderr => self.stderr.as_ref(),
        }
    }

    fn slot(&mut self, stream: Stream) -> &mut Option<Tap> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

fn poll_now(fds: &mut [PollFd<'_>; 1]) -> bool {
    let polled = poll(fds, PollTimeout::ZERO);
    let [fd] = fds;
    polled.is_ok() && fd.revents().is_some_and(|found| found.contains(PollFlags::POLLHUP))
}

// === impl Tap ===

impl Tap {
    fn new(pipe: OwnedFd, token: Token) -> Self {
        Self { pipe, token, waiting: Vec::new(), sent: 0, until: None }
    }

    fn give(&mut self, bytes: &[u8], poll: &Poll) -> Result<(), Closed> {
        let sent = if self.until.is_none() { put(&self.pipe, bytes)? } else { 0 };
        let rest = bytes.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        if self.until.is_none() {
            self.until = now.checked_add(PATIENCE);
            // Mapped, and so unmapped when it is empty.
            self.waiting.reserve_exact(MAPPED);
            poll.room(&self.pipe, self.token).ok();
        }
        if self.waiting.len() < MOST_WAITING {
            self.waiting.extend_from_slice(rest);
        } else {
            self.until = Some(now);
        }
        Ok(())
    }

    fn flush(&mut self, poll: &Poll) -> Result<(), Closed> {
        self.sent += put(&self.pipe, self.waiting.get(self.sent..).unwrap_or_default())?;
        if self.sent >= self.waiting.len() {
            (self.waiting, self.sent, self.until) = (Vec::new(), 0, None);
            poll.forget(&self.pipe);
        }
        Ok(())
    }

    fn close(self, poll: &Poll) {
        if self.until.is_some() {
            poll.forget(&self.pipe);
        }
    }
}

/// Writes what a pipe takes without waiting.
fn put(pipe: &OwnedFd, bytes: &[u8]) -> Result<usize, Closed> {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        match write(pipe, rest) {
            Ok(count) => sent += count,
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(_) => return Err(Closed),
        }
    }
    Ok(sent)
}
