//! The two sums of a layer and what lies between them: gzip, zstd or nothing, told by the first bytes.
//!
//! Media types are not believed: registries hold gzip under every name.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use crate::digest::{Digest, Summer};
use crate::options::TarLimits;

const BUFFER: usize = 128 << 10;
/// Windows above 128 MiB would let a frame header decide about our memory.
const WINDOW_LOG_MAX: u32 = 27;

/// Sums what is consumed.
#[derive(Debug)]
pub(crate) struct Hashed<R> {
    inner: R,
    sum: Summer,
    count: u64,
}

/// The inflated stream, summed as it is produced.
pub(crate) struct Inflated<R: BufRead> {
    decoder: Decoder<R>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    sum: Summer,
    count: u64,
    limits: TarLimits,
}

enum Decoder<R: BufRead> {
    Plain(Hashed<R>),
    Gzip(Box<MultiGzDecoder<Hashed<R>>>),
    Zstd(zstd::Decoder<'static, Hashed<R>>),
}

// === impl Hashed ===

impl<R: BufRead> Hashed<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, sum: Summer::default(), count: 0 }
    }

    /// Reads to the end, and says what the sum is.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        loop {
            let length = self.fill_buf()?.len();
            if length == 0 {
                return Ok(self.sum.finish());
            }
            self.consume(length);
        }
    }
}

impl<R: BufRead> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, into)
    }
}

impl<R: BufRead> BufRead for Hashed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // What was filled is returned again, without reading.
        if let Ok(filled) = self.inner.fill_buf() {
            self.sum.add(filled.get(..amount).unwrap_or(filled));
        }
        self.count += amount as u64;
        self.inner.consume(amount);
    }
}

// === impl Inflated ===

impl<R: BufRead> Inflated<R> {
    pub(crate) fn new(mut source: Hashed<R>, limits: TarLimits) -> io::Result<Self> {
        let first = source.fill_buf()?;
        let decoder = if first.starts_with(&[0x1f, 0x8b]) {
            Decoder::Gzip(Box::new(MultiGzDecoder::new(source)))
        } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable(first) {
            let mut zstd = zstd::Decoder::with_buffer(source)?;
            zstd.window_log_max(WINDOW_LOG_MAX)?;
            Decoder::Zstd(zstd)
        } else {
            Decoder::Plain(source)
        };
        let (sum, buffer) = (Summer::default(), vec![0; BUFFER]);
        Ok(Self { decoder, buffer, start: 0, end: 0, sum, count: 0, limits })
    }

    /// Reads to the end; the sum of all that was inflated, and the source.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, Hashed<R>)> {
        loop {
            let length = self.fill_buf()?.len();
            if length == 0 {
                break;
            }
            self.consume(length);
        }
        let source = match self.decoder {
            Decoder::Plain(source) => source,
            Decoder::Gzip(gzip) => gzip.into_inner(),
            Decoder::Zstd(zstd) => zstd.finish(),
        };
        Ok((self.sum.finish(), source))
    }

    fn refill(&mut self) -> io::Result<()> {
        let buffer = self.buffer.as_mut_slice();
        let length = match &mut self.decoder {
            Decoder::Plain(source) => source.read(buffer)?,
            Decoder::Gzip(gzip) => gzip.read(buffer)?,
            Decoder::Zstd(zstd) => zstd.read(buffer)?,
        };
        self.sum.add(buffer.get(..length).unwrap_or_default());
        (self.start, self.end) = (0, length);
        self.count += length as u64;
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        let compressed = match &self.decoder {
            Decoder::Plain(source) => source.count,
            Decoder::Gzip(gzip) => gzip.get_ref().count,
            Decoder::Zstd(zstd) => zstd.get_ref().count,
        };
        let TarLimits { bytes, ratio, ratio_from, .. } = self.limits;
        if self.count > bytes {
            return Err(io::Error::other(format!("more than {bytes} bytes when inflated")));
        }
        if self.count > ratio_from && self.count > compressed.saturating_mul(ratio) {
            return Err(io::Error::other(format!("inflates to more than {ratio} times its size")));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Inflated<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, into)
    }
}

impl<R: BufRead> BufRead for Inflated<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.refill()?;
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.start = (self.start + amount).min(self.end);
    }
}

fn read_buffered<R: BufRead>(from: &mut R, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = from.fill_buf()?;
    let length = filled.read(into)?;
    from.consume(length);
    Ok(length)
}

/// zstd:chunked and eStargz put skippable frames first.
fn is_skippable(first: &[u8]) -> bool {
    matches!(first, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}
