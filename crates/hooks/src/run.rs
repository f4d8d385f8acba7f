//! One hook, from its start to its end or its limit.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getppid, pipe2};

use crate::{Hook, HookError, Stage};

/// How much of what a program wrote is quoted.
const TAIL: usize = 1 << 10;
/// How long its end may stay unseen: it closes its pipe a moment before.
const PAUSE: Duration = Duration::from_millis(1);
/// That of one which has closed its pipe long before, or left it to others.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// What a program writes: the end of it.
struct Output {
    pipe: File,
    tail: Vec<u8>,
    ended: bool,
}

/// What is to be run, and how.
pub(crate) struct Run<'a> {
    pub(crate) stage: Stage,
    pub(crate) hook: &'a Hook,
    pub(crate) cwd: &'a Path,
    pub(crate) env: &'a [String],
    /// It ends with our parent.
    pub(crate) tied: bool,
}

/// How it came to an end.
enum End {
    Itself(ExitStatus),
    Limit,
    Orphan,
}

impl Run<'_> {
    pub(crate) fn run(&self, input: &io::Result<Vec<u8>>) -> Result<(), HookError> {
        let (stage, limit) = (self.stage, self.hook.limit());
        let path = || self.hook.path.clone();
        let begun = input
            .as_ref()
            .map_err(|error| io::Error::other(error.to_string()))
            .and_then(|input| self.start(input));
        match begun.and_then(|(child, output)| wait(child, output, limit, self.tied)) {
            Ok((End::Itself(status), _)) if status.success() => Ok(()),
            Ok((End::Itself(status), said)) => {
                Err(HookError::Ended { stage, path: path(), status, said })
            }
            Ok((End::Limit, said)) => Err(HookError::TimedOut { stage, path: path(), limit, said }),
            Ok((End::Orphan, _)) => Err(HookError::Orphaned { stage, path: path() }),
            Err(source) => Err(HookError::Start { stage, path: path(), source }),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "hooks are programs, and callers may block")]
    fn start(&self, input: &[u8]) -> io::Result<(Child, Output)> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        nonblocking(&ours)?;
        let env = self.env.iter().filter_map(|entry| entry.split_once('='));
        let mut args = self.hook.args.iter();
        let mut command = Command::new(&self.hook.path);
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        command.args(args).env_clear().envs(env).current_dir(self.cwd).process_group(0);
        command.stdin(told(input)?).stdout(theirs.try_clone()?).stderr(theirs);
        let child = command.spawn()?;
        Ok((child, Output { pipe: ours.into(), tail: Vec::new(), ended: false }))
    }
}

/// A pipe with the state in it, and its end behind.
fn told(state: &[u8]) -> io::Result<Stdio> {
    let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
    let size = i32::try_from(state.len()).map_err(io::Error::other)?;
    fcntl(raw(&ours), FcntlArg::F_SETPIPE_SZ(size.max(64 << 10)))?;
    nonblocking(&ours)?;
    File::from(ours).write_all(state)?;
    Ok(Stdio::from(theirs))
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    fcntl(raw(fd), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// As this version of nix wants it.
#[expect(clippy::disallowed_types, reason = "nix's fcntl takes a number")]
fn raw(fd: &OwnedFd) -> std::os::fd::RawFd {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

/// How it ended, and the end of what it wrote.
fn wait(
    mut child: Child,
    mut output: Output,
    limit: Duration,
    tied: bool,
) -> io::Result<(End, String)> {
    let (begun, parent) = (Instant::now(), getppid());
    let mut pause = PAUSE;
    let end = loop {
        output.read();
        if let Some(status) = child.try_wait()? {
            output.read();
            return Ok((End::Itself(status), output.text()));
        }
        if tied && getppid() != parent {
            break End::Orphan;
        }
        let Some(left) = limit.checked_sub(begun.elapsed()) else { break End::Limit };
        output.wait(left.min(pause));
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    // Its children too; it leads a group of its own.
    let group = i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)?;
    killpg(group, Signal::SIGKILL).ok();
    child.kill()?;
    child.wait()?;
    output.read();
    Ok((end, output.text()))
}

// === impl Output ===

impl Output {
    /// Takes what is there.
    fn read(&mut self) {
        let mut buffer = [0; 4 << 10];
        while !self.ended {
            match self.pipe.read(&mut buffer) {
                Ok(count) if count > 0 => self.keep(buffer.get(..count).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => self.ended = true,
            }
        }
    }

    fn keep(&mut self, more: &[u8]) {
        self.tail.extend_from_slice(more);
        let old = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..old);
    }

    /// Until there is more, or the time is over.
    fn wait(&self, time: Duration) {
        if self.ended {
            return std::thread::sleep(time);
        }
        let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
        // Whatever it says, the caller looks.
        poll(&mut fds, time).ok();
    }

    /// On one line, without what a terminal would obey.
    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let text = lines.collect::<Vec<_>>().join("; ");
        text.chars().filter(|c| !c.is_control()).collect()
    }
}
