//! Exec, attach and port-forward on the wire: what a client that was given a URL says, and what it is told.
//!
//! A call of the CRI leaves an [`Ask`] and gets a URL with a token in it; whoever brings the token gets what was asked for,
//! once. The connection is HTTP/1.1 until it is upgraded, then it is one session and ends with it:
//!
//! ```text
//! http ── token, negotiation ─┬─ SPDY/3.1 ──────────────────┬─ spdy: streams by their type ───────┬─ command
//!                             ├─ WebSocket, channels ───────┼─ websocket: messages by channel ────┤
//!                             └─ WebSocket, tunnelled SPDY ─┴─ tunnel ── spdy: pairs of streams ──┴─ forward
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`token`] | what was asked, until somebody comes for it |
//! | [`http`] | requests, and the answers that come before an upgrade |
//! | [`negotiate`] | the names of the protocols, and the choice among them |
//! | [`ends`] | a client's ends, whatever carries them |
//! | [`command`] | exec and attach: the client's ends and the process's |
//! | [`pump`] | bytes from the one to the other |
//! | [`status`], [`resize`] | what is said beside the bytes: how it ended, how large the window is |
//! | [`forward`] | port-forward: pairs of streams and connections into the pod |
//! | [`spdy`], [`websocket`] | those over SPDY streams and over WebSocket channels |
//! | [`activity`] | who has said nothing for too long |
//!
//! It may not see nix, files or libcontainer: connections come accepted (`serve::streams`), processes and ports are the engine's.
//!
//! # Decisions
//! * A client that goes takes its session along at once: the session is dropped, never told first.
//! * Whoever has not read to its end what the process wrote before it ended gets it: only a pipe that a grandchild keeps open
//!   is given up, when it has been waited for [`pump::QUIET_FOR`] in all; and a client that takes nothing for as long as it may be idle.
//! * A command's input ends when the client says so, not when the client is gone: half of a file is not to be taken for all of
//!   it before the command is killed. A daemon that is killed cannot keep that: its pipes close as it dies.
//! * Idle is a session without data, not one without frames: clients ping.

use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use engine::world::{Ends, World};
use names::{ContainerId, SandboxId};
use tokio::sync::watch;

mod activity;
mod batch;
mod command;
mod ends;
mod forward;
mod http;
mod negotiate;
mod pump;
mod resize;
mod spdy;
mod status;
mod token;
mod websocket;

pub(crate) use http::Place;
pub(crate) use token::TokenError;
use token::{Random, Tokens};

/// What a client may come for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// To run a command in a container.
    Exec { container: ContainerId, command: Vec<String>, ends: Ends },
    /// To be at the ends of a container's main process.
    Attach { container: ContainerId, ends: Ends },
    /// To reach ports of a sandbox; these ones, where the protocol has no other way to name them.
    Forward { sandbox: SandboxId, ports: Vec<u16> },
}

impl Ask {
    /// The path that a token for this is good for.
    fn verb(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::Forward { .. } => "portforward",
        }
    }
}

/// The URLs that clients are given.
#[derive(Debug)]
pub(crate) struct Urls {
    /// Scheme and authority.
    base: String,
    tokens: Tokens,
}

impl Urls {
    pub(crate) fn new(base: String, random: Random) -> Self {
        Self { base, tokens: Tokens::new(random) }
    }

    /// Where this is to be had, once.
    pub(crate) fn give(&self, ask: Ask) -> Result<String, TokenError> {
        let verb = ask.verb();
        Ok(format!("{}/{verb}/{}", self.base, self.tokens.keep(ask)?))
    }
}

/// How long clients may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// A session without data either way for this long is ended.
    pub(crate) idle: Duration,
    /// The streams of a session must be there after this long.
    pub(crate) creation: Duration,
}

/// Serves connections.
#[derive(Debug)]
pub(crate) struct Server<W: World> {
    pub(crate) engine: Engine<W>,
    pub(crate) urls: Arc<Urls>,
    pub(crate) patience: Patience,
    /// True from the moment when the daemon is told to stop.
    pub(crate) stop: watch::Receiver<bool>,
}

/// Ready when the daemon is told to stop.
pub(crate) async fn stopping(mut stop: watch::Receiver<bool>) {
    // An error means that nobody is left who could tell: the daemon ends.
    drop(stop.wait_for(|stop| *stop).await);
}
