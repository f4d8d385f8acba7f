//! The job comes in as one frame on the control socket, the answer goes back as one.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::stat::{Mode, umask};
use wire::v1::{self, answer, job};

use crate::failure::{At, Failure};
use crate::raw;

const STAGE: &str = "launch";

/// The socket to the shim.
#[derive(Debug)]
pub struct Control(OwnedFd);

/// What is answered when there is a process.
#[derive(Debug)]
pub struct Answer {
    /// The process.
    pub born: v1::Born,
    /// The master of the process's terminal.
    pub terminal: Option<OwnedFd>,
}

impl Control {
    /// The socket that the shim left open for us.
    pub fn inherited() -> Result<Self, Failure> {
        let fd = raw::inherited(wire::inherited::CONTROL_FD);
        Ok(Self(fd.at(STAGE, || "taking the control socket".into())?))
    }

    /// Reads the job, has it done, and answers with what came of it.
    pub fn serve(
        &self,
        work: impl FnOnce(job::Job) -> Result<Answer, Failure>,
    ) -> Result<(), Failure> {
        match self.job().and_then(work) {
            Ok(answer) => self.born(answer),
            Err(failure) => {
                self.failed(&failure)?;
                Err(failure)
            }
        }
    }

    fn job(&self) -> Result<job::Job, Failure> {
        raw::close_all_on_exec().at(STAGE, || "marking descriptors".into())?;
        umask(Mode::from_bits_truncate(0o022));
        let received = wire::recv::<_, v1::Job>(&self.0);
        let (job, _) = received.at(STAGE, || "reading the job".into())?;
        job.job.ok_or_else(|| {
            Failure::invalid(STAGE, "a job of a kind that this program does not know")
        })
    }

    /// Tells the shim that the process lives; the terminal goes with it.
    fn born(&self, answer: Answer) -> Result<(), Failure> {
        self.send(answer::Answer::Born(answer.born), answer.terminal.as_ref())
    }

    /// Tells the shim why there is no process.
    fn failed(&self, failure: &Failure) -> Result<(), Failure> {
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
