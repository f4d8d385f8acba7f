//! How pods reach each other across nodes, and how they are reached from outside.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use crate::node::{BUSYBOX, Node, eventually, text, told, tool};
use crate::pods::{SERVE, get};

/// The other node: a network namespace with a link to the tests' own.
struct Neighbour {
    netns: String,
}

impl Neighbour {
    /// Each node has an address at its end of the link and routes the other's range there.
    fn with_routes() -> Self {
        let netns = format!("fpt-{}", std::process::id());
        ip(&format!("netns add {netns}"));
        let neighbour = Self { netns };
        ip(&format!("link add fpnode0 type veth peer name fpnode1 netns {}", neighbour.netns));
        for line in [
            "address add 10.98.0.1/24 dev fpnode0",
            "link set fpnode0 up",
            "-6 address add fd98::1/64 dev fpnode0 nodad",
        ] {
            ip(line);
        }
        for line in [
            "link set lo up",
            "address add 10.98.0.2/24 dev fpnode1",
            "link set fpnode1 up",
            "-6 address add fd98::2/64 dev fpnode1 nodad",
            "route add 10.61.0.0/24 via 10.98.0.1",
            "-6 route add fd61::/64 via fd98::1",
        ] {
            ip(&format!("-n {} {line}", neighbour.netns));
        }
        ip("route add 10.62.0.0/24 via 10.98.0.2");
        ip("-6 route add fd62::/64 via fd98::2");
        neighbour
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        tool("ip").args(["link", "delete", "fpnode0"]).status().expect("ip runs");
        tool("ip").args(["netns", "delete", &self.netns]).status().expect("ip runs");
    }
}

const OTHERS: &str =
    "non_masquerade_cidrs = [\"10.61.0.0/24\", \"10.62.0.0/24\", \"fd61::/64\", \"fd62::/64\"]";

#[test]
fn pods_of_two_nodes_reach_each_other_by_their_own_addresses() {
    let neighbour = Neighbour::with_routes();
    let range = |n: u8| {
        format!("mode = \"native\"\npod_cidrs = [\"10.6{n}.0.0/24\", \"fd6{n}::/64\"]\n{OTHERS}")
    };
    let one = Node::with_network(|_| range(1));
    let other = Node::beside(&one, &neighbour.netns, &range(2));
    one.crictl(&["pull", BUSYBOX]);
    carry(&one, &other);
    let (here, there) = (one.run_pod(&Value::Null), other.run_pod(&Value::Null));
    let asking = "while :; do sleep 0.1; done";
    let (asker, server) =
        (one.run(&here, asking, &Value::Null), other.run(&there, WHO, &Value::Null));
    let (mine, theirs) = (addresses(&one, &here.id), addresses(&other, &there.id));
    other.logs_show(&server, "ready");
    for (from, to) in mine.iter().zip(&theirs) {
        let host = if to.contains(':') { format!("[{to}]") } else { to.clone() };
        let url = format!("http://{host}:8080/cgi-bin/who");
        let said = one.crictl(&["exec", "-s", &asker, "wget", "-T", "5", "-q", "-O", "-", &url]);
        let said = said.trim_matches(['[', ']']).trim_start_matches("::ffff:");
        assert_eq!(said, from, "asked {to}");
    }
    one.crictl(&["rmp", "--all", "--force"]);
    other.end_clean();
    one.end_clean();
}

/// Answers with the address that it was asked from.
const WHO: &str = "mkdir -p /www/cgi-bin
    printf '#!/bin/sh\\necho; echo $REMOTE_ADDR' > /www/cgi-bin/who
    chmod 755 /www/cgi-bin/who; echo ready
    exec httpd -f -p 8080 -h /www";

/// The image, without the registry that only one of them can reach.
fn carry(from: &Node, to: &Node) {
    let archive = from.path("busybox.tar");
    let ferropod = format!("{}/ferropod", told("FERROPOD_BIN"));
    for (node, args) in [
        (from, vec!["image", "export", text(&archive), BUSYBOX]),
        (to, vec!["image", "import", text(&archive)]),
    ] {
        let mut command = tool(&ferropod);
        command.arg("--config").arg(node.path("config.toml")).args(&args);
        let done = command.output().expect("it runs");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn a_host_port_of_udp_and_of_ipv6_is_answered_from_where_it_was_asked() {
    let node = Node::with_busybox();
    ip("-6 address add fd99::1/128 dev lo");
    let ports = json!({"port_mappings": [
        {"container_port": 8080, "host_port": 18082},
        {"protocol": 1, "container_port": 9090, "host_port": 19090},
    ]});
    let pod = node.run_pod(&ports);
    node.run(&pod, SERVE, &Value::Null);
    node.run(&pod, "exec udpsvd -E :: 9090 cat", &Value::Null);
    let page = || get("[fd99::1]:18082").is_some_and(|page| page.ends_with("served\n"));
    eventually("the page comes over IPv6", page);
    for address in ["127.0.0.1:19090", "10.99.255.1:19090", "[fd99::1]:19090"] {
        eventually(address, || echo(address).is_some());
    }
    node.crictl(&["stopp", &pod.id]);
    assert_eq!(get("[fd99::1]:18082"), None);
    assert_eq!(echo("10.99.255.1:19090"), None);
    ip("-6 address delete fd99::1/128 dev lo");
    node.end_clean();
}

/// The answer must come from the address that was asked: a connected socket takes no other.
fn echo(address: &str) -> Option<()> {
    let to: SocketAddr = address.parse().expect("an address");
    let from = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(from).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    socket.connect(to).ok()?;
    socket.send(b"echoed").ok()?;
    let mut answer = [0; 16];
    let length = socket.recv(&mut answer).ok()?;
    (answer.get(..length)? == b"echoed").then_some(())
}

fn addresses(node: &Node, pod: &str) -> Vec<String> {
    let network = node.json(&["inspectp", pod])["status"]["network"].take();
    let more = network["additionalIps"].as_array().expect("more addresses").clone();
    let more = more.into_iter().map(|mut one| one["ip"].take());
    let all = std::iter::once(network["ip"].clone()).chain(more);
    all.map(|address| address.as_str().expect("an address").to_owned()).collect()
}

fn ip(args: &str) {
    let status = tool("ip").args(args.split(' ')).status().expect("ip runs");
    assert!(status.success(), "ip {args}");
}
