//! Frames over a unix stream socket.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use names::Kind;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use prost::Message;

use crate::frame::{Decoder, FrameError, MAX_FDS, encode};
use crate::raw;

/// Why a frame did not pass. The connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The bytes are not frames.
    #[error("unreadable frames")]
    Frame(#[from] FrameError),
    /// The socket would not take them.
    #[error("sending on the socket")]
    Send(#[source] Errno),
    /// The socket would not give them.
    #[error("receiving from the socket")]
    Receive(#[source] Errno),
    /// Descriptors were lost: the control buffer or the table of descriptors is full.
    #[error("descriptors were lost on the way")]
    Truncated,
    /// The other end closed the socket before a whole frame had come.
    #[error("the socket was closed")]
    Closed,
    /// More is waiting to be sent than the outbox holds.
    #[error("the other end does not read: {0} bytes wait")]
    Full(usize),
}

impl SocketError {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Closed | Self::Full(_) => Kind::Unavailable,
            Self::Frame(_) | Self::Send(_) | Self::Receive(_) | Self::Truncated => Kind::Internal,
        }
    }
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes, which the decoder has now.
    Some,
    /// Nothing now.
    Blocked,
    /// The end: the other side closed it.
    Closed,
}

/// What is left after a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing.
    All,
    /// Something, until the socket is writable again.
    Blocked,
}

/// Frames that wait for a socket that does not block.
#[derive(Debug)]
pub struct Outbox {
    waiting: VecDeque<Outgoing>,
    bytes: usize,
    bound: usize,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// Sends one frame and waits until the socket has taken all of it.
pub fn send<Fd: AsFd, M: Message>(
    socket: Fd,
    message: &M,
    fds: &[BorrowedFd<'_>],
) -> Result<(), SocketError> {
    let bytes = encode(message)?;
    let mut sent = write_some(socket.as_fd(), &bytes, fds, MsgFlags::empty())?;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        sent += write_some(socket.as_fd(), rest, &[], MsgFlags::empty())?;
    }
    Ok(())
}

/// Waits for one frame and reads nothing past it.
pub fn recv<Fd: AsFd, M: Message + Default>(socket: Fd) -> Result<(M, Vec<OwnedFd>), SocketError> {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; 8 << 10];
    loop {
        let most = decoder.missing().min(buffer.len());
        let room = buffer.get_mut(..most).unwrap_or_default();
        if read_some(socket.as_fd(), room, &mut decoder, MsgFlags::empty())? == Received::Closed {
            return Err(SocketError::Closed);
        }
        if let Some(frame) = decoder.next_frame() {
            return Ok((frame.decode()?, frame.fds));
        }
    }
}

/// Reads once, without waiting, into the decoder. Descriptors are close-on-exec.
pub fn receive<Fd: AsFd>(
    socket: Fd,
    buffer: &mut [u8],
    decoder: &mut Decoder,
) -> Result<Received, SocketError> {
    read_some(socket.as_fd(), buffer, decoder, MsgFlags::MSG_DONTWAIT)
}

fn read_some(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    decoder: &mut Decoder,
    flags: MsgFlags,
) -> Result<Received, SocketError> {
    let mut control = nix::cmsg_space!([i32; MAX_FDS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let (length, fds, lost) = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) => {
                let fds = message.cmsgs().map_err(SocketError::Receive)?.flat_map(descriptors);
                let fds: Vec<OwnedFd> = fds.collect();
                break (message.bytes, fds, message.flags.contains(MsgFlags::MSG_CTRUNC));
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(Received::Blocked),
            Err(Errno::ECONNRESET) => return Ok(Received::Closed),
            Err(error) => return Err(SocketError::Receive(error)),
        }
    };
    if lost {
        return Err(SocketError::Truncated);
    }
    if length == 0 {
        return Ok(Received::Closed);
    }
    decoder.push(buffer.get(..length).unwrap_or_default(), fds)?;
    Ok(Received::Some)
}

fn descriptors(message: ControlMessageOwned) -> Vec<OwnedFd> {
    match message {
        ControlMessageOwned::ScmRights(numbers) => raw::own(&numbers),
        _ => Vec::new(),
    }
}

fn write_some(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: MsgFlags,
) -> Result<usize, SocketError> {
    if fds.len() > MAX_FDS {
        return Err(FrameError::TooManyDescriptors(fds.len()).into());
    }
    let numbers: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[] } else { rights.as_slice() };
    let parts = [IoSlice::new(bytes)];
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &parts, control, flags, None) {
            Err(Errno::EINTR) => {}
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(SocketError::Closed),
            result => return result.map_err(SocketError::Send),
        }
    }
}

// === impl Outbox ===

