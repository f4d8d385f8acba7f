//! A container that an OCI runtime of the host makes (runc, crun, youki): its root filesystem and sources are ours, all else is
//! the runtime's, cgroups too.
//!
//! ```text
//! OVER/rootfs, OVER/s/N   the overlay and the bind sources       OVER/carrier    config.json as the runtime gets it
//! OVER/ns/KIND            the pod's namespaces                   OVER/dev        a user namespace's devices, to be bound
//! OVER/b                  the bundle: config.json as exec reads it, and the runtime's state, which goes with it
//! OVER/log, pid, console.sock    what the runtime tells
//! ```
//!
//! The host's tree stays where it is, because a runtime needs its libraries, the cgroups and whatever else its maker thought of.
//! OVER is the first directory on the way to the bundle that only root can enter, or the bundle: the root of a user namespace
//! reaches everything in the staging root by path, and nothing of the host is hidden but Ferropod's own.
//!
//! An exec is none of the runtime's business: launch enters the container's namespaces as it enters its own. So a runtime whose
//! containers are not processes in namespaces of the host (gVisor, virtual machines) is of no use here.

mod report;
mod spec;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use libcontainer::oci_spec::runtime::Spec;
use nix::mount::{MntFlags, umount2};
use process::control::Answer;
use process::failure::{At, Failure, Kind};
use process::standing::own_stdio;
use wire::v1;

use crate::create::{move_in, settle, source, write};
use crate::idmap::UserNamespace;
use crate::node::NODES;
use crate::options::is_bind;
use crate::source::Source;
use crate::{cgroups, device, kept, label, raw, seccomp, terminal};
use crate::{ground, path, rootfs};

const STAGE: &str = "runtime";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The runtime's own directory within a bundle.
const STATE: &str = "runtime";
/// Its own mode guards what is in it.
const PASSABLE: u32 = 0o711;

/// Where a runtime finds things.
struct Places {
    /// What the staging root covers; all of it is below.
    over: PathBuf,
    /// The bundle as the host sees it, within the staging root.
    bundle: PathBuf,
}

/// Has the job's runtime make its container. The process waits for [`start`].
pub(crate) fn create(job: &v1::CreateJob) -> Result<Answer, Failure> {
    let mut spec: Spec =
        serde_json::from_slice(&job.spec).at(STAGE, || "reading the specification".into())?;
    rootfs::separate()?;
    cgroups::keep_counted_hugepages(&mut spec, None);
    let user_namespace = UserNamespace::of(&spec)?;
    let mapped = user_namespace.as_ref();
    let mut elsewhere = device::add(&mut spec, job)?;
    let binds = spec.mounts().iter().flatten().enumerate().filter(|(_, mount)| is_bind(mount));
    let sources =
        binds.map(|bind| source(bind, &elsewhere, job, mapped)).collect::<Result<Vec<_>, _>>()?;
    label::prepare(&spec, &job.relabel)?;
    // A profile that only the runtime can read is nothing for this container's creation.
    let filter = seccomp::filter_of(&spec, &job.seccomp_cache);
    let places = stage(job, &sources, mapped)?;
    drop(sources);
    spec::bind_namespaces(&spec)?;
    hide_named_hierarchies()?;
    let user = move_in(&spec, job, "rootfs", mapped.map(|mapped| mapped.ids))?;
    device::own(&mut spec, &mut elsewhere, job, (user.uid, user.gid));
    elsewhere.own(&NODES.to_string_lossy())?;
    let process = settle(&mut spec, &user, job.set_home)?;
    if let Some(mapped) = mapped {
        mapped.ids.check(user.uid, user.gid, &user.groups)?;
        mapped.devices(&spec, path::place("dev")?.as_fd())?;
    }
    write(&format!("{}/config.json", places.bundle.display()), &spec)?;
    let kept = filter.map(|filter| kept::of(&process, filter, mapped.map(|mapped| mapped.ids)));
    if let Ok(kept) = &kept {
        process::kept::leave(kept, &places.bundle.display().to_string())?;
    }
    let theirs = spec::of(&spec, &places.over, mapped.is_some())?;
    write(&format!("{}/config.json", places.carrier().display()), &theirs)?;
    let console = process
        .terminal()
        .unwrap_or(false)
        .then(|| terminal::listen(&places.console()))
        .transpose()?;
    if console.is_none() {
        own_stdio(mapped.map_or(user.uid, |mapped| mapped.ids.user(user.uid)))?;
    }
    let pid = places.make(job, console.is_some())?;
    let terminal = console.as_ref().map(terminal::receive).transpose()?;
    let (uid, gid, groups) = (user.uid, user.gid, user.groups);
    let born = v1::Born { pid, uid, gid, groups, kept: kept.is_ok() };
    Ok(Answer { born, terminal })
}

