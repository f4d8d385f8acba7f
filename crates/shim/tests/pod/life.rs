//! The shim's own life: birth, connections, death.

use std::io::Read;

use wire::v1::envelope::Body;
use wire::v1::failure::Kind;
use wire::v1::{Commit, Shutdown, Signal};

use crate::rig::{How, Rig, escape, exists, pid_in, wait_until};

#[test]
fn an_uncommitted_shim_ends_with_its_birth_socket_and_takes_everything_along() {
    let mut rig = Rig::new();
    let (mut daemon, state) = rig.connect();
    assert!(!state.committed);
    let file = rig.path("escaped");
    let script = format!("{}; exec sleep 601", escape(&file));
    let created = rig.run(&mut daemon, "c", &script);
    let waiting = rig.create(&mut daemon, "waiting", "true", &How::default()).unwrap();
    let escaped = pid_in(&file);
    rig.birth = None;
    assert!(rig.shim.wait().unwrap().success());
    for pid in [created.pid, waiting.pid, escaped] {
        assert!(!exists(pid));
    }
}

#[test]
fn a_committed_shim_outlives_its_birth_socket_and_the_daemon() {
    let mut rig = Rig::new();
    let (mut daemon, _) = rig.connect();
    rig.run(&mut daemon, "c", "exec sleep 600");
    // The daemon dies right after its word.
    daemon.send(Body::Commit(Commit {}), &[]);
    rig.birth = None;
    drop(daemon);
    let (_daemon, state) = rig.connect();
    assert!(state.committed && state.containers[0].started);
}

#[test]
fn an_exit_without_a_daemon_is_recorded_and_told_to_the_next() {
    let (rig, mut daemon) = Rig::committed();
    let go = rig.path("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.01; done; echo bye; exit 42", go.display());
    let created = rig.run(&mut daemon, "c", &script);
    drop(daemon);
    std::fs::File::create(go).unwrap();
    wait_until("the record", || rig.exits().len() == 1);
    let (mut daemon, state) = rig.connect();
    let held = &state.containers[0];
    let exited = held.exited.clone().unwrap();
    assert_eq!((exited.code, held.started, held.pid, held.uid), (42, true, 0, created.uid));
    assert_eq!(rig.exits(), [exited]);
    wait_until("the log", || rig.texts("c", "stdout") == ["bye"]);
    daemon.forget("c");
}

#[test]
fn the_newest_connection_counts() {
    let (rig, mut old) = Rig::committed();
    rig.run(&mut old, "c", "exec sleep 600");
    let (mut new, state) = rig.connect();
    assert_eq!(state.containers.len(), 1);
    assert_eq!(old.socket.read(&mut [0; 8]).unwrap(), 0);
    new.done(Body::Signal(Signal { container_id: "c".into(), signal: 9 }));
    assert_eq!(new.exited().signal, 9);
}

#[test]
fn a_daemon_that_does_not_read_blocks_nobody() {
    let (rig, mut silent) = Rig::committed();
    rig.run(&mut silent, "c", "exec sleep 600");
    let refused = Body::Signal(Signal { container_id: "absent ".repeat(100), signal: 1 });
    for id in 1..60_000 {
        let envelope = wire::v1::Envelope { id, body: Some(refused.clone()) };
        if wire::send(&silent.socket, &envelope, &[]).is_err() {
            break;
        }
    }
    let (mut daemon, state) = rig.connect();
    assert_eq!(state.containers.len(), 1);
    daemon.done(Body::Signal(Signal { container_id: "c".into(), signal: 9 }));
    assert_eq!(daemon.exited().signal, 9);
}

#[test]
fn shutdown_kills_and_reaps_what_is_left_and_answers_before_it_ends() {
    let (mut rig, mut daemon) = Rig::committed();
    let created = rig.run(&mut daemon, "c", "echo last; exec sleep 600");
    wait_until("the line is read", || !rig.log("c").is_empty());
    daemon.done(Body::Shutdown(Shutdown {}));
    assert!(rig.shim.wait().unwrap().success());
    assert!(!exists(created.pid));
    assert_eq!(rig.exits()[0].signal, 9);
    assert_eq!(rig.texts("c", "stdout"), ["last"]);
}

#[test]
fn a_connection_begins_with_hello_and_bad_words_are_refused() {
    let (rig, mut daemon) = Rig::committed();
    assert_eq!(daemon.refused(Body::Done(wire::v1::Done {})).kind(), Kind::Unsupported);
    let mut rude = std::os::unix::net::UnixStream::connect(rig.path("shim.sock")).unwrap();
    wire::send(&rude, &wire::v1::Envelope { id: 1, body: Some(Body::Commit(Commit {})) }, &[])
        .unwrap();
    let (answer, _): (wire::v1::Envelope, _) = wire::recv(&rude).unwrap();
    assert!(matches!(answer.body, Some(Body::Failure(_))));
    std::io::Write::write_all(&mut rude, &[0xff; 8]).unwrap();
    assert_eq!(rude.read(&mut [0; 8]).unwrap_or(0), 0);
}
