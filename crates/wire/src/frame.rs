//! Frames: a message as bytes, and back from whatever pieces arrive.
//!
//! ```text
//! push(bytes, fds) ──> header, 4 bytes ──> body ──> ready ──> next_frame()
//! ```

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use names::Kind;
use prost::Message;

/// The longest message, in bytes.
pub const MAX_FRAME: usize = 4 << 20;
/// The most descriptors that travel with one frame.
pub const MAX_FDS: usize = 16;

const HEADER: usize = 4;
/// What a body reserves before its bytes have come: a length alone costs its sender nothing.
const RESERVE: usize = 16 << 10;

/// Why bytes are not frames. The connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The message is longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    /// Descriptors came with bytes in which no frame begins.
    #[error("descriptors came in the middle of a frame")]
    StrayDescriptors,
    /// More descriptors than [`MAX_FDS`].
    #[error("{0} descriptors with one frame are more than {MAX_FDS}")]
    TooManyDescriptors(usize),
    /// The bytes of a frame are not the message expected.
    #[error("a frame that is not the message expected")]
    Malformed(#[source] prost::DecodeError),
}

impl FrameError {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        Kind::Internal
    }
}

/// One frame: the bytes of its message, and the descriptors that came with it.
#[derive(Debug)]
pub struct Frame<F = OwnedFd> {
    /// The message, encoded.
    pub body: Vec<u8>,
    /// What came with it, in the order sent.
    pub fds: Vec<F>,
}

/// Puts frames together from bytes as they come. After an error it refuses everything.
#[derive(Debug)]
pub struct Decoder<F = OwnedFd> {
    header: [u8; HEADER],
    /// How many bytes of the header have come.
    read: usize,
    /// How many bytes of the body are to come, once the header has.
    missing: usize,
    frame: Frame<F>,
    ready: VecDeque<Frame<F>>,
    broken: Option<FrameError>,
}

/// The message as a frame.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let length = message.encoded_len();
    let header = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let header = header.ok_or(FrameError::TooLong(length))?;
    let mut bytes = Vec::with_capacity(HEADER + length);
    bytes.extend_from_slice(&header.to_le_bytes());
    message.encode_raw(&mut bytes);
    Ok(bytes)
}

// === impl Frame ===

impl<F> Frame<F> {
    /// The message.
    pub fn decode<M: Message + Default>(&self) -> Result<M, FrameError> {
        M::decode(self.body.as_slice()).map_err(FrameError::Malformed)
    }
}

// === impl Decoder ===

impl<F> Default for Decoder<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> Decoder<F> {
    /// A decoder at the beginning of a stream.
    pub const fn new() -> Self {
        Self {
            header: [0; HEADER],
            read: 0,
            missing: 0,
            frame: Frame { body: Vec::new(), fds: Vec::new() },
            ready: VecDeque::new(),
            broken: None,
        }
    }

