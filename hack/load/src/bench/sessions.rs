//! Exec sessions over WebSocket: how soon they say something, how much they carry, and what they leave behind.
//!
//! What is carried is said and heard by `dd`, in pieces. busybox's `head -c` and `wc -c` take each byte by itself: they need 0.9 s
//! and 0.6 s of a core for what is carried here, and were most of what this measured while they stood in `dd`'s place.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Bench;
use super::load::{end, start};
use crate::client::Client;
use crate::session::{STDIN, STDOUT, Session};

/// What is carried each way.
const MEBIBYTES: u32 = 256;
const MEBIBYTE: usize = 1 << 20;
/// Both of the messages and of what the commands read and write at once.
const CHUNK: usize = 64 << 10;
const CHUNKS: usize = MEBIBYTE * MEBIBYTES as usize / CHUNK;
const SESSIONS: usize = 1000;
/// No session of these may take longer.
const BOUND: Duration = Duration::from_mins(2);

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    let made = start(&bench.client, &bench.template, "streams").await?;
    let [container] = made.containers.as_slice() else { bail!("one container was asked for") };
    for _ in 0..bench.times(60) {
        let first = bounded(first_byte(&bench.client, container)).await?;
        bench.figures.time("session", first);
    }
    for _ in 0..bench.times(18) {
        let took = bounded(out(&bench.client, container)).await?;
        bench.figures.value("stream_out", f64::from(MEBIBYTES) / took.as_secs_f64());
        let took = bounded(into(&bench.client, container)).await?;
        bench.figures.value("stream_in", f64::from(MEBIBYTES) / took.as_secs_f64());
    }
    for _ in 0..bench.times(SESSIONS) {
        bounded(first_byte(&bench.client, container)).await?;
    }
    super::memory::daemon(bench, "daemon_sessions");
    end(&bench.client, &made).await
}

async fn bounded<T>(session: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(BOUND, session).await.context("a session hangs")?
}

/// From the call for a session to the first byte of what its command says.
async fn first_byte(client: &Client, container: &str) -> Result<Duration> {
    let begun = Instant::now();
    let mut session = Session::exec(client, container, &["echo", "said"], false).await?;
    let mut first = None;
    while let Some((channel, bytes)) = session.next().await? {
        if channel == STDOUT && !bytes.is_empty() {
            first.get_or_insert_with(|| begun.elapsed());
        }
    }
    first.context("the command said nothing")
}

async fn out(client: &Client, container: &str) -> Result<Duration> {
    let command = format!("dd if=/dev/zero bs={CHUNK} count={CHUNKS} 2>/dev/null");
    let begun = Instant::now();
    let mut session = Session::exec(client, container, &["sh", "-c", &command], false).await?;
    let mut came = 0;
    while let Some((channel, bytes)) = session.next().await? {
        came += if channel == STDOUT { bytes.len() } else { 0 };
    }
    ensure!(came == MEBIBYTE * MEBIBYTES as usize, "{came} bytes came");
    Ok(begun.elapsed())
}

async fn into(client: &Client, container: &str) -> Result<Duration> {
    // Counted by the command: it says so when it has had them all. This protocol cannot end the input.
    let command = format!("dd of=/dev/null bs={CHUNK} count={CHUNKS} iflag=fullblock 2>&1");
    let begun = Instant::now();
    let mut session = Session::exec(client, container, &["sh", "-c", &command], true).await?;
    let zeros = vec![0; CHUNK];
    for _ in 0..CHUNKS {
        session.send(STDIN, &zeros).await?;
    }
    let mut said = Vec::new();
    while let Some((channel, bytes)) = session.next().await? {
        if channel == STDOUT {
            said.extend(bytes);
        }
    }
    let counted = String::from_utf8_lossy(&said);
    ensure!(counted.starts_with(&format!("{CHUNKS}+0 records in")), "what arrived: {counted}");
    Ok(begun.elapsed())
}
