//! Shims as processes of this daemon.
//!
//! The daemon is a shim's parent for as long as both live, and reaps it when its pidfd says that it has ended; a shim that
//! outlives its daemon becomes PID 1's. Every later daemon holds it by a pidfd too, which needs no kinship.
//!
//! # Decisions
//! * Born by clone3 in its own cgroup: no write to cgroup.procs, which costs 9 ms on a quiet kernel.
//! * Executed by descriptor, with an empty environment: nothing that the daemon was started with reaches a pod.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use names::{Kind, SandboxId};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use tokio::io::Interest;

use crate::proc::{self, Pidfd};
use crate::{FsError, raw};

/// Dies after every container: the kernel's own floor for what it may still kill is -999.
const OOM_SCORE_ADJ: &str = "-998";

/// Why there is no shim.
#[derive(Debug, thiserror::Error)]
pub enum SpawnShimError {
    /// What it is born with.
    #[error("open the null device for the shim of {sandbox}")]
    Null {
        /// The sandbox.
        sandbox: SandboxId,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// clone3, or what the child did up to exec.
    #[error("start the shim of {sandbox}")]
    Start {
        /// The sandbox.
        sandbox: SandboxId,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something of /proc.
    #[error(transparent)]
    Look(FsError),
}

impl SpawnShimError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            // A limit of processes.
            Self::Start { source, .. } if source.raw_os_error() == Some(libc::EAGAIN) => {
                Kind::Exhausted
            }
            Self::Null { .. } | Self::Start { .. } => Kind::Internal,
            Self::Look(error) => error.kind(),
        }
    }
}

/// What a shim is born with.
#[derive(Debug, Clone, Copy)]
pub struct SpawnShim<'a> {
    /// The sealed program.
    pub program: BorrowedFd<'a>,
    /// Whose shim it is.
    pub sandbox: &'a SandboxId,
    /// Its listening socket.
    pub listener: BorrowedFd<'a>,
    /// Its end of the birth socket pair.
    pub birth: BorrowedFd<'a>,
    /// Its exit file, opened for appending.
    pub exits: BorrowedFd<'a>,
    /// The cgroup that it is born in, where there is a unified hierarchy.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A shim's process.
#[derive(Debug)]
pub struct ShimProcess {
    pid: i32,
    started: u64,
    pidfd: Pidfd,
}

/// Starts a shim, and returns when it has been executed: 0.6 ms. Blocks.
pub fn spawn_shim(shim: &SpawnShim<'_>) -> Result<ShimProcess, SpawnShimError> {
    let sandbox = || shim.sandbox.clone();
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|source| SpawnShimError::Null { sandbox: sandbox(), source })?;
    let start = |source| SpawnShimError::Start { sandbox: sandbox(), source };
    let id = raw::c_string(shim.sandbox.as_str()).map_err(start)?;
    let args = [CString::from(c"ferropod-shim"), id];
    let null = null.as_fd();
    // In the order of their numbers: wire::LISTEN_FD is 3.
    let fds = [null, null, null, shim.listener, shim.birth, shim.exits];
    let birth = raw::Birth { program: shim.program, args: &args, fds: &fds, cgroup: shim.cgroup };
    let raw::Newborn { pid, pidfd } = raw::spawn(&birth).map_err(start)?;
    protect(pid);
    let started = proc::start_time(pid).map_err(SpawnShimError::Look)?.unwrap_or_default();
    Ok(ShimProcess { pid, started, pidfd: pidfd.into() })
}

/// Needs `CAP_SYS_RESOURCE`; `ferropod check` tells where it is missing.
fn protect(pid: i32) {
    let path = format!("/proc/{pid}/oom_score_adj");
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, OOM_SCORE_ADJ.as_bytes()));
    if let Err(error) = written {
        tracing::debug!(pid, %error, "oom_score_adj of a shim not lowered");
    }
}

impl ShimProcess {
    /// Holds a shim that an earlier daemon started. `started` is checked when it is known; `None`: it is gone.
    pub fn adopt(pid: i32, started: Option<u64>) -> Result<Option<Self>, FsError> {
        let path = Path::new("/proc");
        let Some(pidfd) = Pidfd::open(pid).map_err(FsError::at("open a process of", path))? else {
            return Ok(None);
        };
        let now = proc::start_time(pid)?;
        let same = now.filter(|now| started.is_none_or(|then| then == *now));
        Ok(same.map(|started| Self { pid, started, pidfd }))
    }

