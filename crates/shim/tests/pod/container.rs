//! Containers: made, started, logged, ended.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use wire::v1::envelope::Body;
use wire::v1::failure::Kind;
use wire::v1::{ReopenLog, Resize, Signal};

use crate::exec::Cgroup;
use crate::rig::{How, Log, Rig, Stdin, exists, pid_in, wait_until};

fn signal(id: &str, signal: i32) -> Body {
    Body::Signal(Signal { container_id: id.to_owned(), signal })
}

#[test]
fn a_container_runs_and_its_log_is_whole_when_its_exit_is_told() {
    let (rig, mut daemon) = Rig::committed();
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo oops >&2; printf tail; exit 7";
    let created = rig.run(&mut daemon, "one", script);
    assert_eq!((created.uid, created.gid, created.groups), (1, 2, vec![3]));
    let exited = daemon.exited();
    assert_eq!((exited.container_id.as_str(), exited.code, exited.signal), ("one", 7, 0));
    let log = rig.texts("one", "stdout");
    let expected = (0..2000).map(|i| format!("line {i}")).chain(["tail".to_owned()]);
    assert_eq!(log, expected.collect::<Vec<_>>());
    assert_eq!(rig.texts("one", "stderr"), ["oops"]);
    assert!(
        rig.log("one").ends_with(" stdout P tail\n") || rig.log("one").contains(" stdout P tail\n")
    );
    assert_eq!(rig.exits(), [exited]);
    daemon.forget("one");
    assert_eq!(rig.connect().1.containers, []);
}

#[test]
fn a_signal_ends_a_container_and_its_code_says_so() {
    let (rig, mut daemon) = Rig::committed();
    for number in [15, 9, 37] {
        let id = format!("c{number}");
        rig.run(&mut daemon, &id, "exec sleep 60");
        daemon.done(signal(&id, number));
        let exited = daemon.exited();
        assert_eq!((exited.code, exited.signal), (128 + number, number));
        assert_eq!(daemon.refused(signal(&id, number)).kind(), Kind::NotFound);
    }
    assert_eq!(daemon.refused(signal("absent", 15)).kind(), Kind::NotFound);
}

#[test]
fn a_program_that_cannot_be_executed_is_a_failed_start_and_code_128() {
    let (rig, mut daemon) = Rig::committed();
    rig.create(&mut daemon, "bad", "unstartable", &How::default()).unwrap();
    let failure = daemon.start("bad").unwrap_err();
    assert_eq!((failure.stage.as_str(), failure.message.as_str()), ("start", "no such program"));
    let exited = daemon.exited();
    assert_eq!((exited.code, exited.start_error.as_str()), (128, "no such program"));
    assert_eq!(daemon.start("bad").unwrap_err().kind(), Kind::Refused);
}

#[test]
fn a_launch_that_refuses_hangs_or_vanishes_is_a_failure_and_leaves_nothing() {
    let (rig, mut daemon) = Rig::committed();
    let how = How { deadline_ms: 300, ..How::default() };
    for (word, stage, kind) in [
        ("refuse", "rootfs", Kind::NotFound),
        ("hang", "launch", Kind::TimedOut),
        ("vanish", "launch", Kind::Internal),
    ] {
        let failure = rig.create(&mut daemon, word, word, &how).unwrap_err();
        assert_eq!((failure.stage.as_str(), failure.kind()), (stage, kind), "{failure:?}");
    }
    wait_until("no child is left", || children(rig.pid()).is_empty());
    wait_until("no container is left", || rig.connect().1.containers.is_empty());
}

fn children(pid: i32) -> String {
    let path = format!("/proc/{pid}/task/{pid}/children");
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_log_that_cannot_be_opened_fails_the_create_and_nothing_lives_on() {
    let (rig, mut daemon) = Rig::committed();
    fs::create_dir(rig.path("bad.log")).unwrap();
    let failure = rig.create(&mut daemon, "bad", "sleep 60", &How::default()).unwrap_err();
    assert_eq!(failure.stage, "log");
    wait_until("it is gone", || {
        children(rig.pid()).is_empty() && rig.connect().1.containers.is_empty()
    });
    assert_eq!(rig.exits(), []);
}

#[test]
fn a_child_that_keeps_the_pipe_open_does_not_delay_the_exit_and_is_still_logged() {
    let (rig, mut daemon) = Rig::committed();
    let go = rig.path("go");
    let script = format!(
        "(while [ ! -e {} ]; do sleep 0.01; done; echo late) & echo early; exit 3",
        go.display()
    );
    let begun = Instant::now();
    rig.run(&mut daemon, "c", &script);
    assert_eq!(daemon.exited().code, 3);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(rig.texts("c", "stdout"), ["early"]);
    fs::File::create(go).unwrap();
    wait_until("the late line", || rig.texts("c", "stdout") == ["early", "late"]);
}

#[test]
fn rotation_while_a_container_writes_loses_no_line() {
    let (rig, mut daemon) = Rig::committed();
    let script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done";
    rig.run(&mut daemon, "c", script);
    let mut rotated = Vec::new();
    for n in 0..5 {
        let to = rig.path(&format!("rotated.{n}"));
        fs::rename(rig.path("c.log"), &to).unwrap();
        rotated.push(to);
        let (answer, _) = daemon.call(Body::ReopenLog(ReopenLog { container_id: "c".into() }), &[]);
        if let Body::Failure(failure) = answer {
            assert_eq!(failure.kind(), Kind::Refused);
            break;
        }
    }
    daemon.exited();
    let files = rotated.iter().map(|path| fs::read_to_string(path).unwrap());
    let all: String = files.chain([rig.log("c")]).collect();
    let numbers: Vec<u32> =
        all.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..20000).collect::<Vec<_>>());
    fs::remove_file(rig.path("c.log")).ok();
    assert_eq!(
        daemon.refused(Body::ReopenLog(ReopenLog { container_id: "c".into() })).kind(),
        Kind::Refused
    );
    assert!(!rig.path("c.log").exists());
}

