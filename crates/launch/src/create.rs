//! Making a container: everything up to the process that waits to be started.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::{Mount, Process, Spec, UserBuilder};
use libcontainer::syscall::syscall::SyscallType;
use process::control::Answer;
use process::failure::{At, Failure, Kind, chain};
use process::privileges::{Privileges, raise_limits};
use process::program::Program;
use process::standing::{own_stdio, set_oom_score};
use wire::v1;

use crate::carrier::{carrier, is_late};
use crate::cgroups::CgroupOwner;
use crate::executor::LastSteps;
use crate::ground::Ground;
use crate::hook::{self, AtStart};
use crate::idmap::{Ids, UserNamespace};
use crate::late::Late;
use crate::node::Elsewhere;
use crate::peer::Peer;
use crate::source::{Content, Source};
use crate::trace::{self, Causes};
use crate::user::{self, Resolved};
use crate::volume::Volume;
use crate::{attach, cgroups, device, kept, label, links, seccomp, source, terminal};
use crate::{options, path, point, rootfs};

const STAGE: &str = "spec";

/// Makes the container that the job describes. Its process holds `start` until it runs its program.
pub(crate) fn create(job: &v1::CreateJob, start: Option<OwnedFd>) -> Result<Answer, Failure> {
    let mut spec: Spec =
        serde_json::from_slice(&job.spec).at(STAGE, || "reading the specification".into())?;
    let rootfs =
        job.rootfs.as_ref().ok_or_else(|| Failure::invalid(STAGE, "the job has no rootfs"))?;
    rootfs::separate()?;
    let own = cgroups::Own::make(&spec)?;
    if let Some(own) = &own {
        own.show(&mut spec)?;
    }
    cgroups::keep_counted_hugepages(&mut spec, own.as_ref());
    let user_namespace = UserNamespace::of(&spec)?;
    let mapped = user_namespace.as_ref();
    let mut elsewhere = device::add(&mut spec, job)?;
    let Taken { staged: sources, late, peers } = sources(&spec, &elsewhere, job, mapped)?;
    label::prepare(&spec, &job.relabel)?;
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let limits = match (&own, resources) {
        (Some(own), Some(resources)) => own.limit(resources)?,
        _ => cgroups::Late::default(),
    };
    let filter = seccomp::filter_of(&spec, &job.seccomp_cache)?;
    let owner = if own.is_some() { CgroupOwner::Launch } else { CgroupOwner::Libcontainer };
    let (ground, mounts) = lay(job, rootfs, &spec, &sources, mapped, owner)?;
    let user = move_in(&spec, job, &ground.rootfs(), mapped.map(|mapped| mapped.ids))?;
    device::own(&mut spec, &mut elsewhere, job, (user.uid, user.gid));
    elsewhere.own(&ground.nodes())?;
    let process = settle(&mut spec, &user, job.set_home)?;
    if let Some(mapped) = mapped {
        mapped.ids.check(user.uid, user.gid, &user.groups)?;
        mapped.devices(&spec, path::place(&ground.part("/dev"))?.as_fd())?;
    }
    let kept = kept::of(&process, filter, mapped.map(|mapped| mapped.ids));
    if mapped.is_some() {
        raise_limits(&kept.rlimits);
    }
    set_oom_score(kept.oom_score_adj)?;
    write_specs(&mut spec, owner, &ground, mapped.is_some(), (&sources, mounts))?;
    process::kept::leave(&kept, ground.bundle())?;
    drop(sources);
    let steps = LastSteps {
        program: program(&process)?,
        privileges: Privileges::of(kept)?,
        cwd: process.cwd().display().to_string(),
        uid: user.uid,
        terminal: process.terminal().unwrap_or(false),
        late: Rc::new(RefCell::new(late)),
        peers: Rc::new(peers),
        hooks: AtStart::of(&spec, job)?,
        start: Rc::new(start),
    };
    // As late as can be: from here on it is the container's memory.
    own.as_ref().map_or(Ok(()), cgroups::Own::join)?;
    let answer = build(job, steps, user, mapped.map(|mapped| mapped.ids), &ground)?;
    limits.set()?;
    Ok(answer)
}

