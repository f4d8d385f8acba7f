//! WebSocket clients that are not crictl: every subprotocol, and ports by channels.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cri_proto::cri::runtime_service_client::RuntimeServiceClient;
use cri_proto::cri::{ExecRequest, PortForwardRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};
use tonic::transport::{Channel, Endpoint};

use crate::node::Node;
use crate::pods::SERVE;
use crate::streams::serves;

pub(crate) type Runtime = RuntimeServiceClient<Channel>;

/// One call to the daemon.
pub(crate) fn call<T>(node: &Node, call: impl AsyncFnOnce(Runtime) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let socket = node.path("ferropod.sock");
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://node").connect_with_connector(connect).await;
        call(RuntimeServiceClient::new(channel.expect("the daemon"))).await
    })
}

pub(crate) fn exec_url(node: &Node, id: &str, script: &str) -> String {
    let request = ExecRequest {
        container_id: id.to_owned(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    call(node, async |mut runtime| runtime.exec(request).await.expect("a URL").into_inner().url)
}

pub(crate) fn forward(node: &Node, pod: &str, port: Vec<i32>) -> Result<String, tonic::Status> {
    let request = PortForwardRequest { pod_sandbox_id: pod.to_owned(), port };
    let answer = call(node, async |mut runtime| runtime.port_forward(request).await);
    answer.map(|answer| answer.into_inner().url)
}

/// A client that speaks this subprotocol, or none.
pub(crate) struct Client {
    socket: WebSocket<TcpStream>,
    base64: bool,
}

impl Client {
    pub(crate) fn connect(url: &str, protocol: &str) -> Self {
        let url = url.replacen("http", "ws", 1);
        let mut request = url.as_str().into_client_request().expect("a URL");
        if !protocol.is_empty() {
            let protocol = HeaderValue::from_str(protocol).expect("a name");
            request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        }
        let address = request.uri().authority().expect("an address").to_string();
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a bound");
        let (socket, _) = client(request, stream).expect("it upgrades");
        Self { socket, base64: protocol.contains("base64") }
    }

    pub(crate) fn say(&mut self, channel: u8, words: &[u8]) {
        let message = if self.base64 {
            Message::text(format!("{channel}{}", STANDARD.encode(words)))
        } else {
            Message::binary([&[channel], words].concat())
        };
        self.socket.send(message).expect("it reads");
    }

    /// What a message is made of, or what is none.
    pub(crate) fn say_raw(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).expect("it reads");
    }

    /// The next message with something in it, and the close frame at the end.
    pub(crate) fn hear(&mut self) -> Result<(u8, Vec<u8>), Option<CloseFrame>> {
        loop {
            let (channel, bytes) = match self.socket.read().expect("a message") {
                Message::Binary(bytes) => (bytes[0], bytes[1..].to_vec()),
                Message::Text(text) => {
                    let (digit, rest) = text.as_bytes().split_first().expect("a digit");
                    (digit - b'0', STANDARD.decode(rest).expect("base64"))
                }
                Message::Close(frame) => return Err(frame),
                _ => continue,
            };
            if !bytes.is_empty() {
                return Ok((channel, bytes));
            }
        }
    }

    /// All that is said, by channel, to the end.
    fn rest(mut self) -> [Vec<u8>; 4] {
        let mut heard: [Vec<u8>; 4] = Default::default();
        loop {
            match self.hear() {
                Ok((channel, bytes)) => heard[usize::from(channel)].extend(bytes),
                Err(frame) => {
                    assert_eq!(frame.expect("a reason").code, CloseCode::Normal);
                    return heard;
                }
            }
        }
    }
}

#[test]
fn every_subprotocol_runs_a_command() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "while :; do sleep 0.1; done", &Value::Null);
    for protocol in [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "",
    ] {
        let url = exec_url(&node, &id, "head -c 5; echo complaint >&2; exit 3");
        let mut client = Client::connect(&url, protocol);
        client.say(0, b"wo");
        client.say(0, b"rds");
        let [_, out, err, how] = client.rest();
        assert_eq!((out.as_slice(), err.as_slice()), (&b"words"[..], &b"complaint\n"[..]));
        if protocol.starts_with('v') {
            let status: Value = serde_json::from_slice(&how).expect("a status");
            assert_eq!(status["details"]["causes"][0]["message"], "3", "{protocol}");
        } else {
            let how = String::from_utf8(how).expect("text");
            assert!(how.contains("exit status 3"), "{protocol}: {how}");
        }
    }
    let mut client = Client::connect(&exec_url(&node, &id, "cat"), "v5.channel.k8s.io");
    client.say(0, b"half");
    client.say(255, &[0]);
    let [_, out, _, how] = client.rest();
    assert_eq!(out, b"half");
    assert!(String::from_utf8(how).expect("text").contains("Success"));
    node.end_clean();
}

#[test]
fn ports_that_were_asked_for_are_pairs_of_channels() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, SERVE, &Value::Null);
    serves(&node, &id, "127.0.0.1:8080");
    for protocol in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""] {
        let url = forward(&node, &pod.id, vec![8080, 8099]).expect("a URL");
        let mut client = Client::connect(&url, protocol);
        client.say(0, b"GET / HTTP/1.0\r\n\r\n");
        let [page, first, nothing, refused] = client.rest();
        assert!(page.starts_with(&8080_u16.to_le_bytes()) && page.ends_with(b"served\n"));
        assert_eq!(first, 8080_u16.to_le_bytes());
        assert_eq!(nothing, 8099_u16.to_le_bytes());
        let refused = String::from_utf8_lossy(&refused[2..]).into_owned();
        assert!(refused.contains("localhost:8099"), "{refused}");
    }
    for port in [0, -1, 65_536] {
        let refused = forward(&node, &pod.id, vec![80, port]).expect_err("no port");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().starts_with("port[1]:"), "{}", refused.message());
    }
    node.end_clean();
}

#[test]
fn what_a_streaming_call_lacks_is_named() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "while :; do sleep 0.1; done", &Value::Null);
    let whole = ExecRequest {
        container_id: id,
        cmd: vec!["true".to_owned()],
        stdout: true,
        ..ExecRequest::default()
    };
    let refused = |request: ExecRequest| {
        let answer = call(&node, async |mut runtime| runtime.exec(request).await);
        let refused = answer.expect_err("a refusal");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        refused.message().to_owned()
    };
    assert!(refused(ExecRequest { cmd: Vec::new(), ..whole.clone() }).starts_with("cmd"));
    assert!(refused(ExecRequest { stdout: false, ..whole.clone() }).contains("one of stdin"));
    let both = ExecRequest { tty: true, stderr: true, ..whole.clone() };
    assert!(refused(both).contains("tty and stderr"));
    // Nobody comes for these; the thousand and first is refused until they expire.
    let full = call(&node, async |mut runtime| {
        for _ in 0..1000 {
            runtime.exec(whole.clone()).await.expect("a URL");
        }
        runtime.exec(whole.clone()).await.expect_err("a refusal")
    });
    assert_eq!(full.code(), tonic::Code::ResourceExhausted);
    node.end_clean();
}