impl Outbox {
    /// An outbox that holds at most this many bytes.
    pub const fn new(bound: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, bound }
    }

    /// Puts a frame in line. An error means that the other end has not read for too long.
    pub fn push<M: Message>(&mut self, message: &M, fds: Vec<OwnedFd>) -> Result<(), SocketError> {
        let bytes = encode(message)?;
        if fds.len() > MAX_FDS {
            return Err(FrameError::TooManyDescriptors(fds.len()).into());
        }
        if !self.waiting.is_empty() && self.bytes + bytes.len() > self.bound {
            return Err(SocketError::Full(self.bytes));
        }
        self.bytes += bytes.len();
        self.waiting.push_back(Outgoing { bytes, sent: 0, fds });
        Ok(())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends what the socket takes without waiting.
    pub fn flush<Fd: AsFd>(&mut self, socket: Fd) -> Result<Flushed, SocketError> {
        while let Some(first) = self.waiting.front_mut() {
            let fds: Vec<BorrowedFd<'_>> = first.fds.iter().map(AsFd::as_fd).collect();
            let rest = first.bytes.get(first.sent..).unwrap_or_default();
            match write_some(socket.as_fd(), rest, &fds, MsgFlags::MSG_DONTWAIT) {
                Err(SocketError::Send(Errno::EAGAIN)) => return Ok(Flushed::Blocked),
                Err(error) => return Err(error),
                Ok(count) => self.advance(count),
            }
        }
        // Give the memory back: a shim waits here for days.
        self.waiting = VecDeque::new();
        Ok(Flushed::All)
    }

    fn advance(&mut self, count: usize) {
        self.bytes = self.bytes.saturating_sub(count);
        if let Some(first) = self.waiting.front_mut() {
            // The first byte took the descriptors along.
            first.fds.clear();
            first.sent += count;
            if first.sent >= first.bytes.len() {
                self.waiting.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;
    use crate::v1::{Envelope, Failure, envelope};

    fn envelope(id: u64, size: usize) -> Envelope {
        let failure = Failure { message: "x".repeat(size), ..Failure::default() };
        Envelope { id, body: Some(envelope::Body::Failure(failure)) }
    }

    fn file_with(text: &str) -> File {
        use std::io::Seek;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    }

    fn text_of(fd: OwnedFd) -> String {
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn a_blocking_reader_gets_each_frame_with_its_descriptors_and_no_more() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let files = [file_with("one"), file_with("two")];
        send(&ours, &envelope(1, 0), &[]).unwrap();
        send(&ours, &envelope(2, 3), &[files[0].as_fd(), files[1].as_fd()]).unwrap();
        send(&ours, &envelope(3, 0), &[]).unwrap();
        drop(ours);
        let (first, fds): (Envelope, _) = recv(&theirs).unwrap();
        assert_eq!((first.id, fds.len()), (1, 0));
        let (second, fds): (Envelope, _) = recv(&theirs).unwrap();
        assert_eq!(second, envelope(2, 3));
        for fd in &fds {
            let flags =
                FdFlag::from_bits_truncate(fcntl(fd.as_raw_fd(), FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
        assert_eq!(fds.into_iter().map(text_of).collect::<Vec<_>>(), ["one", "two"]);
        let (third, fds): (Envelope, _) = recv(&theirs).unwrap();
        assert_eq!((third.id, fds.len()), (3, 0));
        assert!(matches!(recv::<_, Envelope>(&theirs), Err(SocketError::Closed)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn an_outbox_sends_frames_larger_than_the_socket_in_pieces_and_fds_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::new(8 << 20);
        let mut decoder = Decoder::new();
        let mut got = Vec::new();
        for id in 0..5 {
            let name = format!("file {id}");
            outbox.push(&envelope(id, 600 << 10), vec![file_with(&name).into()]).unwrap();
            outbox.push(&envelope(100 + id, 1), Vec::new()).unwrap();
        }
        let mut buffer = vec![0; 10_000];
        while got.len() < 10 {
            outbox.flush(&ours).unwrap();
            while receive(&theirs, &mut buffer, &mut decoder).unwrap() == Received::Some {}
            while let Some(mut frame) = decoder.next_frame() {
                let text = frame.fds.pop().map(text_of);
                got.push((frame.decode::<Envelope>().unwrap().id, text));
            }
        }
        let expected = (0..5).flat_map(|id| [(id, Some(format!("file {id}"))), (100 + id, None)]);
        assert_eq!(got, expected.collect::<Vec<_>>());
        assert_eq!(outbox.flush(&ours).unwrap(), Flushed::All);
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn an_outbox_that_nobody_reads_is_bounded() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::new(100 << 10);
        let full = (0..1000).find_map(|id| {
            outbox.push(&envelope(id, 10 << 10), Vec::new()).err().or_else(|| {
                outbox.flush(&ours).unwrap();
                None
            })
        });
        assert!(matches!(full, Some(SocketError::Full(bytes)) if bytes <= 100 << 10));
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn a_closed_socket_is_an_error_and_not_a_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(matches!(send(&ours, &envelope(1, 1), &[]), Err(SocketError::Closed)));
    }
}
