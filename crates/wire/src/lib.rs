//! The words between the daemon, a pod's shim, and launch or enter: frames of protobuf messages on unix sockets, with
//! file descriptors.
//!
//! * [`v1`]: the messages, generated from `proto/shim/v1.proto`, which is append-only;
//! * [`frame`]: a message as bytes and back, whatever the pieces it comes in (pure);
//! * [`socket`]: frames and descriptors over a socket, blocking ([`send`], [`recv`]) and not ([`receive`], [`Outbox`]);
//! * [`exits`]: the file in which a shim records the ends of its containers;
//! * [`inherited`]: the numbers of the descriptors that a shim, a launch and enter find open.
//!
//! It has no runtime and no thread, because the shim has neither to spare: the daemon's tokio client and the
//! shim's epoll loop both drive [`receive`] and [`Outbox`] when the socket is ready.
//!
//! # Decisions
//! * A frame is a little-endian `u32` length and that many bytes, at most [`frame::MAX_FRAME`]. A longer one ends
//!   the connection.
//! * The descriptors of a frame travel with its first byte, and each frame is sent by itself. The kernel ends a
//!   read after the bytes that carry descriptors, so they belong to the last frame that begins in what was read.
//! * Maps are `BTreeMap`s: the same message is the same bytes.

pub mod exits;
pub mod frame;
pub mod inherited;
mod kind;
#[expect(unsafe_code, reason = "a received descriptor is a number until it is owned")]
mod raw;
pub mod socket;

pub use frame::{Decoder, Frame, FrameError, encode};
pub use inherited::*;
pub use socket::{Outbox, Received, SocketError, receive, recv, send};

/// The messages of `proto/shim/v1.proto`.
#[expect(
    missing_docs,
    clippy::pedantic,
    clippy::large_enum_variant,
    reason = "generated code, which the generator's authors lint; its comments are in the proto file"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/ferropod.shim.v1.rs"));
}

/// The version of the words that this build speaks.
pub const VERSION: u32 = 1;
