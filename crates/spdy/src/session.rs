//! The session as its user sees it.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::core::Core;
use crate::frame::reset;
use crate::headers::Headers;
use crate::reader::{self, Reader};
use crate::shared::{Handle, Shared};
use crate::stream::{RecvStream, SendStream, Tie};
use crate::{End, Limits, Stream, writer};

/// Streams that wait to be accepted; for one more the connection waits a second, then it is refused.
const BACKLOG: usize = 64;

/// One connection's SPDY session; when it and all its streams are dropped, the connection is closed.
#[derive(Debug)]
pub struct Session {
    handle: Arc<Handle>,
    incoming: mpsc::Receiver<Incoming>,
}

impl Session {
    /// Speaks SPDY on this connection; `early` are bytes already read from it. Must be called within a tokio runtime.
    pub fn serve<IO>(io: IO, early: Bytes, limits: Limits) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shared = Arc::new(Shared::new(limits));
        let handle = Arc::new(Handle { shared: Arc::clone(&shared) });
        let (queue, incoming) = mpsc::channel(BACKLOG);
        let (read, write) = tokio::io::split(io);
        let (written, flushed) = oneshot::channel();
        let reader = Reader::new(early, &handle, queue);
        drop(tokio::spawn(read_all(read, reader, flushed, Closing(Arc::clone(&shared)))));
        drop(tokio::spawn(write_all(write, shared, written)));
        Self { handle, incoming }
    }

    /// The next stream that the client opened; none when the client opens no more. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// Why the session ended, once it has. Cancel-safe; any number may wait.
    pub fn ended(&self) -> impl Future<Output = End> + Send + use<> {
        let shared = Arc::clone(&self.handle.shared);
        async move { shared.ended().await }
    }

    /// Says `GOAWAY` after all that was sent, and closes the connection; streams still held end.
    pub async fn close(self) {
        let shared = Arc::clone(&self.handle.shared);
        shared.end(End::Closed);
        drop(self);
        shared.closed().await;
    }
}

#[cfg(test)]
impl Session {
    /// The session's insides, for tests that count.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.handle.shared)
    }
}

/// Ends the session, whatever becomes of its reader.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.end(End::Gone);
        self.0.set_closed();
    }
}

/// The reader's task. It goes on reading while the writer says its last, and then until the client closes too.
async fn read_all<IO: AsyncRead>(
    mut io: ReadHalf<IO>,
    mut reader: Reader,
    flushed: oneshot::Receiver<()>,
    closing: Closing,
) {
    let shared = Arc::clone(&closing.0);
    // Dropping `run` half-way loses nothing: it is never called again.
    tokio::select! {
        biased;
        _ = shared.ended() => {}
        end = reader.run(&mut io) => shared.end(end),
        () = shared.idle() => shared.end(End::Idle),
    }
    drop(reader);
    let patience = async {
        drop(flushed.await);
        if !matches!(shared.ended().await, End::Gone | End::Broken(_)) {
            tokio::time::sleep(shared.limits.linger).await;
        }
    };
    tokio::select! {
        () = reader::drain(&mut io) => {}
        () = patience => {}
    }
    drop(io);
    drop(closing);
}

/// The writer's task; `written` is dropped when it is done.
async fn write_all<IO: AsyncWrite>(
    mut io: WriteHalf<IO>,
    shared: Arc<Shared>,
    written: oneshot::Sender<()>,
) {
    let overdue = async {
        if !matches!(shared.ended().await, End::Gone | End::Broken(_)) {
            tokio::time::sleep(shared.limits.flush).await;
        }
    };
    tokio::select! {
        done = writer::run(&mut io, &shared) => {
            if let Err(error) = done {
                shared.end(reader::broken(&error));
            }
        }
        () = overdue => {}
    }
    shared.outbox.kill();
    drop(io);
    drop(written);
}

/// A stream that the client wants to open; dropped, it is refused.
#[derive(Debug)]
pub struct Incoming {
    stream: Stream,
    one_way: bool,
}

impl Incoming {
    pub(crate) fn new(
        core: Arc<Core>,
        handle: Arc<Handle>,
        headers: Headers,
        one_way: bool,
    ) -> Self {
        let tie = Tie { core, handle };
        let send = SendStream::new(tie.clone(), reset::REFUSED_STREAM);
        Self { stream: Stream { recv: RecvStream::new(tie), send, headers }, one_way }
    }

    /// The stream's id.
    pub fn id(&self) -> u32 {
        self.stream.id()
    }

    /// The first value of this header; names are in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.stream.header(name)
    }

    /// All headers, a pair for each value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.stream.headers()
    }

    /// Opens the stream: `SYN_REPLY` goes out at once, before any data that waits.
    pub fn accept(self) -> Stream {
        let mut stream = self.stream;
        stream.send.open(self.one_way);
        stream
    }

    /// Answers `RST_STREAM` with `REFUSED_STREAM`.
    pub fn refuse(self) {
        drop(self);
    }
}
