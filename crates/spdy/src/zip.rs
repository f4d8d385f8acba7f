//! Header compression: one zlib stream for each direction of a connection, complete at the end of each block.

use flate2::{Decompress, FlushDecompress, Status};

use crate::Breach;
use crate::dictionary::{CHECKSUM, DICTIONARY};

/// The client's zlib stream.
#[derive(Debug)]
pub(crate) struct Inflater {
    zlib: Decompress,
    limit: usize,
}

impl Inflater {
    /// A stream whose blocks have at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { zlib: Decompress::new(true), limit }
    }

    /// Inflates one block; after an error the stream cannot be used, because its state is that of the client no more.
    pub(crate) fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Breach> {
        let mut out = Vec::new();
        loop {
            self.grow(&mut out, block.len())?;
            let (taken, made) = (self.zlib.total_in(), out.len());
            let end = self.step(block, &mut out)?;
            let taken =
                usize::try_from(self.zlib.total_in() - taken).map_err(|_| Breach::Inflate)?;
            block = block.get(taken..).unwrap_or_default();
            if out.len() > self.limit {
                return Err(Breach::HeaderBytes(self.limit));
            }
            if block.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
            if end || (taken == 0 && out.len() == made) {
                return Err(Breach::Inflate);
            }
        }
    }

    /// Makes room for more, by doubling, to no more than one byte past the limit.
    fn grow(&self, out: &mut Vec<u8>, rest: usize) -> Result<(), Breach> {
        if out.len() == out.capacity() {
            let most = self
                .limit
                .saturating_add(1)
                .checked_sub(out.len())
                .ok_or(Breach::HeaderBytes(self.limit))?;
            out.reserve_exact(out.len().max(rest.saturating_mul(2)).max(512).min(most));
        }
        Ok(())
    }

    /// One call of zlib; whether the stream says that it is over, which it must not.
    fn step(&mut self, block: &[u8], out: &mut Vec<u8>) -> Result<bool, Breach> {
        match self.zlib.decompress_vec(block, out, FlushDecompress::Sync) {
            Ok(status) => Ok(status == Status::StreamEnd),
            Err(error) if error.needs_dictionary() == Some(CHECKSUM) => {
                self.zlib.set_dictionary(&DICTIONARY).map(|_| false).map_err(|_| Breach::Inflate)
            }
            Err(_) => Err(Breach::Inflate),
        }
    }
}

/// This side's zlib stream. Its blocks are stored, not squeezed: all it ever says is an empty `SYN_REPLY`, and a real
/// compressor would hold 268 KiB for each session.
#[derive(Debug, Default)]
pub(crate) struct Deflater {
    begun: bool,
}

/// CMF and FLG: deflate, a window of 32 KiB, a preset dictionary.
const ZLIB_HEAD: [u8; 2] = [0x78, 0xbb];
/// The empty stored block that a sync flush ends with; Go's reader gives nothing out before it.
const SYNC: [u8; 5] = [0, 0, 0, 0xff, 0xff];

impl Deflater {
    /// Puts one block of at most 65,535 bytes into the stream.
    pub(crate) fn deflate(&mut self, block: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(block.len() + 16);
        if !self.begun {
            out.extend_from_slice(&ZLIB_HEAD);
            out.extend_from_slice(&CHECKSUM.to_be_bytes());
            self.begun = true;
        }
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend(block.iter().take(usize::from(length)));
        out.extend_from_slice(&SYNC);
        out
    }
}

#[cfg(test)]
mod tests;
