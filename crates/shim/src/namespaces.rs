//! The pod's own namespaces, held by descriptor.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use wire::v1::failure::Kind;
use wire::v1::{Failure, IdMap, Namespaces as Reply, OpenNamespaces};
use wire::{IPC_FD, NET_FD, PID_FD, USER_FD, UTS_FD};

use crate::failure::{At, failure};
use crate::raw::{self, Failed, Helper, Report, Step, Wanted};
use crate::sysctl;

const STAGE: &str = "namespaces";
/// A namespace of the network waits for one lock of the whole kernel.
const WAIT_MS: u16 = 20_000;
/// The user and the group of the init, or the last ones that there are.
const NOBODY: u32 = 65_535;
/// The init's root: it holds nothing.
const ROOT: &str = "mode=0555,size=4k,nr_inodes=1";

/// Those that the pod has of its own.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    net: Option<OwnedFd>,
    ipc: Option<OwnedFd>,
    uts: Option<OwnedFd>,
    pid: Option<OwnedFd>,
    user: Option<OwnedFd>,
    pub(crate) init: Option<Pid>,
}

// === impl Namespaces ===

impl Namespaces {
    /// Makes them. On failure nothing is left.
    pub(crate) fn open(request: OpenNamespaces) -> Result<Self, Failure> {
        let names: Vec<String> = request.sysctls.keys().cloned().collect();
        let kinds = request.clone();
        let wanted = wanted(request)?;
        let argv = wanted.pid.then(argument_area).flatten();
        let helper = raw::start(&wanted, argv).at(STAGE, "forking")?;
        let child = helper.pid;
        let made = Self::collect(&helper, &kinds, &names);
        drop(helper);
        waitpid(child, None).ok();
        let made = made?;
        if wanted.user {
            let owner = kinds.user.map_or((0, 0), |ids| (ids.first_uid, ids.first_gid));
            made.set_sysctls(&wanted, owner, &names).inspect_err(|_| end(made.init))?;
        }
        Ok(made)
    }

    fn collect(helper: &Helper, kinds: &OpenNamespaces, names: &[String]) -> Result<Self, Failure> {
        if let Some(ids) = &kinds.user {
            map(helper, ids, names)?;
        }
        let init = wait(helper, kinds.pid, names)?;
        let open = |wanted: bool, pid: Pid, kind: &str| {
            wanted.then(|| namespace(pid, kind)).transpose().inspect_err(|_| end(init))
        };
        Ok(Self {
            net: open(kinds.net, helper.pid, "net")?,
            ipc: open(kinds.ipc, helper.pid, "ipc")?,
            uts: open(kinds.uts, helper.pid, "uts")?,
            pid: open(kinds.pid, init.unwrap_or(helper.pid), "pid")?,
            user: open(kinds.user.is_some(), helper.pid, "user")?,
            init,
        })
    }

    fn set_sysctls(
        &self,
        wanted: &Wanted,
        owner: (u32, u32),
        names: &[String],
    ) -> Result<(), Failure> {
        if wanted.sysctls.is_empty() {
            return Ok(());
        }
        let own: Vec<BorrowedFd<'_>> =
            [&self.net, &self.ipc].into_iter().flatten().map(AsFd::as_fd).collect();
        let helper = raw::set_sysctls(&own, &wanted.sysctls, owner).at(STAGE, "forking")?;
        let set = wait(&helper, false, names).map(drop);
        waitpid(helper.pid, None).ok();
        set
    }

    /// What is told of them, and their descriptors in the order of the wire.
    pub(crate) fn reply(&self) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let all = [&self.net, &self.ipc, &self.uts, &self.pid, &self.user];
        let fds: Result<_, _> = all.into_iter().flatten().map(raw::duplicate).collect();
        let reply = Reply {
            net: self.net.is_some(),
            ipc: self.ipc.is_some(),
            uts: self.uts.is_some(),
            pid: self.pid.is_some(),
            init_pid: self.init.map_or(0, Pid::as_raw),
            user: self.user.is_some(),
        };
        Ok((reply, fds.at(STAGE, "duplicating a namespace")?))
    }

    /// The numbers at which launch finds them.
    pub(crate) fn for_launch(&self) -> impl Iterator<Item = (i32, BorrowedFd<'_>)> {
        let all = [
            (NET_FD, &self.net),
            (IPC_FD, &self.ipc),
            (UTS_FD, &self.uts),
            (PID_FD, &self.pid),
            (USER_FD, &self.user),
        ];
        all.into_iter().filter_map(|(number, fd)| fd.as_ref().map(|fd| (number, fd.as_fd())))
    }
}

