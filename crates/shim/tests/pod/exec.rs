//! Further processes in a container.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::unistd::pipe;
use wire::v1::envelope::Body;
use wire::v1::failure::Kind;
use wire::v1::{Exec, KillExec, Resize};

use crate::rig::{Daemon, Rig, escape, exists, pid_in, wait_until};

/// A cgroup in the unified hierarchy, for one test.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    pub(crate) fn new(name: &str) -> Self {
        let unified = PathBuf::from("/sys/fs/cgroup/unified");
        let root = if unified.exists() { unified } else { PathBuf::from("/sys/fs/cgroup") };
        let path = root.join(format!("ferropod-e-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn name(&self) -> String {
        self.0.file_name().unwrap().to_str().unwrap().to_owned()
    }

    pub(crate) fn open(&self) -> File {
        File::open(&self.0).unwrap()
    }

    fn is_empty(&self) -> bool {
        fs::read_to_string(self.0.join("cgroup.procs")).unwrap().is_empty()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        nix::sys::stat::stat(&self.0).unwrap();
        fs::OpenOptions::new()
            .write(true)
            .open(self.0.join("cgroup.kill"))
            .unwrap()
            .write_all(b"1")
            .unwrap();
        wait_until("an empty cgroup", || fs::remove_dir(&self.0).is_ok());
    }
}

fn request(id: &str) -> Exec {
    Exec { exec_id: id.into(), container_id: "c".into(), no_cgroup_fd: true, ..Exec::default() }
}

fn running() -> (Rig, Daemon) {
    let (rig, mut daemon) = Rig::committed();
    rig.run(&mut daemon, "c", "exec sleep 600");
    (rig, daemon)
}

fn text(fd: OwnedFd) -> String {
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_exec_has_the_daemons_descriptors_and_its_end_is_told() {
    let (_rig, mut daemon) = running();
    let (out, out_theirs) = pipe().unwrap();
    let (in_theirs, into) = pipe().unwrap();
    let request = Exec { stdin: true, stdout: true, ..request("e") };
    let script = "read word; echo got $word; echo nowhere >&2; exit 9";
    daemon.exec(request, script, &[in_theirs.as_fd(), out_theirs.as_fd()]);
    drop((in_theirs, out_theirs));
    File::from(into).write_all(b"hello\n").unwrap();
    assert_eq!(text(out), "got hello\n");
    let exited = daemon.exec_exited();
    assert_eq!((exited.exec_id.as_str(), exited.code, exited.timed_out), ("e", 9, false));
}

#[test]
fn a_hundred_quick_execs_lose_no_exit() {
    let (_rig, mut daemon) = running();
    for n in 0..100 {
        let id = format!("e{n}");
        daemon.exec(request(&id), &format!("exit {}", n % 50), &[]);
        let exited = daemon.exec_exited();
        assert_eq!((exited.exec_id, exited.code), (id, n % 50));
    }
}

#[test]
fn a_deadline_kills_everything_in_the_execs_cgroup_even_what_left_its_session() {
    let (rig, mut daemon) = running();
    let cgroup = Cgroup::new("deadline");
    let directory = cgroup.open();
    let (pids, request) =
        (rig.path("escaped"), Exec { timeout_ms: 400, no_cgroup_fd: false, ..request("e") });
    let script = format!("{}; setsid sleep 601 & sleep 602", escape(&pids));
    daemon.exec(request, &script, &[directory.as_fd()]);
    let escaped = pid_in(&pids);
    assert!(exists(escaped) && !cgroup.is_empty());
    let exited = daemon.exec_exited();
    assert_eq!((exited.code, exited.signal, exited.timed_out), (137, 9, true));
    wait_until("an empty cgroup", || cgroup.is_empty());
}

#[test]
fn without_a_cgroup_a_deadline_kills_the_descendants() {
    let (rig, mut daemon) = running();
    let pids = rig.path("child");
    let script = format!("setsid sh -c 'echo $$ > {}; exec sleep 600' & wait", pids.display());
    daemon.exec(Exec { timeout_ms: 300, ..request("e") }, &script, &[]);
    let child = pid_in(&pids);
    assert!(daemon.exec_exited().timed_out);
    wait_until("the child is gone", || !exists(child));
}

#[test]
fn a_tied_exec_dies_with_the_connection_and_another_lives_on() {
    let (rig, mut daemon) = running();
    let (tied, _) = daemon.exec(Exec { tied: true, ..request("tied") }, "exec sleep 600", &[]);
    let (free, _) = daemon.exec(request("free"), "exec sleep 600", &[]);
    drop(daemon);
    wait_until("the tied one is gone", || !exists(tied));
    assert!(exists(free));
    let (mut daemon, _) = rig.connect();
    daemon.done(Body::KillExec(KillExec { exec_id: "free".into() }));
    assert_eq!(daemon.exec_exited().signal, 9);
    let again = daemon.refused(Body::KillExec(KillExec { exec_id: "free".into() }));
    assert_eq!(again.kind(), Kind::NotFound);
}

#[test]
fn a_terminal_of_an_exec_is_the_daemons_alone_and_hangs_up_with_it() {
    let (rig, mut daemon) = running();
    let file = rig.path("hung");
    let script =
        format!("trap 'echo yes > {}; exit 3' HUP; while :; do sleep 0.05; done", file.display());
    let (pid, fds) = daemon.exec(Exec { tty: true, ..request("t") }, &script, &[]);
    let resize = Resize { exec_id: "t".into(), width: 99, height: 11, ..Resize::default() };
    assert_eq!(daemon.refused(Body::Resize(resize)).kind(), Kind::NotFound);
    wait_until("it has set its trap", || caught(pid) & 1 != 0);
    drop(fds);
    assert_eq!(daemon.exec_exited().code, 3);
    assert_eq!(fs::read_to_string(file).unwrap(), "yes\n");
}

/// The signals that a process catches, as bits.
fn caught(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn an_exec_needs_a_running_container() {
    let (rig, mut daemon) = Rig::committed();
    assert_eq!(daemon.refused(Body::Exec(request("e"))).kind(), Kind::NotFound);
    rig.run(&mut daemon, "c", "exit 0");
    daemon.exited();
    assert_eq!(daemon.refused(Body::Exec(request("e"))).kind(), Kind::Refused);
}

#[test]
fn enter_makes_further_processes_where_daemon_and_creation_have_left_what_it_takes() {
    let (rig, mut daemon) = running();
    rig.run(&mut daemon, "unkept", "exec sleep 600");
    // It takes no job and gives no answer.
    let other = File::open("/bin/true").unwrap();
    let (mut daemon, _) = rig.connect_with(Some(&other));
    let by_it = daemon.refused(Body::Exec(request("1")));
    assert!(by_it.message.contains("without an answer: exit status 0"), "{by_it:?}");
    daemon.exec(Exec { container_id: "unkept".into(), ..request("2") }, "exit 3", &[]);
    assert_eq!(daemon.exec_exited().code, 3);
    let (mut older, _) = rig.connect();
    older.exec(request("3"), "exit 4", &[]);
    assert_eq!(older.exec_exited().code, 4);
}
