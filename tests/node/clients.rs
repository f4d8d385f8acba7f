//! Clients that stall, leave half-way or ask for more than they may: what crictl would not do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cri_proto::cri::{ExecRequest, ExecSyncRequest};
use futures::future::join_all;
use serde_json::Value;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::channels::{Client, call, exec_url, forward};
use crate::machine;
use crate::node::Node;
use crate::node::{at_most, eventually, write};
use crate::streams::{running, serves, sleeping};

/// What a SPDY client's header blocks begin with: zlib, with the dictionary of SPDY/3.
const ZLIB: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
const SYN_STREAM: u8 = 1;
const RST_STREAM: u8 = 3;
const REFUSED: [u8; 4] = [0, 0, 0, 3];

/// A SPDY client by hand.
struct Spdy {
    stream: TcpStream,
    next: u32,
    begun: bool,
}

/// What the server said: of a stream, or a control frame of this kind.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Data(u32, Vec<u8>),
    Control(u16, Vec<u8>),
}

impl Spdy {
    fn connect(url: &str, protocol: &str) -> Self {
        let rest = url.strip_prefix("http://").expect(url);
        let (address, path) = rest.split_once('/').expect(url);
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(at_most(20))).expect("a bound");
        stream.set_nodelay(true).expect("it is open");
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
             Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        Self { stream, next: 1, begun: false }
    }

    /// Its frame, not sent yet.
    fn opening(&mut self, headers: &[(&str, &str)]) -> (u32, Vec<u8>) {
        let mut block = word(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(word(text.len()));
            block.extend(text.as_bytes());
        }
        let id = self.next;
        self.next += 2;
        let mut payload = [&id.to_be_bytes()[..], &[0; 6]].concat();
        if !std::mem::replace(&mut self.begun, true) {
            payload.extend(ZLIB);
        }
        let length = u16::try_from(block.len()).expect("a short block");
        payload.push(0);
        payload.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        payload.extend(block);
        let [_, length @ ..] = word(payload.len());
        (id, [&[0x80, 3, 0, SYN_STREAM, 0][..], &length, &payload].concat())
    }

    fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let (id, frame) = self.opening(headers);
        self.stream.write_all(&frame).expect("it reads");
        id
    }

    fn data(&mut self, id: u32, fin: bool, bytes: &[u8]) {
        let [_, length @ ..] = word(bytes.len());
        let frame = [&id.to_be_bytes()[..], &[u8::from(fin)], &length, bytes].concat();
        self.stream.write_all(&frame).expect("it reads");
    }

    fn reset(&mut self, id: u32) {
        let frame = [&[0x80, 3, 0, RST_STREAM, 0, 0, 0, 8][..], &id.to_be_bytes(), &[0, 0, 0, 5]];
        self.stream.write_all(&frame.concat()).expect("it reads");
    }

    /// Whether the server refuses this stream.
    fn refuses(&mut self, id: u32) -> bool {
        loop {
            match self.next().expect("an answer") {
                Said::Control(kind, payload) if payload.starts_with(&id.to_be_bytes()) => {
                    return kind == u16::from(RST_STREAM) && payload.ends_with(&REFUSED);
                }
                _ => {}
            }
        }
    }

    /// The next frame; none at the end of the connection.
    fn next(&mut self) -> Option<Said> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
        let mut payload = vec![0; usize::try_from(length).expect("a length")];
        self.stream.read_exact(&mut payload).ok()?;
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        Some(match first >> 31 {
            0 => Said::Data(first, payload),
            _ => Said::Control(u16::from_be_bytes([head[2], head[3]]), payload),
        })
    }

    /// All that is said on this stream, until the connection ends or the text is in it.
    fn said_on(&mut self, id: u32, wanted: &str) -> String {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(wanted) {
            match self.next() {
                Some(Said::Data(from, bytes)) if from == id => said.extend(bytes),
                Some(_) => {}
                None => break,
            }
        }
        String::from_utf8_lossy(&said).into_owned()
    }
}

