//! The client of a shim's socket: requests by number over one connection, events to a channel.
//!
//! ```text
//! Client::request ──mpsc──> connection task ──frames──> shim
//!        ^ oneshot by id <──────┤
//! Receiver<Event> <─────────────┘   Exited, ExecExited, and Gone as the last
//! ```
//!
//! The connection task owns the socket and the requests that wait for an answer, nothing else. It ends, and so does the
//! connection, when the last [`Client`] is dropped or the shim is gone; then every waiting request gets
//! [`RequestError::Gone`].
//!
//! Every method is cancel-safe: a request that was handed over is sent whole, and its answer is dropped.

mod connection;
mod request;
mod terminal;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use names::Kind;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use tokio::io::Interest;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

pub use connection::Event;
pub use request::{ExecStdio, Joined, Joining, Namespaces, RequestError};
pub use terminal::Master;
pub use wire::v1;

use crate::raw;

/// Why there is no connection to a shim.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens: the shim is gone.
    #[error("no shim listens at {name}")]
    Gone {
        /// The socket's name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket itself.
    #[error("connect to the shim at {name}")]
    Socket {
        /// The socket's name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The shim did not answer in time.
    #[error("the shim at {name} does not answer")]
    Silent {
        /// The socket's name.
        name: String,
    },
    /// The first answer.
    #[error("greet the shim")]
    Hello(#[source] RequestError),
    /// The shim is from a build that this one does not know.
    #[error("the shim speaks version {0} and this daemon {ours}", ours = wire::VERSION)]
    Version(u32),
}

impl ConnectError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Gone { .. } => Kind::NotFound,
            Self::Socket { .. } => Kind::Internal,
            Self::Silent { .. } => Kind::TimedOut,
            Self::Hello(error) => error.kind(),
            Self::Version(_) => Kind::Unsupported,
        }
    }
}

/// A connection to one pod's shim. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    requests: mpsc::UnboundedSender<Box<connection::Request>>,
}

/// What a shim executes, open to be executed.
#[derive(Debug, Clone, Copy)]
pub struct Programs<'a> {
    /// For a container.
    pub launch: BorrowedFd<'a>,
    /// For a further process.
    pub enter: BorrowedFd<'a>,
}

/// A name below a directory that is held open: ids of 64 digits pass the 108 bytes of a socket's path.
fn address(dir: BorrowedFd<'_>, name: &str) -> Result<UnixAddr, Errno> {
    UnixAddr::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()).as_str())
}

/// Binds a shim's socket, and listens: connections wait there until the shim takes them. A socket that an earlier attempt
/// left is replaced. Blocks, briefly.
pub fn bind_socket(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, io::Error> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let flag = nix::unistd::UnlinkatFlags::NoRemoveDir;
    match nix::unistd::unlinkat(Some(dir.as_raw_fd()), name, flag) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    bind(fd.as_raw_fd(), &address(dir, name)?)?;
    listen(&fd, Backlog::new(64)?)?;
    Ok(fd)
}

/// What a shim is born holding, so that it ends when its maker does: keep the first until it was told "committed".
pub fn birth_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::sys::socket::socketpair;
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?)
}

impl Client {
    /// Connects to the socket of this name, and greets: the programs go along, what the shim holds comes back.
    /// Must be called within a tokio runtime.
    pub async fn connect(
        dir: BorrowedFd<'_>,
        name: &str,
        patience: Duration,
        programs: Programs<'_>,
        events: mpsc::UnboundedSender<Box<Event>>,
    ) -> Result<(Self, v1::State), ConnectError> {
        let deadline = Instant::now() + patience;
        let client = Self::open(dir, name, deadline, events).await?;
        let hello = timeout_at(deadline, client.hello(programs)).await;
        let state = hello
            .map_err(|_| ConnectError::Silent { name: name.to_owned() })?
            .map_err(ConnectError::Hello)?;
        if state.version == 0 || state.version > wire::VERSION {
            return Err(ConnectError::Version(state.version));
        }
        Ok((client, state))
    }

    async fn open(
        dir: BorrowedFd<'_>,
        name: &str,
        deadline: Instant,
        events: mpsc::UnboundedSender<Box<Event>>,
    ) -> Result<Self, ConnectError> {
        let refused = |source: io::Error| ConnectError::Socket { name: name.to_owned(), source };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .map_err(|e| refused(e.into()))?;
        let address = address(dir, name).map_err(|e| refused(e.into()))?;
        loop {
            match connect(fd.as_raw_fd(), &address) {
                Ok(()) => break,
                Err(error @ (Errno::ENOENT | Errno::ECONNREFUSED)) => {
                    return Err(ConnectError::Gone { name: name.to_owned(), source: error.into() });
                }
                // The backlog is full, which no readiness tells.
                Err(Errno::EAGAIN) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(5)).await;
                }
                Err(Errno::EAGAIN) => return Err(ConnectError::Silent { name: name.to_owned() }),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(refused(error.into())),
            }
        }
        let socket = raw::watch(fd, Interest::READABLE | Interest::WRITABLE).map_err(refused)?;
        Ok(Self { requests: connection::start(socket, events) })
    }
}

/// A copy of a descriptor, to be sent.
fn copy(fd: impl AsFd) -> Result<OwnedFd, RequestError> {
    fd.as_fd().try_clone_to_owned().map_err(RequestError::Descriptor)
}

#[cfg(test)]
mod tests;