    /// Takes the bytes of one read, and the descriptors that came with it.
    pub fn push(&mut self, bytes: &[u8], fds: Vec<F>) -> Result<(), FrameError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.take(bytes, fds).inspect_err(|error| self.broken = Some(error.clone()))
    }

    /// The next whole frame.
    pub fn next_frame(&mut self) -> Option<Frame<F>> {
        let frame = self.ready.pop_front();
        if self.ready.is_empty() {
            // Give the memory back: a shim waits here for days.
            self.ready = VecDeque::new();
        }
        frame
    }

    /// Whether a frame has begun and not ended.
    pub fn in_frame(&self) -> bool {
        self.read > 0
    }

    /// How many bytes complete the header or the body: a reader that asks for no more never reads past a frame.
    pub fn missing(&self) -> usize {
        if self.read < HEADER { HEADER - self.read } else { self.missing }
    }

    fn take(&mut self, mut bytes: &[u8], fds: Vec<F>) -> Result<(), FrameError> {
        if fds.len() > MAX_FDS {
            return Err(FrameError::TooManyDescriptors(fds.len()));
        }
        let mut begun = false;
        while !bytes.is_empty() {
            begun |= !self.in_frame();
            bytes =
                if self.read < HEADER { self.take_header(bytes)? } else { self.take_body(bytes) };
        }
        self.attach(fds, begun)
    }

    fn attach(&mut self, fds: Vec<F>, begun: bool) -> Result<(), FrameError> {
        if fds.is_empty() {
            return Ok(());
        }
        let last = if self.in_frame() { Some(&mut self.frame) } else { self.ready.back_mut() };
        match last.filter(|_| begun) {
            Some(frame) => frame.fds = fds,
            None => return Err(FrameError::StrayDescriptors),
        }
        Ok(())
    }

    fn take_header<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], FrameError> {
        let (now, rest) = bytes.split_at(bytes.len().min(HEADER - self.read));
        for (slot, byte) in self.header.iter_mut().skip(self.read).zip(now) {
            *slot = *byte;
        }
        self.read += now.len();
        if self.read == HEADER {
            let length = usize::try_from(u32::from_le_bytes(self.header)).unwrap_or(usize::MAX);
            if length > MAX_FRAME {
                return Err(FrameError::TooLong(length));
            }
            self.missing = length;
            self.frame.body.reserve_exact(length.min(RESERVE));
            self.finish();
        }
        Ok(rest)
    }

    fn take_body<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (now, rest) = bytes.split_at(bytes.len().min(self.missing));
        self.frame.body.extend_from_slice(now);
        self.missing -= now.len();
        self.finish();
        rest
    }

    fn finish(&mut self) {
        if self.missing == 0 {
            let empty = Frame { body: Vec::new(), fds: Vec::new() };
            self.ready.push_back(std::mem::replace(&mut self.frame, empty));
            self.read = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::v1::{Envelope, Failure, envelope};

    fn envelope(id: u64, text: &str) -> Envelope {
        let failure = Failure { message: text.to_owned(), ..Failure::default() };
        Envelope { id, body: Some(envelope::Body::Failure(failure)) }
    }

    /// What a kernel gives: reads of at most `size` bytes, which end with the bytes that carry descriptors.
    fn reads(frames: &[(Vec<u8>, Vec<u32>)], sizes: &[usize]) -> Vec<(Vec<u8>, Vec<u32>)> {
        let mut out: Vec<(Vec<u8>, Vec<u32>)> = Vec::new();
        let mut sizes = sizes.iter().copied().cycle();
        let mut current: (Vec<u8>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut room = sizes.next().unwrap();
        for (bytes, fds) in frames {
            let mut fds = Some(fds.clone());
            for byte in bytes {
                current.1.extend(fds.take().into_iter().flatten());
                current.0.push(*byte);
                room -= 1;
                if room == 0 {
                    out.push(std::mem::take(&mut current));
                    room = sizes.next().unwrap();
                }
            }
            if !current.1.is_empty() {
                out.push(std::mem::take(&mut current));
                room = sizes.next().unwrap();
            }
        }
        out.push(current);
        out
    }

    fn cases() -> ProptestConfig {
        let cases = if cfg!(miri) { 8 } else { 512 };
        ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn frames_survive_any_cut_and_keep_their_descriptors(
            sent in vec(("[a-z]{0,40}", vec(any::<u32>(), 0..4)), 1..12),
            sizes in vec(1usize..30, 1..8),
        ) {
            let sent: Vec<_> = sent.into_iter().zip(0u64..).map(|((t, fds), n)| (envelope(n, &t), fds)).collect();
            let frames: Vec<_> = sent.iter().map(|(e, fds)| (encode(e).unwrap(), fds.clone())).collect();
            let mut decoder = Decoder::<u32>::new();
            let mut got = Vec::new();
            for (bytes, fds) in reads(&frames, &sizes) {
                decoder.push(&bytes, fds).unwrap();
                while let Some(frame) = decoder.next_frame() {
                    got.push((frame.decode::<Envelope>().unwrap(), frame.fds));
                }
            }
            prop_assert!(!decoder.in_frame());
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn any_bytes_are_frames_or_an_error_that_stays(bytes in vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::<u32>::new();
            if let Err(error) = decoder.push(&bytes, Vec::new()) {
                prop_assert_eq!(decoder.push(&[], Vec::new()), Err(error));
            }
        }
    }

    #[test]
    fn an_oversize_length_is_refused_before_its_body_comes() {
        let mut decoder = Decoder::<u32>::new();
        let length = u32::try_from(MAX_FRAME + 1).unwrap();
        assert_eq!(
            decoder.push(&length.to_le_bytes(), Vec::new()),
            Err(FrameError::TooLong(MAX_FRAME + 1))
        );
        let longest = envelope(1, &"x".repeat(MAX_FRAME));
        assert!(matches!(encode(&longest), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn descriptors_in_the_middle_of_a_frame_are_refused() {
        let mut decoder = Decoder::new();
        let bytes = encode(&envelope(1, "hello")).unwrap();
        decoder.push(&bytes[..6], Vec::new()).unwrap();
        assert_eq!(decoder.push(&bytes[6..8], vec![1]), Err(FrameError::StrayDescriptors));
    }

    #[test]
    fn a_reader_that_asks_for_what_is_missing_stops_at_the_frame() {
        let mut decoder = Decoder::<u32>::new();
        let bytes = encode(&envelope(7, "hello")).unwrap();
        let twice = bytes.repeat(2);
        let mut at = 0;
        let frame = loop {
            let end = at + decoder.missing();
            decoder.push(&twice[at..end], Vec::new()).unwrap();
            at = end;
            if let Some(frame) = decoder.next_frame() {
                break frame;
            }
        };
        assert_eq!(at, bytes.len());
        assert_eq!(frame.decode::<Envelope>().unwrap().id, 7);
    }
}
