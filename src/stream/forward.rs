//! Port-forward: for each connection at the client's a pair of streams, data and error, and a connection into the pod.
//!
//! What goes wrong with one pair is said on its error stream; the others do not notice.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ::spdy::{Incoming, Session, Stream};
use bytes::BytesMut;
use engine::Engine;
use engine::world::World;
use names::SandboxId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::activity::Activity;
use super::ends::{Gone, Input, Output};
use super::{Server, batch, pump, stopping};

/// How often it is asked whether the sandbox is still there: a connection in it would keep its network namespace.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const CHUNK: usize = 256 << 10;
const FIRST: usize = 8 << 10;

/// A pair's data, and where it is said what went wrong.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) port: u16,
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) error: Output,
}

impl<W: World> Server<W> {
    /// A session of pairs, as many as the client wants.
    pub(super) async fn forward_over_spdy(&self, sandbox: &SandboxId, mut session: Session) {
        let mut pairs = Pairs::new(self.patience.creation);
        let activity = Activity::new();
        let mut running = JoinSet::new();
        let gone = session.ended();
        let over = self.forward_over(sandbox);
        tokio::pin!(gone, over);
        loop {
            // All are cancel-safe: a stream, a finished pair and a late half stay where they are until the next turn.
            tokio::select! {
                Some(incoming) = session.accept() => {
                    activity.note();
                    if let Some(pair) = pairs.add(incoming) {
                        running.spawn(pair.serve(self.engine.clone(), sandbox.clone(), self.patience.idle));
                    }
                }
                Some(_) = running.join_next() => activity.note(),
                late = pairs.late() => drop(running.spawn(too_late(late))),
                () = activity.ceased(self.patience.idle), if running.is_empty() => break,
                () = &mut over => break,
                _ = &mut gone => break,
            }
        }
        running.shutdown().await;
        session.close().await;
    }

    /// Ready when the daemon stops or the sandbox does.
    pub(super) async fn forward_over(&self, sandbox: &SandboxId) {
        let vanished = async {
            while self.engine.forwardable(sandbox.as_str()).is_ok() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // Neither is resumed.
        tokio::select! {
            () = vanished => debug!("the sandbox is not ready any more"),
            () = stopping(self.stop.clone()) => {}
        }
    }
}

// === pairs of SPDY streams ===

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Data,
    Error,
}

#[derive(Debug)]
struct Half {
    role: Role,
    port: u16,
    stream: Stream,
    came: Instant,
}

/// Halves that wait for their other half.
#[derive(Debug)]
struct Pairs {
    waiting: HashMap<String, Half>,
    /// The same, in the order in which they came; some of them have been met.
    order: VecDeque<(Instant, String)>,
    patience: Duration,
}

impl Pairs {
    fn new(patience: Duration) -> Self {
        let (waiting, order) = (HashMap::new(), VecDeque::new());
        Self { waiting, order, patience }
    }

    /// Takes a stream; a pair, when it was the second half. One that says no port, no type, or what its other half said already
    /// is refused.
    fn add(&mut self, incoming: Incoming) -> Option<Pair> {
        let Some((role, port, request)) = described(&incoming) else {
            debug!("a stream without a port or a type");
            incoming.refuse();
            return None;
        };
        let Some(other) = self.waiting.remove(&request) else {
            let came = Instant::now();
            let half = Half { role, port, stream: incoming.accept(), came };
            self.order.push_back((came, request.clone()));
            self.waiting.insert(request, half);
            return None;
        };
        if other.role == role {
            self.waiting.insert(request, other);
            incoming.refuse();
            return None;
        }
        let stream = incoming.accept();
        let (data, error) = match role {
            Role::Data => (stream, other.stream),
            Role::Error => (other.stream, stream),
        };
        Some(pair(data, error, other.port))
    }

    /// The next half that has waited for too long. Cancel-safe: it leaves when it is given.
    async fn late(&mut self) -> Half {
        loop {
            let Some((came, request)) = self.order.front() else {
                return std::future::pending().await;
            };
            let waits = self.waiting.get(request).is_some_and(|half| half.came == *came);
            if waits {
                tokio::time::sleep_until(*came + self.patience).await;
            }
            let Some((_, request)) = self.order.pop_front() else { continue };
            if waits && let Some(half) = self.waiting.remove(&request) {
                return half;
            }
        }
    }
}