#[test]
fn a_terminal_is_one_stream_and_has_a_size() {
    let (rig, mut daemon) = Rig::committed();
    let how = How { tty: true, ..How::default() };
    let ready = rig.path("ready");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.01; done; stty size; test -t 0 && test -t 2 && echo both >&2",
        ready.display()
    );
    rig.create(&mut daemon, "t", &script, &how).unwrap();
    daemon.start("t").unwrap();
    let (width, height) = (123, 45);
    daemon.done(Body::Resize(Resize {
        container_id: "t".into(),
        width,
        height,
        ..Resize::default()
    }));
    fs::File::create(ready).unwrap();
    assert_eq!(daemon.exited().code, 0);
    assert_eq!(rig.texts("t", "stdout"), ["45 123\r", "both\r"]);
}

#[test]
fn without_a_log_path_output_is_thrown_away_and_nobody_blocks() {
    let (rig, mut daemon) = Rig::committed();
    let how = How { log: Log::Nowhere, ..How::default() };
    rig.create(&mut daemon, "quiet", "head -c 1000000 /dev/zero; exit 4", &how).unwrap();
    daemon.start("quiet").unwrap();
    assert_eq!(daemon.exited().code, 4);
}

#[test]
fn an_open_stdin_stays_open_and_a_closed_one_is_at_its_end() {
    let (rig, mut daemon) = Rig::committed();
    rig.run(&mut daemon, "closed", "cat; exit 5");
    assert_eq!(daemon.exited().code, 5);
    let how = How { stdin: Stdin::Kept, ..How::default() };
    let file = rig.path("pid");
    let script = format!("echo $$ > {}; exec cat", file.display());
    rig.create(&mut daemon, "open", &script, &how).unwrap();
    daemon.start("open").unwrap();
    let pid = pid_in(&file);
    // Both have had the time: the first has ended long ago, this one waits for its input.
    wait_until("it waits", || {
        fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap().contains("pipe")
            || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") S ")
    });
    daemon.forget("open");
    assert_eq!(daemon.exited().signal, 9);
}

#[test]
fn a_container_that_was_never_started_is_killed_by_forget() {
    let (rig, mut daemon) = Rig::committed();
    let created = rig.create(&mut daemon, "c", "echo never", &How::default()).unwrap();
    daemon.forget("c");
    assert!(!exists(created.pid));
    assert_eq!(rig.log("c"), "");
    daemon.forget("c");
    daemon.forget("absent");
}

#[test]
fn a_container_is_born_in_its_cgroup() {
    let (rig, mut daemon) = Rig::committed();
    let cgroup = Cgroup::new("born");
    let directory = cgroup.open();
    let how = How { cgroup: Some(directory.as_fd()), ..How::default() };
    let created = rig.create(&mut daemon, "c", "exec sleep 600", &how).unwrap();
    let of = fs::read_to_string(format!("/proc/{}/cgroup", created.pid)).unwrap();
    assert!(of.contains(&cgroup.name()), "{of}");
    daemon.forget("c");
}

#[test]
fn a_container_finds_the_pid_namespace_of_its_target_and_only_of_one_that_runs() {
    let (rig, mut daemon) = Rig::committed();
    let how = How { target: "one", ..How::default() };
    let refused = rig.create(&mut daemon, "two", "true", &how).unwrap_err();
    assert_eq!(refused.kind(), Kind::Refused);
    let created = rig.create(&mut daemon, "one", "exec sleep 600", &How::default()).unwrap();
    let refused = rig.create(&mut daemon, "two", "true", &how).unwrap_err();
    assert!(refused.message.contains("one is not running"), "{refused:?}");
    daemon.start("one").unwrap();
    let script = format!("readlink /proc/self/fd/{}", wire::PID_FD);
    rig.create(&mut daemon, "two", &script, &how).unwrap();
    daemon.start("two").unwrap();
    assert_eq!(daemon.exited().code, 0);
    let theirs = fs::read_link(format!("/proc/{}/ns/pid", created.pid)).unwrap();
    assert_eq!(rig.texts("two", "stdout"), [theirs.to_str().unwrap()]);
    assert!(exists(created.pid), "the target does not notice");
}
