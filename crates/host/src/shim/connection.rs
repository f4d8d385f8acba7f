//! The task that owns the socket.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use wire::v1::{self, Envelope, envelope::Body};
use wire::{Decoder, Outbox, Received, SocketError};

/// More than every pod's requests at once, and far below what would hurt the daemon.
const OUTBOX: usize = 8 << 20;

/// What a shim tells unasked.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A container's main process has ended; the shim has recorded it.
    Exited(v1::Exited),
    /// An exec has ended.
    ExecExited(v1::ExecExited),
    /// The connection has ended; the last event of it. The text is for people.
    Gone(String),
}

/// A request, and whom to answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) body: Body,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) answer: oneshot::Sender<(Body, Vec<OwnedFd>)>,
}

struct Connection {
    socket: AsyncFd<OwnedFd>,
    requests: mpsc::UnboundedReceiver<Box<Request>>,
    events: mpsc::UnboundedSender<Box<Event>>,
    outbox: Outbox,
    decoder: Decoder,
    waiting: HashMap<u64, oneshot::Sender<(Body, Vec<OwnedFd>)>>,
    last_id: u64,
}

pub(super) fn start(
    socket: AsyncFd<OwnedFd>,
    events: mpsc::UnboundedSender<Box<Event>>,
) -> mpsc::UnboundedSender<Box<Request>> {
    let (sender, requests) = mpsc::unbounded_channel();
    let connection = Connection {
        socket,
        requests,
        events,
        outbox: Outbox::new(OUTBOX),
        decoder: Decoder::new(),
        waiting: HashMap::new(),
        last_id: 0,
    };
    tokio::spawn(connection.run());
    sender
}

impl Connection {
    async fn run(mut self) {
        let why = match self.serve().await {
            Ok(why) => why.to_owned(),
            Err(error) => error.to_string(),
        };
        // First let the requests know, so that a caller that saw Gone finds none waiting.
        self.waiting.clear();
        self.requests.close();
        // Nobody may listen any more.
        drop(self.events.send(Box::new(Event::Gone(why))));
    }

    async fn serve(&mut self) -> Result<&'static str, SocketError> {
        let broken = |_| SocketError::Closed;
        loop {
            tokio::select! {
                // Cancel-safe: a request that is not received stays in the channel.
                request = self.requests.recv() => match request {
                    Some(request) => self.send(*request)?,
                    None => return Ok("nobody uses the connection any more"),
                },
                // Cancel-safe: readiness is not consumed until it is cleared.
                ready = self.socket.readable() => {
                    let mut ready = ready.map_err(broken)?;
                    match receive(self.socket.get_ref(), &mut self.decoder)? {
                        Received::Some => {}
                        Received::Blocked => ready.clear_ready(),
                        Received::Closed => return Ok("the shim closed the connection"),
                    }
                    drop(ready);
                    while let Some(frame) = self.decoder.next_frame() {
                        self.take(frame.decode()?, frame.fds);
                    }
                }
                // As above.
                ready = self.socket.writable(), if !self.outbox.is_empty() => {
                    let mut ready = ready.map_err(broken)?;
                    self.outbox.flush(self.socket.get_ref().as_fd())?;
                    if !self.outbox.is_empty() {
                        ready.clear_ready();
                    }
                }
            }
        }
    }

    fn send(&mut self, request: Request) -> Result<(), SocketError> {
        self.last_id += 1;
        let envelope = Envelope { id: self.last_id, body: Some(request.body) };
        match self.outbox.push(&envelope, request.fds) {
            Ok(()) => {
                self.waiting.insert(self.last_id, request.answer);
                self.outbox.flush(self.socket.get_ref().as_fd()).map(drop)
            }
            // Too long or too many: this request alone fails, by losing its answer.
            Err(SocketError::Frame(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn take(&mut self, envelope: Envelope, fds: Vec<OwnedFd>) {
        let event = match envelope.body {
            Some(Body::Exited(exited)) => Event::Exited(exited),
            Some(Body::ExecExited(exited)) => Event::ExecExited(exited),
            Some(body) => {
                if let Some(answer) = self.waiting.remove(&envelope.id) {
                    // The caller may have gone.
                    drop(answer.send((body, fds)));
                }
                return;
            }
            // A word of a newer shim.
            None => return,
        };
        // Nobody may listen any more.
        drop(self.events.send(Box::new(event)));
    }
}

/// Reads into the stack: a connection that is silent for days keeps no buffer.
fn receive(socket: &OwnedFd, decoder: &mut Decoder) -> Result<Received, SocketError> {
    wire::receive(socket, &mut [0; 16 << 10], decoder)
}