/// Who makes the mounts of a container.
enum Mounts {
    /// Launch, those that it can. With those of their sources that were made.
    Ours(Vec<Option<OwnedFd>>),
    /// Libcontainer.
    Theirs(Vec<Option<OwnedFd>>),
    /// Libcontainer, and the sources are in their places.
    Staged,
}

/// Puts the staging root in its place.
fn lay(
    job: &v1::CreateJob,
    rootfs: &v1::Rootfs,
    spec: &Spec,
    sources: &[Source],
    mapped: Option<&UserNamespace>,
    owner: CgroupOwner,
) -> Result<(Ground, Mounts), Failure> {
    if hook::while_making(spec) {
        return Ok((hook::stage(job, rootfs, sources, mapped, owner)?, Mounts::Staged));
    }
    let parts = rootfs::Parts::take(&job.bundle, owner)?;
    let ours = mapped.is_none() && !parts.shows_mounts();
    let made = parts.pivot(&job.bundle, rootfs, sources, mapped)?;
    Ok((Ground::root(), if ours { Mounts::Ours(made) } else { Mounts::Theirs(made) }))
}

/// The one that is kept, which exec and hooks read, and the one that libcontainer gets.
fn write_specs(
    spec: &mut Spec,
    owner: CgroupOwner,
    ground: &Ground,
    mapped: bool,
    (sources, mounts): (&[Source], Mounts),
) -> Result<(), Failure> {
    if let Some(root) = spec.root_mut() {
        root.set_path(ground.rootfs().into());
    }
    write(&format!("{}/config.json", ground.bundle()), spec)?;
    let mut carrier = carrier(spec, owner, ground)?;
    if mapped && ground.shows_host() {
        ground.bind_devices(&mut carrier)?;
    }
    match mounts {
        Mounts::Ours(made) => attach::attach(&mut carrier, &rootfs::ready(sources, &made))?,
        Mounts::Theirs(made) => attach::leave(&mut carrier, &rootfs::ready(sources, &made))?,
        Mounts::Staged => links::follow(&mut carrier, path::place(&ground.rootfs())?)?,
    }
    hook::carry(spec, &mut carrier, ground)?;
    write(&format!("{}/config.json", ground.carrier()), &carrier)
}

fn build(
    job: &v1::CreateJob,
    steps: LastSteps,
    user: Resolved,
    ids: Option<Ids>,
    ground: &Ground,
) -> Result<Answer, Failure> {
    let causes = trace::collect()?;
    let console = steps.terminal.then(|| terminal::listen(&ground.console())).transpose()?;
    if console.is_none() {
        own_stdio(ids.map_or(user.uid, |ids| ids.user(user.uid)))?;
    }
    let pid = run_libcontainer(&job.container_id, steps, console.is_some(), ground)
        .map_err(|error| hook::failure(ground).unwrap_or_else(|| failed(&error, causes)))?;
    let terminal = console.as_ref().map(terminal::receive).transpose()?;
    if terminal.is_some() {
        // The link to a socket that is nowhere any more.
        let link = format!("{}/{}/console-socket", ground.bundle(), job.container_id);
        let _gone = fs::remove_file(link);
    }
    let born = v1::Born { pid, uid: user.uid, gid: user.gid, groups: user.groups, kept: true };
    Ok(Answer { born, terminal })
}

fn run_libcontainer(
    id: &str,
    steps: LastSteps,
    console: bool,
    ground: &Ground,
) -> Result<i32, libcontainer::error::LibcontainerError> {
    let container = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(steps)
        .with_root_path(ground.bundle())?
        .with_console_socket(console.then(|| ground.console()))
        .as_init(ground.carrier())
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()?;
    Ok(container.pid().map_or(0, nix::unistd::Pid::as_raw))
}

fn failed(error: &libcontainer::error::LibcontainerError, causes: Causes) -> Failure {
    let (told, text) = (causes.told(), chain(error));
    let text = match text.split_once(". error during cleanup: ") {
        Some((first, cleanup)) if cgroups::is_blind(cleanup) => first,
        _ => &text,
    };
    let told: Vec<_> = told.split("; ").filter(|part| !cgroups::is_blind(part)).collect();
    let told = told.join("; ");
    let message = if told.is_empty() { text.to_owned() } else { format!("{text} ({told})") };
    Failure::new("libcontainer", Kind::Internal, message)
}

