//! One log file: whole records or none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

// === impl LogFile ===

impl LogFile {
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        match open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(format!("opening the log {}: {error}", path.display())),
        }
    }

    /// Goes on in a file newly opened at the same path; the old one stays if that fails.
    pub(super) fn reopen(&mut self) -> Result<(), String> {
        match open(&self.path) {
            Ok(file) => {
                self.file = file;
                Ok(())
            }
            Err(error) => Err(format!("opening the log {} again: {error}", self.path.display())),
        }
    }

    /// Writes the records and tells how many bytes the disk refused.
    pub(super) fn write(&mut self, parts: &[Vec<u8>]) -> u64 {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = slices.as_mut_slice();
        let mut written = 0;
        while !rest.is_empty() {
            match self.file.write_vectored(rest) {
                Ok(count) if count > 0 => {
                    written += count;
                    IoSlice::advance_slices(&mut rest, count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return self.refused(parts, written),
            }
        }
        0
    }

    /// Takes back the beginning of the record in which the disk became full.
    fn refused(&mut self, parts: &[Vec<u8>], written: usize) -> u64 {
        let bytes = parts.iter().flatten().copied();
        let torn =
            bytes.clone().take(written).fold(0, |torn, b| if b == b'\n' { 0 } else { torn + 1 });
        if torn > 0
            && let Ok(meta) = self.file.metadata()
        {
            self.file.set_len(meta.len().saturating_sub(torn)).ok();
        }
        let all: usize = parts.iter().map(Vec::len).sum();
        u64::try_from(all - written).unwrap_or(u64::MAX) + torn
    }
}

/// Opens for appending, never through a link and never waiting for the reader of a pipe.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(directory) = path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
            }
            options.open(path)?
        }
        result => result?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_log_is_made_with_its_directory_and_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pod/name/0.log");
        for _ in 0..2 {
            let mut log = LogFile::open(path.clone()).unwrap();
            assert_eq!(log.write(&[b"one\n".to_vec(), b"two\n".to_vec()]), 0);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\none\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_link_or_a_directory_is_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        symlink(&target, &link).unwrap();
        assert!(LogFile::open(link).unwrap_err().contains("link"));
        assert!(!target.exists());
        LogFile::open(dir.path().to_owned()).unwrap_err();
        assert!(LogFile::open("/dev/null".into()).unwrap_err().contains("not a regular file"));
    }

    #[test]
    fn rotation_loses_and_tears_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(path.clone()).unwrap();
        log.write(&[b"one\n".to_vec()]);
        fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        log.write(&[b"two\n".to_vec()]);
        log.reopen().unwrap();
        log.write(&[b"three\n".to_vec()]);
        assert_eq!(fs::read_to_string(dir.path().join("0.log.1")).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_full_disk_drops_whole_records_and_counts_them() {
        // The size limit of a file stands for the disk's; it is per process, so a mount of 8 KiB would need root.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(path.clone()).unwrap();
        assert_eq!(log.write(&[b"first\n".to_vec()]), 0);
        log.file.write_all(b"second\nthi").unwrap();
        assert_eq!(log.refused(&[b"second\nthird\n".to_vec()], 10), 6);
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\n");
    }
}
