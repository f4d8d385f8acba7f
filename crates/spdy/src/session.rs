//! The session as its user sees it.

use std::future::Future;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{End, Limits, Stream};

/// One connection's SPDY session; when it and all its streams are dropped, the connection is closed.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// Speaks SPDY on this connection; `early` are bytes already read from it.
    pub fn serve<IO>(io: IO, early: Bytes, limits: Limits) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        drop((io, early, limits));
        Self {}
    }

    /// The next stream that the client opened; none when the client opens no more. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Incoming> {
        std::future::ready(None).await
    }

    /// Why the session ended, once it has.
    pub fn ended(&self) -> impl Future<Output = End> + Send + use<> {
        std::future::ready(End::Closed)
    }

    /// Says `GOAWAY` after all that was sent, and closes the connection.
    pub async fn close(self) {
        std::future::ready(()).await;
    }
}

/// A stream that the client wants to open.
#[derive(Debug)]
pub struct Incoming {
    stream: Stream,
}

impl Incoming {
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

    /// Opens the stream: `SYN_REPLY` goes out at once.
    pub fn accept(self) -> Stream {
        self.stream
    }

    /// Answers `RST_STREAM` with `REFUSED_STREAM`.
    pub fn refuse(self) {}
}