/// What was taken of the host for a container's mounts.
#[derive(Default)]
struct Taken {
    staged: Vec<Source>,
    late: Vec<Late>,
    peers: Vec<Peer>,
}

fn sources(
    spec: &Spec,
    elsewhere: &Elsewhere,
    job: &v1::CreateJob,
    user: Option<&UserNamespace>,
) -> Result<Taken, Failure> {
    let all = spec.mounts().clone().unwrap_or_default();
    let Taken { mut staged, mut late, mut peers } = Taken::default();
    for (index, mount) in all.iter().enumerate().filter(|(_, m)| options::is_bind(m)) {
        let source = source((index, mount), elsewhere, job, user)?;
        if let Content::Host(clone) = &source.mount {
            peers.extend(Peer::part(mount, clone.as_fd(), &all)?);
        }
        if is_late(mount, &all) {
            late.push(Late::new(source, mount)?);
        } else {
            staged.push(source);
        }
    }
    Ok(Taken { staged, late, peers })
}

/// The source of one bind mount of the specification, by its place among all mounts.
pub(crate) fn source(
    (index, mount): (usize, &Mount),
    elsewhere: &Elsewhere,
    job: &v1::CreateJob,
    user: Option<&UserNamespace>,
) -> Result<Source, Failure> {
    if let Some(device) = elsewhere.part(index)? {
        return Ok(Source { mount: Content::Device(device), is_dir: false });
    }
    match Volume::of(mount, &job.image_volumes) {
        Some(volume) => Ok(Source { mount: Content::Image(volume), is_dir: true }),
        None => source::take(mount, &job.deny_missing, user),
    }
}

/// Makes what the container expects in its root, and finds its user there; after the links that libcontainer would follow out of it
/// have been refused.
pub(crate) fn move_in(
    spec: &Spec,
    job: &v1::CreateJob,
    rootfs: &str,
    ids: Option<Ids>,
) -> Result<Resolved, Failure> {
    let root = path::place(rootfs)?;
    rootfs::refuse_links(&root)?;
    let owner = ids.map(|ids| ids.root());
    point::expected(root.as_fd(), &job.directories, spec.mounts().as_ref(), owner)?;
    user::resolve(root.as_fd(), &job.user.clone().unwrap_or_default())
}

/// Writes the numbers and the home directory into the specification's process.
pub(crate) fn settle(spec: &mut Spec, user: &Resolved, set_home: bool) -> Result<Process, Failure> {
    let doing = || "settling the process".to_owned();
    let mut process =
        spec.process().clone().ok_or_else(|| Failure::invalid(STAGE, "no process"))?;
    let numbers = UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.groups.clone())
        .build()
        .at(STAGE, doing)?;
    process.set_user(numbers);
    let mut env = process.env().clone().unwrap_or_default();
    match env.iter().find_map(|e| e.strip_prefix("HOME=")) {
        Some(home) if home.contains(['\n', '\r']) => {
            return Err(Failure::invalid(STAGE, "HOME contains a line break"));
        }
        Some(home) if !home.is_empty() => {}
        _ if set_home => {
            env.retain(|e| !e.starts_with("HOME="));
            env.push(format!("HOME={}", user.home.as_deref().unwrap_or("/")));
        }
        _ => {}
    }
    process.set_env(Some(env));
    spec.set_process(Some(process.clone()));
    Ok(process)
}

fn program(process: &Process) -> Result<Program, Failure> {
    let none = Vec::new();
    Program::new(process.args().as_ref().unwrap_or(&none), process.env().as_ref().unwrap_or(&none))
}

pub(crate) fn write(path: &str, spec: &Spec) -> Result<(), Failure> {
    let doing = || format!("writing {path}");
    let text = serde_json::to_vec(spec).at(STAGE, doing)?;
    let temporary = format!("{path}.{}", std::process::id());
    let mut file = File::create(&temporary).at(STAGE, doing)?;
    file.write_all(&text).at(STAGE, doing)?;
    fs::rename(&temporary, path).at(STAGE, doing)?;
    Ok(())
}
