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
/// Batches longer than this are given so much room that the allocator maps them, and unmaps them when they are written: it
/// keeps what it has once cut into smaller pieces.
const SMALL: usize = 2 << 10;
const MAPPED: usize = 132 << 10;

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
#[derive(Debug)]
pub(crate) enum Piece {
    /// Records; possibly none, when no line is complete.
    Records(Vec<u8>),
    Nothing,
    /// The end, and the records before it.
    End(Vec<u8>),
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

    /// Reads once. Without a log the bytes are thrown away.
    pub(crate) fn read(&mut self, buffer: &mut [u8], logged: bool) -> Piece {
        let count = match read(self.fd.as_raw_fd(), buffer) {
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Piece::Nothing,
            // EIO: the last process has let go of the terminal.
            Err(_) => 0,
        };
        let mut records = Vec::new();
        let prefix = Prefix::new(since_epoch(), self.stream);
        if count == 0 {
            self.splitter.finish(&prefix, &mut records);
            return Piece::End(records);
        }
        if logged {
            let bytes = buffer.get(..count).unwrap_or_default();
            let most = self.splitter.most(bytes, &prefix);
            records.reserve_exact(if most > SMALL { most.max(MAPPED) } else { most });
            self.splitter.push(bytes, &prefix, &mut records);
        }
        Piece::Records(records)
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
    /// Lets go of a stream whose end has not come.
    pub(crate) fn finish(mut self, poll: &Poll) -> Vec<u8> {
        let mut records = Vec::new();
        let prefix = Prefix::new(since_epoch(), self.stream);
        self.splitter.finish(&prefix, &mut records);
        self.close(poll);
        records
    }
}
