//! Frames that wait for the connection.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::StreamError;
use crate::core::lock;
use crate::frame::{FIN, Frame};
use crate::zip::Deflater;

/// Payload of the largest data frame sent: a `PING` waits no longer than a batch of these takes.
pub(crate) const DATA: usize = 256 << 10;
/// Frames and about as many bytes as one write takes.
pub(crate) const BATCH_FRAMES: usize = 64;
const BATCH_BYTES: usize = 512 << 10;
/// What a frame costs besides its bytes.
const FRAME_COST: usize = 64;
/// Control frames beyond which the connection is not read: who does not read the answers gets no more of them.
const URGENT: usize = 1024;

/// A frame with what is owed once it is written.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) frame: Frame,
    cost: usize,
    done: Option<oneshot::Sender<()>>,
}

/// The queues of the connection's writer.
#[derive(Debug)]
pub(crate) struct Outbox {
    queues: Mutex<Queues>,
    /// Told when there is something to write, or nothing more will come.
    pub(crate) filled: Notify,
    /// Told when control frames were written; only the connection's reader waits for it.
    eased: Notify,
    room: Semaphore,
    /// Ends of streams beyond which the connection is not read either.
    most_ends: usize,
}

#[derive(Debug, Default)]
struct Queues {
    /// Overtakes `bulk`.
    urgent: VecDeque<Frame>,
    bulk: VecDeque<Outgoing>,
    /// Of `bulk`, what took no room: ends of streams, whose number is the client's to choose.
    ends: usize,
    deflater: Deflater,
    stage: Stage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// What is queued is written, nothing more is taken.
    Closing,
    /// Nothing is written.
    Dead,
}

/// What the writer does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Write,
    Wait,
    Stop,
}

impl Outbox {
    /// With room for so many bytes of data, and for the ends of so many streams.
    pub(crate) fn new(room: usize, streams: usize) -> Self {
        Self {
            most_ends: streams.saturating_add(URGENT),
            queues: Mutex::default(),
            filled: Notify::new(),
            eased: Notify::new(),
            room: Semaphore::new(room.clamp(DATA + FRAME_COST, Semaphore::MAX_PERMITS)),
        }
    }

    /// Queues data of a stream, in frames; waits for room before each, in turn with the other streams.
    pub(crate) async fn data(
        &self,
        stream: u32,
        mut data: Bytes,
        check: impl Fn() -> Result<(), StreamError>,
    ) -> Result<(), StreamError> {
        check()?;
        while !data.is_empty() {
            let part = data.split_to(data.len().min(DATA));
            let cost = part.len() + FRAME_COST;
            let permits = u32::try_from(cost).map_err(|_| StreamError::Ended)?;
            let room = self.room.acquire_many(permits).await.map_err(|_| StreamError::Ended)?;
            check()?;
            room.forget();
            self.bulk(Outgoing { frame: Frame::data(stream, 0, part), cost, done: None });
        }
        Ok(())
    }

    /// Queues the FIN of a stream after its data; what is returned is told once it is written.
    pub(crate) fn fin(&self, stream: u32) -> oneshot::Receiver<()> {
        let (done, written) = oneshot::channel();
        self.bulk(Outgoing {
            frame: Frame::data(stream, FIN, Bytes::new()),
            cost: 0,
            done: Some(done),
        });
        written
    }

    /// Queues a frame after the data of its stream.
    pub(crate) fn after(&self, frame: Frame) {
        self.bulk(Outgoing { frame, cost: 0, done: None });
    }

    /// Queues a frame before all data.
    pub(crate) fn urgent(&self, frame: Frame) {
        let mut queues = lock(&self.queues);
        if queues.stage == Stage::Open {
            queues.urgent.push_back(frame);
            drop(queues);
            self.filled.notify_one();
        }
    }

    /// Queues a frame that is worth something only when nothing else is being written.
    pub(crate) fn if_quiet(&self, frame: Frame) {
        if lock(&self.queues).is_empty() {
            self.urgent(frame);
        }
    }

    /// Queues `SYN_REPLY` without headers. Deflated and queued under one lock: the order is that of the zlib stream.
    pub(crate) fn reply(&self, stream: u32) {
        let mut queues = lock(&self.queues);
        if queues.stage == Stage::Open {
            let block = queues.deflater.deflate(&0u32.to_be_bytes());
            queues.urgent.push_back(Frame::syn_reply(stream, &block));
            drop(queues);
            self.filled.notify_one();
        }
    }

    /// Whether the client has to read answers before it is read.
    pub(crate) fn is_strained(&self) -> bool {
        let queues = lock(&self.queues);
        queues.urgent.len() > URGENT || queues.ends > self.most_ends
    }

    /// Waits until the client read enough of the answers.
    pub(crate) async fn ease(&self) {
        while self.is_strained() {
            self.eased.notified().await;
        }
    }

    /// Takes nothing more; this frame is the last.
    pub(crate) fn close(&self, last: Frame) {
        let mut queues = lock(&self.queues);
        if queues.stage == Stage::Open {
            queues.bulk.push_back(Outgoing { frame: last, cost: 0, done: None });
            queues.stage = Stage::Closing;
        }
        drop(queues);
        self.room.close();
        self.filled.notify_one();
    }

    /// Throws everything away.
    pub(crate) fn kill(&self) {
        let mut queues = lock(&self.queues);
        queues.stage = Stage::Dead;
        let (urgent, bulk) = (std::mem::take(&mut queues.urgent), std::mem::take(&mut queues.bulk));
        drop(queues);
        drop((urgent, bulk));
        self.room.close();
        self.filled.notify_one();
        self.eased.notify_one();
    }

    /// Moves what is to be written next into `batch`.
    pub(crate) fn take(&self, batch: &mut VecDeque<Outgoing>) -> Next {
        let mut queues = lock(&self.queues);
        let urgent = queues.urgent.len().min(BATCH_FRAMES);
        batch.extend(queues.urgent.drain(..urgent).map(|frame| Outgoing {
            frame,
            cost: 0,
            done: None,
        }));
        let (mut bytes, mut ends) = (0, 0);
        while batch.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
            let Some(next) = queues.bulk.pop_front() else { break };
            bytes += next.frame.len();
            ends += usize::from(next.cost == 0);
            batch.push_back(next);
        }
        queues.ends = queues.ends.saturating_sub(ends);
        let stage = queues.stage;
        drop(queues);
        if urgent + ends > 0 {
            self.eased.notify_one();
        }
        match stage {
            _ if !batch.is_empty() => Next::Write,
            Stage::Open => Next::Wait,
            Stage::Closing | Stage::Dead => Next::Stop,
        }
    }

    /// Gives back the room of a written frame and tells who waits for it.
    pub(crate) fn written(&self, frame: Outgoing) {
        self.room.add_permits(frame.cost);
        if let Some(done) = frame.done {
            // Who cancelled the wait does not want to know.
            done.send(()).unwrap_or_default();
        }
    }

    fn bulk(&self, outgoing: Outgoing) {
        let mut queues = lock(&self.queues);
        if queues.stage == Stage::Open {
            queues.ends += usize::from(outgoing.cost == 0);
            queues.bulk.push_back(outgoing);
            drop(queues);
            self.filled.notify_one();
        }
    }
}

#[cfg(test)]
impl Outbox {
    /// Frames before data, and bytes of data, that wait.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let queues = lock(&self.queues);
        (queues.urgent.len(), queues.bulk.iter().map(|outgoing| outgoing.frame.len()).sum())
    }
}

impl Queues {
    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.bulk.is_empty()
    }
}
