//! On the real kernel, as root: each test has a parent of its own and removes it.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use names::{ContainerId, ExecId, Kind, SandboxId};
use pod::config::Resources;

use super::*;
use crate::{Released, raw};

/// Cgroups, and a parent that goes with it.
struct Ground {
    cgroups: Cgroups,
    parent: String,
}

impl Ground {
    fn new(name: &str) -> Self {
        let cgroups = Cgroups::detect(Driver::Cgroupfs).unwrap();
        Self { cgroups, parent: format!("/ferropod-g-test-{name}") }
    }

    /// The same node seen as one of another layout.
    fn seen_as(name: &str, layout: Layout) -> Self {
        let mut ground = Self::new(name);
        let cgroups = &ground.cgroups;
        let v1 = if layout == Layout::V2 { Vec::new() } else { cgroups.v1().to_vec() };
        let unified = cgroups.unified().filter(|_| layout != Layout::V1).map(Path::to_owned);
        let scopes = scope::Scopes::default();
        let node = Node { driver: Driver::Cgroupfs, layout, v1, unified, scopes };
        ground.cgroups = Cgroups(Arc::new(node));
        ground
    }

    fn pod(&self) -> PodCgroup {
        let id = SandboxId::from_random(crate::proc::random_id().unwrap());
        self.cgroups.pod_path(&self.parent, &id).unwrap()
    }

    /// A container's cgroup as libcontainer makes it.
    fn make(&self, path: &CgroupPath) {
        for dir in self.dirs(path) {
            fs::create_dir_all(&dir).unwrap();
        }
        let (Some(dir), true) =
            (self.cgroups.controller_dir("cpuset", path), self.cgroups.layout() != Layout::V2)
        else {
            return;
        };
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let above = fs::read_to_string(dir.join("..").join(name)).unwrap();
            file::write(&dir.join(name), above.trim()).unwrap();
        }
    }

    fn dirs(&self, path: &CgroupPath) -> Vec<PathBuf> {
        self.cgroups.dirs(path)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let all = Cgroups::detect(Driver::Cgroupfs).unwrap();
        let parent = CgroupPath::try_from(self.parent.clone()).unwrap();
        all.kill(&parent).unwrap();
        all.release(&parent).unwrap();
    }
}

fn container() -> ContainerId {
    ContainerId::from_random(crate::proc::random_id().unwrap())
}

/// A process that sleeps for ever, in the given v1 cgroups and born in the given place; reaped when dropped.
struct Sleeper(raw::Newborn);

impl Sleeper {
    fn in_place(place: Option<&OwnedFd>, v1: &[String]) -> Self {
        let program = fs::File::open("/bin/sleep").unwrap();
        let null = fs::File::open("/dev/null").unwrap();
        let args = [c"sleep".into(), c"1000".into()];
        let fds = [null.as_fd(); 3];
        let cgroup = place.map(AsFd::as_fd);
        let birth = raw::Birth { program: program.as_fd(), args: &args, fds: &fds, cgroup };
        let born = raw::spawn(&birth).unwrap();
        for dir in v1 {
            file::write(&Path::new(dir).join("cgroup.procs"), &born.pid.to_string()).unwrap();
        }
        Self(born)
    }

    fn has_ended(&self) -> bool {
        let copy = self.0.pidfd.try_clone().unwrap();
        crate::proc::Pidfd::from(copy).has_ended().unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        raw::pidfd_send_signal(self.0.pidfd.as_fd(), libc::SIGKILL).ok();
        waitid(Id::PIDFd(self.0.pidfd.as_fd()), WaitPidFlag::WEXITED).unwrap();
    }
}

#[test]
fn a_pod_is_in_every_hierarchy_and_its_release_is_idempotent() {
    let ground = Ground::new("pod");
    let pod = ground.pod();
    ground.cgroups.establish_pod(&pod, &Resources::default()).unwrap();
    ground.cgroups.establish_pod(&pod, &Resources::default()).unwrap();
    assert!(ground.dirs(&pod).len() > 1);
    assert!(ground.dirs(&pod).iter().all(|dir| dir.is_dir()), "{:?}", ground.dirs(&pod));
    if let Some(cpuset) = ground.cgroups.controller_dir("cpuset", &pod) {
        assert_ne!(fs::read_to_string(cpuset.join("cpuset.cpus")).unwrap().trim(), "");
    }
    assert_eq!(ground.cgroups.list_pods(&[&ground.parent]), std::slice::from_ref(&pod));
    ground.cgroups.open_place(&pod.container(&container())).unwrap();
    assert_eq!(ground.cgroups.release_pod(&pod).unwrap(), Released::Now);
    assert_eq!(ground.cgroups.release_pod(&pod).unwrap(), Released::AlreadyGone);
    let parent = pod.parent().unwrap();
    assert!(ground.dirs(&pod).iter().all(|dir| !dir.exists()));
    assert!(ground.dirs(&parent).iter().all(|dir| dir.is_dir()), "the parent stays");
}

