//! Exec, attach and port-forward over WebSocket: each message begins with the number of its channel.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use engine::world::{Ends, World};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use names::SandboxId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::debug;

use super::ends::{Client, Gone, Input, Messages, Output};
use super::forward::{self, Pair, Run};
use super::negotiate::{Codec, Version};
use super::resize::Window;
use super::{Ask, Server};
use channel::{Said, seal, unseal};

mod channel;
pub(super) mod tunnel;

pub(super) use channel::Channel;

/// A longer message ends the session.
const MESSAGE_MAX: usize = 4 << 20;
/// Messages that wait: of each channel for its reader, of all channels for the connection.
const WAITING: usize = 2;
/// How often a client that is not read is nudged.
const NUDGE_EVERY: Duration = Duration::from_millis(250);
/// How long the last messages may take.
const FLUSH: Duration = Duration::from_secs(10);
/// How long a client may take to answer the end.
const LINGER: Duration = Duration::from_secs(1);

// By convention 0 to 2 are those of a process.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// A connection after its upgrade.
pub(super) async fn upgraded<IO>(io: IO, early: &[u8]) -> WebSocketStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(64 << 10)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    WebSocketStream::from_partially_read(io, early.to_vec(), Role::Server, Some(config)).await
}

impl<W: World> Server<W> {
    /// One exec or attach, all of the connection.
    pub(super) async fn command_over_channels<IO>(
        &self,
        ask: &Ask,
        (version, codec): (Version, Codec),
        io: WebSocketStream<IO>,
    ) where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (Ask::Exec { ends, .. } | Ask::Attach { ends, .. }) = ask else { return };
        let mut socket = Socket::start(io, codec, version);
        let client = client(&mut socket, *ends, version);
        if let Ok(client) = greeted(client).await {
            self.command(ask, client, socket.gone()).await;
        }
        socket.close().await;
    }

    /// A pair of channels for each port that was asked for: data and error.
    pub(super) async fn forward_over_channels<IO>(
        &self,
        (sandbox, ports): (&SandboxId, &[u16]),
        (version, codec): (Version, Codec),
        io: WebSocketStream<IO>,
    ) where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut socket = Socket::start(io, codec, version);
        let mut pairs = JoinSet::new();
        let (end, ended) = watch::channel(None);
        for (number, port) in (0..).step_by(2).zip(ports.iter().copied()) {
            let input = socket.input(number);
            let (mut output, mut error) = (socket.output(number), socket.output(number + 1));
            let name = port.to_le_bytes();
            if output.say(&name).await.is_err() || error.say(&name).await.is_err() {
                break;
            }
            let pair = Pair { port, input, output, error };
            let (engine, sandbox, end) = (self.engine.clone(), sandbox.clone(), ended.clone());
            pairs.spawn(pair.serve(Run { engine, sandbox, idle: self.patience.idle, end }));
        }
        socket.listen();
        let all = async { while pairs.join_next().await.is_some() {} };
        // None is resumed.
        tokio::select! {
            () = all => {}
            why = self.forward_over(sandbox) => forward::leave(&mut pairs, &end, why).await,
            () = socket.gone() => debug!("the client has gone"),
        }
        pairs.shutdown().await;
        socket.close().await;
    }
}

fn client(socket: &mut Socket, ends: Ends, version: Version) -> Client {
    let client = Client {
        version,
        error: socket.output(ERROR),
        stdin: ends.stdin.then(|| socket.input(STDIN)),
        stdout: ends.stdout.then(|| socket.output(STDOUT)),
        stderr: ends.stderr.then(|| socket.output(STDERR)),
        resize: ends.tty.then(|| Window::new(socket.input(RESIZE))),
        silent: Vec::new(),
    };
    socket.listen();
    client
}

/// An empty message on the first channel that is written to tells the client that it is connected.
async fn greeted(mut client: Client) -> Result<Client, Gone> {
    let first = client.stdout.as_mut().or(client.stderr.as_mut());
    first.unwrap_or(&mut client.error).say(b"").await?;
    Ok(client)
}

