//! Debug containers, as a kubelet adds them to a running pod: in the PID namespace of the container that they are for.

use serde_json::{Value, json};

use crate::node::Node;

const WAITS: &str = "while :; do sleep 0.1; done";

fn target(id: &str) -> Value {
    json!({"linux": {"security_context": {"namespace_options": {"pid": 3, "target_id": id}}}})
}

#[test]
fn a_debug_container_sees_its_targets_processes_and_files_also_after_a_restart() {
    let mut node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, &format!("echo theirs > /mark; {WAITS}"), &Value::Null);
    let debug = node.run(&pod, &format!("ps; echo seen; {WAITS}"), &target(&id));
    node.logs_show(&debug, "seen");
    let log = node.crictl(&["logs", &debug]);
    assert!(log.lines().any(|line| line.contains("echo theirs")), "{log}");
    // As all ids, the target's may be given by its beginning.
    let other = node.run(&pod, "echo $(cat /proc/1/root/mark)", &target(id.split_at(13).0));
    node.logs_show(&other, "theirs");
    let read = |node: &Node| node.crictl(&["exec", "-s", &debug, "cat", "/proc/1/root/mark"]);
    assert_eq!(read(&node), "theirs");
    node.kill_daemon();
    node.serve();
    assert_eq!(read(&node), "theirs");
    node.crictl(&["stop", "--timeout", "0", &debug]);
    assert_eq!(node.status(&id)["state"], "CONTAINER_RUNNING");
    node.end_clean();
}

#[test]
fn a_target_that_does_not_run_is_named() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "true", &Value::Null);
    node.exit(&id);
    let said = node.create_refused(&pod, &target(&id));
    assert!(said.contains("FailedPrecondition") && said.contains(&id), "{said}");
    let said = node.create_refused(&pod, &target("none"));
    assert!(said.contains("target_id") && said.contains("none"), "{said}");
    node.end_clean();
}
