//! A streaming session over WebSocket, with the subprotocol that every runtime's server knows. What is carried is framed in
//! channels: a byte in front of each message says which.

use anyhow::{Context, Result, ensure};
use cri_proto::cri::{ExecRequest, PortForwardRequest};
use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::client::Client;
use crate::request::strings;

const PROTOCOL: &str = "v4.channel.k8s.io";
/// Channels of a command.
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
const STATUS: u8 = 3;
/// Channels of the first port that is forwarded.
pub(crate) const DATA: u8 = 0;
pub(crate) const ERROR: u8 = 1;

pub(crate) struct Session(WebSocketStream<TcpStream>);

impl Session {
    /// Runs a command.
    pub(crate) async fn exec(
        client: &Client,
        container: &str,
        cmd: &[&str],
        stdin: bool,
    ) -> Result<Self> {
        let url = client.exec_url(ExecRequest {
            container_id: container.to_owned(),
            cmd: strings(cmd),
            tty: false,
            stdin,
            stdout: true,
            stderr: true,
        });
        Self::open(&url.await?).await
    }

    /// Connects to a port of a pod. Each channel begins with a message that says the port.
    pub(crate) async fn forward(client: &Client, pod: &str, port: u16) -> Result<Self> {
        let request =
            PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: vec![i32::from(port)] };
        Self::open(&client.forward_url(request).await?).await
    }

    async fn open(url: &str) -> Result<Self> {
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

    pub(crate) async fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<()> {
        let message = [&[channel], bytes].concat();
        Ok(self.0.send(Message::binary(message)).await?)
    }

    /// The next piece of a channel, until the session is over.
    pub(crate) async fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
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
