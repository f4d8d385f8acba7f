//! Port-forward: for each connection at the client's a pair of streams, data and error, and a connection into the pod.
//!
//! What goes wrong with one pair is said on its error stream; the others do not notice.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ::spdy::{Incoming, RecvStream, SendStream, Session};
use bytes::BytesMut;
use engine::Engine;
use engine::world::World;
use names::SandboxId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::activity::Activity;
use super::ends::{Gone, Input, Output};
use super::{Server, batch, pump, stopping};

/// How often it is asked whether the sandbox is still there: a connection in it would keep its network namespace.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long all clients may take to hear why their pairs end; less than the daemon has to stop.
const LEAVE_FOR: Duration = Duration::from_secs(1);
/// How long a client may take to hear how a pair ended.
const TELL_FOR: Duration = Duration::from_secs(5);
const CHUNK: usize = 256 << 10;
const FIRST: usize = 8 << 10;
/// Of a session: pairs at work, halves that wait for the other one. A client that resets its streams can open more, and what
/// was begun for those takes its time.
const PAIRS_MAX: usize = 2048;
const HALVES_MAX: usize = 1024;
/// Clients name a pair by a number.
const REQUEST_MAX: usize = 128;

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
        let (end, ended) = watch::channel(None);
        loop {
            // All are cancel-safe: a stream, a finished pair and a late half stay where they are until the next turn.
            tokio::select! {
                Some(incoming) = session.accept() => {
                    activity.note();
                    if running.len() >= PAIRS_MAX {
                        incoming.refuse();
                    } else if let Some(pair) = pairs.add(incoming) {
                        let run = Run { engine: self.engine.clone(), sandbox: sandbox.clone(), idle: self.patience.idle, end: ended.clone() };
                        running.spawn(pair.serve(run));
                    }
                }
                Some(_) = running.join_next() => activity.note(),
                late = pairs.late() => drop(running.spawn(too_late(late))),
                () = activity.ceased(self.patience.idle), if running.is_empty() => break,
                why = &mut over => {
                    leave(&mut running, &end, why).await;
                    break;
                }
                _ = &mut gone => break,
            }
        }
        running.shutdown().await;
        session.close().await;
    }

    /// Ready when the daemon stops or the sandbox does; says which.
    pub(super) async fn forward_over(&self, sandbox: &SandboxId) -> &'static str {
        let vanished = async {
            while self.engine.forwardable(sandbox.as_str()).is_ok() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // Neither is resumed.
        tokio::select! {
            () = vanished => "the pod is not ready any more",
            () = stopping(self.stop.clone()) => "ferropod is stopping",
        }
    }
}

/// Ends pairs, and lets them tell their clients why.
pub(super) async fn leave(pairs: &mut JoinSet<()>, end: &watch::Sender<End>, why: &'static str) {
    debug!(why, "forwarding ends");
    end.send_replace(Some(why));
    let told = async { while pairs.join_next().await.is_some() {} };
    // An error means that a client does not listen.
    drop(tokio::time::timeout(LEAVE_FOR, told).await);
}

/// Why all pairs of a session end, once they do.
pub(super) type End = Option<&'static str>;

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
    recv: RecvStream,
    send: SendStream,
    came: Instant,
}

/// Halves that wait for their other half.
#[derive(Debug)]
struct Pairs {
    waiting: HashMap<String, Half>,
    /// The same, in the order in which they came; some of them have been met, but never most of many.
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
            self.wait(role, port, request, incoming);
            return None;
        };
        if other.role == role {
            self.waiting.insert(request, other);
            incoming.refuse();
            return None;
        }
        let (recv, send) = incoming.accept().split();
        // The client says nothing on the error stream.
        let (port, input, output, error) = match role {
            Role::Data => (port, recv, send, other.send),
            Role::Error => (other.port, other.recv, other.send, send),
        };
        let (output, error) = (Output::Spdy(output), Output::Spdy(error));
        Some(Pair { port, input: Input::Spdy(input), output, error })
    }

    fn wait(&mut self, role: Role, port: u16, request: String, incoming: Incoming) {
        if self.waiting.len() >= HALVES_MAX {
            debug!(port, "a stream beside too many without their other halves");
            return incoming.refuse();
        }
        let came = Instant::now();
        let (recv, send) = incoming.accept().split();
        if self.order.len() >= 2 * HALVES_MAX {
            let waiting = &self.waiting;
            self.order.retain(|(came, name)| waiting.get(name).is_some_and(|h| h.came == *came));
        }
        self.order.push_back((came, request.clone()));
        self.waiting.insert(request, Half { role, port, recv, send, came });
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
    if request.is_some_and(|name| name.len() > REQUEST_MAX) {
        return None;
    }
    let request = request.map_or_else(|| format!("#{}", unnamed()), str::to_owned);
    Some((role, port, request))
}

async fn too_late(half: Half) {
    debug!(port = half.port, "a stream's other half has not come");
    let output = Output::Spdy(half.send);
    if half.role == Role::Data {
        return output.reset();
    }
    tell(output, "timed out waiting for the data stream").await;
}

/// The last that is said of a pair; nothing, when all went well. A client that takes nothing any more is not told.
async fn tell(mut error: Output, words: &str) {
    let telling = async {
        // An error means that the client is gone.
        if words.is_empty() || error.say(words.as_bytes()).await.is_ok() {
            error.finish().await;
        }
    };
    if tokio::time::timeout(TELL_FOR, telling).await.is_err() {
        debug!("a client does not hear how its connection ended");
    }
}

// === one pair ===

/// What a pair needs to run.
#[derive(Debug)]
pub(super) struct Run<W: World> {
    pub(super) engine: Engine<W>,
    pub(super) sandbox: SandboxId,
    pub(super) idle: Duration,
    pub(super) end: watch::Receiver<End>,
}

impl Pair {
    /// Dials, and copies both ways until both have ended.
    pub(super) async fn serve<W: World>(self, run: Run<W>) {
        let Run { engine, sandbox, idle, mut end } = run;
        let Self { port, input, output, error } = self;
        let forward = async {
            match engine.dial(&sandbox, port).await {
                Ok(stream) => copy(stream, input, output, idle).await.map_err(str::to_owned),
                Err(error) => {
                    output.reset();
                    Err(engine::record::chain(&error))
                }
            }
        };
        // Neither is resumed.
        let done = tokio::select! {
            done = forward => done,
            why = ended(&mut end) => Err(why.to_owned()),
        };
        let words = done.err().map(|why| {
            debug!(port, why, "forwarding");
            format!("error forwarding port {port} to pod {}: {why}", sandbox.as_str())
        });
        tell(error, &words.unwrap_or_default()).await;
    }
}

/// Ready when all pairs end.
async fn ended(end: &mut watch::Receiver<End>) -> &'static str {
    match end.wait_for(Option::is_some).await.map(|why| *why) {
        Ok(Some(why)) => why,
        // The session is being dropped.
        Ok(None) | Err(_) => std::future::pending().await,
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
