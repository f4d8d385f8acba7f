//! Exec, attach and port-forward by the client that people use, over both transports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::machine;
use crate::node::{Node, Pod, at_most, eventually, tool};
use crate::pods::{SERVE, get};

pub(crate) const SPDY: &[&str] = &[];
pub(crate) const WEBSOCKET: &[&str] = &["--transport", "websocket"];
const LOOP: &str = "while :; do sleep 0.1; done";

/// A client that still runs. It is killed when it is not needed any more.
pub(crate) struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Client {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("the client starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, stdin, stdout }
    }

    fn say(&mut self, words: &str) {
        let stdin = self.stdin.as_mut().expect("its input");
        stdin.write_all(words.as_bytes()).expect("it reads");
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("its output");
        line.trim_end().to_owned()
    }

    /// Ends its input; the rest of what it says, and whether it was content.
    pub(crate) fn rest(mut self) -> (String, bool) {
        drop(self.stdin.take());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("its output");
        let success = self.child.wait().expect("its end").success();
        (rest, success)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn running(node: &Node) -> (Pod, String) {
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, LOOP, &Value::Null);
    (pod, id)
}

pub(crate) fn with<'a>(verb: &'a str, transport: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [&[verb], transport, rest].concat()
}

/// What a client does with this input.
fn fed(mut command: Command, input: Vec<u8>) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the client starts");
    let mut stdin = child.stdin.take().expect("its input");
    let feed = std::thread::spawn(move || {
        // A command that ends early has not read all.
        drop(stdin.write_all(&input));
    });
    let output = child.wait_with_output().expect("its end");
    feed.join().expect("fed");
    output
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

// === exec ===

#[test]
fn a_command_gives_both_outputs_and_its_code() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    for transport in [SPDY, WEBSOCKET] {
        assert_eq!(node.crictl(&with("exec", transport, &[&id, "echo", "inside"])), "inside");
        let script = "echo said; echo complaint >&2; exit 3";
        let output = node.try_crictl(&with("exec", transport, &[&id, "sh", "-c", script]));
        let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
        assert_eq!(out, b"said\n");
        assert!(err.contains("complaint") && err.contains("exit code 3"), "{err}");
        let said = node.refused(&with("exec", transport, &[&id, "/no/such/program"]));
        assert!(said.contains("/no/such/program"), "{said}");
    }
    node.end_clean();
}

#[test]
fn what_goes_in_comes_out_whole_and_the_end_of_the_input_ends_the_command() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    let sent = noise(64 << 20);
    for transport in [SPDY, WEBSOCKET] {
        let args = with("exec", transport, &["-i", &id, "cat"]);
        let output = fed(node.client(&args), sent.clone());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout.len(), sent.len());
        assert!(output.stdout == sent, "other bytes");
    }
    node.end_clean();
}

#[test]
fn a_command_that_reads_nothing_does_not_hold_up_its_output() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    for transport in [SPDY, WEBSOCKET] {
        let args = with("exec", transport, &["-i", &id, "sh", "-c", "exec <&-; echo read nothing"]);
        let output = fed(node.client(&args), noise(8 << 20));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "read nothing\n");
    }
    node.end_clean();
}

#[test]
fn a_child_that_keeps_the_outputs_open_does_not_keep_the_session() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    let start = Instant::now();
    assert_eq!(node.crictl(&["exec", &id, "sh", "-c", "sleep 30 & echo parent"]), "parent");
    let writes = "(while sleep 0.2; do echo child; done) & echo parent";
    let said = node.crictl(&["exec", &id, "sh", "-c", writes]);
    assert!(said.starts_with("parent"), "{said}");
    assert!(start.elapsed() < at_most(15));
    node.end_clean();
}

#[test]
fn a_terminal_has_the_clients_size_and_passes_on_what_is_typed() {
    a_terminal_is_passed_on(Node::with_busybox());
}

pub(crate) fn a_terminal_is_passed_on(node: Node) {
    let (_, id) = running(&node);
    for transport in [SPDY, WEBSOCKET] {
        let exec = node.client(&with("exec", transport, &["-i", "-t", &id, "sh"]));
        let mut terminal = Client::start(in_terminal(&exec));
        let shows = |terminal: &mut Client, wanted: &str| {
            while !terminal.line().contains(wanted) {}
        };
        terminal.say("until stty size | grep '^40 100'; do sleep 0.1; done\n");
        shows(&mut terminal, "40 100");
        terminal.say("test -t 0 && echo on $((40+2))\n");
        shows(&mut terminal, "on 42");
        // Ctrl-C ends what runs in it, and not the shell.
        terminal.say("sleep 1000; echo after $((40+3))\n");
        eventually("it sleeps", || sleeping(&id, "1000"));
        terminal.say("\x03");
        terminal.say("echo again $((40+4))\n");
        shows(&mut terminal, "again 44");
        terminal.say("exit\n");
        assert!(terminal.rest().1);
    }
    node.end_clean();
}

