//! SPDY/3.1 sessions of the server's side, over any connection: what Kubernetes' exec, attach and port-forward speak.
//!
//! ```text
//! connection ==> reader task --> stream's queue --> RecvStream       Session::accept --> Incoming --> Stream
//!                    | answers (PING, RST_STREAM)
//!                    v
//! connection <== writer task <-- outbox <-- SendStream
//! ```
//!
//! * `session`: starting, accepting, ending; the two tasks. `stream`: the halves of a stream as their user holds them.
//! * `reader`: frames of the connection, dealt out as they come. `writer`: batches of frames, each in one vectored write.
//! * `outbox`: what waits for the writer: answers, which overtake, and data. `core`: one stream's state and queue.
//! * `shared`: what tasks and handles share, the table of streams, and the session's end.
//! * `frame`, `headers`, `zip`, `dictionary`: the wire. `limits`: what a client may cost. `error`: why things end.
//!
//! It stands alone: it may not depend on HTTP (the upgrade is done before), on pods, or on any crate of this project, so that
//! it can be tested against other clients of SPDY, and used by others.
//!
//! # What its user must know
//! * There is no flow control: Kubernetes' clients neither send nor obey `WINDOW_UPDATE`, so it is ignored and never
//!   sent, as `SETTINGS` is. TCP is the only back-pressure. **A stream whose reader is more than `Limits::stream_buffer` behind
//!   stops the reading of the whole connection**, other streams' data, resets and pings included. Drop a [`RecvStream`] that
//!   is not wanted: its data is then thrown away and stalls nobody.
//! * A session that ends is an error to who receives, unless the client had sent its FIN: what came may be a part only.
//! * Dropping a [`SendStream`] without `finish` resets the stream in both directions. To only receive, keep it or finish it.
//! * `finish` returns once the FIN is written to the connection. Whoever finishes all streams before [`Session::close`] has lost
//!   nothing, however slow the client reads; what is merely queued at `close` has `Limits::flush` to go out.
//! * Streams are replied in `accept`, at once, because clients drop data that comes before the reply.
//! * A frame either way, PING too, keeps an idle session alive, as it does in the reference server.
//!
//! # Decisions
//! * Memory is bounded per session: header blocks before they are inflated and before anything is allocated for what
//!   they count; queues by bytes, a tiny chunk counting as 64 more; answers that the client does not read (1,024
//!   frames, and as many ends of streams as there may be streams besides) and streams that nobody accepts (64) by reading no
//!   further. Data frames are dealt out in pieces, so that a frame of 16 MiB needs no more room than a small one.
//! * Data is sent in frames of up to 256 KiB: Go's client makes three reads and an allocation of each, and took 1.0 GB/s so where
//!   it took 0.8 of 64 KiB and 0.7 of 16 (two cores, five processes on the way). A stream's reader is woken once for all that
//!   one read of the connection brought it.
//! * Nothing is copied but chunks below 16 KiB: those would hold a read buffer of up to 128 KiB each.
//! * The client's death behind unread data cannot be read. While a full stream stops the reading, an empty data frame
//!   goes out four times a second, if nothing else does: writing is how TCP tells. Not a PING: its answer would wait
//!   behind the data that is stuck, and a client's reader blocked by that could need what this side sends.
//! * At the end the connection is shut down for writing and read until the client closes too (`Limits::linger`):
//!   closing over unread data is a reset, which can cost the client the last bytes.
//! * This side's header blocks are stored, not compressed: it only ever sends an empty `SYN_REPLY`, and a deflate state would
//!   hold 268 KiB per session.
//! * `SYN_STREAM` with a lower id than before ends the session; with the same id, or an even one, it is an error of the stream, as
//!   the draft has it. So is a bad header block, unless it cannot be inflated: then the two ends' zlib states differ for good.
//!
//! # Measured
//! Over a unix socket pair, client and server on one thread of a busy machine of two cores (`tests::speed`): receiving 2.2 GB/s
//! in frames of 32 KiB and 2.3 of 64 KiB, sending 2.2 and 2.0; the bare socket did 2.0 to 3.1. Go's spdystream 0.5.1 as client over TCP: 0.8 GB/s from
//! it, 1.2 GB/s to it; killed while its data was stuck, it was noticed within 0.3 s; after 6,000 sessions cut in the middle
//! the server had as many descriptors as before, and as much memory as after the first 2,000.

mod core;
mod dictionary;
mod error;
mod frame;
mod headers;
mod limits;
mod outbox;
mod reader;
mod session;
mod shared;
mod stream;
#[cfg(test)]
mod tests;
mod writer;
mod zip;

pub use error::{Breach, End, StreamError};
pub use limits::Limits;
pub use session::{Incoming, Session};
pub use stream::{RecvStream, SendStream, Stream};
