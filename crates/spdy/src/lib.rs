//! SPDY/3.1 sessions of the server's side, over any connection: what Kubernetes' exec, attach and port-forward speak.

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
