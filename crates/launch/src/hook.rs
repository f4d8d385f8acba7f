//! Hooks of containers that libcontainer makes. Which program, with what state, for how long: `crates/hooks`. Here is where they run.
//!
//! ```text
//! prestart, createRuntime   libcontainer ── /proc/self/exe hooks createRuntime ──> the hooks      (launch's mount namespace)
//! createContainer           its init ────── /proc/self/exe hooks createContainer > the hooks      (all of the container's)
//! startContainer            the last steps of its process, as the container's user                (all of the container's)
//! poststart                 Job{start} of the shim, before it answers                             (the node's)
//! poststop                  the daemon, when it removes the container                             (the node's)
//! ```
//!
//! libcontainer's own hooks are right in order and namespaces, and so they are used for the moment alone: the program that it is given
//! is launch, because its state has no pid of a process that is just being made, its timeout leaves children, the
//! words of a hook go into the container's log, and of a failure nothing is told but the exit status.
//!
//! The first three want the host's tree and the container's mounts at once. For a container that has such hooks, and only
//! then, the staging root is no root but covers a directory of the host ([`ground`](crate::ground)), as it does for an outside
//! runtime; the host's tree goes at libcontainer's `pivot_root`. The bundle is at its own path, in its `config.json` is
//! `root.path`. No descriptor leads back to the host, so that none can leak.
//!
//! # Decisions
//! * The host is in sight of libcontainer for such containers alone: what it does by path with an image's files could then go
//!   wrong there, as with every other runtime. All others keep the small root.
//! * Not a clone of the host's tree in the staging root: hooks mount things in the container's root, and those must be the
//!   container's when they return.
//! * A user namespace's root has to reach the staging root by path: it then covers the first directory on the way that only root
//!   can enter (Ferropod's own, as it makes them), else the one of all bundles. Programs below it are out of sight.
//! * On v1 the hierarchies are taken out of sight of libcontainer, as ever; hooks of the node get them back, in a mount namespace
//!   of their own, and leave the container's cgroups for the shim's. On both they have the container's oom score.
//! * Each stage has the container's root (createContainer), the bundle, or what the container's program has (startContainer) as its
//!   working directory: runc's ways. After the start the bundle is there and the root is not: that is mounted nowhere on the node.
//! * poststart hooks are run before the start is answered. One that fails ends the container, as the specification says.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hooks::{Config, Container, Stage};
use libcontainer::oci_spec::runtime::{Hook, HookBuilder, HooksBuilder, Spec};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, getpid, getppid};
use serde_json::Value;
use wire::v1;

use crate::cgroups::CgroupOwner;
use process::control::Answer;

use crate::ground::{self, Ground};
use crate::idmap::UserNamespace;
use crate::source::Source;
use crate::{path, raw, rootfs};
use process::failure::{At, Failure, Kind, chain};

const STAGE: &str = "hook";
/// The first argument of a launch that libcontainer starts as a hook.
const WORD: &str = "hooks";
/// Where that one says what went wrong, in the staging root.
const REPORT: &str = "/hook";
const CGROUPS: &str = "/sys/fs/cgroup";
const LONGEST_REPORT: u64 = 8 << 10;

/// Whether a container has hooks that see the host's tree and its mounts at once.
pub(crate) fn while_making(spec: &Spec) -> bool {
    let Some(hooks) = spec.hooks() else { return false };
    let all = hooks.prestart().iter().chain(hooks.create_runtime());
    all.chain(hooks.create_container()).flatten().next().is_some()
}