fn wanted(request: OpenNamespaces) -> Result<Wanted, Failure> {
    let kinds = [
        (request.net, CloneFlags::CLONE_NEWNET),
        (request.ipc, CloneFlags::CLONE_NEWIPC),
        (request.uts, CloneFlags::CLONE_NEWUTS),
    ];
    let flags = kinds.into_iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag).collect();
    let hostname = OsString::from(request.hostname);
    if hostname.len() > 64 {
        return Err(failure(Kind::Invalid, "hostname", "a host name of more than 64 bytes"));
    }
    let sysctl = |(name, value): (String, String)| match sysctl::path(&name) {
        Some(path) => Ok((path, value.into_bytes())),
        None => {
            Err(failure(Kind::Invalid, "sysctl", format_args!("{name:?} is no name of a sysctl")))
        }
    };
    let last = |count: u32| NOBODY.min(count.saturating_sub(1));
    Ok(Wanted {
        user: request.user.is_some(),
        nobody: request.user.as_ref().map_or((NOBODY, NOBODY), |m| (last(m.uids), last(m.gids))),
        flags,
        pid: request.pid,
        root: match request.label.as_str() {
            "" => ROOT.to_owned(),
            // In quotes, for the commas of its categories.
            label => format!("{ROOT},context=\"{label}\""),
        },
        hostname: Some(hostname).filter(|name| request.uts && !name.is_empty()),
        sysctls: request.sysctls.into_iter().map(sysctl).collect::<Result<_, _>>()?,
    })
}

/// Gives the child's user namespace its ids. Root of the node must do it: only it may map any id, and let groups be changed.
fn map(helper: &Helper, ids: &IdMap, names: &[String]) -> Result<(), Failure> {
    let stopped = |failure| {
        kill(helper.pid, Signal::SIGKILL).ok();
        failure
    };
    match helper.report(WAIT_MS) {
        Ok(Report::Unmapped) => {}
        Ok(Report::Failed(failed)) => return Err(explain(failed, names)),
        Ok(Report::Done(_)) => {
            return Err(stopped(failure(Kind::Internal, STAGE, "a report that is none")));
        }
        Err(error) => {
            return Err(error).at(STAGE, "waiting for the user namespace").map_err(stopped);
        }
    }
    let maps = [("uid_map", ids.first_uid, ids.uids), ("gid_map", ids.first_gid, ids.gids)];
    for (name, first, count) in maps {
        write_map(helper.pid, name, &format!("0 {first} {count}")).map_err(stopped)?;
    }
    helper.mapped().at(STAGE, "waking the helper").map_err(stopped)
}

fn write_map(pid: Pid, name: &str, line: &str) -> Result<(), Failure> {
    let path = format!("/proc/{pid}/{name}");
    let written = File::options().write(true).open(&path).and_then(|mut file| {
        // The kernel takes a map in one piece.
        file.write_all(line.as_bytes())
    });
    written.map_err(|error| {
        failure(Kind::Internal, STAGE, format_args!("writing {line:?} to {name}: {error}"))
    })
}

/// Waits until all is made. Gives the init, which has shut itself in.
fn wait(helper: &Helper, pid: bool, names: &[String]) -> Result<Option<Pid>, Failure> {
    let mut init = None;
    for _ in 0..=u8::from(pid) {
        match helper.report(WAIT_MS) {
            Ok(Report::Done(0) | Report::Unmapped) => {}
            Ok(Report::Done(number)) => init = Some(Pid::from_raw(number)),
            Ok(Report::Failed(failed)) => {
                end(init);
                return Err(explain(failed, names));
            }
            Err(error) => {
                end(init);
                kill(helper.pid, Signal::SIGKILL).ok();
                return Err(error).at(STAGE, "waiting for the namespaces");
            }
        }
    }
    Ok(init)
}

fn end(init: Option<Pid>) {
    if let Some(pid) = init {
        kill(pid, Signal::SIGKILL).ok();
    }
}

fn explain(failed: Failed, names: &[String]) -> Failure {
    let error = failed.error.desc();
    match failed.step {
        Step::Sysctl => {
            let name = names.get(usize::from(failed.index)).map_or("", String::as_str);
            failure(Kind::Invalid, "sysctl", format_args!("setting {name}: {error}"))
        }
        Step::Hostname => {
            failure(Kind::Internal, "hostname", format_args!("setting the host name: {error}"))
        }
        Step::Init => failure(Kind::Internal, STAGE, format_args!("shutting the init in: {error}")),
        Step::User => {
            failure(Kind::Internal, STAGE, format_args!("making a user namespace: {error}"))
        }
        Step::Done | Step::Unshare | Step::Fork | Step::Unmapped => {
            failure(Kind::Internal, STAGE, format_args!("making namespaces: {error}"))
        }
    }
}

/// One of a process's.
pub(crate) fn namespace(pid: Pid, kind: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{pid}/ns/{kind}");
    let opened = File::open(&path).map(OwnedFd::from);
    opened.map_err(|error| failure(Kind::Internal, STAGE, format_args!("opening {path}: {error}")))
}

/// Where the kernel reads this process's arguments: fields 48 and 49 of proc(5)'s stat.
fn argument_area() -> Option<(usize, usize)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(48 - 3);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