#[test]
fn kill_reaches_every_process_below_and_release_follows_at_once() {
    let ground = Ground::new("kill");
    let (pod, container) = (ground.pod(), container());
    ground.cgroups.establish_pod(&pod, &Resources::default()).unwrap();
    let path = pod.container(&container);
    ground.make(&path);
    let place = ground.cgroups.open_place(&path).unwrap();
    let exec = ExecId::from_random([7; 32]);
    let (exec_fd, exec_place) = ground.cgroups.exec_place(&pod, &container, &exec).unwrap();
    let sleepers = [
        Sleeper::in_place(place.as_ref(), &[]),
        Sleeper::in_place(exec_fd.as_ref(), &ground.cgroups.exec_dirs(&exec_place)),
        Sleeper::in_place(None, &ground.cgroups.v1_dirs(&path)),
    ];
    let pids: BTreeSet<i32> = sleepers.iter().map(|s| s.0.pid).collect();
    assert_eq!(ground.cgroups.pids(&path).unwrap(), pids);
    assert!(ground.cgroups.populated(&pod).unwrap());
    assert!(ground.cgroups.release_exec(&exec_place).unwrap_err().is_busy());
    assert!(ground.cgroups.release_pod(&pod).unwrap_err().is_busy());
    ground.cgroups.kill(&path).unwrap();
    assert!(sleepers.iter().all(Sleeper::has_ended));
    assert!(!ground.cgroups.populated(&pod).unwrap());
    ground.cgroups.kill(&path).unwrap();
    assert_eq!(ground.cgroups.release_pod(&pod).unwrap(), Released::Now);
    ground.cgroups.kill(&path).unwrap();
}

#[test]
fn on_pure_v1_a_frozen_process_dies_and_an_exec_has_a_freezer_of_its_own() {
    let ground = Ground::seen_as("v1", Layout::V1);
    let (pod, container) = (ground.pod(), container());
    ground.cgroups.establish_pod(&pod, &Resources::default()).unwrap();
    let path = pod.container(&container);
    ground.make(&path);
    let (fd, place) =
        ground.cgroups.exec_place(&pod, &container, &ExecId::from_random([1; 32])).unwrap();
    assert!(fd.is_none() && ground.cgroups.open_place(&path).unwrap().is_none());
    let sleepers = [
        Sleeper::in_place(None, &ground.cgroups.v1_dirs(&path)),
        Sleeper::in_place(None, &ground.cgroups.exec_dirs(&place)),
    ];
    let freezer = ground.cgroups.controller_dir("freezer", place.path()).unwrap();
    let procs = fs::read_to_string(freezer.join("cgroup.procs")).unwrap();
    assert_eq!(procs.trim(), sleepers[1].0.pid.to_string());
    file::write(&freezer.join("freezer.state"), "FROZEN").unwrap();
    ground.cgroups.kill(place.path()).unwrap();
    assert!(sleepers[1].has_ended() && !sleepers[0].has_ended());
    ground.cgroups.kill(&path).unwrap();
    assert!(sleepers[0].has_ended());
    assert_eq!(ground.cgroups.release_exec(&place).unwrap(), Released::Now);
    assert_eq!(ground.cgroups.release_exec(&place).unwrap(), Released::AlreadyGone);
    assert_eq!(ground.cgroups.release_pod(&pod).unwrap(), Released::Now);
}

#[test]
fn of_a_containers_execs_only_those_that_run_keep_their_cgroups() {
    let ground = Ground::new("sweep");
    let (pod, container) = (ground.pod(), container());
    ground.cgroups.establish_pod(&pod, &Resources::default()).unwrap();
    let path = pod.container(&container);
    ground.make(&path);
    let place =
        |n| ground.cgroups.exec_place(&pod, &container, &ExecId::from_random([n; 32])).unwrap();
    let ((_, left), (fd, runs)) = (place(1), place(2));
    let _sleeper = Sleeper::in_place(fd.as_ref(), &ground.cgroups.exec_dirs(&runs));
    ground.cgroups.sweep_execs(&path);
    assert_eq!(ground.cgroups.release_exec(&left).unwrap(), Released::AlreadyGone);
    assert!(ground.cgroups.release_exec(&runs).unwrap_err().is_busy());
}

