//! The two threads that write, each taking all that is queued into one commit.

mod disk;
mod run;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use crate::file::Changes;
use crate::open::{Opened, open};
use crate::{Durability, Entry, Loaded, OpenError, Options, WriteError};

const STACK: usize = 256 << 10;

type Answer = oneshot::Sender<Result<(), WriteError>>;

/// The open ledger. Clones share it; the last one to go copies what is owed to the disk and closes the files.
#[derive(Debug, Clone)]
pub struct Ledger {
    writer: Arc<Writer>,
}

#[derive(Debug)]
struct Writer {
    /// None only while it is dropped.
    queue: Option<Sender<Request>>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// What the threads and the callers all see.
#[derive(Debug, Default)]
struct Shared {
    disk_refuses: AtomicBool,
    run_commits: AtomicU64,
    disk_commits: AtomicU64,
}

#[derive(Debug)]
enum Request {
    Write { entries: Vec<Entry>, durability: Durability, answer: Answer },
    Flush { answer: oneshot::Sender<()> },
}

/// What the run thread hands to the disk thread.
#[derive(Debug, Default)]
struct Copy {
    changes: Changes,
    /// Of `Power` writes: they wait for the disk.
    answers: Vec<Answer>,
    flushes: Vec<oneshot::Sender<()>>,
}

// === impl Ledger ===

impl Ledger {
    /// Opens both files, makes them agree, and starts the threads. Blocks.
    pub fn open(options: Options) -> Result<(Self, Loaded), OpenError> {
        let Opened { run, disk, loaded } = open(options)?;
        let shared = Arc::new(Shared::default());
        let (queue, requests) = channel();
        let (to_disk, copies) = channel();
        let mut run = run::Thread::new(run, to_disk, Arc::clone(&shared));
        let mut disk = disk::Thread::new(disk, Arc::clone(&shared));
        let threads = vec![
            spawn("ledger-run", move || run.serve(&requests)).map_err(OpenError::Thread)?,
            spawn("ledger-disk", move || disk.serve(&copies)).map_err(OpenError::Thread)?,
        ];
        Ok((Self { writer: Arc::new(Writer { queue: Some(queue), threads, shared }) }, loaded))
    }

    /// Writes the entries in one transaction. Dropping the future does not take the write back.
    pub async fn write(
        &self,
        entries: Vec<Entry>,
        durability: Durability,
    ) -> Result<(), WriteError> {
        let (answer, answered) = oneshot::channel();
        self.send(Request::Write { entries, durability, answer })?;
        answered.await.unwrap_or(Err(WriteError::Closed))
    }

    /// Returns when the disk has all that was written before the call, or has refused it.
    pub async fn flush(&self) {
        let (answer, answered) = oneshot::channel();
        if self.send(Request::Flush { answer }).is_ok() {
            answered.await.unwrap_or(());
        }
    }

    /// How many commits the run file and the disk file have taken since this ledger was opened.
    pub fn commits(&self) -> (u64, u64) {
        let shared = &self.writer.shared;
        (shared.run_commits.load(Ordering::Relaxed), shared.disk_commits.load(Ordering::Relaxed))
    }

    fn send(&self, request: Request) -> Result<(), WriteError> {
        let queue = self.writer.queue.as_ref().ok_or(WriteError::Closed)?;
        queue.send(request).map_err(|_| WriteError::Closed)
    }
}

// === impl Writer ===

impl Drop for Writer {
    fn drop(&mut self) {
        // Ends the run thread, which ends the disk thread.
        self.queue = None;
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

// === impl Copy ===

impl Copy {
    fn then(mut self, next: Self) -> Self {
        self.changes.extend(next.changes);
        self.answers.extend(next.answers);
        self.flushes.extend(next.flushes);
        self
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body)
}

/// A caller may have gone away; what was written stands.
fn answer_all(answers: impl IntoIterator<Item = Answer>, result: &Result<(), WriteError>) {
    for answer in answers {
        drop(answer.send(result.clone()));
    }
}