/// Puts the staging root in place beside the host's tree, in a mount namespace of our own.
pub(crate) fn stage(
    job: &v1::CreateJob,
    layers: &v1::Rootfs,
    sources: &[Source],
    user: Option<&UserNamespace>,
    owner: CgroupOwner,
) -> Result<Ground, Failure> {
    let bundle = path::private_clone(&job.bundle, false)?;
    let hidden = (owner == CgroupOwner::Launch).then(|| path::private_clone(CGROUPS, false));
    let hidden = hidden.transpose()?;
    let path = Path::new(&job.bundle);
    // Not the bundle, in which config.json is.
    let above = path.parent().unwrap_or(path);
    let (over, place) = match user {
        Some(_) => ground::covered(above)?,
        None => (above.to_owned(), path::place(&above.display().to_string())?),
    };
    let root = rootfs::stage(&job.bundle, layers, sources, user)?;
    let below = path.strip_prefix(&over).unwrap_or(path);
    fs::create_dir_all(below).at(STAGE, || format!("making a place for {}", job.bundle))?;
    raw::attach(bundle.as_fd(), path::place(&below.display().to_string())?.as_fd())
        .at(STAGE, || "attaching the bundle".into())?;
    raw::attach(root.as_fd(), place.as_fd())
        .at(STAGE, || format!("covering {}", over.display()))?;
    if let Some(hidden) = hidden {
        // libcontainer reads the mount table: what is merely covered it finds.
        umount2(CGROUPS, MntFlags::MNT_DETACH).at(STAGE, || format!("hiding {CGROUPS}"))?;
        raw::attach(hidden.as_fd(), path::place(CGROUPS)?.as_fd())
            .at(STAGE, || format!("hiding {CGROUPS}"))?;
    }
    chdir("/").at(STAGE, || "leaving the staging root".into())?;
    let ground = Ground::over(&over, &job.bundle);
    let report = ground.part(REPORT);
    // The root of a user namespace writes into it.
    File::create_new(&report)
        .and_then(|file| file.set_permissions(Permissions::from_mode(0o666)))
        .at(STAGE, || format!("making {report}"))?;
    Ok(ground)
}

/// Has libcontainer start us at the right moments.
pub(crate) fn carry(spec: &Spec, carrier: &mut Spec, ground: &Ground) -> Result<(), Failure> {
    let Some(hooks) = spec.hooks().as_ref().filter(|_| ground.shows_host()) else { return Ok(()) };
    let doing = || "describing the hooks".to_owned();
    let any = |hooks: &Option<Vec<Hook>>| hooks.as_ref().is_some_and(|all| !all.is_empty());
    let mut ours = HooksBuilder::default().build().at(STAGE, doing)?;
    let us = |stage: Stage| {
        let report = ground.part(REPORT);
        let (shim, bundle) = (getppid().to_string(), ground.bundle());
        let args = ["ferropod-launch", WORD, stage.name(), &shim, bundle, &report];
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut hook = HookBuilder::default().path("/proc/self/exe").build().at(STAGE, doing)?;
        hook.set_args(Some(args));
        Ok(Some(vec![hook]))
    };
    if any(hooks.prestart()) || any(hooks.create_runtime()) {
        ours.set_create_runtime(us(Stage::CreateRuntime)?);
    }
    if any(hooks.create_container()) {
        ours.set_create_container(us(Stage::CreateContainer)?);
    }
    carrier.set_hooks(Some(ours));
    Ok(())
}

/// What the launch that libcontainer started has reported.
pub(crate) fn failure(ground: &Ground) -> Option<Failure> {
    let mut text = String::new();
    let report = File::open(ground.part(REPORT)).ok().filter(|_| ground.shows_host())?;
    report.take(LONGEST_REPORT).read_to_string(&mut text).ok()?;
    (!text.is_empty()).then(|| Failure::new(STAGE, Kind::Internal, text))
}

/// A launch that libcontainer started as a hook: whether it is one, and whether that went well.
pub(crate) fn as_hook(args: &[String]) -> Option<Result<(), Failure>> {
    let [_, word, stage, shim, bundle, report] = args else { return None };
    let stage = [Stage::CreateRuntime, Stage::CreateContainer]
        .into_iter()
        .find(|known| word == WORD && known.name() == stage)?;
    let done = raw::close_all_on_exec()
        .at(STAGE, || "marking descriptors".into())
        .and_then(|()| perform(stage, shim.parse().unwrap_or(0), Path::new(bundle)));
    if let Err(failure) = &done {
        // Should that fail too, libcontainer still tells of a hook that failed.
        let _untold = tell(report, &failure.message);
    }
    Some(done)
}

