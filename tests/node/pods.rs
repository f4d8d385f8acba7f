//! What containers of one pod have in common, and how they are reached.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::machine;
use crate::node::{Node, eventually};

pub(crate) const SERVE: &str =
    "mkdir /www && echo served > /www/index.html && exec httpd -f -p 8080 -h /www";

#[test]
fn two_containers_of_a_pod_share_localhost_and_shared_memory() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let server = node.run(&pod, SERVE, &Value::Null);
    let script = "echo written > /dev/shm/mark
        until wget -q -O - http://127.0.0.1:8080/; do sleep 0.1; done
        while :; do sleep 0.1; done";
    let reader = node.run(&pod, script, &Value::Null);
    node.logs_show(&reader, "served");
    assert_eq!(node.crictl(&["exec", "-s", &server, "cat", "/dev/shm/mark"]), "written");
    node.end_clean();
}

#[test]
fn a_command_in_a_container_gives_its_output_and_its_exit_code() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "while :; do sleep 0.1; done", &Value::Null);
    assert_eq!(node.crictl(&["exec", "-s", &id, "sh", "-c", "echo inside"]), "inside");
    let said = node.refused(&["exec", "-s", &id, "sh", "-c", "echo complaint >&2; exit 3"]);
    assert!(said.contains("exited with 3: complaint"), "{said}");
    node.end_clean();
}

#[test]
fn both_streams_of_a_container_are_in_its_log_in_order() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id =
        node.run(&pod, "echo one; sleep 0.1; echo two >&2; sleep 0.1; echo -n three", &Value::Null);
    assert_eq!(node.exit(&id), (0, "Completed".to_owned()));
    let path = node.status(&id)["logPath"].as_str().expect("a path").to_owned();
    let log = std::fs::read_to_string(path).expect("the log");
    let lines: Vec<&str> =
        log.lines().filter_map(|line| line.split_once(' ')).map(|(_, rest)| rest).collect();
    assert_eq!(lines, ["stdout F one", "stderr F two", "stdout P three"]);
    node.end_clean();
}

#[test]
fn a_host_port_is_reached_at_loopback_at_the_nodes_address_and_from_its_own_pod() {
    let node = Node::with_busybox();
    let port = json!({"port_mappings": [{"container_port": 8080, "host_port": 18080}]});
    let pod = node.run_pod(&port);
    let server = node.run(&pod, SERVE, &Value::Null);
    for host in ["127.0.0.1:18080", "10.99.255.1:18080"] {
        eventually(host, || get(host).is_some_and(|page| page.ends_with("served\n")));
    }
    let itself =
        node.crictl(&["exec", "-s", &server, "wget", "-q", "-O", "-", "http://10.99.255.1:18080/"]);
    assert_eq!(itself, "served");
    node.crictl(&["stopp", &pod.id]);
    assert_eq!(get("127.0.0.1:18080"), None);
    node.end_clean();
}

#[test]
fn twenty_four_pods_eight_at_once_leave_the_machine_as_it_was() {
    let node = Node::with_busybox();
    let requests: Vec<_> = (0..24)
        .map(|_| {
            (node.pod_request(&Value::Null), node.container_request("echo here", &Value::Null))
        })
        .collect();
    for eight in requests.chunks(8) {
        let lives = eight.iter().map(|(pod, container)| {
            let args = ["run", "--no-pull", container.to_str().unwrap(), pod.to_str().unwrap()];
            node.client(&args).stdout(Stdio::null()).spawn().expect("crictl runs")
        });
        for mut life in lives.collect::<Vec<_>>() {
            assert!(life.wait().expect("its end").success());
        }
        assert_eq!(node.json(&["pods"])["items"].as_array().expect("pods").len(), 8);
        node.crictl(&["rmp", "--all", "--force"]);
    }
    node.end_clean();
}

#[test]
fn a_command_that_takes_too_long_ends_with_its_children() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "while :; do sleep 1000; done", &Value::Null);
    eventually("it sleeps", || machine::processes(&id).count() == 2);
    let said =
        node.refused(&["exec", "-s", "--timeout", "1", &id, "sh", "-c", "sleep 999 & sleep 999"]);
    assert!(said.contains("DeadlineExceeded"), "{said}");
    assert_eq!(machine::processes(&id).count(), 2);
    node.end_clean();
}

#[test]
fn a_prefix_of_an_id_is_enough_and_what_is_done_twice_is_done() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "while :; do sleep 0.1; done", &Value::Null);
    for _ in 0..2 {
        node.crictl(&["stop", "--timeout", "0", short(&id)]);
    }
    assert_eq!(node.status(short(&id))["id"], id.as_str());
    node.crictl(&["rm", short(&id)]);
    for _ in 0..2 {
        node.crictl(&["stopp", short(&pod.id)]);
    }
    node.crictl(&["rmp", short(&pod.id)]);
    assert_eq!(node.crictl(&["pods", "-q"]), "");
    node.left_nothing();
}

fn short(id: &str) -> &str {
    id.get(..12).expect("a long id")
}

pub(crate) fn get(host: &str) -> Option<String> {
    let host: SocketAddr = host.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&host, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page)
}
