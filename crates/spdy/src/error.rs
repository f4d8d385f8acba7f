//! Why a session or a stream is over.

use std::io;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum End {
    /// This side closed it, or let go of its last handle.
    #[error("the session was closed")]
    Closed,
    /// The client closed the connection.
    #[error("the client closed the connection")]
    Gone,
    /// Nothing was said for as long as the limits allow.
    #[error("the session was idle for too long")]
    Idle,
    /// The client broke the protocol.
    #[error("the client broke the protocol: {0}")]
    Protocol(Breach),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(io::ErrorKind),
}

/// What a client did that ends its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Breach {
    /// A control frame of another version of SPDY.
    #[error("a control frame of version {0}")]
    Version(u16),
    /// A frame beyond the limit.
    #[error("a frame of {0} bytes")]
    FrameLength(usize),
    /// A frame whose length does not fit its type.
    #[error("a frame of type {kind} with {length} bytes")]
    Malformed {
        /// The frame's type.
        kind: u16,
        /// The length of its payload.
        length: usize,
    },
    /// A stream id that was passed already, or zero.
    #[error("stream {0} opened out of order")]
    StreamId(u32),
    /// A header block that is no zlib data of this connection.
    #[error("a header block that cannot be inflated")]
    Inflate,
    /// A header block beyond the limit once inflated.
    #[error("a header block of more than {0} bytes")]
    HeaderBytes(usize),
}

/// Why a stream carries nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The client reset the stream.
    #[error("the client reset the stream with status {0}")]
    Reset(u32),
    /// This direction is not open: the client opened the stream one-way.
    #[error("the stream is closed in this direction")]
    Closed,
    /// The session is over; `Session::ended` says why.
    #[error("the session is over")]
    Ended,
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::Reset(_) => io::ErrorKind::ConnectionReset,
            StreamError::Closed | StreamError::Ended => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}
