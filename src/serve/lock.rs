//! One daemon to a directory: a lock that the kernel drops with its holder, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a holder may take to let go before it counts as another daemon.
const LET_GO_WITHIN: Duration = Duration::from_millis(500);

/// Held as long as this lives.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("{} is in use by another ferropod, pid {pid}", dir.display())]
    Taken { dir: PathBuf, pid: String },
    #[error("lock {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl DirLock {
    pub(crate) fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join("lock");
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        match lock_within(&file, LET_GO_WITHIN) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Taken { dir: dir.to_owned(), pid: holder(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// A daemon that was killed a moment ago may still hold it, by a child between fork and exec.
fn lock_within(file: &File, patience: Duration) -> Result<(), TryLockError> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if begun.elapsed() < patience => {
                std::thread::sleep(patience / 50);
            }
            done => return done,
        }
    }
}

/// The pid is for people: the lock itself needs none.
fn holder(file: &mut File) -> String {
    let mut pid = String::new();
    let read = file.take(16).read_to_string(&mut pid);
    match (read, pid.trim()) {
        (Ok(_), pid) if !pid.is_empty() => pid.to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::take(dir.path()).unwrap();
        let error = DirLock::take(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        DirLock::take(dir.path()).unwrap();
    }
}
