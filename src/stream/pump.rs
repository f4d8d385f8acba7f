//! Bytes from one end to the other, one loop for each direction.

use std::time::Duration;

use bytes::BytesMut;
use engine::world::Terminal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;

use super::activity::Activity;
use super::batch;
use super::ends::{Gone, Input, Output};
use super::resize::Window;

/// What is read at once from a process that has much to say: as much as a pipe holds. It begins with less.
const CHUNK: usize = 256 << 10;
const FIRST: usize = 8 << 10;
/// Once the process has ended, an output that is waited for this long, in all, is held open by somebody else: what the process
/// wrote is there already.
pub(super) const QUIET_FOR: Duration = Duration::from_secs(2);
/// And more than this was not written by the process: no pipe holds as much.
const AFTERWARDS_MAX: usize = 16 << 20;

/// A process's output to the client, to its end. Gives back the client's end.
///
/// `over` is true from the moment when the process has ended.
pub(super) async fn output<R>(
    mut from: R,
    mut to: Output,
    activity: Activity,
    mut over: watch::Receiver<bool>,
) -> Output
where
    R: AsyncRead + Unpin,
{
    let mut message = BytesMut::new();
    let mut room = FIRST;
    let (mut afterwards, mut patience) = (AFTERWARDS_MAX, QUIET_FOR);
    loop {
        to.begin(&mut message, room);
        // Cancel-safe: what was read is in the message, and waiting for the quiet loses nothing.
        let read = tokio::select! {
            biased;
            read = from.read_buf(&mut message) => read,
            () = quiet(&mut over, &mut patience) => break,
        };
        // A terminal whose last process has gone says EIO.
        let Ok(length @ 1..) = read else { break };
        activity.note();
        if to.send(message.split().freeze()).await.is_err() {
            break;
        }
        if *over.borrow() {
            let Some(left) = afterwards.checked_sub(length) else { break };
            afterwards = left;
        }
        room = if length >= room { CHUNK } else { room };
    }
    to
}

/// Ready when the process has ended and then this time has been spent here. Dropped, it leaves what was not.
async fn quiet(over: &mut watch::Receiver<bool>, patience: &mut Duration) {
    // An error means that the session is being dropped.
    drop(over.wait_for(|over| *over).await);
    let spend = Spend { patience, since: Instant::now() };
    tokio::time::sleep(*spend.patience).await;
}

struct Spend<'p> {
    patience: &'p mut Duration,
    since: Instant,
}

impl Drop for Spend<'_> {
    fn drop(&mut self) {
        *self.patience = self.patience.saturating_sub(self.since.elapsed());
    }
}

/// The client's input to a process. Its end ends the process's; a process that takes no more does not hold up the client's other
/// directions.
pub(super) async fn input<W>(mut from: Input, mut to: W, activity: Activity)
where
    W: AsyncWrite + Unpin,
{
    let mut pieces = Vec::new();
    loop {
        match from.chunks(&mut pieces).await {
            Ok(true) => {
                activity.note();
                if batch::write(&mut to, &mut pieces).await.is_err() {
                    break;
                }
            }
            // An error means that the process has closed it already.
            Ok(false) => return drop(to.shutdown().await),
            // The session is about to be dropped: its process is not to take this for the end of its input.
            Err(Gone) => std::future::pending().await,
        }
    }
    drop(to);
    discard(from).await;
}

/// Takes what nobody wants.
pub(super) async fn discard(mut from: Input) {
    while let Ok(Some(_)) = from.chunk().await {}
}

/// The client's window sizes to a terminal.
pub(super) async fn resize(mut window: Window, terminal: Box<dyn Terminal>) {
    while let Some(size) = window.size().await {
        if let Err(fault) = terminal.resize(size.width, size.height) {
            tracing::debug!("a window's size: {}", fault.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::negotiate::Codec;
    use super::super::websocket::Channel;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_goes_on_writing_after_the_process_does_not_keep_the_session() {
        let (mut writer, from) = tokio::io::duplex(1024);
        let (outgoing, mut messages) = mpsc::channel(2);
        let to = Output::Channel(Channel::new(1, Codec::Raw, outgoing));
        let over = watch::Sender::new(false);
        let write = tokio::spawn(async move {
            while writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let read = tokio::spawn(async move {
            let mut count = 0;
            while messages.recv().await.is_some() {
                // A client that takes its time takes none of that.
                tokio::time::sleep(Duration::from_millis(30)).await;
                count += 1;
            }
            count
        });
        let pump = tokio::spawn(output(from, to, Activity::new(), over.subscribe()));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!pump.is_finished());
        over.send_replace(true);
        let ended = Instant::now();
        drop(tokio::time::timeout(Duration::from_mins(1), pump).await.unwrap().unwrap());
        assert_eq!(ended.elapsed().as_secs(), 2);
        assert!(read.await.unwrap() > 110);
        write.await.unwrap();
    }
}
