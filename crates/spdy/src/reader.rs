//! The task that reads the connection.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::core::{Core, Over};
use crate::frame::{FIN, Frame, HEAD, Head, ID_MASK, UNIDIRECTIONAL, VERSION, kind, reset};
use crate::headers::Headers;
use crate::shared::{Handle, Shared};
use crate::zip::Inflater;
use crate::{Breach, End, Incoming};

/// One read takes at least and at most this much: who says little keeps a small buffer.
const READ_MIN: usize = 8 << 10;
const READ_MAX: usize = 128 << 10;
/// A chunk below this is copied, so that it does not hold the buffer of one read, eight times its size at most.
const COPY: usize = 16 << 10;
/// A deflated block may be larger than what it holds, by this at most.
const BLOCK_SLACK: usize = 1 << 10;
/// How often the client is probed while the connection is not read.
const PROBE: Duration = Duration::from_millis(250);
/// How long the connection waits for its user to accept streams, before all that come are refused until one is accepted.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads frames and deals them out.
pub(crate) struct Reader {
    buffer: BytesMut,
    want: usize,
    inflater: Inflater,
    shared: Arc<Shared>,
    handle: Weak<Handle>,
    /// None after the client's `GOAWAY`.
    incoming: Option<mpsc::Sender<Incoming>>,
    /// Whether the user accepted the last stream offered.
    accepting: bool,
    /// The stream that was given data and not told: its reader shall take all of one read at once.
    untold: Option<Arc<Core>>,
}

impl Reader {
    pub(crate) fn new(
        early: Bytes,
        handle: &Arc<Handle>,
        incoming: mpsc::Sender<Incoming>,
    ) -> Self {
        let shared = Arc::clone(&handle.shared);
        Self {
            buffer: BytesMut::from(early),
            want: READ_MIN,
            inflater: Inflater::new(shared.limits.header_bytes),
            shared,
            handle: Arc::downgrade(handle),
            incoming: Some(incoming),
            accepting: true,
            untold: None,
        }
    }

    /// Reads until the session must end.
    pub(crate) async fn run<R: AsyncRead + Unpin>(&mut self, io: &mut R) -> End {
        loop {
            if let Err(end) = self.frame(io).await {
                return end;
            }
        }
    }

    async fn frame<R: AsyncRead + Unpin>(&mut self, io: &mut R) -> Result<(), End> {
        self.fill(io, HEAD).await?;
        let mut head = [0; HEAD];
        self.buffer.copy_to_slice(&mut head);
        let head = Head::parse(head);
        if head.length() > self.shared.limits.frame_bytes {
            return Err(End::Protocol(Breach::FrameLength(head.length())));
        }
        self.shared.touch();
        match head {
            Head::Data { stream, flags, length } => self.data(io, stream, flags, length).await?,
            Head::Control { version: VERSION, kind, flags, length } => {
                self.control(io, kind, flags, length).await?;
            }
            Head::Control { version, .. } => return Err(End::Protocol(Breach::Version(version))),
        }
        if self.shared.outbox.is_strained() {
            self.tell();
            self.shared.outbox.ease().await;
        }
        Ok(())
    }

