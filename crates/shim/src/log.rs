//! The second thread: it alone touches log files, so that a frozen disk stops nothing but logs.
//!
//! ```text
//! main loop ── Job ──> queue ──> log thread ── Done ──> list + eventfd ──> main loop
//! ```
//! The queue is bounded by the main loop, which stops to read a container with more than its share in flight.

mod file;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use file::LogFile;

/// The most batches that one writev takes.
const MOST_PARTS: usize = 16;
/// The thread calls nothing deep.
const STACK: usize = 32 << 10;

/// Which log: the number of its container.
pub(crate) type LogId = u32;

#[derive(Debug)]
pub(crate) enum Job {
    Open(LogId, PathBuf),
    Write(LogId, Vec<u8>),
    Reopen(LogId),
    Close(LogId),
}

#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) log: LogId,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Opened(Result<(), String>),
    /// So many bytes have left the queue, of which the disk refused so many.
    Wrote {
        bytes: usize,
        dropped: u64,
    },
    Reopened(Result<(), String>),
    Closed,
}

/// The main loop's end.
#[derive(Debug)]
pub(crate) struct Logs {
    shared: Arc<Shared>,
    running: bool,
}

#[derive(Debug)]
struct Shared {
    jobs: Mutex<VecDeque<Job>>,
    wake: Condvar,
    done: Mutex<Vec<Done>>,
    ready: EventFd,
}

// === impl Logs ===

impl Logs {
    pub(crate) fn new() -> Result<Self, Errno> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let ready = EventFd::from_value_and_flags(0, flags)?;
        let (jobs, done) = (Mutex::new(VecDeque::new()), Mutex::new(Vec::new()));
        let shared = Arc::new(Shared { jobs, wake: Condvar::new(), done, ready });
        Ok(Self { shared, running: false })
    }

    /// Readable when [`Self::done`] has something.
    pub(crate) fn ready(&self) -> BorrowedFd<'_> {
        self.shared.ready.as_fd()
    }

    /// Puts a job in line. The thread begins with the first one: a pod without logs has none.
    pub(crate) fn submit(&mut self, job: Job) {
        lock(&self.shared.jobs).push_back(job);
        self.shared.wake.notify_one();
        if !self.running {
            let shared = Arc::clone(&self.shared);
            let spawned = thread::Builder::new().stack_size(STACK).spawn(move || shared.run());
            self.running = spawned.is_ok();
        }
    }

    /// What has been done since the last call.
    pub(crate) fn done(&self) -> Vec<Done> {
        self.shared.ready.read().ok();
        std::mem::take(&mut *lock(&self.shared.done))
    }
}

// === impl Shared ===

impl Shared {
    fn run(&self) {
        let mut files: Vec<(LogId, LogFile)> = Vec::new();
        loop {
            let done = perform(self.next(), &mut files);
            lock(&self.done).push(done);
            self.ready.write(1).ok();
        }
    }

    /// The next job; writes to one log that follow each other are one.
    fn next(&self) -> Batch {
        let mut jobs = lock(&self.jobs);
        loop {
            match jobs.pop_front() {
                Some(Job::Write(log, bytes)) => {
                    return Batch::Write(log, gather(log, bytes, &mut jobs));
                }
                Some(other) => return Batch::One(other),
                None => {
                    *jobs = VecDeque::new();
                    jobs = self.wake.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

enum Batch {
    Write(LogId, Vec<Vec<u8>>),
    One(Job),
}

fn gather(log: LogId, first: Vec<u8>, jobs: &mut VecDeque<Job>) -> Vec<Vec<u8>> {
    let mut parts = vec![first];
    while parts.len() < MOST_PARTS
        && matches!(jobs.front(), Some(Job::Write(other, _)) if *other == log)
        && let Some(Job::Write(_, bytes)) = jobs.pop_front()
    {
        parts.push(bytes);
    }
    parts
}

fn perform(batch: Batch, files: &mut Vec<(LogId, LogFile)>) -> Done {
    match batch {
        Batch::Write(log, parts) => {
            let bytes = parts.iter().map(Vec::len).sum();
            let dropped = find(files, log).map_or(0, |file| file.write(&parts));
            Done { log, what: What::Wrote { bytes, dropped } }
        }
        Batch::One(Job::Open(log, path)) => {
            let opened = LogFile::open(path).map(|file| files.push((log, file)));
            Done { log, what: What::Opened(opened) }
        }
        Batch::One(Job::Reopen(log)) => {
            let file = find(files, log).ok_or_else(|| "the log is closed".to_owned());
            Done { log, what: What::Reopened(file.and_then(LogFile::reopen)) }
        }
        Batch::One(Job::Close(log) | Job::Write(log, _)) => {
            files.retain(|(other, _)| *other != log);
            files.shrink_to_fit();
            Done { log, what: What::Closed }
        }
    }
}

fn find(files: &mut [(LogId, LogFile)], log: LogId) -> Option<&mut LogFile> {
    files.iter_mut().find(|(other, _)| *other == log).map(|(_, file)| file)
}

/// No code panics while it holds one of these locks, and what they guard is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