/// The same command in a terminal of 40 lines and 100 columns.
fn in_terminal(command: &Command) -> Command {
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy());
    let words: Vec<String> =
        [command.get_program()].into_iter().chain(command.get_args()).map(quoted).collect();
    let mut script = tool("script");
    script.args(["-qec", &format!("stty rows 40 cols 100; exec {}", words.join(" ")), "/dev/null"]);
    script
}

pub(crate) fn sleeping(container: &str, argument: &str) -> bool {
    machine::processes(container).any(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line == format!("sleep\0{argument}\0").into_bytes()
    })
}

#[test]
fn a_client_that_is_killed_takes_its_command_along() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    for transport in [SPDY, WEBSOCKET] {
        let script = "sleep 997 & echo begun; sleep 998";
        let args = with("exec", transport, &["-i", &id, "sh", "-c", script]);
        let mut client = Client::start(node.client(&args));
        assert_eq!(client.line(), "begun");
        eventually("it sleeps", || sleeping(&id, "997") && sleeping(&id, "998"));
        drop(client);
        let gone = Instant::now();
        eventually("it is gone", || !sleeping(&id, "997") && !sleeping(&id, "998"));
        assert!(gone.elapsed() < at_most(1), "{:?}", gone.elapsed());
    }
    node.end_clean();
}

#[test]
fn a_client_that_is_killed_behind_input_that_nobody_reads_is_noticed() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    for transport in [SPDY, WEBSOCKET] {
        let args = with("exec", transport, &["-i", &id, "sh", "-c", "echo begun; sleep 996"]);
        let mut client = Client::start(node.client(&args));
        assert_eq!(client.line(), "begun");
        let mut stdin = client.stdin.take().expect("its input");
        let (tell, told) = std::sync::mpsc::channel();
        let feed = std::thread::spawn(move || {
            // Until the client takes no more for good.
            let words = vec![b'x'; 1 << 16];
            while stdin.write_all(&words).is_ok() && tell.send(()).is_ok() {}
        });
        while told.recv_timeout(at_most(1)).is_ok() {}
        assert!(sleeping(&id, "996"));
        drop(client);
        let gone = Instant::now();
        eventually("it is gone", || !sleeping(&id, "996"));
        assert!(gone.elapsed() < at_most(2), "{:?}", gone.elapsed());
        feed.join().expect("the feeder ends");
    }
    node.end_clean();
}

// === attach ===

#[test]
fn who_attaches_reads_and_writes_and_leaves_the_container_alone() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let script = "while read -r line; do echo heard $line; done; echo over; sleep 1000";
    let id = node.run(&pod, script, &json!({"stdin": true}));
    for (transport, word) in [(SPDY, "one"), (WEBSOCKET, "two")] {
        let mut client = Client::start(node.client(&with("attach", transport, &["-i", &id])));
        client.say(&format!("{word}\n"));
        assert_eq!(client.line(), format!("heard {word}"));
        drop(client);
        node.logs_show(&id, &format!("heard {word}"));
    }
    assert_eq!(node.status(&id)["state"], "CONTAINER_RUNNING");
    node.end_clean();
}

#[test]
fn an_input_for_once_ends_with_its_first_client_who_hears_the_container_out() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    for transport in [SPDY, WEBSOCKET] {
        let script = "while read -r line; do echo heard $line; done; echo over";
        let once = json!({"stdin": true, "stdin_once": true});
        let id = node.run(&pod, script, &once);
        let mut client = Client::start(node.client(&with("attach", transport, &["-i", &id])));
        client.say("word\n");
        assert_eq!(client.line(), "heard word");
        assert_eq!(client.rest(), ("over\n".to_owned(), true));
        assert_eq!(node.exit(&id), (0, "Completed".to_owned()));
    }
    node.end_clean();
}

