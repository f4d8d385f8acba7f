//! A client's side of SPDY/3.1, enough to say anything, right or wrong.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::dictionary::DICTIONARY;

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Data { stream: u32, flags: u8, data: Vec<u8> },
    Reply(u32),
    Reset(u32, u32),
    Ping(u32),
    Away(u32, u32),
}

impl Seen {
    /// A data frame.
    pub(super) fn data(stream: u32, flags: u8, data: &[u8]) -> Self {
        Self::Data { stream, flags, data: data.to_vec() }
    }
}

/// Makes frames.
pub(super) struct Encoder {
    zlib: Compress,
}

impl Encoder {
    pub(super) fn new() -> Self {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&DICTIONARY).unwrap();
        Self { zlib }
    }

    /// `SYN_STREAM` with these headers.
    pub(super) fn syn(&mut self, id: u32, flags: u8, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = word(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(word(text.len()));
            block.extend(text.as_bytes());
        }
        self.syn_block(id, flags, &block)
    }

    /// `SYN_STREAM` with this for a header block.
    pub(super) fn syn_block(&mut self, id: u32, flags: u8, block: &[u8]) -> Vec<u8> {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.extend(self.squeeze(block));
        control(1, flags, &payload)
    }

    /// `HEADERS` without headers.
    pub(super) fn headers(&mut self, id: u32, flags: u8) -> Vec<u8> {
        let block = self.squeeze(&[0; 4]);
        control(8, flags, &[&id.to_be_bytes(), &block[..]].concat())
    }

    fn squeeze(&mut self, block: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(block.len() + 256);
        self.zlib.compress_vec(block, &mut out, FlushCompress::Sync).unwrap();
        out
    }
}

/// A data frame.
pub(super) fn data(id: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = word(bytes.len());
    [&id.to_be_bytes(), &[flags][..], &length, bytes].concat()
}

/// A control frame.
pub(super) fn control(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = word(payload.len());
    [&[0x80, 3, 0, kind, flags][..], &length, payload].concat()
}

/// A control frame of words.
pub(super) fn words(kind: u8, words: &[u32]) -> Vec<u8> {
    control(kind, 0, &words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>())
}

fn word(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap().to_be_bytes()
}

/// Reads frames.
pub(super) struct Decoder {
    zlib: Decompress,
    begun: bool,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { zlib: Decompress::new(true), begun: false }
    }

    /// The next frame; none at the end of the connection.
    pub(super) async fn next<R: AsyncRead + Unpin>(&mut self, io: &mut R) -> Option<Seen> {
        let mut head = [0; 8];
        io.read_exact(&mut head).await.ok()?;
        let word = u32::from_be_bytes(head[..4].try_into().unwrap());
        let length = u32::from_be_bytes(head[4..].try_into().unwrap()) & 0xff_ffff;
        let flags = head[4];
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        io.read_exact(&mut payload).await.ok()?;
        if word >> 31 == 0 {
            return Some(Seen::Data { stream: word, flags, data: payload });
        }
        assert_eq!((word >> 16, flags), (0x8003, 0));
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        Some(match (word & 0xffff, payload.len()) {
            (2, 5..) => {
                self.empty_block(&payload[4..]);
                Seen::Reply(number(0))
            }
            (3, 8) => Seen::Reset(number(0), number(4)),
            (6, 4) => Seen::Ping(number(0)),
            (7, 8) => Seen::Away(number(0), number(4)),
            other => panic!("a frame of type and length {other:?}"),
        })
    }

    fn empty_block(&mut self, mut block: &[u8]) {
        let mut out = Vec::with_capacity(64);
        if !self.begun {
            let error =
                self.zlib.decompress_vec(block, &mut out, FlushDecompress::Sync).unwrap_err();
            assert_eq!(error.needs_dictionary(), Some(0xe3c6_a7c2));
            self.zlib.set_dictionary(&DICTIONARY).unwrap();
            block = &block[usize::try_from(self.zlib.total_in()).unwrap()..];
            self.begun = true;
        }
        self.zlib.decompress_vec(block, &mut out, FlushDecompress::Sync).unwrap();
        assert_eq!(out, [0; 4]);
    }
}

/// A client on a connection.
pub(super) struct Client<IO> {
    pub(super) io: IO,
    pub(super) encoder: Encoder,
    decoder: Decoder,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    pub(super) fn new(io: IO) -> Self {
        Self { io, encoder: Encoder::new(), decoder: Decoder::new() }
    }

    /// Writes these bytes.
    pub(super) async fn say(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// Opens a stream.
    pub(super) async fn open(&mut self, id: u32, flags: u8, headers: &[(&str, &str)]) {
        let frame = self.encoder.syn(id, flags, headers);
        self.say(&frame).await;
    }

    /// The next frame; none at the end of the connection.
    pub(super) async fn next(&mut self) -> Option<Seen> {
        super::soon(self.decoder.next(&mut self.io)).await
    }

    /// Everything until the end of the connection.
    pub(super) async fn rest(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        while let Some(next) = self.next().await {
            seen.push(next);
        }
        seen
    }
}