fn word(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("a small number").to_be_bytes()
}

/// An exec whose streams are all there: error, stdin, stdout and stderr.
fn exec(node: &Node, id: &str, script: &str) -> (Spdy, [u32; 4]) {
    exec_by(node, id, script, "v4.channel.k8s.io")
}

fn exec_by(node: &Node, id: &str, script: &str, protocol: &str) -> (Spdy, [u32; 4]) {
    let mut client = Spdy::connect(&exec_url(node, id, script), protocol);
    let streams =
        ["error", "stdin", "stdout", "stderr"].map(|kind| client.open(&[("streamtype", kind)]));
    (client, streams)
}

#[test]
fn clients_of_every_version_over_spdy_are_served_and_told_the_code() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    let protocols = ["channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io"];
    for (protocol, verdict) in protocols
        .map(|old| (old, "command terminated with non-zero exit code: exit status 3"))
        .into_iter()
        .chain([("v4.channel.k8s.io", r#"{"message":"3","reason":"ExitCode"}"#)])
    {
        let (mut client, [error, stdin, stdout, _]) = exec_by(&node, &id, "cat; exit 3", protocol);
        client.data(stdin, true, b"said");
        assert_eq!(client.said_on(stdout, "said"), "said", "{protocol}");
        let told = client.said_on(error, verdict);
        assert!(told.contains(verdict), "{protocol}: {told}");
    }
    node.end_clean();
}

#[test]
fn a_client_that_goes_in_the_middle_of_its_input_does_not_end_it() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    // Without an end of its input, what comes after is never begun.
    let script = "echo begun; cat > /half; touch /whole";
    for _ in 0..10 {
        let (mut spdy, [_, stdin, stdout, _]) = exec(&node, &id, script);
        spdy.data(stdin, false, b"half");
        assert_eq!(spdy.said_on(stdout, "begun"), "begun\n");
        drop(spdy);
        let mut client = Client::connect(&exec_url(&node, &id, script), "v5.channel.k8s.io");
        client.say(0, b"half");
        assert_eq!(client.hear().expect("a message").1, b"begun\n");
        drop(client);
    }
    eventually("they are gone", || machine::processes(&id).count() <= 2);
    assert!(node.refused(&["exec", "-s", &id, "ls", "/whole"]).contains("No such file"));
    node.end_clean();
}

#[test]
fn a_daemon_that_is_killed_is_no_end_of_an_input() {
    let mut node = Node::with_busybox();
    let (_, id) = running(&node);
    for round in 0..5 {
        // Without a process of its own in between: the shim kills what it finds soon after.
        let script = format!("echo begun; read line; : > /whole{round}");
        let (mut spdy, [_, stdin, stdout, _]) = exec(&node, &id, &script);
        spdy.data(stdin, false, b"half");
        assert_eq!(spdy.said_on(stdout, "begun"), "begun\n");
        node.kill_daemon();
        eventually("it is gone", || machine::processes(&id).count() <= 2);
        node.serve();
        // The same with an end goes on to its own.
        let (mut spdy, [_, stdin, stdout, _]) = exec(&node, &id, "cat; echo ended");
        spdy.data(stdin, true, b"whole ");
        assert_eq!(spdy.said_on(stdout, "ended"), "whole ended\n");
    }
    let listed = node.refused(&["exec", "-s", &id, "sh", "-c", "ls /whole*"]);
    assert!(listed.contains("No such file"), "{listed}");
    node.end_clean();
}

#[test]
fn a_client_that_takes_nothing_any_more_is_not_kept() {
    let mut node = Node::with_busybox();
    node.configure("[stream]\nidle_timeout = \"1s\"\n");
    let (pod, id) = running(&node);
    let serve = "nc -lk -p 8095 -e cat /dev/zero";
    node.run(&pod, serve, &Value::Null);
    serves(&node, &id, "127.0.0.1:8095");
    let before = node.descriptors();
    for script in ["exec cat /dev/zero", "head -c 100000000 /dev/zero"] {
        let _spdy = exec(&node, &id, script);
        let _channels = Client::connect(&exec_url(&node, &id, script), "v5.channel.k8s.io");
        let mut ports =
            Spdy::connect(&forward(&node, &pod.id, vec![]).expect("a URL"), "portforward.k8s.io");
        for kind in ["error", "data"] {
            ports.open(&[("streamtype", kind), ("port", "8095"), ("requestid", "0")]);
        }
        eventually("sessions", || node.descriptors() > before + 3);
        let begun = Instant::now();
        while node.descriptors() > before {
            assert!(begun.elapsed() < at_most(40), "{} descriptors", node.descriptors() - before);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    node.end_clean();
}

#[test]
fn a_client_that_goes_before_its_command_has_begun_takes_it_along() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    let Some(frozen) = machine::cgroup_with(&id, "cgroup.freeze") else { return node.end_clean() };
    let before = (node.descriptors(), node.traces());
    write(&frozen.join("cgroup.freeze"), "1");
    let spdy = exec(&node, &id, "sleep 992");
    let channels = Client::connect(&exec_url(&node, &id, "sleep 992"), "v5.channel.k8s.io");
    let commands = || machine::processes(&format!("{id}/exec-")).count();
    eventually("they are begun", || commands() == 2);
    drop((spdy, channels));
    let gone = Instant::now();
    eventually("they are gone", || commands() == 0);
    assert!(gone.elapsed() < at_most(2), "{:?}", gone.elapsed());
    write(&frozen.join("cgroup.freeze"), "0");
    eventually("descriptors are closed", || node.descriptors() <= before.0);
    node.left_nothing_but(&before.1);
    assert!(!sleeping(&id, "992"));
    node.end_clean();
}

#[test]
fn streams_that_a_client_opens_and_resets_without_end_are_refused() {
    let node = Node::with_busybox();
    let (pod, _) = running(&node);
    let url = forward(&node, &pod.id, vec![]).expect("a URL");
    let mut client = Spdy::connect(&url, "portforward.k8s.io");
    let mut half = |request: &str| {
        let id = client.open(&[("streamtype", "error"), ("port", "80"), ("requestid", request)]);
        let refused = client.refuses(id);
        client.reset(id);
        refused
    };
    assert!(half(&"9".repeat(1000)), "a name of any length");
    let refused = (0..1100).filter(|request| half(&request.to_string())).count();
    assert_eq!(refused, 1100 - 1024);
    node.end_clean();
}

#[test]
fn a_terminal_has_its_size_before_its_program_asks() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    let size = br#"{"Width":111,"Height":22}"#;
    for _ in 0..20 {
        let url = || terminal_url(&node, &id, &["stty", "size"]);
        let mut spdy = Spdy::connect(&url(), "v4.channel.k8s.io");
        let [_, stdout, resize] =
            ["error", "stdout", "resize"].map(|kind| spdy.open(&[("streamtype", kind)]));
        spdy.data(resize, false, size);
        assert_eq!(spdy.said_on(stdout, "\n"), "22 111\r\n");
        let mut channels = Client::connect(&url(), "v5.channel.k8s.io");
        channels.say(4, size);
        // A terminal's line may come in parts.
        let mut said = Vec::new();
        while !said.ends_with(b"\n") {
            let (channel, part) = channels.hear().expect("a message");
            assert_eq!(channel, 1, "{}", String::from_utf8_lossy(&part));
            said.extend(part);
        }
        assert_eq!(said, b"22 111\r\n");
    }
    node.end_clean();
}

fn terminal_url(node: &Node, id: &str, command: &[&str]) -> String {
    let request = ExecRequest {
        container_id: id.to_owned(),
        cmd: command.iter().map(|word| (*word).to_owned()).collect(),
        stdout: true,
        tty: true,
        ..ExecRequest::default()
    };
    call(node, async |mut runtime| runtime.exec(request).await.expect("a URL").into_inner().url)
}

#[test]
fn a_websocket_client_that_breaks_the_protocol_is_told_so() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    // A message of 5 MiB that begins, and one that is not masked.
    for (bytes, code) in [
        (&[0x82, 0xff, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0][..], CloseCode::Size),
        (b"\x82\x01x", CloseCode::Protocol),
    ] {
        let mut client = Client::connect(&exec_url(&node, &id, "cat"), "v5.channel.k8s.io");
        client.say_raw(bytes);
        let end = client.hear().expect_err("an end").expect("a reason");
        assert_eq!(end.code, code);
    }
    node.end_clean();
}

