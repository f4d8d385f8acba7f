//! Where clients of streaming URLs connect: a TCP socket, with TLS where a certificate is configured.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use engine::world::World;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use super::tls::{Certificate, TlsError};
use crate::config;
use crate::stream::{Place, Server};

/// How long a client may take for its TLS handshake.
const HANDSHAKE_FOR: Duration = Duration::from_secs(10);
/// A silent peer is asked after this time whether it is still there, and again, three times in all.
const ASK_AFTER: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How long sessions may take to tell their clients that the daemon stops.
const LEAVE_FOR: Duration = Duration::from_secs(3);
/// Clients for whom there is no place, and who are told so; one more is hung up on.
const TOLD_AT_ONCE: usize = 64;
/// After an accept that failed, as it does when descriptors have run out.
const BREATH: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamsError {
    #[error("listen for streaming clients on {address}")]
    Listen { address: String, source: io::Error },
    #[error("TLS for streaming clients")]
    Tls(#[source] TlsError),
}

/// The socket, not served yet.
#[derive(Debug)]
pub(crate) struct Streams {
    listener: TcpListener,
    address: SocketAddr,
    certificate: Option<Certificate>,
    advertise: String,
    sessions: Arc<Semaphore>,
    /// Connections, with those for which there is no place.
    most: usize,
}

impl Streams {
    pub(crate) async fn listen(config: &config::Stream) -> Result<Self, StreamsError> {
        let failed = |source| StreamsError::Listen { address: config.address.clone(), source };
        let certificate = config.certificate().map(|(cert, key)| Certificate::load(cert, key));
        let certificate = certificate.transpose().map_err(StreamsError::Tls)?;
        let listener = TcpListener::bind(&config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let tls = certificate.is_some();
        if !tls && !address.ip().is_loopback() {
            warn!(
                %address,
                "streaming clients are served in the clear on an address that is not loopback: whoever listens on the way \
                 sees their sessions; set stream.tls_cert and stream.tls_key"
            );
        }
        info!(%address, tls, "serving streams");
        let sessions = Arc::new(Semaphore::new(config.max_sessions));
        let advertise = config.advertise.clone();
        let most = config.max_sessions.saturating_add(TOLD_AT_ONCE);
        Ok(Self { listener, address, certificate, advertise, sessions, most })
    }

    /// Scheme and authority of the URLs that clients are given.
    pub(crate) fn base(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", authority(&self.advertise, self.address))
    }

    /// Serves until the daemon stops, and until its clients have been told.
    pub(crate) async fn serve<W: World>(mut self, server: Server<W>, stop: watch::Receiver<bool>) {
        let server = Arc::new(server);
        let mut connections = JoinSet::new();
        let stop = crate::stream::stopping(stop);
        tokio::pin!(stop);
        loop {
            // All are cancel-safe: a connection that was not accepted yet stays in the queue.
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) if connections.len() >= self.most => {
                        debug!(%peer, "a client too many");
                        drop(stream);
                    }
                    Ok((stream, peer)) => {
                        debug!(%peer, "client");
                        let place = Arc::clone(&self.sessions).try_acquire_owned().ok();
                        drop(connections.spawn(self.connection(stream, place, &server)));
                    }
                    Err(error) => {
                        warn!(%error, "accept a streaming client");
                        tokio::time::sleep(BREATH).await;
                    }
                },
                Some(ended) = connections.join_next() => if let Err(error) = ended {
                    warn!(%error, "a streaming session");
                },
                () = &mut stop => break,
            }
        }
        let told = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(LEAVE_FOR, told).await.is_err() {
            warn!("streaming clients have not all left");
        }
    }

    fn connection<W: World>(
        &mut self,
        stream: TcpStream,
        place: Option<Place>,
        server: &Arc<Server<W>>,
    ) -> impl Future<Output = ()> + Send + use<W> {
        let server = Arc::clone(server);
        let tls = self.certificate.as_mut().map(Certificate::acceptor);
        async move {
            if let Err(error) = tune(&stream) {
                debug!(%error, "the client has left");
            }
            let Some(tls) = tls else {
                return server.serve(Connection::Plain(stream), place).await;
            };
            match tokio::time::timeout(HANDSHAKE_FOR, tls.accept(stream)).await {
                Ok(Ok(stream)) => server.serve(Connection::Tls(Box::new(stream)), place).await,
                Ok(Err(error)) => debug!(%error, "TLS handshake"),
                Err(_) => debug!("a client took too long for its TLS handshake"),
            }
        }
    }
}

/// What is typed goes out at once, and a peer whose machine has gone is noticed.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let ask = TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_AGAIN).with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&ask)
}

/// What is advertised, with the port that is listened on where it has none.
fn authority(advertise: &str, address: SocketAddr) -> String {
    let port = address.port();
    match advertise {
        "" => address.to_string(),
        ip if ip.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{ip}]:{port}"),
        whole if config::port_of(whole).is_some() => whole.to_owned(),
        host => format!("{host}:{port}"),
    }
}

/// A client's connection.
#[derive(Debug)]
enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_has_a_port() {
        let address: SocketAddr = "127.0.0.1:4242".parse().unwrap();
        for (advertise, expected) in [
            ("", "127.0.0.1:4242"),
            ("node.example", "node.example:4242"),
            ("node.example:1", "node.example:1"),
            ("10.0.0.1", "10.0.0.1:4242"),
            ("fd00::1", "[fd00::1]:4242"),
            ("[fd00::1]", "[fd00::1]:4242"),
            ("[fd00::1]:1", "[fd00::1]:1"),
        ] {
            assert_eq!(authority(advertise, address), expected);
        }
        assert_eq!(authority("", "[::1]:9".parse().unwrap()), "[::1]:9");
    }
}
