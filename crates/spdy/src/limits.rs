//! What one client may cost.

use std::time::Duration;

/// The bounds of one session; the default fits a node that serves many.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams open at once; one more is refused.
    pub streams: usize,
    /// Name and value pairs in one header block.
    pub header_count: usize,
    /// Bytes of one header block, inflated.
    pub header_bytes: usize,
    /// Bytes of one frame's payload; a longer frame ends the session.
    pub frame_bytes: usize,
    /// Bytes kept for one stream whose reader is behind; beyond it the connection is not read.
    pub stream_buffer: usize,
    /// Bytes kept for all streams of the session together.
    pub session_buffer: usize,
    /// Bytes of data taken from senders and not yet written to the connection.
    pub send_buffer: usize,
    /// A session without a frame either way for this long is ended.
    pub idle: Option<Duration>,
    /// How long writing the last frames may take when the session closes.
    pub flush: Duration,
    /// How long the client may take to close its half after that.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 4096,
            header_count: 64,
            header_bytes: 32 << 10,
            frame_bytes: (1 << 24) - 1,
            stream_buffer: 256 << 10,
            session_buffer: 4 << 20,
            send_buffer: 512 << 10,
            idle: None,
            flush: Duration::from_secs(10),
            linger: Duration::from_secs(1),
        }
    }
}