#[test]
fn who_has_nothing_more_to_say_leaves_an_input_that_is_open_for_others() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let script = "while read -r line; do echo heard $line; done; echo over";
    let id = node.run(&pod, script, &json!({"stdin": true}));
    for transport in [SPDY, WEBSOCKET] {
        let mut client = Client::start(node.client(&with("attach", transport, &["-i", &id])));
        client.say("word\n");
        assert_eq!(client.rest(), ("heard word\n".to_owned(), true));
        assert_eq!(node.status(&id)["state"], "CONTAINER_RUNNING");
    }
    node.end_clean();
}

#[test]
fn all_who_attach_hear_the_same() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let script = "while read -r line; do echo $line; done";
    let id = node.run(&pod, script, &json!({"stdin": true}));
    let mut clients: Vec<Client> = [SPDY, WEBSOCKET, SPDY]
        .map(|transport| Client::start(node.client(&with("attach", transport, &["-i", &id]))))
        .into();
    // Each has arrived when it hears itself.
    for (number, client) in clients.iter_mut().enumerate() {
        let word = format!("arrived {number}");
        client.say(&format!("{word}\n"));
        while client.line() != word {}
    }
    clients[0].say("to all\n");
    for client in &mut clients {
        while client.line() != "to all" {}
    }
    drop(clients);
    node.end_clean();
}

// === port-forward ===

pub(crate) struct Forward(Client);

pub(crate) fn forward(node: &Node, transport: &[&str], pod: &str, ports: &str) -> Forward {
    let mut client = Client::start(node.client(&with("port-forward", transport, &[pod, ports])));
    assert!(client.line().starts_with("Forwarding from"));
    Forward(client)
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.0.child.kill());
    }
}

/// Waits until somebody listens in a container: clients of port-forward give up at the first connection that is refused.
pub(crate) fn serves(node: &Node, id: &str, address: &str) {
    let (host, port) = address.rsplit_once(':').expect("an address");
    let asked = ["exec", "-s", id, "nc", "-z", host, port];
    eventually("it serves", || node.try_crictl(&asked).status.success());
}

#[test]
fn a_port_of_a_pod_is_reached_by_many_at_once_over_both_families() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let four = node.run(&pod, SERVE, &Value::Null);
    let six = "mkdir /www && echo six > /www/index.html && exec httpd -f -p [::1]:8086 -h /www";
    let six = node.run(&pod, six, &Value::Null);
    serves(&node, &four, "127.0.0.1:8080");
    serves(&node, &six, "::1:8086");
    for transport in [SPDY, WEBSOCKET] {
        let _four = forward(&node, transport, &pod.id, "18084:8080");
        eventually("a page", || get("127.0.0.1:18084").is_some_and(|p| p.ends_with("served\n")));
        let gets: Vec<_> = (0..20).map(|_| std::thread::spawn(|| get("127.0.0.1:18084"))).collect();
        for page in gets {
            assert!(page.join().expect("a page").is_some_and(|page| page.ends_with("served\n")));
        }
        let _six = forward(&node, transport, &pod.id, "18086:8086");
        eventually("a page", || get("127.0.0.1:18086").is_some_and(|p| p.ends_with("six\n")));
    }
    node.end_clean();
}

#[test]
fn a_port_of_a_pod_on_the_nodes_network_is_reached() {
    let node = Node::with_busybox();
    let own = json!({"linux": {"security_context": {"namespace_options": {"network": 2}}}});
    let pod = node.run_pod(&own);
    let script =
        "mkdir /www && echo served > /www/index.html && exec httpd -f -p 127.0.0.1:18090 -h /www";
    let network = json!({"linux": {"security_context": {"namespace_options": {"network": 2}}}});
    let server = node.run(&pod, script, &network);
    serves(&node, &server, "127.0.0.1:18090");
    let _forward = forward(&node, SPDY, &pod.id, "18091:18090");
    eventually("a page", || get("127.0.0.1:18091").is_some_and(|page| page.ends_with("served\n")));
    node.end_clean();
}

#[test]
fn a_port_where_nobody_listens_is_named_to_the_client() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    for transport in [SPDY, WEBSOCKET] {
        let mut command = node.client(&with("port-forward", transport, &[&pod.id, "18092:8092"]));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the client starts");
        eventually("it listens", || TcpStream::connect("127.0.0.1:18092").is_ok());
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().expect("its complaints"));
        while !said.contains("localhost:8092") {
            assert_ne!(stderr.read_line(&mut said).expect("its complaints"), 0, "{said}");
        }
        drop(child.kill());
        child.wait().expect("its end");
    }
    node.end_clean();
}

