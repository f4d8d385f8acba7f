//! What the tasks of a session and its handles share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::core::{Core, Over, Pool, lock};
use crate::frame::{Frame, away};
use crate::outbox::Outbox;
use crate::{End, Limits};

/// A session.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) pool: Pool,
    pub(crate) outbox: Outbox,
    /// The last stream that the client opened.
    pub(crate) last: AtomicU32,
    /// None once the session is over.
    streams: Mutex<Option<HashMap<u32, Arc<Core>>>>,
    end: watch::Sender<Option<End>>,
    closed: watch::Sender<bool>,
    born: Instant,
    /// Milliseconds from `born` to the last frame.
    active: AtomicU64,
}

impl Shared {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            outbox: Outbox::new(limits.send_buffer, limits.streams),
            limits,
            pool: Pool::default(),
            last: AtomicU32::new(0),
            streams: Mutex::new(Some(HashMap::new())),
            end: watch::Sender::new(None),
            closed: watch::Sender::new(false),
            born: Instant::now(),
            active: AtomicU64::new(0),
        }
    }

    /// Adds a stream; false when there are too many, or the session is over.
    pub(crate) fn add(&self, core: &Arc<Core>) -> bool {
        let mut streams = lock(&self.streams);
        match streams.as_mut() {
            Some(streams) if streams.len() < self.limits.streams => {
                streams.insert(core.id, Arc::clone(core));
                true
            }
            Some(_) | None => false,
        }
    }

    /// The stream with this id, if it is open.
    pub(crate) fn find(&self, id: u32) -> Option<Arc<Core>> {
        lock(&self.streams).as_ref().and_then(|streams| streams.get(&id).cloned())
    }

    /// Forgets a stream: what still comes for it is thrown away.
    pub(crate) fn forget(&self, id: u32) {
        let gone = lock(&self.streams).as_mut().and_then(|streams| streams.remove(&id));
        drop(gone);
    }

    /// Any stream on which something may be sent.
    pub(crate) fn any_open(&self) -> Option<u32> {
        let streams = lock(&self.streams);
        streams
            .as_ref()
            .and_then(|streams| streams.values().find(|core| core.is_open()).map(|core| core.id))
    }

    /// Ends the session, once: the first reason stands.
    pub(crate) fn end(&self, why: End) {
        let first = self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(why);
            first
        });
        if !first {
            return;
        }
        let last = self.last.load(Ordering::Relaxed);
        match why {
            End::Gone | End::Broken(_) => self.outbox.kill(),
            End::Closed | End::Idle => self.outbox.close(Frame::goaway(last, away::OK)),
            End::Protocol(_) => self.outbox.close(Frame::goaway(last, away::PROTOCOL_ERROR)),
        }
        let streams = lock(&self.streams).take();
        for core in streams.into_iter().flat_map(HashMap::into_values) {
            core.end(Over::Ended);
        }
        self.pool.freed.notify_one();
    }

    /// Waits for the session's end.
    pub(crate) async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        // The sender is in `self`, so the channel cannot close.
        end.wait_for(Option::is_some).await.ok().and_then(|end| *end).unwrap_or(End::Closed)
    }

    /// Notes that the connection is closed.
    pub(crate) fn set_closed(&self) {
        self.closed.send_replace(true);
    }

    /// Waits until the connection is closed.
    pub(crate) async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        drop(closed.wait_for(|closed| *closed).await);
    }

    /// Notes a frame, either way.
    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.active.store(now, Ordering::Relaxed);
    }

    /// Waits until there was no frame for as long as the limits allow.
    pub(crate) async fn idle(&self) {
        let Some(idle) = self.limits.idle else { return std::future::pending().await };
        loop {
            let active = self.active.load(Ordering::Relaxed);
            tokio::time::sleep_until(self.born + Duration::from_millis(active) + idle).await;
            if self.active.load(Ordering::Relaxed) == active {
                return;
            }
        }
    }
}

/// Held by the session and its streams; the last one dropped ends the session.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end(End::Closed);
    }
}
