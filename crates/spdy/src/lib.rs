//! SPDY/3.1 sessions of the server's side, over any connection: what Kubernetes' exec, attach and port-forward speak.

mod error;
mod limits;
mod session;
mod stream;

pub use error::{Breach, End, StreamError};
pub use limits::Limits;
pub use session::{Incoming, Session};
pub use stream::{RecvStream, SendStream, Stream};