/// Has the runtime start what it has made.
pub(crate) fn start(job: &v1::StartJob) -> Result<Answer, Failure> {
    let bundle = Path::new(&job.bundle);
    let mut command = runtime(&job.runtime, bundle, &bundle.join("start.log"));
    command.arg("start").arg(&job.container_id);
    run(command, "start", &bundle.join("start.log"))
        .map_err(|failure| Failure { stage: "start", ..failure })?;
    Ok(Answer { born: v1::Born::default(), terminal: None })
}

impl Places {
    /// Where the runtime finds its specification.
    fn carrier(&self) -> PathBuf {
        self.over.join("carrier")
    }

    fn console(&self) -> String {
        self.over.join("console.sock").display().to_string()
    }

    fn make(&self, job: &v1::CreateJob, console: bool) -> Result<i32, Failure> {
        let (log, pid_file) = (self.over.join("log"), self.over.join("pid"));
        let mut command = runtime(&job.runtime, &self.bundle, &log);
        command.arg("create").arg("--bundle").arg(self.carrier()).arg("--pid-file").arg(&pid_file);
        if console {
            command.arg("--console-socket").arg(self.console());
        }
        command.arg(&job.container_id);
        run(command, "create", &log)?;
        let text = fs::read_to_string(&pid_file)
            .at(STAGE, || format!("reading the pid that {} wrote", job.runtime))?;
        text.trim().parse().at(STAGE, || format!("reading the pid that {} wrote", job.runtime))
    }
}

/// Without the environment of the daemon, and with a log that can be read.
#[expect(clippy::disallowed_methods, reason = "this process has one thread and does nothing else")]
fn runtime(path: &str, bundle: &Path, log: &Path) -> Command {
    let mut command = Command::new(path);
    command.env_clear().env("PATH", PATH).current_dir("/");
    command.arg("--root").arg(bundle.join(STATE));
    command.arg("--log").arg(log).args(["--log-format", "json"]);
    command
}

fn run(mut command: Command, verb: &str, log: &Path) -> Result<(), Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = command.status().map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Internal,
        };
        Failure::new(STAGE, kind, format!("executing {program}: {error}"))
    })?;
    if ended.success() {
        return Ok(());
    }
    let told = report::last_error(log).unwrap_or_else(|| how(ended));
    Err(Failure::new(STAGE, Kind::Internal, format!("{program} {verb}: {told}")))
}

fn how(ended: ExitStatus) -> String {
    format!("it ended with {ended} and wrote no error to its log")
}

/// Makes the staging root. It is attached below the bundle first, where nothing is that its parts come from.
fn stage(
    job: &v1::CreateJob,
    sources: &[Source],
    user: Option<&UserNamespace>,
) -> Result<Places, Failure> {
    let layers =
        job.rootfs.as_ref().ok_or_else(|| Failure::invalid(STAGE, "the job has no rootfs"))?;
    let state = Path::new(&job.bundle).join(STATE);
    path::make_dirs(&state.display().to_string(), PASSABLE)
        .at(STAGE, || format!("making {}", state.display()))?;
    let bundle = path::private_clone(&job.bundle, false)?;
    let over = ground::covered(Path::new(&job.bundle))?;
    let root = rootfs::stage(&job.bundle, layers, sources, user)?;
    raw::attach(bundle.as_fd(), path::place("b")?.as_fd())
        .at(STAGE, || "attaching the bundle".into())?;
    raw::attach(root.as_fd(), over.1.as_fd())
        .at(STAGE, || format!("covering {}", over.0.display()))?;
    Ok(Places { bundle: over.0.join("b"), over: over.0 })
}

/// Runtimes join every hierarchy that they find. One without controllers limits nobody, and the daemon, which has no use for it,
/// would leave the cgroup there.
fn hide_named_hierarchies() -> Result<(), Failure> {
    let table = fs::read_to_string("/proc/self/mountinfo")
        .at(STAGE, || "reading the mount table".into())?;
    for point in cgroups::named(&table) {
        umount2(point, MntFlags::MNT_DETACH).at(STAGE, || format!("hiding {point}"))?;
    }
    Ok(())
}
