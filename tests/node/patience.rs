//! What bounds streaming sessions: their number, their silence, and the time that a client may take to begin.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::channels::exec_url;
use crate::node::{Node, at_most, eventually};
use crate::streams::{Client, SPDY, WEBSOCKET, running, sleeping, with};

#[test]
fn a_session_that_carries_nothing_is_ended_and_one_that_does_is_not() {
    let mut node = Node::with_busybox();
    node.configure("[stream]\nidle_timeout = \"1s\"\n");
    let (pod, id) = running(&node);
    for transport in [SPDY, WEBSOCKET] {
        let quiet = node.try_crictl(&with("exec", transport, &["-i", &id, "sleep", "994"]));
        let said = String::from_utf8_lossy(&quiet.stderr).into_owned();
        assert!(!quiet.status.success() && said.contains("idle for too long"), "{said}");
        eventually("the command is gone", || !sleeping(&id, "994"));
        let script = "for i in 1 2 3 4 5 6; do sleep 0.4; echo $i; done";
        let busy = node.crictl(&with("exec", transport, &[&id, "sh", "-c", script]));
        assert_eq!(busy.lines().last(), Some("6"));
        let mut forward =
            Client::start(node.client(&with("port-forward", transport, &[&pod.id, "18097:8097"])));
        assert!(forward.line().starts_with("Forwarding from"));
        let begun = Instant::now();
        forward.rest();
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
    node.end_clean();
}

#[test]
fn one_session_more_than_may_be_is_told_so_and_may_come_again() {
    let mut node = Node::with_busybox();
    node.configure("[stream]\nmax_sessions = 1\n");
    let (_, id) = running(&node);
    for transport in [SPDY, WEBSOCKET] {
        let args = with("exec", transport, &["-i", &id, "sh", "-c", "echo begun; cat"]);
        let mut first = Client::start(node.client(&args));
        assert_eq!(first.line(), "begun");
        let second = with("exec", transport, &[&id, "echo", "inside"]);
        let said = node.refused(&second);
        assert!(said.contains("too many streaming sessions") || said.contains("503"), "{said}");
        assert!(first.rest().1);
        eventually("there is room", || node.try_crictl(&second).status.success());
    }
    node.end_clean();
}

#[test]
fn clients_that_say_nothing_are_hung_up_on_when_they_are_too_many() {
    let mut node = Node::with_busybox();
    node.configure("[stream]\nmax_sessions = 1\n");
    let (_, id) = running(&node);
    let url = exec_url(&node, &id, "true");
    let address = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).expect(&url);
    let before = node.descriptors();
    let silent: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    let hung_up = |mut client: &TcpStream| {
        client.set_read_timeout(Some(Duration::from_millis(10))).expect("a bound");
        client.read(&mut [0]).is_ok()
    };
    eventually("most are hung up on", || silent.iter().filter(|c| hung_up(c)).count() >= 200);
    assert!(node.descriptors() < before + 100, "{} and {before}", node.descriptors());
    drop(silent);
    eventually("there is room", || node.try_crictl(&["exec", &id, "true"]).status.success());
    node.end_clean();
}

#[test]
fn a_head_without_end_is_refused_before_it_fills_memory() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    let url = exec_url(&node, &id, "true");
    let (address, path) = url.strip_prefix("http://").and_then(|u| u.split_once('/')).expect(&url);
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(format!("GET /{path} HTTP/1.1\r\n").as_bytes()).expect("it reads");
    // It may hang up before it has all.
    let line = format!("x-long: {}\r\n", "x".repeat(4000));
    let lines = (0..25).take_while(|_| stream.write_all(line.as_bytes()).is_ok()).count();
    let mut said = [0; 12];
    stream.set_read_timeout(Some(at_most(10))).expect("a bound");
    match stream.read_exact(&mut said) {
        Ok(()) => assert_eq!(&said, b"HTTP/1.1 431", "{lines} lines"),
        // Closed over what was not read, it may lose its answer.
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{lines} lines"),
    }
    node.end_clean();
}

#[test]
fn a_client_that_opens_no_streams_is_not_waited_for() {
    let mut node = Node::with_busybox();
    node.configure("[stream]\ncreation_timeout = \"1s\"\n");
    let (_, id) = running(&node);
    let url = exec_url(&node, &id, "sleep 993");
    let (address, path) = url.strip_prefix("http://").and_then(|u| u.split_once('/')).expect(&url);
    let mut stream = TcpStream::connect(address).expect("it listens");
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a bound");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("the connection's end");
    assert!(said.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&said));
    assert!(!sleeping(&id, "993"));
    node.end_clean();
}

#[test]
fn an_address_that_others_reach_without_tls_is_warned_of() {
    let mut node = Node::start();
    assert!(!node.daemon_log().contains("in the clear"));
    node.configure("[stream]\naddress = \"10.99.255.1:0\"\n");
    assert!(node.daemon_log().contains("in the clear"), "{}", node.daemon_log());
    node.end_clean();
}
