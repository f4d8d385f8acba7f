//! What a container writes: read from its pipe or terminal, cut into records, handed to the log thread.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::read;

use crate::line::{Prefix, Splitter, Stream};
use crate::poll::{Poll, Token};

/// How much one read takes.
pub(crate) const READ: usize = 8 << 10;
/// The same while a client is attached: all that a pipe of the usual size holds.
pub(crate) const WIDE: usize = 64 << 10;
/// Batches longer than this are given so much room that the allocator maps them, and unmaps them when they are written: it
/// keeps what it has once cut into smaller pieces.
const SMALL: usize = 2 << 10;
pub(crate) const MAPPED: usize = 132 << 10;

/// One stream of a container.
#[derive(Debug)]
pub(crate) struct Output {
    fd: OwnedFd,
    stream: Stream,
    token: Token,
    splitter: Splitter,
    polled: bool,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// So many bytes.
    Bytes(usize),
    Nothing,
    End,
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    i64::try_from(since_epoch().as_nanos()).unwrap_or(i64::MAX)
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

// === impl Output ===

impl Output {
    /// Begins to read this end.
    pub(crate) fn new(
        fd: OwnedFd,
        stream: Stream,
        token: Token,
        poll: &Poll,
    ) -> Result<Self, Errno> {
        let flags = OFlag::from_bits_retain(fcntl(fd.as_raw_fd(), FcntlArg::F_GETFL)?);
        fcntl(fd.as_raw_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        poll.read(&fd, token)?;
        Ok(Self { fd, stream, token, splitter: Splitter::default(), polled: true })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads once.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Found {
        match read(self.fd.as_raw_fd(), buffer) {
            Ok(count @ 1..) => Found::Bytes(count),
            Err(Errno::EAGAIN | Errno::EINTR) => Found::Nothing,
            // EIO: the last process has let go of the terminal.
            Ok(0) | Err(_) => Found::End,
        }
    }

    /// The records that these bytes complete; possibly none.
    pub(crate) fn records(&mut self, bytes: &[u8]) -> Vec<u8> {
        let prefix = Prefix::new(since_epoch(), self.stream);
        let most = self.splitter.most(bytes, &prefix);
        let mut records = Vec::new();
        records.reserve_exact(if most > SMALL { most.max(MAPPED) } else { most });
        self.splitter.push(bytes, &prefix, &mut records);
        records
    }

    /// Stops to wait for it, and so to read it: its process will block.
    pub(crate) fn pause(&mut self, poll: &Poll) {
        if std::mem::take(&mut self.polled) {
            poll.forget(&self.fd);
        }
    }

    pub(crate) fn paused(&self) -> bool {
        !self.polled
    }

    pub(crate) fn resume(&mut self, poll: &Poll) {
        if !self.polled {
            self.polled = poll.read(&self.fd, self.token).is_ok();
        }
    }

    pub(crate) fn close(self, poll: &Poll) {
        if self.polled {
            poll.forget(&self.fd);
        }
    }

    /// Lets go of a stream, whether or not its end has come: what is left without a newline.
    pub(crate) fn finish(mut self, poll: &Poll) -> Vec<u8> {
        let mut records = Vec::new();
        let prefix = Prefix::new(since_epoch(), self.stream);
        self.splitter.finish(&prefix, &mut records);
        self.close(poll);
        records
    }
}
