//! Exec: like Create, but with the daemon's descriptors, a deadline, and an end that is told and not recorded.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use wire::v1::envelope::Body;
use wire::v1::failure::Kind;
use wire::v1::{Born, Exec as Request, ExecExited, ExecStarted, Failure};

use super::Pod;
use super::launch::{By, Job, Start, or};
use super::request::no_container;
use crate::container::{Exec, Ticket};
use crate::failure::{At, failure};
use crate::raw;
use crate::tree;

const STAGE: &str = "exec";

impl Pod {
    pub(super) fn start_exec(
        &mut self,
        ticket: Ticket,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let container = self.container_by_id(&request.container_id).ok_or_else(no_container)?;
        if container.started_at.is_none() || container.alive().is_none() {
            return Err(failure(Kind::Refused, STAGE, "the container is not running"));
        }
        let kept = container.born.as_ref().is_some_and(|born| born.kept);
        let by = if kept { By::Enter } else { By::Launch };
        if self.execs.iter().any(|exec| exec.id == request.exec_id) {
            return Err(failure(Kind::Refused, STAGE, "an exec of that id is here already"));
        }
        let number = self.number();
        let null = raw::duplicate(&self.null).at(STAGE, "duplicating /dev/null")?;
        let mut fds = fds.into_iter();
        let stdio = [request.stdin, request.stdout, request.stderr]
            .map(|given| if given && !request.tty { fds.next() } else { None });
        let cgroup = if request.no_cgroup_fd { None } else { fds.next() };
        let input = if request.hold_input { fds.next() } else { None };
        let kept = cgroup.as_ref().map(raw::duplicate).transpose();
        let limit = Some(request.timeout_ms).filter(|&ms| ms > 0).map(Duration::from_millis);
        self.execs.push(Exec {
            number,
            id: request.exec_id,
            request: ticket,
            pid: None,
            cgroup: kept.at(STAGE, "duplicating the cgroup")?,
            input,
            deadline: limit.and_then(|limit| Instant::now().checked_add(limit)),
            tied: request.tied,
            timed_out: false,
        });
        let launched = self.launch(Start {
            number,
            by,
            job: Job { exec: Some(request.job), ..Job::default() },
            stdio: stdio.each_ref().map(|fd| or(fd.as_ref(), &null)),
            pipe: None,
            cgroup,
            pid_namespace: None,
            limit: None,
        });
        if launched.is_err() {
            self.drop_exec(number);
        }
        launched
    }

    pub(super) fn exec_launched(
        &mut self,
        number: u32,
        result: Result<(Born, Option<OwnedFd>), Failure>,
    ) {
        let Some(exec) = self.execs.iter_mut().find(|exec| exec.number == number) else { return };
        let ticket = exec.request;
        match result {
            Ok((born, terminal)) => {
                exec.pid = Some(Pid::from_raw(born.pid));
                let started = Body::ExecStarted(ExecStarted { pid: born.pid });
                self.answer(ticket, started, terminal.into_iter().collect());
            }
            Err(failure) => {
                self.drop_exec(number);
                self.refuse(ticket, failure);
            }
        }
    }

    pub(super) fn exec_timed_out(&mut self, number: u32) {
        let Some(exec) = self.exec(number) else { return };
        exec.timed_out = true;
        exec.deadline = None;
        if exec.pid.is_none() {
            return self.launch_timed_out(number);
        }
        self.kill_exec_tree(number);
    }

    pub(super) fn kill_exec(&mut self, id: &str) -> Result<(), Failure> {
        let exec = self.execs.iter().find(|exec| exec.id == id).ok_or_else(no_exec)?;
        let number = exec.number;
        if exec.pid.is_none() {
            self.kill_launch(number, "the exec was killed");
        } else {
            self.kill_exec_tree(number);
        }
        Ok(())
    }

    pub(super) fn end_input(&mut self, id: &str) -> Result<(), Failure> {
        let exec = self.execs.iter_mut().find(|exec| exec.id == id).ok_or_else(no_exec)?;
        exec.input = None;
        Ok(())
    }

    pub(super) fn kill_exec_tree(&mut self, number: u32) {
        if let Some(exec) = self.exec(number)
            && let Some(pid) = exec.pid
        {
            tree::kill(pid, exec.cgroup.as_ref().map(AsFd::as_fd));
        }
    }

    /// Those that nobody would hear of any more are killed.
    pub(super) fn connection_ended(&mut self) {
        let tied: Vec<u32> = self.execs.iter().filter(|e| e.tied).map(|e| e.number).collect();
        for number in tied {
            if self.exec(number).is_some_and(|exec| exec.pid.is_none()) {
                self.kill_launch(number, "the daemon went away");
            } else {
                self.kill_exec_tree(number);
            }
        }
    }

    pub(super) fn exec_ended(&mut self, number: u32, code: i32, signal: i32) {
        let Some(exec) = self.drop_exec(number) else { return };
        let (exec_id, timed_out) = (exec.id, exec.timed_out);
        let ended = ExecExited { exec_id, code, signal, timed_out, ..ExecExited::default() };
        self.tell(Body::ExecExited(ended));
    }

    fn drop_exec(&mut self, number: u32) -> Option<Exec> {
        let at = self.execs.iter().position(|exec| exec.number == number)?;
        let exec = self.execs.swap_remove(at);
        self.execs.shrink_to_fit();
        Some(exec)
    }
}

fn no_exec() -> Failure {
    failure(Kind::NotFound, STAGE, "no such exec")
}