    /// Deals out a data frame as it comes, without waiting for the whole.
    async fn data<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
        stream: u32,
        flags: u8,
        mut left: usize,
    ) -> Result<(), End> {
        let core = self.target(stream);
        while left > 0 {
            if let Some(core) = &core {
                self.room(core).await;
            }
            self.fill(io, 1).await?;
            let length = left.min(self.buffer.len());
            match &core {
                Some(core) => self.push(core, length),
                None => self.buffer.advance(length),
            }
            left -= length;
        }
        if let Some(core) = core.filter(|_| flags & FIN != 0) {
            self.finish(&core);
        }
        Ok(())
    }

    fn push(&mut self, core: &Arc<Core>, length: usize) {
        if self.untold.as_ref().is_some_and(|untold| !Arc::ptr_eq(untold, core)) {
            self.tell();
        }
        core.push(take(&mut self.buffer, length), &self.shared.pool);
        self.untold.get_or_insert_with(|| Arc::clone(core));
    }

    /// Wakes who waits for what came. Due before this task waits for anything.
    fn tell(&mut self) {
        if let Some(core) = self.untold.take() {
            core.tell();
        }
    }

    /// The stream that data is for; none when it is to be thrown away.
    fn target(&self, stream: u32) -> Option<Arc<Core>> {
        let core = self.shared.find(stream);
        match &core {
            Some(core) if core.is_over() => {
                self.cut(core, reset::STREAM_ALREADY_CLOSED);
                return None;
            }
            // Data of a stream that was reset may be on its way still; of one never opened, not.
            None if stream > self.shared.last.load(Ordering::Relaxed) => {
                self.shared.outbox.urgent(Frame::reset(stream, reset::INVALID_STREAM));
            }
            Some(_) | None => {}
        }
        core
    }

    /// Waits until the stream may take another chunk.
    ///
    /// The client's death cannot be read meanwhile (its FIN is behind the data), and TCP tells of it only to who writes. An
    /// empty data frame is the one frame that a client does not answer: its answer would be stuck behind that data, and a
    /// client that waits for its own write reads no more.
    async fn room(&mut self, core: &Core) {
        let (most, most_of_all) =
            (self.shared.limits.stream_buffer, self.shared.limits.session_buffer);
        while !core.has_room(most, &self.shared.pool, most_of_all) {
            self.tell();
            let freed = self.shared.pool.freed.notified();
            if tokio::time::timeout(PROBE, freed).await.is_err() {
                let open =
                    Some(core.id).filter(|_| core.is_open()).or_else(|| self.shared.any_open());
                if let Some(stream) = open {
                    self.shared.outbox.if_quiet(Frame::data(stream, 0, Bytes::new()));
                }
            }
        }
    }

    async fn control<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
        kind: u16,
        flags: u8,
        length: usize,
    ) -> Result<(), End> {
        match kind {
            kind::SYN_STREAM => {
                let ([stream, _, _], block) = self.block::<_, 10>(io, kind, length).await?;
                self.open(stream & ID_MASK, flags, &block).await?;
            }
            kind::SYN_REPLY | kind::HEADERS => {
                let ([stream, _, _], _) = self.block::<_, 4>(io, kind, length).await?;
                if let Some(core) = self.shared.find(stream & ID_MASK).filter(|_| flags & FIN != 0)
                {
                    self.finish(&core);
                }
            }
            kind::RST_STREAM => {
                let [stream, status] = self.numbers(io, kind, length).await?;
                if let Some(core) = self.shared.find(stream & ID_MASK) {
                    core.end(Over::Reset(status));
                    self.shared.forget(core.id);
                }
            }
            kind::PING => {
                let [id] = self.numbers(io, kind, length).await?;
                if id % 2 == 1 {
                    self.shared.outbox.urgent(Frame::ping(id));
                }
            }
            kind::GOAWAY => {
                let [_, _] = self.numbers(io, kind, length).await?;
                self.incoming = None;
            }
            _ => self.skip(io, length).await?,
        }
        Ok(())
    }

    /// A stream that the client opens.
    async fn open(&mut self, id: u32, flags: u8, block: &[u8]) -> Result<(), End> {
        let last = self.shared.last.load(Ordering::Relaxed);
        if id == 0 || id < last {
            return Err(End::Protocol(Breach::StreamId(id)));
        }
        if id == last || id.is_multiple_of(2) {
            match self.shared.find(id) {
                Some(core) => self.cut(&core, reset::PROTOCOL_ERROR),
                None => self.shared.outbox.urgent(Frame::reset(id, reset::PROTOCOL_ERROR)),
            }
            return Ok(());
        }
        self.shared.last.store(id, Ordering::Relaxed);
        let Ok(headers) = Headers::parse(block, self.shared.limits.header_count) else {
            self.shared.outbox.urgent(Frame::reset(id, reset::PROTOCOL_ERROR));
            return Ok(());
        };
        let core = Arc::new(Core::new(id));
        let handle =
            self.handle.upgrade().filter(|_| self.incoming.is_some() && self.shared.add(&core));
        let Some(handle) = handle else {
            self.shared.outbox.urgent(Frame::reset(id, reset::REFUSED_STREAM));
            return Ok(());
        };
        if flags & FIN != 0 {
            core.end(Over::Fin);
        }
        let incoming = Incoming::new(core, handle, headers, flags & UNIDIRECTIONAL != 0);
        self.offer(incoming).await;
        Ok(())
    }

    /// Offers a stream to the session's user. Dropped, it refuses itself.
    async fn offer(&mut self, incoming: Incoming) {
        self.tell();
        let Some(queue) = &self.incoming else { return };
        self.accepting = match queue.try_send(incoming) {
            Ok(()) => true,
            Err(TrySendError::Full(incoming)) if self.accepting => {
                tokio::time::timeout(PATIENCE, queue.send(incoming)).await.is_ok()
            }
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
        };
    }

    /// The client's FIN.
    fn finish(&self, core: &Core) {
        if core.end(Over::Fin) {
            self.shared.forget(core.id);
        }
    }

    /// Resets a stream for the client's fault.
    fn cut(&self, core: &Core, status: u32) {
        core.end(Over::Reset(status));
        self.shared.forget(core.id);
        self.shared.outbox.urgent(Frame::reset(core.id, status));
    }

    /// A frame of `FIXED` bytes and a header block: the first three words of the former, and the latter inflated.
    async fn block<R: AsyncRead + Unpin, const FIXED: usize>(
        &mut self,
        io: &mut R,
        kind: u16,
        length: usize,
    ) -> Result<([u32; 3], Vec<u8>), End> {
        let most = self.shared.limits.header_bytes;
        if length < FIXED {
            return Err(End::Protocol(Breach::Malformed { kind, length }));
        }
        if length > FIXED + most + BLOCK_SLACK {
            return Err(End::Protocol(Breach::HeaderBytes(most)));
        }
        self.fill(io, length).await?;
        let mut frame = self.buffer.split_to(length);
        let mut fixed = frame.split_to(FIXED);
        let words = [0; 3].map(|_: u32| fixed.try_get_u32().unwrap_or_default());
        Ok((words, self.inflater.inflate(&frame).map_err(End::Protocol)?))
    }

    /// A frame of exactly these words.
    async fn numbers<R: AsyncRead + Unpin, const N: usize>(
        &mut self,
        io: &mut R,
        kind: u16,
        length: usize,
    ) -> Result<[u32; N], End> {
        if length != N * 4 {
            return Err(End::Protocol(Breach::Malformed { kind, length }));
        }
        self.fill(io, length).await?;
        Ok([0; N].map(|_: u32| self.buffer.get_u32()))
    }

    async fn skip<R: AsyncRead + Unpin>(&mut self, io: &mut R, mut left: usize) -> Result<(), End> {
        while left > 0 {
            self.fill(io, 1).await?;
            let length = left.min(self.buffer.len());
            self.buffer.advance(length);
            left -= length;
        }
        Ok(())
    }

    /// Reads until there are this many bytes.
    async fn fill<R: AsyncRead + Unpin>(&mut self, io: &mut R, length: usize) -> Result<(), End> {
        while self.buffer.len() < length {
            let room = self.buffer.capacity() - self.buffer.len();
            if room < self.want / 2 {
                self.buffer.reserve(self.want);
            }
            self.tell();
            let room = self.buffer.capacity() - self.buffer.len();
            let read = io.read_buf(&mut self.buffer).await.map_err(|error| broken(&error))?;
            if read == 0 {
                return Err(End::Gone);
            }
            self.adapt(read, room);
        }
        Ok(())
    }

    fn adapt(&mut self, read: usize, room: usize) {
        if read == room {
            self.want = (self.want * 2).min(READ_MAX);
        } else if read < self.want / 8 {
            self.want = (self.want / 2).max(READ_MIN);
        }
    }
}

/// A chunk of a stream's data.
fn take(buffer: &mut BytesMut, length: usize) -> Bytes {
    let chunk = buffer.split_to(length);
    if length < COPY { Bytes::copy_from_slice(&chunk) } else { chunk.freeze() }
}

/// What an error of the connection means.
pub(crate) fn broken(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::UnexpectedEof => End::Gone,
        kind => End::Broken(kind),
    }
}

/// Reads what the client still says, into nothing: closing over unread data would reset the connection, and the client
/// would lose what it has not read.
pub(crate) async fn drain<R: AsyncRead + Unpin>(io: &mut R) {
    let mut scratch = BytesMut::with_capacity(READ_MIN);
    while io.read_buf(&mut scratch).await.is_ok_and(|read| read > 0) {
        scratch.clear();
    }
}