#[test]
fn a_forward_ends_with_its_pod() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let server = node.run(&pod, "exec nc -lk -p 8093 -e cat", &Value::Null);
    serves(&node, &server, "127.0.0.1:8093");
    let mut forward = forward(&node, SPDY, &pod.id, "18093:8093");
    let _held = TcpStream::connect("127.0.0.1:18093").expect("the client listens");
    node.crictl(&["stopp", &pod.id]);
    let mut ended = || forward.0.child.try_wait().expect("a status").is_some();
    eventually("the client ends", &mut ended);
    node.end_clean();
}

// === tokens, TLS, leaks ===

/// The URL that the client was given and has used.
fn used_url(node: &Node, id: &str) -> String {
    let output = node.try_crictl(&["--debug", "exec", id, "true"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let url = said.split("http").find(|part| part.contains("/exec/")).expect("a URL");
    let url = url.split(['"', '\\', ' ', '\n']).next().expect("a word");
    format!("http{url}")
}

fn status_line(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    line.trim_end().to_owned()
}

#[test]
fn a_url_is_good_once_and_no_other_is_good() {
    let node = Node::with_busybox();
    let (_, id) = running(&node);
    let url = used_url(&node, &id);
    let (address, path) = url.strip_prefix("http://").and_then(|u| u.split_once('/')).expect(&url);
    assert!(address.starts_with("127.0.0.1:"), "{url}");
    let token = path.strip_prefix("exec/").expect("a token");
    assert_eq!(token.len(), 43);
    for path in
        [format!("/{path}"), format!("/attach/{token}"), "/exec/".to_owned(), "/".to_owned()]
    {
        assert_eq!(status_line(address, &path), "HTTP/1.1 404 Not Found", "{path}");
    }
    node.end_clean();
}

#[test]
fn streams_are_served_with_a_certificate_that_may_change() {
    let mut node = Node::with_busybox();
    let (cert, key) = (node.path("cert.pem"), node.path("key.pem"));
    let certify = |name: &str| {
        let mut openssl = tool("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}"), "-keyout"]);
        openssl.arg(&key).arg("-out").arg(&cert).stderr(Stdio::null());
        assert!(openssl.status().expect("openssl runs").success());
    };
    certify("first");
    node.configure(&format!("[stream]\ntls_cert = {cert:?}\ntls_key = {key:?}\n"));
    let (_, id) = running(&node);
    for name in ["first", "second"] {
        certify(name);
        for transport in [SPDY, WEBSOCKET] {
            let args =
                [&["--debug"], &with("exec", transport, &[&id, "echo", "inside"])[..]].concat();
            let output = node.try_crictl(&args);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.stdout, b"inside\n", "{said}");
            assert!(said.contains("https://127.0.0.1:"), "{said}");
        }
        let address = tls_address(&node, &id);
        let mut client = tool("openssl");
        client.args(["s_client", "-connect", &address]).stderr(Stdio::null());
        let shown = client.output().expect("openssl runs");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(
            shown.contains(&format!("CN = {name}")) || shown.contains(&format!("CN={name}")),
            "{shown}"
        );
    }
    node.end_clean();
}

fn tls_address(node: &Node, id: &str) -> String {
    let url = used_url(node, id);
    let rest = url.strip_prefix("https://").expect("https");
    rest.split('/').next().expect("an address").to_owned()
}

#[test]
fn sessions_leave_nothing_behind() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "while read -r line; do echo $line; done", &json!({"stdin": true}));
    let round = |transport: &[&str]| {
        node.crictl(&with("exec", transport, &[&id, "true"]));
        let mut cut = Client::start(node.client(&with("exec", transport, &["-i", &id, "cat"])));
        cut.say("word\n");
        assert_eq!(cut.line(), "word");
        let mut attached = Client::start(node.client(&with("attach", transport, &["-i", &id])));
        attached.say("word\n");
        assert_eq!(attached.line(), "word");
        drop(forward(&node, transport, &pod.id, "18094:8094"));
    };
    round(SPDY);
    round(WEBSOCKET);
    let processes = || machine::processes(&id).count();
    eventually("all have gone", || processes() == 1);
    let before = node.descriptors();
    for _ in 0..5 {
        round(SPDY);
        round(WEBSOCKET);
    }
    eventually("all have gone", || processes() == 1);
    eventually("descriptors are closed", || node.descriptors() <= before);
    node.end_clean();
}
