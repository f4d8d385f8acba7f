//! Sockets inside a network namespace, made from outside of it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use names::Kind;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::FsError;

/// How long a connection to a loopback may take: only a packet filter makes it wait at all.
const CONNECT_FOR: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The namespace, which is gone or cannot be entered.
    #[error("enter the network namespace")]
    Enter(#[source] FsError),
    /// A socket in it.
    #[error("make a socket in {}", path.display())]
    Socket {
        /// The namespace.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nothing listens there, neither on IPv4 nor on IPv6.
    #[error("connect to localhost:{port}")]
    Connect {
        /// The port.
        port: u16,
        /// What IPv4 said.
        source: io::Error,
    },
}

impl DialError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Enter(source) => source.kind(),
            Self::Socket { .. } => Kind::Internal,
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                Kind::TimedOut
            }
            Self::Connect { .. } => Kind::Unavailable,
        }
    }
}

/// Connects to a port of the loopback of the namespace at `netns`, or of the caller's own where there is none; IPv4 first.
pub async fn loopback(netns: Option<&Path>, port: u16) -> Result<TcpStream, DialError> {
    let [v4, v6] = match netns {
        Some(path) => sockets_in(path).await?,
        None => [TcpSocket::new_v4().ok(), TcpSocket::new_v6().ok()],
    };
    let refused = match connect(v4, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let v6 = connect(v6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await;
    let stream = v6.map_err(|_| DialError::Connect { port, source: refused })?;
    Ok(stream)
}

async fn connect(socket: Option<TcpSocket>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let stream = tokio::time::timeout(CONNECT_FOR, socket.connect(address));
    let stream = stream.await.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An unconnected socket of each family that the kernel has. A socket stays in the namespace that it was made in, so one
/// thread enters it, and ends there: no thread that others use is ever in a pod's namespace.
async fn sockets_in(path: &Path) -> Result<[Option<TcpSocket>; 2], DialError> {
    let path = path.to_owned();
    let failed = |source| DialError::Socket { path: path.clone(), source };
    let (tell, told) = oneshot::channel();
    let inside = path.clone();
    let thread = std::thread::Builder::new().name("dial".to_owned());
    let spawned = thread.spawn(move || {
        // The caller may have gone meanwhile.
        drop(tell.send(enter_and_make(&inside)));
    });
    drop(spawned.map_err(failed)?);
    let made = told.await.map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))??;
    let [v4, v6] = made.map(|fd| fd.map(std::net::TcpStream::from).map(TcpSocket::from_std_stream));
    if v4.is_none() && v6.is_none() {
        return Err(failed(io::ErrorKind::Unsupported.into()));
    }
    Ok([v4, v6])
}

fn enter_and_make(path: &Path) -> Result<[Option<OwnedFd>; 2], DialError> {
    let netns = File::open(path).map_err(FsError::at("open", path)).map_err(DialError::Enter)?;
    setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(FsError::at("enter", path))
        .map_err(DialError::Enter)?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let make = |family| socket(family, SockType::Stream, flags, None).ok();
    Ok([make(AddressFamily::Inet), make(AddressFamily::Inet6)])
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A namespace of its own with its loopback up, and a listener on it.
    struct Inside {
        path: PathBuf,
        port: u16,
        _end: mpsc::Sender<()>,
    }

    fn inside(address: &'static str) -> Inside {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            loopback_up();
            let listener = std::net::TcpListener::bind(address).unwrap();
            let tid = nix::unistd::gettid();
            let port = listener.local_addr().unwrap().port();
            tell.send((PathBuf::from(format!("/proc/self/task/{tid}/ns/net")), port)).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
            drop(stream);
            // Its namespace lives as long as this thread.
            ended.recv().unwrap_err();
        });
        let (path, port) = told.recv().unwrap();
        Inside { path, port, _end: end }
    }

    #[expect(clippy::disallowed_methods, reason = "a test waits for its tools")]
    fn loopback_up() {
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.unwrap().success());
    }

    #[tokio::test]
    async fn a_port_inside_is_reached_by_both_families_and_none_outside() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let inside = inside(address);
            loopback(None, inside.port).await.unwrap_err();
            let mut stream = loopback(Some(&inside.path), inside.port).await.unwrap();
            stream.write_all(b"word").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut word = String::new();
            stream.read_to_string(&mut word).await.unwrap();
            assert_eq!(word, "word");
        }
    }

    #[tokio::test]
    async fn where_nothing_listens_the_port_is_named() {
        let error = loopback(None, 1).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert_eq!(error.to_string(), "connect to localhost:1");
    }

    #[tokio::test]
    async fn a_namespace_that_is_gone_is_an_error() {
        let error = loopback(Some(Path::new("/run/netns/w-none")), 1).await.unwrap_err();
        assert!(matches!(error, DialError::Enter(_)));
    }
}
