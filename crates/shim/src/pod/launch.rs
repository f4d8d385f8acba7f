//! Launches at work: spawned, given their job, heard, killed when they take too long.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use wire::v1::answer::Answer;
use wire::v1::failure::Kind;
use wire::v1::{self, Born, Failure};
use wire::{CONTROL_FD, Decoder, Outbox, PID_FD, Received, START_FD, receive};

use super::Pod;
use crate::container::Launch;
use crate::failure::{At, failure};
use crate::namespaces::Namespaces;
use crate::poll::Token;
use crate::raw::{self, Program};
use crate::tree;

const STAGE: &str = "launch";
const READ: usize = 4 << 10;

/// A [`v1::Job`] whose parts are bytes already.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Job {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(super) create: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) exec: Option<Vec<u8>>,
    #[prost(message, optional, tag = "3")]
    pub(super) start: Option<v1::StartJob>,
}

/// Which program does a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Launch,
    /// Or launch, when the daemon has given no other.
    Enter,
}

/// What a launch is started with.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) number: u32,
    pub(super) by: By,
    pub(super) job: Job,
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// Where a container's process says that it has begun.
    pub(super) pipe: Option<BorrowedFd<'a>>,
    pub(super) cgroup: Option<OwnedFd>,
    /// In place of the pod's own.
    pub(super) pid_namespace: Option<OwnedFd>,
    pub(super) limit: Option<Duration>,
}

impl Pod {
    pub(super) fn launch(&mut self, start: Start<'_>) -> Result<(), Failure> {
        let Some(programs) = &self.programs else {
            return Err(failure(Kind::Refused, STAGE, "there is no launch program"));
        };
        let (image, name) = match (start.by, &programs.enter) {
            (By::Enter, Some(enter)) => (enter, c"ferropod-enter"),
            _ => (&programs.launch, c"ferropod-launch"),
        };
        let (control, theirs) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
                .at(STAGE, "making the control socket")?;
        let [stdin, stdout, stderr] = start.stdio;
        let mut fds = vec![(0, stdin), (1, stdout), (2, stderr), (CONTROL_FD, theirs.as_fd())];
        if start.by == By::Launch {
            fds.extend(self.namespaces.iter().flat_map(Namespaces::for_launch));
        }
        if let Some(other) = &start.pid_namespace {
            fds.retain(|(number, _)| *number != PID_FD);
            fds.push((PID_FD, other.as_fd()));
        }
        fds.extend(start.pipe.map(|pipe| (START_FD, pipe)));
        let mut outbox = Outbox::new(wire::frame::MAX_FRAME);
        outbox.push(&start.job, Vec::new()).at(STAGE, "giving the job")?;
        // Before it asks: it need not wait for this process once more.
        outbox.flush(&control).at(STAGE, "giving the job")?;
        let cgroup = start.cgroup.as_ref().map(AsFd::as_fd);
        let program = Program { image: image.as_fd(), name, fds: &fds, cgroup };
        let pid = raw::spawn(&program).at(STAGE, "starting launch")?;
        drop(theirs);
        let token = Token::Launch(start.number);
        self.poll.read(&control, token).at(STAGE, "waiting for launch")?;
        self.launches.push(Launch {
            number: start.number,
            pid,
            control,
            outbox,
            decoder: Decoder::new(),
            deadline: start.limit.and_then(|limit| Instant::now().checked_add(limit)),
            cgroup: start.cgroup,
        });
        self.hear(start.number);
        Ok(())
    }

    /// Gives a launch the rest of its job, and hears what it has to say.
    pub(super) fn hear(&mut self, number: u32) {
        let Some(launch) = self.launches.iter_mut().find(|launch| launch.number == number) else {
            return;
        };
        let blocked = launch.outbox.flush(&launch.control);
        let blocked = matches!(blocked, Ok(wire::socket::Flushed::Blocked));
        self.poll.write(&launch.control, Token::Launch(number), blocked).ok();
        let mut buffer = [0; READ];
        loop {
            match receive(&launch.control, &mut buffer, &mut launch.decoder) {
                Ok(Received::Some) => {}
                Ok(Received::Blocked) => break,
                Ok(Received::Closed) | Err(_) => {
                    // It has ended, or is about to: how, its exit status tells.
                    self.poll.forget(&launch.control);
                    break;
                }
            }
        }
        let Some(frame) = launch.decoder.next_frame() else { return };
        let answer = frame.decode::<v1::Answer>().ok().and_then(|answer| answer.answer);
        let result = match answer {
            Some(Answer::Born(born)) => Ok((born, frame.fds.into_iter().next())),
            Some(Answer::Failure(failure)) => Err(failure),
            None => Err(failure(Kind::Internal, STAGE, "an answer that is none")),
        };
        self.launched(number, result);
    }

    /// A launch has ended: with an answer that is still unread, or without one.
    pub(super) fn launch_ended(&mut self, number: u32, how: &str) {
        self.hear(number);
        let message = format_args!("launch ended without an answer: {how}");
        self.launched(number, Err(failure(Kind::Internal, STAGE, message)));
    }

    pub(super) fn launch_timed_out(&mut self, number: u32) {
        self.launched(number, Err(failure(Kind::TimedOut, STAGE, "launch took too long")));
    }

    /// Ends a launch before its answer.
    pub(super) fn kill_launch(&mut self, number: u32, message: &str) {
        self.launched(number, Err(failure(Kind::Refused, STAGE, message)));
    }

    fn launched(&mut self, number: u32, result: Result<(Born, Option<OwnedFd>), Failure>) {
        let Some(at) = self.launches.iter().position(|launch| launch.number == number) else {
            return;
        };
        let launch = self.launches.swap_remove(at);
        self.launches.shrink_to_fit();
        self.poll.forget(&launch.control);
        // From here on nobody asks for its pid; whoever has ended meanwhile is reaped at the next turn.
        self.reap = true;
        if result.is_err() {
            // What it had begun must not go on.
            tree::kill(launch.pid, launch.cgroup.as_ref().map(AsFd::as_fd));
        }
        if self.container(number).is_some() {
            self.container_launched(number, result);
        } else {
            self.exec_launched(number, result);
        }
    }
}

/// The descriptor, or the other.
pub(super) fn or<'a>(fd: Option<&'a OwnedFd>, other: &'a OwnedFd) -> BorrowedFd<'a> {
    fd.unwrap_or(other).as_fd()
}
