//! A socket that is kept: closing one of the netfilter kind waits until `nf_tables` has cleaned up what was deleted
//! before, some 14 ms, with a lock that every other change needs.

use std::sync::{Mutex, PoisonError};

use super::{NetlinkError, Protocol, Socket};

/// Opened at first use, in the namespace of whoever that is: never use it from a pod's.
#[derive(Debug)]
pub(crate) struct Shared {
    protocol: Protocol,
    socket: Mutex<Option<Socket>>,
}

impl Shared {
    pub(crate) fn new(protocol: Protocol) -> Self {
        Self { protocol, socket: Mutex::new(None) }
    }

    /// Does it while no one else uses the socket. One that broke is opened anew the next time.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&mut Socket) -> Result<T, NetlinkError>,
    ) -> Result<T, NetlinkError> {
        let mut slot = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut socket = match slot.take() {
            Some(socket) => socket,
            None => Socket::open(self.protocol)?,
        };
        let done = work(&mut socket);
        if !matches!(done, Err(NetlinkError::Socket(_) | NetlinkError::Silent(_))) {
            *slot = Some(socket);
        }
        done
    }
}
