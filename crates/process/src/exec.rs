//! A further process in a container: enter by pidfd, fork once (a PID namespace takes children only), assume the privileges, execve.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::{pipe2, setsid};
use wire::v1::{self, Kept};

use crate::control::Answer;
use crate::failure::{At, Failure, Kind};
use crate::privileges::{Privileges, raise_limits};
use crate::program::Program;
use crate::{directory, raw, standing, terminal};

const STAGE: &str = "exec";
const FIELDS: usize = 3;

/// All that the child needs, made before it exists.
struct Child {
    program: Program,
    privileges: Privileges,
    cwd: String,
    terminal: Option<OwnedFd>,
    /// Closed by execve; else it tells why not.
    told: OwnedFd,
}

/// Runs a command in the container of a job. It runs when this returns.
pub fn exec(job: &v1::ExecJob, kept: Kept) -> Result<Answer, Failure> {
    let mapped = kept.user;
    let (uid, gid, groups) = (kept.uid, kept.gid, kept.groups.clone());
    standing::set_oom_score(job.oom_score_adj.unwrap_or(kept.oom_score_adj))?;
    // v1 has no birth into a cgroup: this process joins, and its child is born where it is.
    job.cgroups.iter().try_for_each(|dir| standing::join(dir))?;
    if mapped.is_some() {
        raise_limits(&kept.rlimits);
    }
    if !job.tty {
        standing::own_stdio(mapped.map_or(uid, |ids| ids.first_uid.saturating_add(uid)))?;
    }
    let program = Program::new(&job.args, &environment(&kept.env, job))?;
    let cwd = if job.cwd.is_empty() { kept.cwd.clone() } else { job.cwd.clone() };
    let privileges = Privileges::of(kept)?;
    enter(job.pid, mapped.is_some())?;
    let (master, slave) =
        if job.tty { terminal::open().map(|(m, s)| (Some(m), Some(s)))? } else { (None, None) };
    if let Some(master) = &master {
        terminal::size(master, job.width, job.height)?;
    }
    if let Some(slave) = &slave {
        std::os::unix::fs::fchown(slave, Some(uid), None)
            .at("terminal", || format!("giving the terminal to user {uid}"))?;
    }
    let (reader, told) = pipe2(OFlag::O_CLOEXEC).at(STAGE, || "making a pipe".into())?;
    let child = Child { program, privileges, cwd, terminal: slave, told };
    let Some(pid) = raw::fork_sibling().at(STAGE, || "forking".into())? else { child.run() };
    drop(child);
    wait_until_it_runs(reader)?;
    let born = v1::Born { pid, uid, gid, groups, kept: false };
    Ok(Answer { born, terminal: master })
}

/// The container's, with what the job changes.
fn environment(containers: &[String], job: &v1::ExecJob) -> Vec<String> {
    let name = |e: &str| e.split_once('=').map_or(e, |(n, _)| n).to_owned();
    let kept = containers.iter().filter(|old| job.env.iter().all(|new| name(new) != name(old)));
    let mut env: Vec<String> = kept.chain(&job.env).cloned().collect();
    if job.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    env
}

/// Enters all namespaces of the container's process, of which the user namespace may be its own.
fn enter(pid: i32, mapped: bool) -> Result<(), Failure> {
    let process = raw::pidfd(pid).map_err(|e| {
        Failure::new(STAGE, Kind::NotFound, format!("the container's process {pid} is gone: {e}"))
    })?;
    // Nobody in the container may look into this process, which still has what the host gave it.
    raw::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(STAGE, || "hiding from the container".into())?;
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    // One's own user namespace cannot be entered from within.
    let flags = if mapped { flags | libc::CLONE_NEWUSER } else { flags };
    raw::enter(process.as_fd(), flags).at(STAGE, || format!("entering the namespaces of {pid}"))?;
    if mapped { become_root() } else { Ok(()) }
}

/// Root of the user namespace that was entered: root of the node has no number in it.
fn become_root() -> Result<(), Failure> {
    let doing = || "becoming root of the user namespace".to_owned();
    raw::set_groups(&[]).at(STAGE, doing)?;
    raw::set_ids(0, 0).at(STAGE, doing)
}

/// Returns when the program has been executed.
fn wait_until_it_runs(reader: OwnedFd) -> Result<(), Failure> {
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text).at(STAGE, || "waiting for the program".into())?;
    if text.is_empty() {
        return Ok(());
    }
    let mut fields = text.splitn(FIELDS, '\0');
    let code = fields.next().unwrap_or_default().to_owned();
    let kind = match code.as_str() {
        "127" => Kind::NotFound,
        "126" => Kind::Refused,
        _ => Kind::Internal,
    };
    let stage = fields.next().unwrap_or_default().to_owned();
    let message = fields.next().unwrap_or_default().to_owned();
    let message = if stage == "start" { message } else { format!("{stage}: {message}") };
    Err(Failure::new("start", kind, message))
}

impl Child {
    fn run(&self) -> ! {
        let (stage, message, code) = match self.prepare() {
            Ok(()) => {
                let not_run = self.program.run();
                ("start", not_run.message, not_run.code)
            }
            Err(failure) => (failure.stage, failure.message, 128),
        };
        if let Ok(told) = self.told.try_clone() {
            // The parent waits on the other end; if it is gone nobody needs the message.
            let _unread =
                File::from(told).write_all(format!("{code}\0{stage}\0{message}").as_bytes());
        }
        raw::leave(code)
    }

    fn prepare(&self) -> Result<(), Failure> {
        setsid().at(STAGE, || "making a session".into())?;
        if let Some(terminal) = &self.terminal {
            terminal::take(terminal)?;
        }
        directory::enter(&self.cwd)?;
        raw::reset_signals().at(STAGE, || "resetting signals".into())?;
        self.privileges.assume()
    }
}