/// A connection whose messages are taken and sent by tasks of its own.
#[derive(Debug)]
struct Socket {
    codec: Codec,
    /// Where each channel's messages go.
    routes: Routes,
    outgoing: mpsc::Sender<Message>,
    /// The routes, once all are there.
    begin: Option<tokio::sync::oneshot::Sender<Routes>>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Routes(Vec<Option<mpsc::Sender<Bytes>>>);

impl Socket {
    fn start<IO>(io: WebSocketStream<IO>, codec: Codec, version: Version) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sink, stream) = io.split();
        let (outgoing, messages) = mpsc::channel(WAITING);
        let (begin, routes) = tokio::sync::oneshot::channel();
        let nudge = Nudge(outgoing.downgrade());
        let broke = Broke::default();
        let writer = tokio::spawn(write(sink, messages, Arc::clone(&broke)));
        let reader = tokio::spawn(async move {
            if let Ok(routes) = routes.await {
                read(stream, routes, (codec, version), (nudge, broke)).await;
            }
        });
        Self { codec, routes: Routes::default(), outgoing, begin: Some(begin), reader, writer }
    }

    fn input(&mut self, number: u8) -> Input {
        let (to, from) = mpsc::channel(WAITING);
        self.routes.set(number, to);
        Input::Channel(Messages::new(from))
    }

    fn output(&self, number: u8) -> Output {
        Output::Channel(Channel::new(number, self.codec, self.outgoing.clone()))
    }

    /// From here on messages are taken: all inputs are there.
    fn listen(&mut self) {
        if let Some(begin) = self.begin.take() {
            // An error means that the reader panicked.
            drop(begin.send(std::mem::take(&mut self.routes)));
        }
    }

    /// Ready when the client is gone.
    async fn gone(&mut self) {
        // Both are cancel-safe: they are tasks.
        tokio::select! {
            _ = &mut self.reader => {}
            _ = &mut self.writer => {}
        }
    }

    /// Says that this is the end, after all that was sent, and waits a moment for the client to say so too. All outputs have
    /// been dropped.
    async fn close(self) {
        let Self { outgoing, mut reader, mut writer, .. } = self;
        drop(outgoing);
        // An error means that it took too long: it does not matter any more.
        if !writer.is_finished() {
            drop(tokio::time::timeout(FLUSH, &mut writer).await);
        }
        if !reader.is_finished() {
            drop(tokio::time::timeout(LINGER, &mut reader).await);
        }
        writer.abort();
        reader.abort();
    }
}

impl Routes {
    fn set(&mut self, number: u8, to: mpsc::Sender<Bytes>) {
        let index = usize::from(number);
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        if let Some(route) = self.0.get_mut(index) {
            *route = Some(to);
        }
    }

    /// Hands the bytes to their channel's reader, and waits while that is behind. What nobody reads is thrown away.
    async fn hand(&mut self, number: u8, bytes: Bytes, nudge: &Nudge) {
        if !bytes.is_empty() {
            self.pass(number, bytes, nudge).await;
        }
    }

    async fn pass(&mut self, number: u8, bytes: Bytes, nudge: &Nudge) {
        let Some(route) = self.0.get_mut(usize::from(number)) else { return };
        let Some(to) = route else { return };
        // Both are cancel-safe: nudging never ends.
        let sent = tokio::select! {
            sent = to.send(bytes) => sent.is_ok(),
            () = nudge.again_and_again() => false,
        };
        if !sent {
            *route = None;
        }
    }

    async fn end(&mut self, number: u8, nudge: &Nudge) {
        self.pass(number, Bytes::new(), nudge).await;
        if let Some(route) = self.0.get_mut(usize::from(number)) {
            *route = None;
        }
    }
}

/// Says nothing, so that TCP tells whether there is somebody to hear it: while nothing is read, a client's end behind unread
/// messages does not show. A pong that nobody asked for is no question, and keeps clients patient whose pings wait.
#[derive(Debug)]
struct Nudge(mpsc::WeakSender<Message>);

impl Nudge {
    /// For as long as it is waited for.
    async fn again_and_again(&self) {
        loop {
            tokio::time::sleep(NUDGE_EVERY).await;
            if let Some(outgoing) = self.0.upgrade() {
                // With messages on the way there is no need.
                drop(outgoing.try_send(Message::Pong(Bytes::new())));
            }
        }
    }
}

/// Until the client is gone.
async fn read<IO>(
    mut stream: SplitStream<WebSocketStream<IO>>,
    mut routes: Routes,
    (codec, version): (Codec, Version),
    (nudge, broke): (Nudge, Broke),
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match stream.next().await {
            Some(Ok(message)) => match unseal(message, codec, version) {
                Some(Said::Bytes(number, bytes)) => routes.hand(number, bytes, &nudge).await,
                Some(Said::End(number)) => routes.end(number, &nudge).await,
                None => {}
            },
            Some(Err(error)) => {
                debug!(%error, "the connection broke");
                return broke.set(code(&error)).unwrap_or_default();
            }
            None => return,
        }
    }
}

/// What the client has done, when it broke the protocol.
type Broke = Arc<OnceLock<CloseCode>>;

fn code(error: &Error) -> CloseCode {
    match error {
        Error::Capacity(_) => CloseCode::Size,
        Error::Utf8(_) => CloseCode::Invalid,
        _ => CloseCode::Protocol,
    }
}

/// Until there is nothing more to be sent, or nobody to send it to.
async fn write<IO>(
    mut sink: SplitSink<WebSocketStream<IO>, Message>,
    mut messages: mpsc::Receiver<Message>,
    broke: Broke,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = messages.recv().await {
        let sent =
            if messages.is_empty() { sink.send(message).await } else { sink.feed(message).await };
        if sent.is_err() {
            return;
        }
    }
    let code = broke.get().copied().unwrap_or(CloseCode::Normal);
    let end = CloseFrame { code, reason: "".into() };
    // An error means that the client is gone.
    drop(sink.send(Message::Close(Some(end))).await);
}

impl Channel {
    /// Sends a message that begins with [`Self::mark`].
    pub(super) async fn send(&mut self, message: Bytes) -> Result<(), Gone> {
        self.outgoing.send(seal(message, self.codec)).await.map_err(|_| Gone)
    }
}
