//! The thread of the disk file: at most 100 ms behind the run file, and never lost to a disk that is full for a while.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::{Copy, Shared, answer_all};
use crate::WriteError;
use crate::file::{Changes, File, Header};
use crate::open::Disk;

/// How late the disk may be.
const LAG: Duration = Duration::from_millis(100);
/// How often a disk that refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Thread {
    path: PathBuf,
    /// None since a commit failed, until it can be opened again.
    file: Option<File>,
    /// What the run file has and the disk file lacks.
    owed: Changes,
    /// What it says of itself is old too.
    header: Option<Header>,
    /// When it is to be paid, unless a caller waits for it.
    due: Option<Instant>,
    shared: Arc<Shared>,
}

impl Thread {
    pub(super) fn new(disk: Disk, shared: Arc<Shared>) -> Self {
        let Disk { path, file, owed, header } = disk;
        shared.disk_refuses.store(file.is_none(), Ordering::Relaxed);
        let due = file.is_none().then(|| Instant::now() + RETRY);
        Self { path, file, owed, header, due, shared }
    }

    pub(super) fn serve(&mut self, copies: &Receiver<Copy>) {
        loop {
            match copies.recv_timeout(self.wait()) {
                Ok(first) => {
                    let all = std::iter::once(first).chain(copies.try_iter());
                    self.take(all.fold(Copy::default(), Copy::then));
                }
                Err(RecvTimeoutError::Timeout) => drop(self.pay()),
                Err(RecvTimeoutError::Disconnected) => return drop(self.pay()),
            }
        }
    }

    fn wait(&self) -> Duration {
        self.due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()))
    }

    fn take(&mut self, copy: Copy) {
        self.owed.extend(copy.changes);
        if copy.answers.is_empty() && copy.flushes.is_empty() {
            if !self.owed.is_empty() && self.due.is_none() {
                self.due = Some(Instant::now() + LAG);
            }
            return;
        }
        answer_all(copy.answers, &self.pay());
        copy.flushes.into_iter().for_each(|flush| flush.send(()).unwrap_or(()));
    }

    /// Commits all that is owed. What the disk refuses stays owed.
    fn pay(&mut self) -> Result<(), WriteError> {
        self.due = None;
        if self.owed.is_empty() && self.header.is_none() {
            return Ok(());
        }
        let result = self.commit();
        self.shared.disk_refuses.store(result.is_err(), Ordering::Relaxed);
        match result {
            Ok(()) => {
                self.owed.clear();
                self.header = None;
                Ok(())
            }
            Err(source) => {
                self.due = Some(Instant::now() + RETRY);
                Err(WriteError::Disk { path: self.path.clone(), source: Arc::new(source) })
            }
        }
    }

    /// redb refuses everything after a failed write: then the file is closed, and opened again at the next try.
    fn commit(&mut self) -> Result<(), redb::Error> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        self.shared.disk_commits.fetch_add(1, Ordering::Relaxed);
        file.commit_with_header(&self.owed, self.header.as_ref())?;
        self.file = Some(file);
        Ok(())
    }
}
