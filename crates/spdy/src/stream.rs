//! A stream and its two halves as their user sees them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, ReadBuf};

use crate::StreamError;
use crate::core::{Core, Over};
use crate::frame::{Frame, reset};
use crate::headers::Headers;
use crate::shared::{Handle, Shared};

/// What a half holds of its stream and its session.
#[derive(Debug, Clone)]
pub(crate) struct Tie {
    pub(crate) core: Arc<Core>,
    pub(crate) handle: Arc<Handle>,
}

impl Tie {
    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}

/// An open stream.
#[derive(Debug)]
pub struct Stream {
    pub(crate) recv: RecvStream,
    pub(crate) send: SendStream,
    pub(crate) headers: Headers,
}

impl Stream {
    /// The stream's id.
    pub fn id(&self) -> u32 {
        self.recv.id()
    }

    /// The first value of this header; names are in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.first(name)
    }

    /// All headers, a pair for each value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter()
    }

    /// The half that receives and the half that sends.
    ///
    /// To only receive, keep the sending half too: dropping it resets the stream in both directions.
    pub fn split(self) -> (RecvStream, SendStream) {
        (self.recv, self.send)
    }
}

/// What the client sends on a stream; dropped, the rest is thrown away unseen.
///
/// Who holds this and does not read it holds up the whole connection once `Limits::stream_buffer` is full.
#[derive(Debug)]
pub struct RecvStream {
    tie: Tie,
    /// What `poll_read` has not given out yet.
    rest: Bytes,
}

impl RecvStream {
    pub(crate) fn new(tie: Tie) -> Self {
        Self { tie, rest: Bytes::new() }
    }

    /// The stream's id.
    pub fn id(&self) -> u32 {
        self.tie.core.id
    }

    /// The next bytes; none after the client's FIN. A session that ends before it is an error: what came may be a part only.
    /// Cancel-safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// Appends all bytes that have come, after waiting for the first of them; none after the client's FIN. Gives their number;
    /// errors as of [`Self::chunk`]. Cancel-safe.
    pub async fn chunks(&mut self, into: &mut Vec<Bytes>) -> Result<usize, StreamError> {
        let Some(first) = self.chunk().await? else { return Ok(0) };
        let length = first.len();
        into.push(first);
        Ok(length + self.tie.core.take(into, &self.tie.shared().pool))
    }

    fn poll_chunk(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        self.tie.core.poll_chunk(cx, &self.tie.shared().pool)
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            self.rest = ready!(self.poll_chunk(cx))?.unwrap_or_default();
        }
        let length = self.rest.len().min(buf.remaining());
        buf.put_slice(self.rest.get(..length).unwrap_or_default());
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.tie.core.discard(&self.tie.shared().pool);
    }
}

/// What this side sends on a stream; dropped without `finish`, the stream is reset with `CANCEL`.
#[derive(Debug)]
pub struct SendStream {
    tie: Tie,
    /// What the client is told when this is dropped.
    dropped: Option<u32>,
}

impl SendStream {
    pub(crate) fn new(tie: Tie, dropped: u32) -> Self {
        Self { tie, dropped: Some(dropped) }
    }

    /// Replies to the client; a stream that it opened one-way gets no reply, and nothing else.
    pub(crate) fn open(&mut self, one_way: bool) {
        if one_way {
            self.dropped = None;
            self.done();
        } else {
            self.dropped = Some(reset::CANCEL);
            if self.tie.core.reply() {
                self.tie.shared().outbox.reply(self.tie.core.id);
            }
        }
    }

    /// The stream's id.
    pub fn id(&self) -> u32 {
        self.tie.core.id
    }

    /// Sends these bytes in frames of 256 KiB at most; waits for room before each, in turn with the session's other streams.
    ///
    /// Dropped half-way, it may have sent a part.
    pub async fn send(&mut self, data: Bytes) -> Result<(), StreamError> {
        let core = &self.tie.core;
        self.tie.shared().outbox.data(core.id, data, || core.check()).await
    }

    /// Half-closes the stream; returns when all that was sent on it, FIN included, is written to the connection.
    pub async fn finish(mut self) -> Result<(), StreamError> {
        self.tie.core.check()?;
        self.dropped = None;
        let written = self.tie.shared().outbox.fin(self.tie.core.id);
        self.done();
        written.await.map_err(|_| StreamError::Ended)
    }

    /// Answers `RST_STREAM` with `CANCEL`, after what was sent.
    pub fn reset(self) {
        drop(self);
    }

    fn done(&self) {
        if self.tie.core.finish() {
            self.tie.shared().forget(self.tie.core.id);
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let Some(status) = self.dropped else { return };
        let (core, shared) = (&self.tie.core, self.tie.shared());
        if core.check().is_ok() {
            core.end(Over::Cut);
            shared.forget(core.id);
            shared.pool.freed.notify_one();
            shared.outbox.after(Frame::reset(core.id, status));
        }
    }
}