/// What a stream is for: its role, the port, and the name of its pair. Old clients name no pair: they open the error stream
/// first and the data stream next.
fn described(incoming: &Incoming) -> Option<(Role, u16, String)> {
    let port = incoming.header("port")?.parse().ok().filter(|port| *port > 0)?;
    let role = match incoming.header("streamtype")? {
        "data" => Role::Data,
        "error" => Role::Error,
        _ => return None,
    };
    let unnamed = || match role {
        Role::Error => incoming.id(),
        Role::Data => incoming.id().wrapping_sub(2),
    };
    let request = incoming.header("requestid").filter(|name| !name.is_empty());
    let request = request.map_or_else(|| format!("#{}", unnamed()), str::to_owned);
    Some((role, port, request))
}

fn pair(data: Stream, error: Stream, port: u16) -> Pair {
    let (recv, send) = data.split();
    // The client says nothing on the error stream.
    let (_, error) = error.split();
    Pair { port, input: Input::Spdy(recv), output: Output::Spdy(send), error: Output::Spdy(error) }
}

async fn too_late(half: Half) {
    debug!(port = half.port, "a stream's other half has not come");
    let (_, send) = half.stream.split();
    let mut output = Output::Spdy(send);
    if half.role == Role::Data {
        return output.reset();
    }
    // An error means that the client is gone.
    drop(output.say(b"timed out waiting for the data stream").await);
    output.finish().await;
}

// === one pair ===

impl Pair {
    /// Dials, and copies both ways until both have ended.
    pub(super) async fn serve<W: World>(
        mut self,
        engine: Engine<W>,
        sandbox: SandboxId,
        idle: Duration,
    ) {
        let port = self.port;
        let failed = match engine.dial(&sandbox, port).await {
            Ok(stream) => match copy(stream, self.input, self.output, idle).await {
                Ok(()) => None,
                Err(why) => Some(why.to_owned()),
            },
            Err(error) => {
                self.output.reset();
                Some(engine::record::chain(&error))
            }
        };
        if let Some(why) = failed {
            debug!(port, why, "forwarding");
            let words = format!("error forwarding port {port} to pod {}: {why}", sandbox.as_str());
            // An error means that the client is gone.
            drop(self.error.say(words.as_bytes()).await);
        }
        self.error.finish().await;
    }
}

/// Both ways, each to its end.
async fn copy(
    stream: TcpStream,
    input: Input,
    output: Output,
    idle: Duration,
) -> Result<(), &'static str> {
    let activity = Activity::new();
    let (read, write) = stream.into_split();
    // Who cannot end one direction would never end the session: it ends with the pod's side.
    let halves = matches!(input, Input::Spdy(_));
    // A client that is gone, or reset its stream, wants nothing more of the other direction either.
    let both = async {
        let (up, down) = (up(input, write, &activity), down(read, output, &activity));
        if halves {
            return tokio::try_join!(up, down).map(drop);
        }
        let up = async {
            match up.await {
                Ok(()) => std::future::pending().await,
                Err(broken) => broken,
            }
        };
        // Neither is resumed.
        tokio::select! {
            broken = up => Err(broken),
            ended = down => ended,
        }
    };
    // Neither is resumed.
    tokio::select! {
        done = both => match done {
            Ok(()) | Err(Broken::Client) => Ok(()),
            Err(Broken::Pod) => Err("the pod's side reset the connection"),
        },
        () = activity.ceased(idle) => Err("idle for too long"),
    }
}

/// Who broke a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Client,
    Pod,
}

impl From<Gone> for Broken {
    fn from(_: Gone) -> Self {
        Self::Client
    }
}

async fn up(mut from: Input, mut to: OwnedWriteHalf, activity: &Activity) -> Result<(), Broken> {
    let mut pieces = Vec::new();
    while from.chunks(&mut pieces).await? {
        activity.note();
        if batch::write(&mut to, &mut pieces).await.is_err() {
            // The other direction may have more to say.
            pump::discard(from).await;
            return Ok(());
        }
    }
    // An error means that the pod's side is gone: the other direction tells.
    drop(to.shutdown().await);
    Ok(())
}

async fn down(mut from: OwnedReadHalf, mut to: Output, activity: &Activity) -> Result<(), Broken> {
    let mut message = BytesMut::new();
    let mut room = FIRST;
    loop {
        to.begin(&mut message, room);
        match from.read_buf(&mut message).await {
            Ok(0) => break,
            Ok(length) => {
                activity.note();
                room = if length >= room { CHUNK } else { room };
            }
            Err(_) => {
                to.reset();
                return Err(Broken::Pod);
            }
        }
        to.send(message.split().freeze()).await?;
    }
    to.finish().await;
    Ok(())
}
