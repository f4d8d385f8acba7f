//! The task that writes the connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::outbox::{BATCH_FRAMES, Next, Outgoing};
use crate::shared::Shared;

/// Writes until the last frame is out, then closes this half.
pub(crate) async fn run<W: AsyncWrite + Unpin>(io: &mut W, shared: &Shared) -> io::Result<()> {
    let mut batch = VecDeque::with_capacity(BATCH_FRAMES);
    loop {
        match shared.outbox.take(&mut batch) {
            Next::Write => write(io, &mut batch, shared).await?,
            Next::Wait => {
                io.flush().await?;
                shared.outbox.filled.notified().await;
            }
            Next::Stop => {
                io.flush().await?;
                return io.shutdown().await;
            }
        }
    }
}

/// Writes the whole batch, heads and payloads from where they lie.
async fn write<W: AsyncWrite + Unpin>(
    io: &mut W,
    batch: &mut VecDeque<Outgoing>,
    shared: &Shared,
) -> io::Result<()> {
    let mut passed = 0;
    while !batch.is_empty() {
        let mut slices = [IoSlice::new(&[]); 2 * BATCH_FRAMES];
        gather(batch, passed, &mut slices);
        let slices = slices.get(..2 * batch.len()).unwrap_or(&slices);
        passed += match io.write_vectored(slices).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => written,
        };
        shared.touch();
        while let Some(first) = batch.pop_front_if(|first| first.frame.len() <= passed) {
            passed -= first.frame.len();
            shared.outbox.written(first);
        }
    }
    Ok(())
}

/// Points at what is left of the batch; `passed` bytes of its first frame are written already.
fn gather<'a>(batch: &'a VecDeque<Outgoing>, mut passed: usize, slices: &mut [IoSlice<'a>]) {
    let parts =
        batch.iter().flat_map(|outgoing| [outgoing.frame.head.as_slice(), &outgoing.frame.payload]);
    for (slice, part) in slices.iter_mut().zip(parts) {
        *slice = IoSlice::new(part.get(passed.min(part.len())..).unwrap_or_default());
        passed = passed.saturating_sub(part.len());
    }
}
