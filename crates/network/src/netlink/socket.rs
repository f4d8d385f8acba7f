//! A netlink socket that is asked and answers at once.
//!
//! rtnetlink and nfnetlink do a request within the `sendmsg` that carries it: when that returns, every answer but the
//! later parts of a dump lies in the receive queue. So a batch of messages costs one send and one short read, and
//! nothing here waits for a peer.

use std::io;

use super::Message;
use super::parse::{find, u16_at, u32_at};

const ACK: u16 = 0x4;
const REQUEST: u16 = 0x1;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP_INTERRUPTED: u16 = 0x10;
const ACK_TLVS: u16 = 0x200;
const RECEIVE: usize = 64 * 1024;
/// How often a dump that the kernel calls inconsistent is asked again.
const DUMP_TRIES: u32 = 5;

/// Which of netlink's protocols.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Protocol {
    Route,
    Netfilter,
}

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    #[error("netlink socket")]
    Socket(#[source] io::Error),
    #[error("{what}{note}")]
    Refused {
        what: &'static str,
        note: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}: the request is longer than netlink can carry")]
    Overlong(&'static str),
    #[error("{0}: the kernel gave no answer")]
    Silent(&'static str),
}

impl NetlinkError {
    /// The kernel's errno, when it was the kernel that refused.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Socket(source) => source.raw_os_error(),
            Self::Overlong(_) | Self::Silent(_) => None,
        }
    }
}

/// A message of the kernel that is not an acknowledgement: its type and what follows the header.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// A netlink socket of the namespace in which it was opened, wherever its thread goes afterwards.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let number = match protocol {
            Protocol::Route => 0,
            Protocol::Netfilter => 12,
        };
        let mut inner = netlink_sys::Socket::new(number).map_err(NetlinkError::Socket)?;
        inner.bind_auto().map_err(NetlinkError::Socket)?;
        inner.set_cap_ack(true).map_err(NetlinkError::Socket)?;
        inner.set_ext_ack(true).map_err(NetlinkError::Socket)?;
        Ok(Self { inner, sequence: 0, buffer: Vec::with_capacity(RECEIVE) })
    }

    /// Sends all messages at once; the first refusal is the error, and says which step it was. rtnetlink does the rest
    /// all the same, `nf_tables` none.
    pub(crate) fn transact(&mut self, messages: Vec<Message>) -> Result<Vec<Answer>, NetlinkError> {
        let Some(last) = messages.len().checked_sub(1) else { return Ok(Vec::new()) };
        self.exchange(messages, last)
    }

    /// The same with a message after the last that matters: the end of a batch, which older kernels do not acknowledge.
    pub(crate) fn transact_enclosed(
        &mut self,
        messages: Vec<Message>,
    ) -> Result<Vec<Answer>, NetlinkError> {
        let Some(last) = messages.len().checked_sub(2) else { return Ok(Vec::new()) };
        self.exchange(messages, last)
    }

    fn exchange(
        &mut self,
        messages: Vec<Message>,
        last: usize,
    ) -> Result<Vec<Answer>, NetlinkError> {
        let steps: Vec<&'static str> = messages.iter().map(|m| m.what).collect();
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for (at, mut message) in messages.into_iter().enumerate() {
            let what = message.what;
            message.flag(if at == last { REQUEST | ACK } else { REQUEST });
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend(message.finish(self.sequence).ok_or(NetlinkError::Overlong(what))?);
        }
        self.inner.send(&bytes, 0).map_err(NetlinkError::Socket)?;
        self.collect(first, &steps)
    }

    fn collect(&mut self, first: u32, steps: &[&'static str]) -> Result<Vec<Answer>, NetlinkError> {
        let mut answers = Vec::new();
        let mut refusal = None;
        let mut settled = false;
        while self.receive(libc::MSG_DONTWAIT)? {
            for frame in frames(&self.buffer) {
                if frame.kind != ERROR {
                    answers.push(Answer { kind: frame.kind, payload: frame.payload.to_vec() });
                    continue;
                }
                let at = usize::try_from(frame.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                settled = true;
                let what = steps.get(at).copied().unwrap_or("netlink batch");
                if refusal.is_none() {
                    refusal = frame.refusal(what);
                }
            }
        }
        match refusal {
            Some(error) => Err(error),
            None if settled => Ok(answers),
            None => Err(NetlinkError::Silent(steps.last().copied().unwrap_or("netlink batch"))),
        }
    }

    /// All answers to a dump.
    pub(crate) fn dump(&mut self, message: &Message) -> Result<Vec<Answer>, NetlinkError> {
        for _ in 1..DUMP_TRIES {
            if let (answers, false) = self.dump_once(message.clone())? {
                return Ok(answers);
            }
        }
        self.dump_once(message.clone()).map(|(answers, _)| answers)
    }

    fn dump_once(&mut self, mut message: Message) -> Result<(Vec<Answer>, bool), NetlinkError> {
        let what = message.what;
        message.flag(REQUEST | DUMP);
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence).ok_or(NetlinkError::Overlong(what))?;
        self.inner.send(&bytes, 0).map_err(NetlinkError::Socket)?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        while self.receive(0)? {
            for frame in frames(&self.buffer).filter(|f| f.sequence == self.sequence) {
                interrupted |= frame.flags & DUMP_INTERRUPTED != 0;
                match frame.kind {
                    DONE => return Ok((answers, interrupted)),
                    ERROR => match frame.refusal(what) {
                        Some(error) => return Err(error),
                        None => return Ok((answers, interrupted)),
                    },
                    kind => answers.push(Answer { kind, payload: frame.payload.to_vec() }),
                }
            }
        }
        Err(NetlinkError::Silent(what))
    }

    /// Whether a datagram came.
    fn receive(&mut self, flags: libc::c_int) -> Result<bool, NetlinkError> {
        loop {
            self.buffer.clear();
            match self.inner.recv(&mut self.buffer, flags) {
                Ok(length) => return Ok(length > 0),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(NetlinkError::Socket(e)),
            }
        }
    }
}

