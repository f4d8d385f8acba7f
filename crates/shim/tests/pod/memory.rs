//! What a shim costs, before and after work.

use std::path::PathBuf;

use wire::v1::Exec;

use crate::rig::{How, Log, Rig, wait_until};

#[test]
fn memory_does_not_grow_with_execs_logs_and_clients() {
    // The build that ships is the one to measure; the debug build has another allocator, which keeps more.
    let shipped = std::env::var_os("FERROPOD_SHIM").map(PathBuf::from);
    let room = if shipped.is_some() { 16 } else { 2048 };
    let rig = shipped.as_deref().map_or_else(Rig::new, Rig::of);
    let (mut daemon, _) = rig.connect();
    daemon.done(wire::v1::envelope::Body::Commit(wire::v1::Commit {}));
    let round = |daemon: &mut crate::rig::Daemon, n: usize| {
        for _ in 0..20 {
            crate::attach::a_moment(daemon, "talker");
        }
        for e in 0..20 {
            let request = Exec {
                exec_id: format!("{n}-{e}"),
                container_id: "c".into(),
                no_cgroup_fd: true,
                ..Exec::default()
            };
            daemon.exec(request, "true", &[]);
            daemon.exec_exited();
        }
        let id = format!("flood{n}");
        rig.run(
            daemon,
            &id,
            "yes 'a line of a log that goes on and on' | head -c 3000000; yes '' | head -c 300000",
        );
        daemon.exited();
        wait_until("the log", || rig.log(&id).lines().count() > 300_000);
        daemon.forget(&id);
    };
    rig.run(&mut daemon, "c", "exec sleep 600");
    let how = How { log: Log::Nowhere, ..How::default() };
    rig.create(&mut daemon, "talker", "exec yes 'a word and another'", &how).unwrap();
    daemon.start("talker").unwrap();
    let fresh = rig.anonymous_kib();
    round(&mut daemon, 0);
    let once = rig.anonymous_kib();
    for n in 1..5 {
        round(&mut daemon, n);
    }
    let often = rig.anonymous_kib();
    println!(
        "anonymous KiB: {fresh} with a container, {once} after work, {often} after five times the work"
    );
    assert!(often <= once + room, "{once} -> {often} KiB");
}
