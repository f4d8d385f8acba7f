//! The job comes in as one frame on the control socket, the answer goes back as one.

use std::os::fd::{AsFd, OwnedFd};

use wire::v1::{self, answer, job};

use crate::failure::{At, Failure};
use crate::raw;

const STAGE: &str = "launch";

/// The socket to the shim.
#[derive(Debug)]
pub(crate) struct Control(OwnedFd);

/// What launch answers when there is a process.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) born: v1::Born,
    /// The master of the process's terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

impl Control {
    /// The socket that the shim left open for us.
    pub(crate) fn inherited() -> Result<Self, Failure> {
        let fd = raw::inherited(wire::inherited::CONTROL_FD);
        Ok(Self(fd.at(STAGE, || "taking the control socket".into())?))
    }

    /// Reads the job.
    pub(crate) fn job(&self) -> Result<job::Job, Failure> {
        let received = wire::recv::<_, v1::Job>(&self.0);
        let (job, _) = received.at(STAGE, || "reading the job".into())?;
        job.job.ok_or_else(|| Failure::invalid(STAGE, "a job of a kind this launch does not know"))
    }

    /// Tells the shim that the process lives; the terminal goes with it.
    pub(crate) fn born(&self, answer: Answer) -> Result<(), Failure> {
        self.send(answer::Answer::Born(answer.born), answer.terminal.as_ref())
    }

    /// Tells the shim why there is no process.
    pub(crate) fn failed(&self, failure: &Failure) -> Result<(), Failure> {
        let told = v1::Failure {
            stage: failure.stage.to_owned(),
            message: failure.message.clone(),
            kind: failure.kind.into(),
        };
        self.send(answer::Answer::Failure(told), None)
    }

    fn send(&self, body: answer::Answer, fd: Option<&OwnedFd>) -> Result<(), Failure> {
        let reply = v1::Answer { answer: Some(body) };
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        wire::send(&self.0, &reply, &fds).at(STAGE, || "answering".into())
    }
}
