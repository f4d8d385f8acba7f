//! A stream's two halves as their user sees them.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use crate::StreamError;

/// An open stream.
#[derive(Debug)]
pub struct Stream {}

impl Stream {
    /// The stream's id.
    pub fn id(&self) -> u32 {
        0
    }

    /// The first value of this header; names are in lower case.
    pub fn header(&self, _name: &str) -> Option<&str> {
        None
    }

    /// All headers, a pair for each value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        std::iter::empty()
    }

    /// The half that receives and the half that sends.
    pub fn split(self) -> (RecvStream, SendStream) {
        (RecvStream {}, SendStream {})
    }
}

/// What the client sends on a stream; dropped, the rest is thrown away unseen.
#[derive(Debug)]
pub struct RecvStream {}

impl RecvStream {
    /// The stream's id.
    pub fn id(&self) -> u32 {
        0
    }

    /// The next bytes; none after the client's FIN or at the end of the session. Cancel-safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        std::future::ready(Ok(None)).await
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What this side sends on a stream; dropped without `finish`, the stream is reset with `CANCEL`.
#[derive(Debug)]
pub struct SendStream {}

impl SendStream {
    /// The stream's id.
    pub fn id(&self) -> u32 {
        0
    }

    /// Sends these bytes; waits for room in the session's send buffer.
    pub async fn send(&mut self, data: Bytes) -> Result<(), StreamError> {
        drop(data);
        std::future::ready(Ok(())).await
    }

    /// Half-closes the stream; returns when all that was sent on it, FIN included, is written to the connection.
    pub async fn finish(self) -> Result<(), StreamError> {
        std::future::ready(Ok(())).await
    }

    /// Answers `RST_STREAM` with `CANCEL`.
    pub fn reset(self) {}
}
