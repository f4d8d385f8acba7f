//! What outlives a daemon that is killed, and what a killed shim takes along.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::machine;
use crate::node::{Node, eventually, text, write};
use crate::streams::{Client, SPDY, WEBSOCKET, sleeping, with};

#[test]
fn a_killed_daemon_finds_its_pod_running_and_knows_who_exited() {
    a_killed_daemon_finds_its_pod(Node::with_busybox());
}

pub(crate) fn a_killed_daemon_finds_its_pod(mut node: Node) {
    let pod = node.run_pod(&Value::Null);
    let address = address(&node, &pod.id);
    let shared =
        json!({"mounts": [{"host_path": node.path("shared"), "container_path": "/shared"}]});
    std::fs::create_dir(node.path("shared")).expect("a directory");
    let runs = node.run(
        &pod,
        "i=0; while :; do echo tick $i; i=$((i + 1)); sleep 0.05; done",
        &Value::Null,
    );
    let exits = node.run(
        &pod,
        "until [ -e /shared/go ]; do sleep 0.05; done; touch /shared/gone; exit 7",
        &shared,
    );
    node.logs_show(&runs, "tick 3");

    node.kill_daemon();
    write(&node.path("shared/go"), "");
    eventually("the container leaves", || node.path("shared/gone").exists());
    eventually("its process is gone", || machine::processes(&exits).next().is_none());
    node.serve();

    assert_eq!(node.crictl(&["pods", "-q", "--state", "ready", "--no-trunc"]), pod.id);
    assert_eq!(self::address(&node, &pod.id), address);
    assert_eq!(node.crictl(&["ps", "-q", "--no-trunc"]), runs);
    assert_eq!(node.exit(&exits), (7, "Error".to_owned()));
    assert_eq!(node.crictl(&["exec", "-s", &runs, "echo", "still here"]), "still here");
    let ticks = |log: &str| log.lines().enumerate().all(|(i, line)| line == format!("tick {i}"));
    let count = node.crictl(&["logs", &runs]).lines().count();
    node.logs_show(&runs, &format!("tick {}", count + 3));
    assert!(ticks(&node.crictl(&["logs", &runs])), "a line is missing or twice in the log");
    node.end_clean();
}

#[test]
fn a_pod_whose_shim_was_killed_is_dead_as_a_whole_and_can_be_removed() {
    a_pod_dies_with_its_shim(&Node::with_busybox());
}

pub(crate) fn a_pod_dies_with_its_shim(node: &Node) {
    let pod = node.run_pod(&Value::Null);
    let containers =
        [0, 1].map(|_| node.run(&pod, "trap '' TERM; while :; do sleep 0.1; done", &Value::Null));
    let shim = node.json(&["inspectp", &pod.id])["info"]["shimPid"].as_u64().expect("a pid");
    kill(shim);

    eventually("the pod is not ready", || {
        node.json(&["inspectp", &pod.id])["status"]["state"] == "SANDBOX_NOTREADY"
    });
    for id in &containers {
        assert_eq!(node.exit(id), (255, "Unknown".to_owned()));
        assert_eq!(machine::processes(id).count(), 0);
    }
    node.crictl(&["rmp", &pod.id]);
    assert_eq!(node.crictl(&["ps", "-aq"]), "");
    node.left_nothing();
}

#[test]
fn a_shim_that_is_killed_while_there_is_no_daemon_is_missed_at_the_next_start() {
    let mut node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "while :; do sleep 0.1; done", &Value::Null);
    let shim = node.json(&["inspectp", &pod.id])["info"]["shimPid"].as_u64().expect("a pid");
    node.kill_daemon();
    kill(shim);
    node.serve();
    assert_eq!(node.exit(&id), (255, "Unknown".to_owned()));
    assert_eq!(node.json(&["inspectp", &pod.id])["status"]["state"], "SANDBOX_NOTREADY");
    node.end_clean();
}

#[test]
fn a_killed_daemon_takes_the_commands_of_its_clients_along_and_their_cgroups_go() {
    let mut node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    // One that starts no processes of its own: they would be taken for what the command left.
    let id = node.run(&pod, "exec sleep 994", &Value::Null);
    eventually("its shell is a sleep", || sleeping(&id, "994"));
    let before = node.traces();
    // SPDY's client takes a connection that ends, even by a reset, for a command that went well.
    let mut clients = [SPDY, WEBSOCKET].map(|transport| {
        let args = with("exec", transport, &[&id, "sh", "-c", "echo begun; sleep 995"]);
        Client::start(node.client(&args))
    });
    for client in &mut clients {
        assert_eq!(client.line(), "begun");
    }
    eventually("it sleeps", || sleeping(&id, "995"));
    node.kill_daemon();
    eventually("it is gone", || !sleeping(&id, "995"));
    let [_, websocket] = clients.map(|client| client.rest().1);
    assert!(!websocket, "the client was content");
    node.serve();
    node.left_nothing_but(&before);
    node.end_clean();
}

fn address(node: &Node, pod: &str) -> Value {
    node.json(&["inspectp", pod])["status"]["network"].take()
}

fn kill(pid: u64) {
    let status = crate::node::tool("kill").args(["-9", &pid.to_string()]).status();
    assert!(status.expect("kill runs").success());
}

#[test]
fn a_pod_in_the_making_when_the_daemon_is_killed_is_whole_or_gone() {
    let mut node = Node::with_busybox();
    for millis in [5, 15, 25, 35, 45, 60] {
        let request = node.pod_request(&Value::Null);
        let mut client = node.client(&["runp", text(&request)]);
        let mut client =
            client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("crictl runs");
        // Where it hits is chance: all that may come of it is asserted.
        std::thread::sleep(Duration::from_millis(millis));
        node.kill_daemon();
        client.wait().expect("its end");
        node.serve();
        let pods = node.json(&["pods"])["items"].take();
        let pods = pods.as_array().expect("pods");
        assert!(pods.iter().all(|pod| pod["state"] == "SANDBOX_READY"), "{pods:?}");
        node.crictl(&["runp", text(&request)]);
        assert_eq!(node.json(&["pods"])["items"].as_array().expect("pods").len(), 1);
        node.crictl(&["rmp", "--all", "--force"]);
        node.left_nothing();
    }
}