fn tell(report: &str, text: &str) -> std::io::Result<()> {
    File::options().write(true).open(report)?.write_all(text.as_bytes())
}

fn perform(stage: Stage, shim: i32, bundle: &Path) -> Result<(), Failure> {
    let doing = || "reading the state".to_owned();
    let told: Value = serde_json::from_reader(std::io::stdin()).at(STAGE, doing)?;
    let id = told.get("id").and_then(Value::as_str).unwrap_or_default();
    // Who kills the container kills launch, and not what has left the container's cgroups.
    let config = read(bundle)?.tied();
    if stage == Stage::CreateContainer {
        // Our parent is the container's first process, and in its PID namespace.
        let pid = Some(getppid().as_raw());
        let container = Container { id, bundle, pid };
        return run(&config, stage, container, config.root());
    }
    show_cgroups(shim)?;
    join_cgroups_of(shim);
    let pid = told.get("pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok());
    let container = Container { id, bundle, pid };
    run(&config, Stage::Prestart, container, bundle)?;
    run(&config, Stage::CreateRuntime, container, bundle)
}

/// The hierarchies are hidden from libcontainer, not from the hooks of the node: those see them as whoever started launch does.
fn show_cgroups(shim: i32) -> Result<(), Failure> {
    let doing = || format!("showing {CGROUPS}");
    let table = fs::read_to_string("/proc/self/mountinfo").at(STAGE, doing)?;
    // Elsewhere are the binds of what the container is to see of its own.
    let in_place = |line: &str| {
        let point = line.split(' ').nth(4);
        line.contains(" - cgroup") && point.is_some_and(|point| point.starts_with(CGROUPS))
    };
    if table.lines().any(in_place) {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS).at(STAGE, doing)?;
    let own = File::open("/proc/self/ns/mnt").at(STAGE, doing)?;
    raw::enter(raw::pidfd(shim).at(STAGE, doing)?.as_fd(), libc::CLONE_NEWNS).at(STAGE, doing)?;
    let whole = path::private_clone(CGROUPS, true)?;
    raw::enter(own.as_fd(), libc::CLONE_NEWNS).at(STAGE, doing)?;
    raw::attach(whole.as_fd(), path::place(CGROUPS)?.as_fd()).at(STAGE, doing)
}

/// Launch has joined the container's, whose limits are none for a program of the node. Where that cannot be, they hold.
fn join_cgroups_of(shim: i32) {
    let table = fs::read_to_string(format!("/proc/{shim}/cgroup")).unwrap_or_default();
    for place in cgroup_files(&table) {
        let file = File::options().write(true).open(place);
        file.and_then(|mut file| file.write_all(b"0")).ok();
    }
}

/// What a process with one thread writes `0` into to join the cgroups of a /proc/PID/cgroup.
fn cgroup_files(table: &str) -> Vec<String> {
    let alone = table.lines().count() == 1;
    let one = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (name, path) = rest.split_once(':')?;
        Some(match name.strip_prefix("name=").unwrap_or(name) {
            "" if alone => format!("{CGROUPS}{path}/cgroup.procs"),
            "" => format!("{CGROUPS}/unified{path}/cgroup.procs"),
            name => format!("{CGROUPS}/{name}{path}/tasks"),
        })
    };
    table.lines().filter_map(one).collect()
}

fn read(bundle: &Path) -> Result<Config, Failure> {
    Config::of(bundle).map_err(|error| Failure::new(STAGE, Kind::Internal, chain(&error)))
}

fn run(config: &Config, stage: Stage, of: Container<'_>, cwd: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::new(STAGE, Kind::Internal, chain(&error));
    config.run(stage, of, cwd).map_err(failed)
}

/// Runs what is to run when the shim has started a container.
pub(crate) fn poststart(job: &v1::StartJob) -> Result<Answer, Failure> {
    let bundle = Path::new(&job.bundle);
    let container = Container { id: &job.container_id, bundle, pid: Some(job.pid) };
    run(&read(bundle)?, Stage::Poststart, container, bundle)?;
    Ok(Answer { born: v1::Born::default(), terminal: None })
}

