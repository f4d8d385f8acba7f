//! A byte stream in binary WebSocket messages: SPDY goes through it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

/// The most that goes into one message.
const MESSAGE_MAX: usize = 64 << 10;

/// What messages hold, one after the other, whatever their borders.
#[derive(Debug)]
pub(in crate::stream) struct Tunnel<IO> {
    socket: WebSocketStream<IO>,
    /// Of the last message, what was not read yet.
    rest: Bytes,
}

impl<IO> Tunnel<IO> {
    pub(in crate::stream) fn new(socket: WebSocketStream<IO>) -> Self {
        Self { socket, rest: Bytes::new() }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(no_bytes())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(broken)?;
        let message = Bytes::copy_from_slice(bytes.get(..MESSAGE_MAX).unwrap_or(bytes));
        let length = message.remaining();
        Pin::new(&mut self.socket).start_send(Message::Binary(message)).map_err(broken)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(broken)
    }
}

fn no_bytes() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message of text in a tunnel of bytes")
}

fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            io::ErrorKind::BrokenPipe.into()
        }
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use futures::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    async fn tunnel() -> (Tunnel<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (here, there) = tokio::io::duplex(1 << 16);
        let tunnel = Tunnel::new(super::super::upgraded(here, b"").await);
        (tunnel, WebSocketStream::from_raw_socket(there, Role::Client, None).await)
    }

    #[tokio::test]
    async fn borders_of_messages_do_not_show() {
        let (mut tunnel, mut client) = tunnel().await;
        for part in ["", "one ", "", "two"] {
            client.send(Message::binary(part)).await.unwrap();
        }
        client.close(None).await.unwrap();
        let mut first = [0; 2];
        tunnel.read_exact(&mut first).await.unwrap();
        let mut rest = String::new();
        tunnel.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&first, rest.as_str()), (b"on", "e two"));
    }

    #[tokio::test]
    async fn what_is_written_comes_out_whole_and_ends_with_a_close() {
        let (mut tunnel, mut client) = tunnel().await;
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let write = tokio::spawn(async move {
            tunnel.write_all(&sent).await.unwrap();
            tunnel.flush().await.unwrap();
            tunnel.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            match message {
                Message::Binary(bytes) => {
                    assert!(bytes.len() <= MESSAGE_MAX);
                    got.extend_from_slice(&bytes);
                }
                other => assert!(matches!(other, Message::Close(_)), "{other}"),
            }
        }
        assert_eq!(got, expected);
        write.await.unwrap();
    }

    #[tokio::test]
    async fn text_is_an_error() {
        let (mut tunnel, mut client) = tunnel().await;
        client.send(Message::text("word")).await.unwrap();
        let error = tunnel.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
