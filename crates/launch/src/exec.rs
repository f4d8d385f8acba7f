//! A further process in a container. libcontainer's own exec has no filter and no user namespace, so this is ours:
//! enter by pidfd, fork once (a PID namespace takes children only), assume the privileges, execve.

mod kept;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use libcontainer::oci_spec::runtime::Process;
use nix::fcntl::OFlag;
use nix::unistd::{pipe2, setsid};
use wire::v1;

use crate::control::Answer;
use crate::create::{own_stdio, set_oom_score};
use crate::failure::{At, Failure, Kind};
use crate::label::Labels;
use crate::privileges::{Privileges, raise_limits};
use crate::program::Program;
use crate::{cgroups, directory, raw, terminal};
use kept::Kept;

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
pub(crate) fn exec(job: &v1::ExecJob) -> Result<Answer, Failure> {
    let kept = Kept::of(job)?;
    let (filter, ids) = (kept.filter(job)?, kept.ids()?);
    let process = true_process(kept.process, job);
    let user = process.user();
    let (uid, gid) = (user.uid(), user.gid());
    let groups = user.additional_gids().clone().unwrap_or_default();
    set_oom_score(&process)?;
    // v1 has no birth into a cgroup: this process joins, and its child is born where it is.
    job.cgroups.iter().try_for_each(|dir| cgroups::join(dir))?;
    if ids.is_some() {
        raise_limits(&process);
    }
    if !job.tty {
        own_stdio(ids.map_or(uid, |ids| ids.user(uid)))?;
    }
    // From the host's /proc: the container's may be a volume.
    let labels = Labels::of(&process)?;
    enter(job.pid)?;
    if ids.is_some() {
        become_root()?;
    }
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
    let child = Child {
        program: Program::new(
            process.args().as_deref().unwrap_or_default(),
            process.env().as_deref().unwrap_or_default(),
        )?,
        privileges: Privileges::of(&process, filter, labels),
        cwd: process.cwd().display().to_string(),
        terminal: slave,
        told,
    };
    let Some(pid) = raw::fork_sibling().at(STAGE, || "forking".into())? else { child.run() };
    drop(child);
    wait_until_it_runs(reader)?;
    Ok(Answer { born: v1::Born { pid, uid, gid, groups }, terminal: master })
}

/// The container's process, with what the job changes.
fn true_process(mut process: Process, job: &v1::ExecJob) -> Process {
    let mut env = process.env().clone().unwrap_or_default();
    let name = |e: &str| e.split_once('=').map_or(e, |(n, _)| n).to_owned();
    env.retain(|old| job.env.iter().all(|new| name(new) != name(old)));
    env.extend(job.env.iter().cloned());
    if job.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    process.set_args(Some(job.args.clone())).set_env(Some(env));
    if job.oom_score_adj.is_some() {
        process.set_oom_score_adj(job.oom_score_adj);
    }
    if !job.cwd.is_empty() {
        process.set_cwd(job.cwd.clone().into());
    }
    process
}

/// Enters all namespaces of the container's process.
fn enter(pid: i32) -> Result<(), Failure> {
    let process = raw::pidfd(pid).map_err(|e| {
        Failure::new(STAGE, Kind::NotFound, format!("the container's process {pid} is gone: {e}"))
    })?;
    // Nobody in the container may look into this process, which still has what the host gave it.
    raw::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(STAGE, || "hiding from the container".into())?;
    let mut flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    // The others can be entered from within; one's own user namespace cannot.
    let user = |who: &str| {
        fs::read_link(format!("/proc/{who}/ns/user"))
            .at(STAGE, || format!("reading the user namespace of {who}"))
    };
    if user(&pid.to_string())? != user("self")? {
        flags |= libc::CLONE_NEWUSER;
    }
    raw::enter(process.as_fd(), flags).at(STAGE, || format!("entering the namespaces of {pid}"))
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