/// Hooks that run in the container before its program.
#[derive(Debug, Clone)]
pub(crate) struct AtStart {
    config: Config,
    id: String,
    bundle: String,
}

impl AtStart {
    /// None: there are none.
    pub(crate) fn of(spec: &Spec, job: &v1::CreateJob) -> Result<Option<Self>, Failure> {
        let doing = || "reading the hooks".to_owned();
        if spec.hooks().is_none() {
            return Ok(None);
        }
        let value = serde_json::to_value(spec).at(STAGE, doing)?;
        let config: Config = serde_json::from_value(value).at(STAGE, doing)?;
        let (id, bundle) = (job.container_id.clone(), job.bundle.clone());
        Ok(config.has(Stage::StartContainer).then_some(Self { config, id, bundle }))
    }

    /// Runs them with the rights of now.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let pid = Some(getpid().as_raw());
        let container = Container { id: &self.id, bundle: Path::new(&self.bundle), pid };
        run(&self.config, Stage::StartContainer, container, Path::new("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(hooks: &str) -> Spec {
        let text = format!(
            r#"{{"ociVersion":"1.2.0","root":{{"path":"/rootfs"}},"hooks":{hooks},"linux":{{"devices":
                [{{"path":"/dev/x","type":"c","major":1,"minor":3}}]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn only_hooks_that_are_run_while_a_container_is_made_want_the_hosts_tree() {
        for at in ["prestart", "createRuntime", "createContainer"] {
            assert!(while_making(&spec(&format!(r#"{{"{at}":[{{"path":"/h"}}]}}"#))), "{at}");
        }
        let others = r#"{"prestart":[],"startContainer":[{"path":"/h"}],"poststart":[{"path":"/h"}],
            "poststop":[{"path":"/h"}]}"#;
        assert!(!while_making(&spec(others)));
    }

    #[test]
    fn libcontainer_starts_launch_when_there_is_something_to_run() {
        let ground = Ground::over(Path::new("/over"), "/over/bundle");
        let ours = |spec: &Spec, ground: &Ground| {
            let mut carrier = spec.clone();
            carrier.set_hooks(None);
            carry(spec, &mut carrier, ground).unwrap();
            serde_json::to_value(carrier.hooks()).unwrap()
        };
        let both =
            spec(r#"{"prestart":[{"path":"/h"}],"createContainer":[{"path":"/h"},{"path":"/i"}]}"#);
        let hooks = ours(&both, &ground);
        let args = |at: &str| {
            let all = hooks[at].as_array().unwrap();
            assert_eq!(all.len(), 1, "{at}");
            assert_eq!(all[0]["path"], "/proc/self/exe");
            serde_json::from_value::<Vec<String>>(all[0]["args"].clone()).unwrap()
        };
        assert_eq!(args("createRuntime")[1..3], ["hooks", "createRuntime"]);
        assert_eq!(args("createContainer")[4..], ["/over/bundle", "/over/hook"]);
        assert!(hooks.get("prestart").is_none());
        assert!(ours(&both, &Ground::root()).is_null());
    }

    #[test]
    fn the_cgroups_of_a_process_are_found_in_each_layout() {
        let hybrid = "4:cpu,cpuacct:/a\n2:name=systemd:/b\n0::/c\n";
        assert_eq!(
            cgroup_files(hybrid),
            [
                "/sys/fs/cgroup/cpu,cpuacct/a/tasks",
                "/sys/fs/cgroup/systemd/b/tasks",
                "/sys/fs/cgroup/unified/c/cgroup.procs",
            ]
        );
        assert_eq!(cgroup_files("0::/pod/shim\n"), ["/sys/fs/cgroup/pod/shim/cgroup.procs"]);
    }

    #[test]
    fn launch_is_a_hook_by_its_arguments_only() {
        assert!(as_hook(&["ferropod-launch".to_owned()]).is_none());
        let strange = ["ferropod-launch", "hooks", "poststart", "1", "/b", "/r"];
        assert!(as_hook(&strange.map(str::to_owned)).is_none());
    }
}
