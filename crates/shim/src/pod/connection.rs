//! The daemon's connection: the newest one counts, and a daemon that does not read loses it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{SockFlag, accept4, getsockopt, sockopt};
use wire::socket::Flushed;
use wire::v1::envelope::Body;
use wire::v1::{Envelope, Failure};
use wire::{Decoder, Outbox, Received, receive};

use super::Pod;
use crate::container::Ticket;
use crate::poll::Token;
use crate::raw;

/// What waits for a daemon that does not read.
const WAITING: usize = 1 << 20;
/// How much one read of the socket takes.
const READ: usize = 8 << 10;

#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    number: u32,
    decoder: Decoder,
    outbox: Outbox,
    blocked: bool,
    pub(super) greeted: bool,
}

impl Pod {
    pub(super) fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let Ok(number) = accept4(self.listen.as_raw_fd(), flags) else { return };
        let Ok(socket) = raw::inherited(number) else { return };
        let peer = getsockopt(&socket, sockopt::PeerCredentials);
        if peer.is_ok_and(|peer| peer.uid() != 0) {
            return;
        }
        self.disconnect();
        if self.poll.read(&socket, Token::Connection).is_ok() {
            self.connections = self.connections.wrapping_add(1);
            self.connection = Some(Connection {
                socket,
                number: self.connections,
                decoder: Decoder::new(),
                outbox: Outbox::new(WAITING),
                blocked: false,
                greeted: false,
            });
        }
    }

    pub(super) fn receive(&mut self) {
        let mut buffer = [0; READ];
        loop {
            let Some(connection) = &mut self.connection else { return };
            match receive(&connection.socket, &mut buffer, &mut connection.decoder) {
                Ok(Received::Some) => {}
                Ok(Received::Blocked) => return,
                Ok(Received::Closed) | Err(_) => return self.disconnect(),
            }
            self.handle_frames();
        }
    }

    fn handle_frames(&mut self) {
        while let Some(connection) = &mut self.connection {
            let Some(frame) = connection.decoder.next_frame() else { return };
            let number = connection.number;
            match frame.decode::<Envelope>() {
                Ok(Envelope { id, body }) => {
                    self.request(Ticket { connection: number, id }, body, frame.fds);
                }
                Err(_) => self.disconnect(),
            }
        }
    }

    /// Ends the connection, and what must not outlive it.
    pub(super) fn disconnect(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        self.poll.forget(&connection.socket);
        drop(connection);
        self.connection_ended();
    }

    /// Answers a request, if the one who asked is still there.
    pub(super) fn answer(&mut self, ticket: Ticket, body: Body, fds: Vec<OwnedFd>) {
        if self.connection.as_ref().is_some_and(|open| open.number == ticket.connection) {
            self.push(&Envelope { id: ticket.id, body: Some(body) }, fds);
        }
    }

    pub(super) fn refuse(&mut self, ticket: Ticket, failure: Failure) {
        self.answer(ticket, Body::Failure(failure), Vec::new());
    }

    /// Tells an event.
    pub(super) fn tell(&mut self, body: Body) {
        if self.connection.as_ref().is_some_and(|open| open.greeted) {
            self.push(&Envelope { id: 0, body: Some(body) }, Vec::new());
        }
    }

    fn push(&mut self, envelope: &Envelope, fds: Vec<OwnedFd>) {
        if let Some(connection) = &mut self.connection
            && connection.outbox.push(envelope, fds).is_err()
        {
            self.disconnect();
        }
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        match connection.outbox.flush(&connection.socket) {
            Err(_) => self.disconnect(),
            Ok(flushed) => {
                let blocked = flushed == Flushed::Blocked;
                if blocked != std::mem::replace(&mut connection.blocked, blocked) {
                    let socket = connection.socket.as_fd();
                    self.poll.write(socket, Token::Connection, blocked).ok();
                }
            }
        }
    }

    /// Waits a little for a daemon that is about to read the last answer.
    pub(super) fn flush_last(&mut self) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        for _ in 0..10 {
            self.flush();
            let Some(connection) = self.connection.as_ref().filter(|open| open.blocked) else {
                return;
            };
            let mut fds = [PollFd::new(connection.socket.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut fds, PollTimeout::from(100u8)) == Err(Errno::EINTR) {
                return;
            }
        }
    }
}
