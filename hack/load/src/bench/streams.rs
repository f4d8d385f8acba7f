//! Exec sessions over WebSocket, with the subprotocol that every runtime's server knows: how soon they say something, how much they
//! carry, and what they leave behind.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cri_proto::cri::ExecRequest;
use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::Bench;
use super::load::{end, start};
use crate::client::Client;
use crate::request::strings;

const PROTOCOL: &str = "v4.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STATUS: u8 = 3;
/// What is carried each way.
const MEBIBYTES: u32 = 256;
const MEBIBYTE: usize = 1 << 20;
const CHUNK: usize = 64 << 10;
const SESSIONS: usize = 1000;
/// No session of these may take longer.
const BOUND: Duration = Duration::from_mins(2);

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    let made = start(&bench.client, &bench.template, "streams").await?;
    let [container] = made.containers.as_slice() else { bail!("one container was asked for") };
    for _ in 0..bench.times(60) {
        let first = bounded(first_byte(&bench.client, container)).await?;
        bench.figures.time("session", first);
    }
    for _ in 0..bench.times(18) {
        let took = bounded(out(&bench.client, container)).await?;
        bench.figures.value("stream_out", f64::from(MEBIBYTES) / took.as_secs_f64());
        let took = bounded(into(&bench.client, container)).await?;
        bench.figures.value("stream_in", f64::from(MEBIBYTES) / took.as_secs_f64());
    }
    for _ in 0..bench.times(SESSIONS) {
        bounded(first_byte(&bench.client, container)).await?;
    }
    super::memory::daemon(bench, "daemon_sessions");
    end(&bench.client, &made).await
}

async fn bounded<T>(session: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(BOUND, session).await.context("a session hangs")?
}

/// From the call for a session to the first byte of what its command says.
async fn first_byte(client: &Client, container: &str) -> Result<Duration> {
    let begun = Instant::now();
    let mut session = Session::open(client, container, &["echo", "said"], false).await?;
    let mut first = None;
    while let Some((channel, bytes)) = session.next().await? {
        if channel == STDOUT && !bytes.is_empty() {
            first.get_or_insert_with(|| begun.elapsed());
        }
    }
    first.context("the command said nothing")
}

async fn out(client: &Client, container: &str) -> Result<Duration> {
    let command = format!("head -c {} /dev/zero", MEBIBYTE * MEBIBYTES as usize);
    let begun = Instant::now();
    let mut session = Session::open(client, container, &["sh", "-c", &command], false).await?;
    let mut came = 0;
    while let Some((channel, bytes)) = session.next().await? {
        came += if channel == STDOUT { bytes.len() } else { 0 };
    }
    ensure!(came == MEBIBYTE * MEBIBYTES as usize, "{came} bytes came");
    Ok(begun.elapsed())
}

async fn into(client: &Client, container: &str) -> Result<Duration> {
    let size = MEBIBYTE * MEBIBYTES as usize;
    // Counted by the command: it says so when it has had them all.
    let command = format!("head -c {size} | wc -c");
    let begun = Instant::now();
    let mut session = Session::open(client, container, &["sh", "-c", &command], true).await?;
    for _ in 0..size / CHUNK {
        session.send(STDIN, CHUNK).await?;
    }
    let mut said = Vec::new();
    while let Some((channel, bytes)) = session.next().await? {
        if channel == STDOUT {
            said.extend(bytes);
        }
    }
    let counted = String::from_utf8_lossy(&said).trim().to_owned();
    ensure!(counted == size.to_string(), "{counted} bytes arrived");
    Ok(begun.elapsed())
}

struct Session(WebSocketStream<TcpStream>);

impl Session {
    async fn open(client: &Client, container: &str, cmd: &[&str], stdin: bool) -> Result<Self> {
        let url = client.exec_url(ExecRequest {
            container_id: container.to_owned(),
            cmd: strings(cmd),
            tty: false,
            stdin,
            stdout: true,
            stderr: true,
        });
        let url = url.await?;
        let place = url.strip_prefix("http://").context("a URL without TLS is needed")?;
        let (host, _) = place.split_once('/').context("a URL with a path")?;
        let stream =
            TcpStream::connect(host).await.with_context(|| format!("connect to {host}"))?;
        stream.set_nodelay(true)?;
        let mut request = format!("ws://{place}").into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(PROTOCOL));
        let (socket, _) = client_async(request, stream).await.context("open the session")?;
        Ok(Self(socket))
    }

    async fn send(&mut self, channel: u8, zeros: usize) -> Result<()> {
        let mut message = vec![0; zeros + 1];
        if let Some(first) = message.first_mut() {
            *first = channel;
        }
        Ok(self.0.send(Message::binary(message)).await?)
    }

    /// The next piece of a channel, until the session is over.
    async fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        while let Some(message) = self.0.next().await {
            let bytes = match message? {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => return Ok(None),
                _ => continue,
            };
            let Some((channel, rest)) = bytes.split_first() else { continue };
            let failed = *channel == STATUS && !String::from_utf8_lossy(rest).contains("Success");
            ensure!(!failed, "{}", String::from_utf8_lossy(rest));
            return Ok(Some((*channel, rest.to_vec())));
        }
        Ok(None)
    }
}
