//! One stream's state, shared by the connection's reader and the stream's halves.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::StreamError;

/// What a chunk costs besides its bytes, so that a flood of tiny ones is bounded too.
pub(crate) const CHUNK_COST: usize = 64;

/// Takes a lock though another holder panicked: no state here is left half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all streams of a session hold together.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    used: AtomicUsize,
    /// Told whenever a stream gave room back; only the connection's reader waits for it.
    pub(crate) freed: Notify,
}

impl Pool {
    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.freed.notify_one();
    }
}

/// Why nothing more comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The client's FIN.
    Fin,
    /// The client's `RST_STREAM`.
    Reset(u32),
    /// This side reset the stream.
    Cut,
    /// The session ended.
    Ended,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Bytes>,
    held: usize,
    over: Option<Over>,
    /// The client has said all that it wanted to.
    whole: bool,
    unread: bool,
    sending: Sending,
    waker: Option<Waker>,
}

/// This side's direction of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Sending {
    /// `SYN_REPLY` is not sent.
    #[default]
    Unreplied,
    Open,
    Done,
}

impl Core {
    pub(crate) fn new(id: u32) -> Self {
        Self { id, state: Mutex::default() }
    }

    /// Whether another chunk may be pushed, or would be thrown away anyway.
    pub(crate) fn has_room(&self, most: usize, pool: &Pool, most_of_all: usize) -> bool {
        let state = lock(&self.state);
        state.unread || state.over.is_some() || (state.held < most && pool.used() < most_of_all)
    }

    /// Whether the client said already that nothing more comes.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.state).over.is_some()
    }

    /// Takes in what came; who waits for it is not told.
    pub(crate) fn push(&self, chunk: Bytes, pool: &Pool) {
        let mut state = lock(&self.state);
        if state.unread || state.over.is_some() {
            return;
        }
        let cost = chunk.len() + CHUNK_COST;
        state.held += cost;
        pool.used.fetch_add(cost, Ordering::Relaxed);
        state.queue.push_back(chunk);
    }

    /// Wakes who waits for what came.
    pub(crate) fn tell(&self) {
        wake(lock(&self.state));
    }

    /// Gives out what came.
    pub(crate) fn poll_chunk(
        &self,
        cx: &mut Context<'_>,
        pool: &Pool,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        let mut state = lock(&self.state);
        if let Some(chunk) = state.queue.pop_front() {
            let cost = chunk.len() + CHUNK_COST;
            state.held -= cost;
            drop(state);
            pool.give_back(cost);
            return Poll::Ready(Ok(Some(chunk)));
        }
        match state.over {
            Some(Over::Fin) => Poll::Ready(Ok(None)),
            Some(Over::Ended) if state.whole => Poll::Ready(Ok(None)),
            Some(Over::Ended) => Poll::Ready(Err(StreamError::Ended)),
            Some(Over::Reset(status)) => Poll::Ready(Err(StreamError::Reset(status))),
            Some(Over::Cut) => Poll::Ready(Err(StreamError::Closed)),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Gives out all that came already; its length.
    pub(crate) fn take(&self, into: &mut Vec<Bytes>, pool: &Pool) -> usize {
        let mut state = lock(&self.state);
        let (queue, held) = (std::mem::take(&mut state.queue), std::mem::take(&mut state.held));
        drop(state);
        let cost = queue.len() * CHUNK_COST;
        into.extend(queue);
        if held > 0 {
            pool.give_back(held);
        }
        held - cost
    }

    /// Notes why nothing more comes in; true when the stream is over in both directions.
    pub(crate) fn end(&self, over: Over) -> bool {
        let mut state = lock(&self.state);
        state.whole |= over == Over::Fin && state.over.is_none();
        if state.over.is_none_or(|before| before == Over::Fin) {
            state.over = Some(over);
        }
        let whole = over != Over::Fin || state.sending == Sending::Done;
        wake(state);
        whole
    }

    /// Throws away what came and what will come.
    pub(crate) fn discard(&self, pool: &Pool) {
        let mut state = lock(&self.state);
        state.unread = true;
        let queue = std::mem::take(&mut state.queue);
        let held = std::mem::take(&mut state.held);
        drop(state);
        drop(queue);
        pool.give_back(held);
    }

    /// Opens this side's direction; false when the stream is gone already.
    pub(crate) fn reply(&self) -> bool {
        let mut state = lock(&self.state);
        if state.sending == Sending::Unreplied {
            state.sending = Sending::Open;
        }
        matches!(state.over, None | Some(Over::Fin))
    }

    /// Closes this side's direction; true when the stream is over in both.
    pub(crate) fn finish(&self) -> bool {
        let mut state = lock(&self.state);
        state.sending = Sending::Done;
        state.over.is_some()
    }

    /// Whether data may be sent, and if not, why.
    pub(crate) fn check(&self) -> Result<(), StreamError> {
        let state = lock(&self.state);
        match state.over {
            Some(Over::Reset(status)) => Err(StreamError::Reset(status)),
            Some(Over::Ended) => Err(StreamError::Ended),
            Some(Over::Cut) => Err(StreamError::Closed),
            Some(Over::Fin) | None if state.sending == Sending::Done => Err(StreamError::Closed),
            Some(Over::Fin) | None => Ok(()),
        }
    }

    /// Whether an empty data frame may be sent.
    pub(crate) fn is_open(&self) -> bool {
        let state = lock(&self.state);
        state.sending == Sending::Open && matches!(state.over, None | Some(Over::Fin))
    }
}

/// Wakes the reader of the stream, without the lock.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}