struct Frame<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Frame<'_> {
    /// The refusal in an error message; an acknowledgement is none.
    fn refusal(&self, what: &'static str) -> Option<NetlinkError> {
        let errno = u32_at(self.payload, 0).unwrap_or(0).wrapping_neg();
        let errno = i32::try_from(errno).ok().filter(|e| *e != 0)?;
        let text = (self.flags & ACK_TLVS != 0)
            .then(|| self.payload.get(20..).and_then(|tlvs| find(tlvs, 1)))
            .flatten()
            .map(|text| {
                String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned()
            });
        let note = text.map_or_else(String::new, |text| format!(" ({text})"));
        Some(NetlinkError::Refused { what, note, source: io::Error::from_raw_os_error(errno) })
    }
}

fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let frame = Frame {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            payload: bytes.get(16..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_step_and_says_what_the_kernel_said() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        // RTM_SETLINK of a link that does not exist, between two harmless questions.
        let ask = || Message::new("ask for lo", 18, 0, &[0; 16]).with(|f| f.text(3, "lo"));
        let set =
            Message::new("bring nothing up", 19, 0, &[0; 16]).with(|f| f.text(3, "no-such-link"));
        let error = socket.transact(vec![ask(), set, ask()]).unwrap_err();
        assert!(error.to_string().starts_with("bring nothing up"), "{error}");
        assert_eq!(error.errno(), Some(libc::ENODEV));
        assert_eq!(socket.transact(vec![ask(), ask()]).unwrap().len(), 2);
    }

    #[test]
    fn a_dump_ends() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let links = socket.dump(&Message::new("list links", 18, 0, &[0; 16])).unwrap();
        assert!(links.iter().any(|l| find(l.payload.get(16..).unwrap(), 3) == Some(b"lo\0")));
    }
}
