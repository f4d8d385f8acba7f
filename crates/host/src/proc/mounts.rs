//! The mount table, as /proc tells it.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::{FsError, raw};

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Unique among all mount namespaces while the mount lives.
    pub id: u64,
    /// Where it is.
    pub point: PathBuf,
    /// Its file system's type.
    pub kind: String,
    /// Mounts below it travel to its peers.
    pub shared: bool,
}

/// The mounts of this process, in the order in which they were made.
pub fn mounts() -> Result<Vec<MountInfo>, FsError> {
    mounts_of("self")
}

/// The mounts of a process: a pid, or `self`.
pub fn mounts_of(pid: &str) -> Result<Vec<MountInfo>, FsError> {
    let path = PathBuf::from(format!("/proc/{pid}/mountinfo"));
    let bytes = fs::read(&path).map_err(FsError::at("read", &path))?;
    Ok(bytes.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// Whether something is mounted at exactly this path. A missing path has nothing.
pub fn is_mount_point(path: &Path) -> Result<bool, FsError> {
    match raw::open_at(None, path, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
        Ok(fd) => raw::is_mount_root(fd.as_fd()).map_err(FsError::at("look at", path)),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(FsError::new("open", path, error)),
    }
}

fn parse(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = unescape(fields.nth(3)?);
    let mut shared = false;
    // Past the options, as many tags as it has, up to a dash.
    for tag in fields.by_ref().skip(1).take_while(|field| *field != b"-") {
        shared |= tag.starts_with(b"shared:");
    }
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(MountInfo { id, point, kind, shared })
}

/// Blanks, tabs, newlines and backslashes are written in octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let escaped = *first == b'\\';
        rest = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if escaped => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                after
            }
            _ => {
                out.push(*first);
                tail
            }
        };
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read_whatever_its_path_holds() {
        let line = b"36 35 98:0 /r /mnt\\0402\\134x rw,noatime master:1 shared:7 - ext4 /dev/x rw";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.shared, mount.kind.as_str()), (36, true, "ext4"));
        assert_eq!(mount.point, Path::new("/mnt 2\\x"));
        assert!(!parse(b"1 1 0:1 / / rw - proc proc rw").unwrap().shared);
        assert!(mounts().unwrap().iter().any(|m| m.point == Path::new("/proc")));
        let is = |path: &str| is_mount_point(Path::new(path)).unwrap();
        assert!(is("/proc") && !is("/proc/self") && !is("/nonexistent"));
    }
}