    /// Its pid in this PID namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// When it began, in ticks since boot.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Signals it. `false`: it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        self.pidfd.signal(signal)
    }

    /// Waits until it has ended, and reaps it when it is a child of this daemon. Cancel-safe.
    pub async fn ended(&self) -> io::Result<()> {
        // A copy, so that several may wait.
        let copy = self.pidfd.as_fd().try_clone_to_owned()?;
        let fd = raw::watch(copy, Interest::READABLE)?;
        fd.readable().await?.retain_ready();
        self.reap()
    }

    /// Takes its zombie away, if it has ended and is ours.
    pub fn reap(&self) -> io::Result<()> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        match waitid(Id::PIDFd(self.pidfd.as_fd()), flags) {
            // ECHILD: PID 1's, or reaped before.
            Ok(_) | Err(Errno::ECHILD) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The descriptor itself.
    pub fn into_pidfd(self) -> OwnedFd {
        self.pidfd.into()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn spawn(program: &str, birth: &impl AsFd) -> Result<ShimProcess, SpawnShimError> {
        let program = fs::File::open(program).unwrap();
        let null = fs::File::open("/dev/null").unwrap();
        let sandbox = SandboxId::from_random([0xab; 32]);
        let (listener, exits, birth) = (null.as_fd(), null.as_fd(), birth.as_fd());
        let program = program.as_fd();
        spawn_shim(&SpawnShim { program, sandbox: &sandbox, listener, birth, exits, cgroup: None })
    }

    #[tokio::test]
    async fn a_shim_finds_its_descriptors_and_nothing_of_the_daemon() {
        let pipe = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let shim = spawn("/bin/sleep", &pipe.1).unwrap();
        drop(pipe.1);
        // `sleep <64 hex digits>` refuses its argument and ends.
        shim.ended().await.unwrap();
        shim.ended().await.unwrap();
        assert!(!shim.signal(libc::SIGKILL).unwrap());
        assert!(!Path::new(&format!("/proc/{}", shim.pid())).exists(), "no zombie is left");
        assert!(ShimProcess::adopt(shim.pid(), Some(shim.started())).unwrap().is_none());
        let mut rest = Vec::new();
        fs::File::from(pipe.0).read_to_end(&mut rest).unwrap();
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_an_error_and_no_process() {
        let error = spawn("/etc/passwd", &fs::File::open("/dev/null").unwrap()).unwrap_err();
        let SpawnShimError::Start { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn a_living_shim_is_adopted_only_by_its_start_time() {
        let own = i32::try_from(std::process::id()).unwrap();
        let started = proc::start_time(own).unwrap().unwrap();
        assert!(ShimProcess::adopt(own, None).unwrap().is_some());
        assert!(ShimProcess::adopt(own, Some(started)).unwrap().is_some());
        assert!(ShimProcess::adopt(own, Some(started + 1)).unwrap().is_none());
    }

    #[test]
    fn a_born_process_has_an_empty_environment_its_own_session_and_only_its_descriptors() {
        let out = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let null = fs::File::open("/dev/null").unwrap();
        let program = fs::File::open("/bin/sh").unwrap();
        let script = c"tr '\\0' ' ' < /proc/$$/environ; ls /proc/$$/fd; cut -d' ' -f6 /proc/$$/stat; echo $$; pwd; grep SigIgn /proc/$$/status";
        let args = [CString::from(c"sh"), c"-c".into(), script.into()];
        let fds = [null.as_fd(), out.1.as_fd(), null.as_fd(), null.as_fd()];
        let birth = raw::Birth { program: program.as_fd(), args: &args, fds: &fds, cgroup: None };
        let born = raw::spawn(&birth).unwrap();
        drop(out.1);
        let mut text = String::new();
        fs::File::from(out.0).read_to_string(&mut text).unwrap();
        waitid(Id::PIDFd(born.pidfd.as_fd()), WaitPidFlag::WEXITED).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let pid = born.pid.to_string();
        assert_eq!(lines[..4], ["0", "1", "2", "3"], "{text}");
        assert_eq!(lines[lines.len() - 4..lines.len() - 1], [&pid, &pid, "/"], "{text}");
        // 32 and 33 are the C library's own: it lets nobody change them, and whoever started this test may ignore them.
        let ignored = lines[lines.len() - 1].strip_prefix("SigIgn:\t").unwrap();
        let ignored = u64::from_str_radix(ignored, 16).unwrap() & !(0b11 << 31);
        assert_eq!(ignored, 0, "{text}");
    }
}
