//! Bytes that came in pieces, written by as few system calls as there may be.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Pieces that one write takes.
const PIECES: usize = 64;

/// Writes all pieces, in their order; none is left. Dropped half-way, it may have written a part.
pub(super) async fn write<W>(to: &mut W, pieces: &mut Vec<Bytes>) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut left: VecDeque<Bytes> = std::mem::take(pieces).into();
    // Of an empty slice a writer takes nothing, as one does that takes nothing more.
    left.retain(|piece| !piece.is_empty());
    while !left.is_empty() {
        let mut slices = [IoSlice::new(&[]); PIECES];
        for (slice, piece) in slices.iter_mut().zip(&left) {
            *slice = IoSlice::new(piece);
        }
        let used = slices.get(..left.len()).unwrap_or(&slices);
        match to.write_vectored(used).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => pass(&mut left, written),
        }
    }
    *pieces = left.into();
    Ok(())
}

/// Takes away what has been written.
fn pass(left: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(first) = left.front_mut() {
        if first.len() > written {
            return first.advance(written);
        }
        written -= first.len();
        left.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn all_pieces_come_in_order_however_little_is_taken_at_once() {
        let pieces: Vec<Bytes> = (0..200_u8).map(|n| vec![n; usize::from(n % 7)].into()).collect();
        let whole = pieces.concat();
        let (mut to, mut from) = tokio::io::duplex(10);
        let write = async move {
            let mut pieces = pieces;
            write(&mut to, &mut pieces).await.unwrap();
            assert!(pieces.is_empty());
        };
        let mut came = Vec::new();
        let ((), read) = tokio::join!(write, from.read_to_end(&mut came));
        assert_eq!((read.unwrap(), came), (whole.len(), whole));
    }

    #[tokio::test]
    async fn who_takes_nothing_more_is_told_as_an_error() {
        let (mut to, from) = tokio::io::duplex(10);
        drop(from);
        let error = write(&mut to, &mut vec![Bytes::from_static(b"word")]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
