//! A layer's bytes on their way from the network to the thread that unpacks them.
//!
//! A connection that breaks or trickles is replaced by one that begins where it stopped; the unpacking side sees one
//! unbroken stream. Time spent waiting for the unpacking side is not the network's fault and is not counted.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;

use super::session::{Get, Session};
use super::{Failures, FetchError, Registry, chain};
use crate::manifest::Part;
use crate::progress::Counters;

/// Chunks on their way; each is at most a few hundred KiB.
const IN_FLIGHT: usize = 8;
/// A connection that brought this much earns its successor a fresh count of attempts.
const PROGRESS: u64 = 256 << 10;
const MAX_CONNECTIONS: u32 = 200;
/// The first bytes tell the compression: they come in one piece.
const MAGIC: usize = 4;

/// A piece of the stream, or its proper end: a channel that closes without one was cut.
#[derive(Debug)]
enum Feed {
    Data(Bytes),
    End,
}

/// The sending side of a layer's stream.
#[derive(Debug)]
pub(crate) struct Sink {
    sender: mpsc::Sender<Feed>,
    counters: Arc<Counters>,
}

/// The unpacking side: blocks its thread until bytes come.
#[derive(Debug)]
pub(crate) struct Chunks {
    receiver: mpsc::Receiver<Feed>,
    current: Bytes,
    ended: bool,
}

/// Both ends of a layer's stream.
pub(crate) fn stream(counters: Arc<Counters>) -> (Sink, Chunks) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    (Sink { sender, counters }, Chunks { receiver, current: Bytes::new(), ended: false })
}

impl Registry {
    /// Sends the whole blob, from whichever endpoints it takes.
    pub(crate) async fn blob(&self, part: Part, sink: Sink) -> Result<(), FetchError> {
        let mut failures = Failures::default();
        let mut at = 0;
        for session in &self.sessions {
            match session.blob(part, &mut at, &sink).await {
                Ok(()) => {
                    let end = sink.sender.send(Feed::End).await;
                    return end.map_err(|_| FetchError::Unwanted);
                }
                Err(FetchError::Unwanted) => return Err(FetchError::Unwanted),
                Err(error) => failures.add(error),
            }
        }
        Err(failures.finish(&part.digest.to_string()))
    }
}

impl Session {
    /// Goes on from `at`, which says in the end how far it came.
    async fn blob(&self, part: Part, at: &mut u64, sink: &Sink) -> Result<(), FetchError> {
        let tail = format!("blobs/{}", part.digest);
        let mut fruitless = 0;
        for _ in 0..MAX_CONNECTIONS {
            let before = *at;
            let get = Get { tail: &tail, accept: "*/*", from: before };
            let response = self.get(get).await?;
            let Err(error) = self.body(response, part, at, sink).await else { return Ok(()) };
            let again = matches!(
                error,
                FetchError::Unreachable { .. }
                    | FetchError::Stalled { .. }
                    | FetchError::Cut { .. }
            );
            fruitless = if *at - before >= PROGRESS { 0 } else { fruitless + 1 };
            if !again || fruitless >= self.patience.attempts {
                return Err(error);
            }
            tracing::debug!(blob = %part.digest, at = *at, error = chain(&error), "transfer resumed");
            tokio::time::sleep(self.patience.pause(fruitless)).await;
        }
        Err(FetchError::Cut { host: self.host(), what: tail, at: *at })
    }

    async fn body(
        &self,
        mut response: Response,
        part: Part,
        at: &mut u64,
        sink: &Sink,
    ) -> Result<(), FetchError> {
        let what = || part.digest.to_string();
        let cut = |at| FetchError::Cut { host: self.host(), what: what(), at };
        // A server that does not know ranges sends all of it again.
        let mut skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&response, *at) => 0,
            StatusCode::PARTIAL_CONTENT => return Err(cut(*at)),
            _ => *at,
        };
        let mut watch = Watch::new(self);
        let mut first = BytesMut::new();
        while let Some(mut chunk) = watch.chunk(&mut response).await? {
            let skipped = chunk.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            chunk.advance(skipped);
            skip -= skipped as u64;
            if *at == 0 && first.len() + chunk.len() < MAGIC {
                first.extend_from_slice(&chunk);
                continue;
            }
            if !first.is_empty() {
                first.extend_from_slice(&chunk);
                chunk = std::mem::take(&mut first).freeze();
            }
            self.forward(chunk, part, at, sink).await?;
        }
        if !first.is_empty() {
            self.forward(first.freeze(), part, at, sink).await?;
        }
        if *at < part.size { Err(cut(*at)) } else { Ok(()) }
    }

    async fn forward(
        &self,
        chunk: Bytes,
        part: Part,
        at: &mut u64,
        sink: &Sink,
    ) -> Result<(), FetchError> {
        if chunk.is_empty() {
            return Ok(());
        }
        let length = chunk.len() as u64;
        if *at + length > part.size {
            let (host, what) = (self.host(), part.digest.to_string());
            return Err(FetchError::TooLarge { host, what, limit: part.size });
        }
        sink.sender.send(Feed::Data(chunk)).await.map_err(|_| FetchError::Unwanted)?;
        *at += length;
        sink.counters.bytes(length);
        Ok(())
    }
}

/// Watches that bytes come fast enough.
struct Watch<'s> {
    session: &'s Session,
    waited: Duration,
    bytes: u64,
}

impl<'s> Watch<'s> {
    fn new(session: &'s Session) -> Self {
        Self { session, waited: Duration::ZERO, bytes: 0 }
    }

    async fn chunk(&mut self, response: &mut Response) -> Result<Option<Bytes>, FetchError> {
        let patience = &self.session.patience;
        let host = || self.session.host();
        let stalled = || FetchError::Stalled { host: host(), seconds: patience.stall.as_secs() };
        let began = Instant::now();
        let left = patience.stall.saturating_sub(self.waited);
        let chunk = tokio::time::timeout(left, response.chunk()).await;
        self.waited += began.elapsed();
        let chunk = match chunk {
            Ok(chunk) => chunk.map_err(|source| FetchError::Unreachable {
                host: host(),
                source: source.without_url(),
            })?,
            Err(_) if self.bytes >= patience.stall_bytes => {
                (self.waited, self.bytes) = (Duration::ZERO, 0);
                return Box::pin(self.chunk(response)).await;
            }
            Err(_) => return Err(stalled()),
        };
        self.bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.bytes >= patience.stall_bytes {
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(chunk)
    }
}

/// `Content-Range: bytes <first>-<last>/<all>`
fn starts_at(response: &Response, at: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    let first =
        range.and_then(|r| r.trim().strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    first == Some(at)
}

// === impl Chunks ===

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = self.fill_buf()?;
        let length = filled.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Feed::Data(bytes)) => self.current = bytes,
                Some(Feed::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut off")),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount.min(self.current.len()));
    }
}