#[test]
fn an_exec_in_a_container_that_is_gone_brings_no_cgroup_back() {
    for layout in [Layout::V1, Layout::V2] {
        let ground = Ground::seen_as("gone", layout);
        let (pod, container) = (ground.pod(), container());
        ground.cgroups.establish_pod(&pod, &Resources::default()).unwrap();
        let id = ExecId::from_random([1; 32]);
        let error = ground.cgroups.exec_place(&pod, &container, &id).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(ground.cgroups.release_pod(&pod).unwrap(), Released::Now);
        ground.cgroups.exec_place(&pod, &container, &id).unwrap_err();
        assert_eq!(ground.cgroups.release_pod(&pod).unwrap(), Released::AlreadyGone);
    }
}

#[test]
fn what_does_not_die_is_named() {
    let ground = Ground::seen_as("undying", Layout::V1);
    let pod = ground.pod();
    ground.cgroups.establish_pod(&pod, &Resources::default()).unwrap();
    // Time enough for nothing.
    let sleeper = Sleeper::in_place(None, &ground.cgroups.v1_dirs(&pod));
    let error = ground.cgroups.kill_within(&pod, Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains(&sleeper.0.pid.to_string()), "{error}");
}

#[test]
fn on_v2_the_unified_tree_alone_is_used() {
    let ground = Ground::seen_as("v2", Layout::V2);
    let (pod, container) = (ground.pod(), container());
    let dir = pod.under(ground.cgroups.unified().unwrap());
    // As establish does it, without passing on controllers from the machine's root.
    fs::create_dir_all(&dir).unwrap();
    let path = pod.container(&container);
    assert!(ground.cgroups.launch_place(&path).unwrap().is_none(), "libcontainer would kill it");
    let place = ground.cgroups.open_place(&path).unwrap();
    let sleeper = Sleeper::in_place(place.as_ref(), &[]);
    let exec = ExecId::from_random([2; 32]);
    let (fd, exec_place) = ground.cgroups.exec_place(&pod, &container, &exec).unwrap();
    let inside = Sleeper::in_place(Some(&fd.unwrap()), &[]);
    assert!(
        ground.cgroups.v1_dirs(&pod).is_empty() && ground.cgroups.exec_dirs(&exec_place).is_empty()
    );
    ground.cgroups.kill(exec_place.path()).unwrap();
    assert!(inside.has_ended() && !sleeper.has_ended());
    assert_eq!(ground.cgroups.release_exec(&exec_place).unwrap(), Released::Now);
    ground.cgroups.kill(&pod).unwrap();
    assert!(sleeper.has_ended());
    assert_eq!(ground.cgroups.release_pod(&pod).unwrap(), Released::Now);
}

#[test]
fn an_update_that_is_refused_leaves_all_limits_as_they_were() {
    let ground = Ground::new("update");
    let pod = ground.pod();
    let mib = 1 << 20;
    let given = Resources {
        cpu_shares: 512,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        memory_limit: 64 * mib,
        memory_swap_limit: 64 * mib,
        ..Resources::default()
    };
    ground.cgroups.establish_pod(&pod, &given).unwrap();
    let read = |controller: &str, name: &str| {
        let dir = ground.cgroups.controller_dir(controller, &pod).unwrap();
        fs::read_to_string(dir.join(name)).unwrap().trim().to_owned()
    };
    let all = || {
        [
            read("cpu", "cpu.shares"),
            read("cpu", "cpu.cfs_quota_us"),
            read("memory", "memory.limit_in_bytes"),
            read("memory", "memory.memsw.limit_in_bytes"),
            read("cpuset", "cpuset.cpus"),
        ]
    };
    let before = all();
    let limit = (64 * mib).to_string();
    assert_eq!(before[..4], ["512".to_owned(), "50000".to_owned(), limit.clone(), limit]);
    let bad = Resources {
        cpuset_cpus: "0".to_owned(),
        cpu_shares: 2048,
        cpu_quota: 10_000,
        memory_limit: 128 * mib,
        // Less than memory alone.
        memory_swap_limit: 32 * mib,
        ..Resources::default()
    };
    let error = ground.cgroups.update(&pod, &bad).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert_eq!(all(), before);
    for (memory, swap) in [(256, 256), (32, 48), (512, 0), (-1, 0)] {
        let size = |n: i64| if n > 0 { n * mib } else { n };
        let given = Resources {
            memory_limit: size(memory),
            memory_swap_limit: size(swap),
            ..Resources::default()
        };
        ground.cgroups.update(&pod, &given).unwrap();
        let now: i64 = read("memory", "memory.limit_in_bytes").parse().unwrap();
        assert!(if memory > 0 { now == memory * mib } else { now > 1 << 50 }, "{memory}: {now}");
    }
}