#[test]
fn a_forwarded_connection_is_told_why_it_ends_with_its_pod() {
    let node = Node::with_busybox();
    let (pod, _) = running(&node);
    let id = node.run(&pod, "exec nc -lk -p 8096 -e cat", &Value::Null);
    serves(&node, &id, "127.0.0.1:8096");
    let url = forward(&node, &pod.id, vec![]).expect("a URL");
    let mut client = Spdy::connect(&url, "portforward.k8s.io");
    let [error, data] = ["error", "data"]
        .map(|kind| client.open(&[("streamtype", kind), ("port", "8096"), ("requestid", "0")]));
    client.data(data, false, b"word");
    assert_eq!(client.said_on(data, "word"), "word");
    node.crictl(&["stopp", &pod.id]);
    let said = client.said_on(error, "not ready");
    assert!(said.contains("not ready") || said.contains("reset"), "{said}");
    node.end_clean();
}

#[test]
fn commands_that_cannot_be_executed_leave_no_cgroups() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "exec sleep 991", &Value::Null);
    call(&node, async |runtime| {
        let vain = |_| {
            let mut runtime = runtime.clone();
            let (container_id, cmd) = (id.clone(), vec!["/no/such/program".to_owned()]);
            let request = ExecSyncRequest { container_id, cmd, timeout: 0 };
            async move { runtime.exec_sync(request).await.expect_err("no program") }
        };
        for _ in 0..10 {
            join_all((0..16).map(vain)).await;
        }
    });
    // Nothing is left on pure v1 that could be looked at here.
    let Some(dir) = machine::cgroup_with(&id, "cgroup.events") else { return node.end_clean() };
    let execs = || {
        let names = std::fs::read_dir(&dir).expect("a cgroup").map(|entry| entry.expect("a file"));
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with("exec-")).count()
    };
    eventually("their cgroups are gone", || execs() == 0);
    node.end_clean();
}

#[test]
fn a_terminal_hangs_up_before_its_command_is_killed() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    let begun = |script: &str| {
        let mut client =
            Spdy::connect(&terminal_url(&node, &id, &["sh", "-c", script]), "v4.channel.k8s.io");
        let [_, stdout, _] =
            ["error", "stdout", "resize"].map(|kind| client.open(&[("streamtype", kind)]));
        assert_eq!(client.said_on(stdout, "\n"), "begun\r\n");
        client
    };
    drop(begun("trap 'touch /polite; exit' HUP; echo begun; while :; do sleep 0.05; done"));
    let heard = || node.try_crictl(&["exec", "-s", &id, "ls", "/polite"]).status.success();
    eventually("it was told", heard);
    let stubborn = begun("trap '' HUP; echo begun; sleep 989");
    eventually("it sleeps", || sleeping(&id, "989"));
    drop(stubborn);
    let gone = Instant::now();
    eventually("it is gone", || !sleeping(&id, "989"));
    assert!(gone.elapsed() < at_most(2), "{:?}", gone.elapsed());
    node.end_clean();
}
