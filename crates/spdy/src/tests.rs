//! Sessions as a client sees them: `client` is one, written apart from the code under test.

mod client;
mod endings;
mod flow;
mod fuzz;
mod hostile;
mod speed;
mod streams;
mod torn;

use std::time::Duration;

use bytes::Bytes;
use tokio::io::DuplexStream;

use crate::{Limits, RecvStream, Session, Stream, StreamError};
use client::{Client, Seen};

/// A session with a client at its other end, and room for `room` bytes on the way.
fn pair(limits: Limits, room: usize) -> (Session, Client<DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(room);
    (Session::serve(ours, Bytes::new(), limits), Client::new(theirs))
}

/// Both, with one stream opened and replied.
async fn opened(limits: Limits, room: usize) -> (Session, Client<DuplexStream>, Stream) {
    let (mut session, mut client) = pair(limits, room);
    client.open(1, 0, &[("streamtype", "stdin")]).await;
    let stream = session.accept().await.unwrap().accept();
    assert_eq!(client.next().await, Some(Seen::Reply(1)));
    (session, client, stream)
}

/// All that comes until the FIN.
async fn all(mut recv: RecvStream) -> Result<Vec<u8>, StreamError> {
    let mut out = Vec::new();
    while let Some(chunk) = recv.chunk().await? {
        out.extend_from_slice(&chunk);
    }
    Ok(out)
}

/// A bound for what must happen.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.unwrap()
}