#[test]
fn numbers_are_those_of_the_kernel() {
    let ground = Ground::new("stats");
    let (pod, container) = (ground.pod(), container());
    let given = Resources { memory_limit: 64 << 20, cpu_quota: 50_000, ..Resources::default() };
    ground.cgroups.establish_pod(&pod, &given).unwrap();
    let path = pod.container(&container);
    ground.make(&path);
    let place = ground.cgroups.open_place(&path).unwrap();
    let reader = ground.cgroups.reader(&pod);
    let before = reader.read();
    let sleeper = Sleeper::in_place(place.as_ref(), &ground.cgroups.v1_dirs(&path));
    let after = reader.read();
    assert_eq!((before.pids, after.pids), (Some(0), Some(1)));
    let memory = after.memory.unwrap();
    assert_eq!(memory.limit, Some(64 << 20));
    assert!(memory.working_set <= memory.usage, "{memory:?}");
    assert!(after.cpu_ns >= before.cpu_ns && after.at >= before.at);
    let has_pressure = pod.under(ground.cgroups.unified().unwrap()).join("cpu.pressure").exists();
    assert_eq!(after.cpu_pressure.is_some(), has_pressure);
    let detail = ground.cgroups.detail(&pod);
    assert_eq!((detail.limits.memory, detail.limits.cpu_quota), (Some(64 << 20), Some(50_000)));
    assert_eq!((detail.limits.cpu_period, detail.limits.cpu_shares), (100_000, 1024));
    assert_eq!(detail.oom_kills, 0);
    drop(sleeper);
    ground.cgroups.kill(&pod).unwrap();
    ground.cgroups.release_pod(&pod).unwrap();
    let gone = reader.read();
    assert_eq!((gone.cpu_ns, gone.memory, gone.pids), (None, None, None));
    assert_eq!(ground.cgroups.detail(&pod).limits.memory, None);
}

#[test]
fn a_kill_for_want_of_memory_is_counted() {
    let ground = Ground::new("oom");
    let pod = ground.pod();
    let given =
        Resources { memory_limit: 4 << 20, memory_swap_limit: 4 << 20, ..Resources::default() };
    ground.cgroups.establish_pod(&pod, &given).unwrap();
    let dirs = ground.cgroups.v1_dirs(&pod);
    let join = format!("for d in {}; do echo $$ > $d/cgroup.procs; done", dirs.join(" "));
    let script = format!("{join}; a=x; while :; do a=$a$a; done");
    let program = fs::File::open("/bin/sh").unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let args = [c"sh".into(), c"-c".into(), raw::c_string(script).unwrap()];
    let fds = [null.as_fd(); 3];
    let birth = raw::Birth { program: program.as_fd(), args: &args, fds: &fds, cgroup: None };
    let born = raw::spawn(&birth).unwrap();
    let id = nix::sys::wait::Id::PIDFd(born.pidfd.as_fd());
    nix::sys::wait::waitid(id, nix::sys::wait::WaitPidFlag::WEXITED).unwrap();
    assert_eq!(ground.cgroups.oom_kills(&pod), 1);
}

/// What the docs say, measured: `cargo test -p host --release -- --ignored --nocapture costs`.
#[test]
#[ignore = "prints figures"]
fn costs() {
    let ground = Ground::new("costs");
    let mut figures: [Vec<Duration>; 9] = std::array::from_fn(|_| Vec::new());
    for _ in 0..50 {
        let (pod, container) = (ground.pod(), container());
        let mut timed = |n: usize, work: &mut dyn FnMut()| {
            let start = Instant::now();
            work();
            figures[n].push(start.elapsed());
        };
        timed(0, &mut || ground.cgroups.establish_pod(&pod, &Resources::default()).unwrap());
        let path = pod.container(&container);
        ground.make(&path);
        let mut place = None;
        timed(1, &mut || place = ground.cgroups.open_place(&path).unwrap());
        let mut sleeper = None;
        timed(2, &mut || sleeper = Some(Sleeper::in_place(place.as_ref(), &[])));
        let mut reader = None;
        timed(6, &mut || reader = Some(ground.cgroups.reader(&path)));
        timed(7, &mut || assert!(reader.as_ref().unwrap().read().at > 0));
        timed(8, &mut || drop(ground.cgroups.detail(&path)));
        timed(3, &mut || ground.cgroups.kill(&path).unwrap());
        drop(sleeper);
        timed(4, &mut || assert_eq!(ground.cgroups.release(&path).unwrap(), Released::Now));
        timed(5, &mut || assert_eq!(ground.cgroups.release_pod(&pod).unwrap(), Released::Now));
    }
    let names = [
        "establish_pod",
        "open_place",
        "spawn",
        "kill",
        "release container",
        "release_pod",
        "reader",
        "read",
        "detail",
    ];
    for (name, mut times) in names.into_iter().zip(figures) {
        times.sort();
        println!("{name}: p10 {:?}, median {:?}, p90 {:?}", times[5], times[25], times[45]);
    }
}
