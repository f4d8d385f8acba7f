//! After a stop no process of the container is left, and the grace is kept.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::machine;
use crate::node::{Node, at_most, eventually};

/// A main process and its children, one in a session of its own, one whose parent is gone; none ends when asked.
const STUBBORN: &str = "trap '' TERM
    setsid sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' &
    (sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' &)
    echo ready
    while :; do sleep 0.1; done";

#[test]
fn a_stubborn_container_in_its_own_pid_namespace_is_gone_after_the_grace() {
    stubborn(Node::with_busybox(), 1);
}

#[test]
fn a_stubborn_container_in_the_pods_pid_namespace_is_gone_after_the_grace() {
    stubborn(Node::with_busybox(), 0);
}

#[test]
fn a_stubborn_container_in_the_hosts_pid_namespace_is_gone_after_the_grace() {
    stubborn(Node::with_busybox(), 2);
}

pub(crate) fn stubborn(node: Node, pid_mode: u32) {
    let context = json!({"linux": {"security_context": {"namespace_options": {"pid": pid_mode}}}});
    let pod = node.run_pod(&context);
    let id = node.run(&pod, STUBBORN, &context);
    let other = node.run(&pod, "while :; do sleep 0.1; done", &context);
    node.logs_show(&id, "ready");
    eventually("all its processes run", || machine::processes(&id).count() >= 3);

    let begun = Instant::now();
    node.crictl(&["stop", "--timeout", "2", &id]);
    let took = begun.elapsed();
    assert_eq!(machine::processes(&id).count(), 0);
    assert!(took >= Duration::from_secs(2), "its grace was cut to {took:?}");
    assert!(took < at_most(6), "it took {took:?}");
    assert_eq!(node.exit(&id).0, 137);
    assert_eq!(node.status(&other)["state"], "CONTAINER_RUNNING");
    node.end_clean();
}

#[test]
fn a_container_that_ends_when_asked_does_not_use_its_grace() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&json!({}));
    let script = "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let id = node.run(&pod, script, &json!({}));
    node.logs_show(&id, "ready");
    let begun = Instant::now();
    node.crictl(&["stop", "--timeout", "30", &id]);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(node.exit(&id), (5, "Error".to_owned()));
    node.logs_show(&id, "asked");
    node.end_clean();
}
