//! Messages and the channels they belong to.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::super::negotiate::{Codec, Version};

/// Not a channel: the next byte's channel has ended.
const END: u8 = 255;

/// A channel that is sent on.
#[derive(Debug)]
pub(in crate::stream) struct Channel {
    number: u8,
    pub(super) codec: Codec,
    pub(super) outgoing: mpsc::Sender<Message>,
}

impl Channel {
    pub(in crate::stream) fn new(
        number: u8,
        codec: Codec,
        outgoing: mpsc::Sender<Message>,
    ) -> Self {
        Self { number, codec, outgoing }
    }

    /// What its messages begin with.
    pub(in crate::stream) fn mark(&self) -> u8 {
        match self.codec {
            Codec::Raw => self.number,
            Codec::Base64 => b'0'.wrapping_add(self.number),
        }
    }
}

/// What a client's message says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Bytes(u8, Bytes),
    End(u8),
}

/// Bytes with their mark before them, as the wire has them.
pub(super) fn seal(message: Bytes, codec: Codec) -> Message {
    match codec {
        Codec::Raw => Message::Binary(message),
        Codec::Base64 => {
            let mut bytes = message;
            let mark = if bytes.has_remaining() { bytes.get_u8() } else { b'0' };
            let mut text = String::with_capacity(1 + bytes.len().div_ceil(3) * 4);
            text.push(char::from(mark));
            STANDARD.encode_string(&bytes, &mut text);
            Message::Text(text.into())
        }
    }
}

/// What it says; nothing, when it is no data or cannot be understood.
pub(super) fn unseal(message: Message, codec: Codec, version: Version) -> Option<Said> {
    let mut bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => Bytes::from(text),
        _ => return None,
    };
    let mark = bytes.try_get_u8().ok()?;
    if mark == END && version.closes_channels() {
        return bytes.try_get_u8().ok().map(Said::End);
    }
    match codec {
        Codec::Raw => Some(Said::Bytes(mark, bytes)),
        Codec::Base64 => {
            let bytes = STANDARD.decode(&bytes).ok()?;
            Some(Said::Bytes(mark.checked_sub(b'0')?, bytes.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(codec: Codec) -> Channel {
        Channel::new(1, codec, mpsc::channel(1).0)
    }

    fn sealed(codec: Codec, data: &[u8]) -> Message {
        seal([&[channel(codec).mark()], data].concat().into(), codec)
    }

    #[test]
    fn raw_messages_begin_with_the_number_of_their_channel() {
        assert_eq!(sealed(Codec::Raw, b"ab"), Message::Binary(Bytes::from_static(b"\x01ab")));
        let said = unseal(Message::binary(&b"\x00ab"[..]), Codec::Raw, Version::V4);
        assert_eq!(said, Some(Said::Bytes(0, Bytes::from_static(b"ab"))));
    }

    #[test]
    fn base64_messages_are_text_with_the_digit_of_their_channel() {
        assert_eq!(sealed(Codec::Base64, b"foo\n"), Message::text("1Zm9vCg=="));
        assert_eq!(sealed(Codec::Base64, b""), Message::text("1"));
        let said = unseal(Message::text("0Zm9vCg=="), Codec::Base64, Version::V4);
        assert_eq!(said, Some(Said::Bytes(0, Bytes::from_static(b"foo\n"))));
        // Clients may send it as bytes.
        let said = unseal(Message::binary(&b"4e30="[..]), Codec::Base64, Version::V4);
        assert_eq!(said, Some(Said::Bytes(4, Bytes::from_static(b"{}"))));
    }

    #[test]
    fn what_makes_no_sense_says_nothing() {
        for text in ["", "0!", "/AAAA", "0Zm9v"] {
            let said = unseal(Message::text(text), Codec::Base64, Version::V4);
            assert_eq!(said.is_some(), text == "0Zm9v", "{text}");
        }
        assert_eq!(unseal(Message::Ping(Bytes::new()), Codec::Raw, Version::V4), None);
    }

    #[test]
    fn only_the_fifth_version_ends_a_channel() {
        let end = || Message::binary(&b"\xff\x00"[..]);
        assert_eq!(unseal(end(), Codec::Raw, Version::V5), Some(Said::End(0)));
        let said = unseal(end(), Codec::Raw, Version::V4);
        assert_eq!(said, Some(Said::Bytes(255, Bytes::from_static(b"\x00"))));
        assert_eq!(unseal(Message::binary(&b"\xff"[..]), Codec::Raw, Version::V5), None);
    }
}
