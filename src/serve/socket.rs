//! A unix socket that root and its group may use.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use tokio::net::UnixListener;

const MODE: u32 = 0o660;

/// Listens at a path. What a dead daemon left there is replaced; a live one's socket is not.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    refuse_what_lives(path)?;
    // The permissions are right before the name is there; renaming also replaces the dead one's.
    let mut unready = path.as_os_str().to_owned();
    unready.push("~");
    let unready = Path::new(&unready);
    remove(unready)?;
    let listener = UnixListener::bind(unready)?;
    std::fs::set_permissions(unready, Permissions::from_mode(MODE))?;
    std::fs::rename(unready, path)?;
    Ok(listener)
}

/// At the end, so that clients see at once that nobody is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn refuse_what_lives(path: &Path) -> io::Result<()> {
    let kind = match path.symlink_metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file there is no socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let second = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(bind(file.path()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(file.path().exists());
    }
}
