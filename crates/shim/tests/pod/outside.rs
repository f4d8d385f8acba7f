//! Containers that an outside runtime makes: it starts them, by a launch of its own.

use wire::v1::failure::Kind;

use crate::rig::{How, Rig, exists, wait_until};

fn of(runtime: &str) -> How<'_> {
    How { runtime, ..How::default() }
}

#[test]
fn its_container_starts_by_a_launch_and_ends_as_any_other() {
    let (rig, mut daemon) = Rig::committed();
    rig.create(&mut daemon, "c", "echo here; exit 7", &of("runc")).unwrap();
    daemon.start("c").unwrap();
    let exited = daemon.exited();
    assert_eq!((exited.code, exited.start_error.as_str()), (7, ""));
    assert_eq!(rig.texts("c", "stdout"), ["here"]);
    daemon.forget("c");
}

#[test]
fn a_process_that_ends_before_its_runtime_has_answered_has_started() {
    let (rig, mut daemon) = Rig::committed();
    let script = format!("touch {}; exit 3", rig.path("c/ended").display());
    rig.create(&mut daemon, "c", &script, &of("late")).unwrap();
    daemon.start("c").unwrap();
    let exited = daemon.exited();
    assert_eq!((exited.code, exited.start_error.as_str()), (3, ""));
}

#[test]
fn a_runtime_that_cannot_start_its_container_says_why_and_leaves_no_process() {
    let (rig, mut daemon) = Rig::committed();
    for (runtime, words) in [("refusing", "not today"), ("vanishing", "ended without an answer")] {
        let created = rig.create(&mut daemon, runtime, "sleep 60", &of(runtime)).unwrap();
        let failure = daemon.start(runtime).unwrap_err();
        assert!(failure.message.contains(words), "{failure:?}");
        let exited = daemon.exited();
        assert_eq!(exited.code, 128);
        assert!(exited.start_error.contains(words), "{exited:?}");
        wait_until("its process is reaped", || !exists(created.pid));
        assert_eq!(daemon.start(runtime).unwrap_err().kind(), Kind::Refused);
    }
}
