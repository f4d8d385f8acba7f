//! Frames: eight bytes of head, then the payload.

use bytes::Bytes;

/// Length of a frame's head.
pub(crate) const HEAD: usize = 8;
/// The version in control frames; 3.1 says 3 too.
pub(crate) const VERSION: u16 = 3;
/// Flag of the last frame of one direction of a stream.
pub(crate) const FIN: u8 = 0x01;
/// Flag of a `SYN_STREAM` to which nothing may be sent back.
pub(crate) const UNIDIRECTIONAL: u8 = 0x02;
/// Stream ids have 31 bits.
pub(crate) const ID_MASK: u32 = 0x7fff_ffff;

/// Types of control frames.
pub(crate) mod kind {
    pub(crate) const SYN_STREAM: u16 = 1;
    pub(crate) const SYN_REPLY: u16 = 2;
    pub(crate) const RST_STREAM: u16 = 3;
    pub(crate) const PING: u16 = 6;
    pub(crate) const GOAWAY: u16 = 7;
    pub(crate) const HEADERS: u16 = 8;
}

/// Status of an `RST_STREAM`.
pub(crate) mod reset {
    pub(crate) const PROTOCOL_ERROR: u32 = 1;
    pub(crate) const INVALID_STREAM: u32 = 2;
    pub(crate) const REFUSED_STREAM: u32 = 3;
    pub(crate) const CANCEL: u32 = 5;
    pub(crate) const STREAM_ALREADY_CLOSED: u32 = 9;
}

/// Status of a `GOAWAY`.
pub(crate) mod away {
    pub(crate) const OK: u32 = 0;
    pub(crate) const PROTOCOL_ERROR: u32 = 1;
}

/// What a frame's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    Data { stream: u32, flags: u8, length: usize },
    Control { version: u16, kind: u16, flags: u8, length: usize },
}

impl Head {
    /// Reads a head; every eight bytes are one.
    pub(crate) fn parse(head: [u8; HEAD]) -> Self {
        let head = u64::from_be_bytes(head);
        let (word, rest) = (head >> 32, head & 0xffff_ffff);
        let number = |bits: u64| u32::try_from(bits).unwrap_or_default();
        let flags = u8::try_from(rest >> 24).unwrap_or_default();
        let length = usize::try_from(rest & 0xff_ffff).unwrap_or_default();
        if word >> 31 == 0 {
            return Self::Data { stream: number(word), flags, length };
        }
        let short = |bits: u64| u16::try_from(bits).unwrap_or_default();
        Self::Control {
            version: short(word >> 16 & 0x7fff),
            kind: short(word & 0xffff),
            flags,
            length,
        }
    }

    /// Writes a head; a length beyond 24 bits is cut, which no caller has.
    pub(crate) fn encode(self) -> [u8; HEAD] {
        let (word, flags, length) = match self {
            Self::Data { stream, flags, length } => (stream & ID_MASK, flags, length),
            Self::Control { version, kind, flags, length } => {
                (1 << 31 | u32::from(version) << 16 | u32::from(kind), flags, length)
            }
        };
        let length = u64::try_from(length & 0xff_ffff).unwrap_or_default();
        (u64::from(word) << 32 | u64::from(flags) << 24 | length).to_be_bytes()
    }

    /// The length of the payload that follows.
    pub(crate) fn length(self) -> usize {
        match self {
            Self::Data { length, .. } | Self::Control { length, .. } => length,
        }
    }
}

/// A frame to be written.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) head: [u8; HEAD],
    pub(crate) payload: Bytes,
}

impl Frame {
    /// A data frame.
    pub(crate) fn data(stream: u32, flags: u8, payload: Bytes) -> Self {
        Self { head: Head::Data { stream, flags, length: payload.len() }.encode(), payload }
    }

    /// `SYN_REPLY` with this deflated block.
    pub(crate) fn syn_reply(stream: u32, block: &[u8]) -> Self {
        Self::control(kind::SYN_REPLY, &[&stream.to_be_bytes(), block])
    }

    /// `RST_STREAM`.
    pub(crate) fn reset(stream: u32, status: u32) -> Self {
        Self::control(kind::RST_STREAM, &[&stream.to_be_bytes(), &status.to_be_bytes()])
    }

    /// `PING`.
    pub(crate) fn ping(id: u32) -> Self {
        Self::control(kind::PING, &[&id.to_be_bytes()])
    }

    /// `GOAWAY`.
    pub(crate) fn goaway(last: u32, status: u32) -> Self {
        Self::control(kind::GOAWAY, &[&last.to_be_bytes(), &status.to_be_bytes()])
    }

    /// Bytes on the wire.
    pub(crate) fn len(&self) -> usize {
        HEAD + self.payload.len()
    }

    fn control(kind: u16, parts: &[&[u8]]) -> Self {
        let payload = Bytes::from(parts.concat());
        let head = Head::Control { version: VERSION, kind, flags: 0, length: payload.len() };
        Self { head: head.encode(), payload }
    }
}

#[cfg(test)]
mod tests;
