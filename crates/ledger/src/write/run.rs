//! The thread of the run file: it latches at the first failed commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};

use super::{Answer, Copy, Request, Shared, answer_all};
use crate::file::{Changes, File};
use crate::{Durability, Entry, WriteError};

/// More requests than this are not put into one commit.
const BATCH: usize = 1024;

#[derive(Debug)]
pub(super) struct Thread {
    file: File,
    latched: bool,
    to_disk: Sender<Copy>,
    shared: Arc<Shared>,
}

/// The requests of one commit, sorted by who answers them.
#[derive(Debug, Default)]
struct Batch {
    copy: Copy,
    process: Vec<Answer>,
}

impl Thread {
    pub(super) fn new(file: File, to_disk: Sender<Copy>, shared: Arc<Shared>) -> Self {
        Self { file, latched: false, to_disk, shared }
    }

    pub(super) fn serve(&mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut batch = Batch::default();
            for request in std::iter::once(first).chain(requests.try_iter().take(BATCH - 1)) {
                self.admit(request, &mut batch);
            }
            self.commit(batch);
        }
    }

    fn admit(&self, request: Request, batch: &mut Batch) {
        match request {
            Request::Flush { answer } => batch.copy.flushes.push(answer),
            Request::Write { entries, durability, answer } => match self.refusal(durability) {
                Some(error) => drop(answer.send(Err(error))),
                None => batch.add(entries, durability, answer),
            },
        }
    }

    fn refusal(&self, durability: Durability) -> Option<WriteError> {
        if self.latched {
            return Some(WriteError::Latched);
        }
        let refused =
            durability == Durability::Power && self.shared.disk_refuses.load(Ordering::Relaxed);
        refused.then_some(WriteError::DiskRefused)
    }

    fn commit(&mut self, Batch { mut copy, process }: Batch) {
        let written = self.write(&copy.changes);
        if written.is_err() {
            copy.changes.clear();
            answer_all(copy.answers.drain(..), &written);
        }
        answer_all(process, &written);
        // Fails only when the disk thread is gone; then the answers are dropped with the copy, which reports it.
        drop(self.to_disk.send(copy));
    }

    fn write(&mut self, changes: &Changes) -> Result<(), WriteError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.shared.run_commits.fetch_add(1, Ordering::Relaxed);
        self.file.commit(changes).map_err(|source| {
            self.latched = true;
            WriteError::Run { path: self.file.path.clone(), source: Arc::new(source) }
        })
    }
}

impl Batch {
    fn add(&mut self, entries: Vec<Entry>, durability: Durability, answer: Answer) {
        let changes = entries.into_iter().map(|e| ((e.table.to_owned(), e.key), e.value));
        self.copy.changes.extend(changes);
        match durability {
            Durability::Process => self.process.push(answer),
            Durability::Power => self.copy.answers.push(answer),
        }
    }
}
