//! More than anybody should ask for: output without end, children that stay, memory of a whole pod.

use std::time::Instant;

use serde_json::Value;

use super::scene::{SLEEP, Scene};
use super::{daemon, peak};
use crate::node::{at_most, write};

/// Guard: src/assemble/exec.rs: `keep`. Without it the daemon holds all of it.
#[test]
fn a_command_that_prints_without_end_fills_neither_memory_nor_disk() {
    let scene = Scene::new();
    let id = scene.run(SLEEP, &Value::Null);
    let before = peak(&scene.node);
    let disk = || machine_bytes(&scene);
    let used = disk();
    let script = "yes | head -c 300000000; yes | head -c 300000000 >&2";
    let output = scene.node.try_crictl(&["exec", "-s", &id, "sh", "-c", script]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.len() + output.stderr.len() <= 16 << 20);
    let grown = peak(&scene.node).saturating_sub(before);
    assert!(grown < 100 << 20, "the daemon grew by {grown} bytes");
    assert!(disk() < used + (1 << 20), "{used} bytes became {}", disk());
    scene.end();
}

/// What the run keeps in its directories.
fn machine_bytes(scene: &Scene) -> u64 {
    let listed =
        crate::node::tool("du").args(["-sb", "--exclude=*.sock"]).arg(scene.node.path("")).output();
    let text = String::from_utf8(listed.expect("du runs").stdout).expect("text");
    text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a number")
}

/// Guard: src/assemble/exec.rs: `run` drains what is there and waits for nobody who holds the pipe.
#[test]
fn a_command_whose_child_keeps_its_output_ends_and_leaves_no_descriptor() {
    let scene = Scene::new();
    let id = scene.run(SLEEP, &Value::Null);
    let open =
        || std::fs::read_dir(format!("/proc/{}/fd", daemon(&scene.node))).expect("it runs").count();
    scene.exec(&id, "true");
    let before = open();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(scene.exec(&id, "sleep 1000 & echo begun"), "begun");
    }
    assert!(begun.elapsed() < at_most(10), "it took {:?}", begun.elapsed());
    crate::node::eventually("the descriptors are closed", || open() <= before + 2);
    scene.end();
}

/// Guard: host/src/shim.rs: the rank of the shim; the kernel takes the largest of the pod.
#[test]
fn a_pod_out_of_memory_loses_its_container_and_not_who_watches_it() {
    let scene = Scene::new();
    let parent = format!("/sys/fs/cgroup/memory{}/memory.limit_in_bytes", scene.node.cgroup());
    let of_v2 = format!("/sys/fs/cgroup{}/memory.max", scene.node.cgroup());
    let file = if std::path::Path::new(&parent).exists() { parent } else { of_v2 };
    write(std::path::Path::new(&file), "67108864");
    let other = scene.run(SLEEP, &Value::Null);
    let id = scene.run("exec tail /dev/zero", &Value::Null);
    assert_eq!(scene.node.exit(&id).0, 137);
    assert_eq!(scene.node.json(&["inspectp", scene.pod()])["status"]["state"], "SANDBOX_READY");
    assert_eq!(scene.exec(&other, "echo alive"), "alive");
    scene.end();
}
