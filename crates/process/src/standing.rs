//! Where a process stands on the node, settled while it still sees the node.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::sys::stat::{SFlag, fstat};

use crate::failure::{At, Failure};
use crate::raw;

/// Always written, because the shim's own is inherited else. What may not be set is the least that may.
pub fn set_oom_score(wanted: i32) -> Result<(), Failure> {
    let put = |score: i32| {
        let mut file = OpenOptions::new().write(true).open("/proc/self/oom_score_adj")?;
        file.write_all(score.to_string().as_bytes())
    };
    let lowered = put(wanted).or_else(|refused| match refused.kind() {
        ErrorKind::PermissionDenied => put(wanted.max(0)),
        _ => Err(refused),
    });
    match lowered {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        other => other.at("oom score", || format!("setting it to {wanted}")),
    }
}

/// Joins one v1 cgroup that exists.
pub fn join(dir: &str) -> Result<(), Failure> {
    let tasks = OpenOptions::new().write(true).open(Path::new(dir).join("tasks"));
    tasks.and_then(|mut tasks| tasks.write_all(b"0")).at("cgroup", || format!("joining {dir}"))
}

/// A process that is not root may open its own /dev/stdout again.
pub fn own_stdio(uid: u32) -> Result<(), Failure> {
    let own = |fd| own_pipe(fd, uid).at("stdio", || format!("giving the pipes to user {uid}"));
    raw::stdio().into_iter().try_for_each(own)
}

fn own_pipe(fd: BorrowedFd<'_>, uid: u32) -> std::io::Result<()> {
    let kind = SFlag::from_bits_truncate(fstat(raw::shown(&fd))?.st_mode) & SFlag::S_IFMT;
    if [SFlag::S_IFIFO, SFlag::S_IFSOCK].contains(&kind) {
        std::os::unix::fs::fchown(fd, Some(uid), None)
    } else {
        Ok(())
    }
}
