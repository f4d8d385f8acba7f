//! Exec and attach over SPDY: the client opens a stream for each end, and says which by a header.

use std::future::Future;

use ::spdy::{Incoming, Session};
use engine::world::{Ends, World};
use tracing::debug;

use super::ends::{Client, Input, Output};
use super::negotiate::Version;
use super::resize::Window;
use super::status::Verdict;
use super::{Ask, Server};

/// What clients say of a stream.
const TYPE: &str = "streamtype";

/// The ends that have come so far.
#[derive(Debug, Default)]
struct Gathered {
    error: Option<Output>,
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    resize: Option<Input>,
    silent: Vec<Output>,
}

impl<W: World> Server<W> {
    /// One exec or attach, all of the session.
    pub(super) async fn command_over_spdy(
        &self,
        ask: &Ask,
        version: Version,
        mut session: Session,
    ) {
        let (Ask::Exec { ends, .. } | Ask::Attach { ends, .. }) = ask else { return };
        let mut gathered = Gathered::default();
        let all = gathered.all(&mut session, *ends, version);
        let complete = tokio::time::timeout(self.patience.creation, all).await;
        match (complete, gathered.client(version)) {
            (Ok(true), Some(client)) => {
                let gone = refuse_more(&mut session);
                self.command(ask, client, gone).await;
            }
            (_, Some(client)) => {
                let late = "timed out waiting for the client to create streams".to_owned();
                client.end(&Verdict::Failure(late)).await;
            }
            (_, None) => debug!("a client went before its streams had come"),
        }
        session.close().await;
    }
}

/// Ready when the client is gone; what it opens meanwhile is not to be had.
fn refuse_more(session: &mut Session) -> impl Future<Output = ()> {
    let ended = session.ended();
    async move {
        let refuse = async {
            while let Some(incoming) = session.accept().await {
                incoming.refuse();
            }
        };
        // Accepting is cancel-safe; when the client opens no more it may still be there.
        tokio::join!(refuse, ended);
    }
}

impl Gathered {
    /// Accepts streams until all have come that must; false when the client opens no more.
    async fn all(&mut self, session: &mut Session, ends: Ends, version: Version) -> bool {
        while !self.complete(ends, version) {
            let Some(incoming) = session.accept().await else { return false };
            self.add(incoming, ends, version);
        }
        true
    }

    fn complete(&self, ends: Ends, version: Version) -> bool {
        self.error.is_some()
            && (self.stdin.is_some() || !ends.stdin)
            && (self.stdout.is_some() || !ends.stdout)
            && (self.stderr.is_some() || !ends.stderr)
            && (self.resize.is_some() || !(ends.tty && version.resizes()))
    }

    /// What is of no known type, or comes twice, is refused. What was not asked for is taken and carries nothing: clients open
    /// a stream for their stderr whatever they asked for.
    fn add(&mut self, incoming: Incoming, ends: Ends, version: Version) {
        let kind = incoming.header(TYPE).unwrap_or_default().to_owned();
        let again = match kind.as_str() {
            "error" => self.error.is_some(),
            "stdin" => self.stdin.is_some(),
            "stdout" => self.stdout.is_some(),
            "stderr" => self.stderr.is_some(),
            "resize" => self.resize.is_some() || !version.resizes(),
            _ => true,
        };
        if again {
            debug!(kind, "stream refused");
            return incoming.refuse();
        }
        let (recv, send) = incoming.accept().split();
        let (input, output) = (Input::Spdy(recv), Output::Spdy(send));
        match kind.as_str() {
            "error" => self.error = Some(output),
            "stdout" if ends.stdout => self.stdout = Some(output),
            "stderr" if ends.stderr => self.stderr = Some(output),
            "stdin" if ends.stdin => {
                self.stdin = Some(input);
                self.silent.push(output);
            }
            "resize" if ends.tty => {
                self.resize = Some(input);
                self.silent.push(output);
            }
            _ => self.silent.push(output),
        }
    }

    /// A client that can be told how it ended.
    fn client(self, version: Version) -> Option<Client> {
        Some(Client {
            version,
            error: self.error?,
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
            resize: self.resize.map(Window::new),
            silent: self.silent,
        })
    }
}
