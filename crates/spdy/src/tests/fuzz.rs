//! Random bytes and spoilt sessions, for `SPDY_FUZZ_SECONDS` (5 unless said): nothing falls, memory is bounded, and every
//! session ends. `SPDY_FUZZ_SEED` repeats a run.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::client::{Encoder, control, data, words};
use crate::{Limits, Session, Stream};

/// Xorshift: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.next().to_le_bytes()[3]).collect()
    }

    fn word(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).unwrap()
    }
}

/// What a client might say, mostly right.
fn valid(random: &mut Random) -> Vec<u8> {
    let (mut encoder, mut out, mut id) = (Encoder::new(), Vec::new(), 1);
    for _ in 0..random.below(60) {
        let near = 1 + 2 * u32::try_from(random.below(8)).unwrap();
        let flags = u8::from(random.below(8) == 0);
        out.extend(match random.below(12) {
            0..=3 => {
                id += 2;
                let value = "v".repeat(random.below(300));
                encoder.syn(id - 2, flags, &[("streamtype", "data"), ("x", &value)])
            }
            4..=7 => {
                let bytes = random.bytes(3000);
                data(near, flags, &bytes)
            }
            8 => words(3, &[near, random.word() % 12]),
            9 => words(6, &[random.word()]),
            10 => encoder.headers(near, flags),
            _ => {
                let bytes = random.bytes(200);
                control(random.next().to_le_bytes()[0] % 12, flags, &bytes)
            }
        });
    }
    out
}

/// Spoils what was right.
fn spoil(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(6) {
        let (a, b) = (random.below(bytes.len()), random.below(bytes.len()));
        let (from, to) = (a.min(b), a.max(b));
        match random.below(5) {
            0 if !bytes.is_empty() => bytes[a] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[a] = random.next().to_le_bytes()[0],
            2 => drop(bytes.drain(from..to)),
            3 => {
                let part = bytes[from..to.min(from + 500)].to_vec();
                bytes.splice(b..b, part);
            }
            _ => {
                let noise = random.bytes(40);
                bytes.splice(a..a, noise);
            }
        }
    }
}

/// A user of the session that does all a user may, badly at times.
async fn use_stream(stream: Stream, mut mood: usize) {
    let (mut recv, mut send) = stream.split();
    loop {
        mood = mood.wrapping_mul(31).wrapping_add(7) % 1009;
        match mood % 23 {
            0 => return,
            1 => return send.reset(),
            2 => return send.finish().await.unwrap_or_default(),
            _ => {}
        }
        match recv.chunk().await {
            Ok(Some(chunk)) if send.send(chunk.clone()).await.is_ok() => {}
            Ok(None) => return send.finish().await.unwrap_or_default(),
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

async fn serve(mut session: Session, mut mood: usize) {
    while let Some(incoming) = session.accept().await {
        mood = mood.wrapping_mul(31).wrapping_add(11) % 997;
        match mood % 10 {
            0 => incoming.refuse(),
            1 => drop(incoming),
            2 if mood % 100 == 2 => return session.close().await,
            _ => drop(tokio::spawn(use_stream(incoming.accept(), mood))),
        }
    }
}

async fn once(random: &mut Random) {
    let limits = Limits {
        streams: 1 + random.below(16),
        header_bytes: 2000,
        frame_bytes: 1 << (10 + random.below(14)),
        stream_buffer: 1 + random.below(8000),
        session_buffer: 20_000,
        idle: Some(Duration::from_hours(1)),
        ..Limits::default()
    };
    let mut bytes = valid(random);
    match random.below(8) {
        0 => bytes = random.bytes(4000),
        1 => {}
        _ => spoil(random, &mut bytes),
    }
    let (ours, mut theirs) = tokio::io::duplex(1 + random.below(10_000));
    let early = bytes.drain(..random.below(bytes.len().min(50))).collect::<Vec<_>>();
    let session = Session::serve(ours, Bytes::from(early), limits);
    let (shared, ended) = (session.shared(), session.ended());
    let user = tokio::spawn(serve(session, random.below(1000)));
    let mut rest = bytes.as_slice();
    let mut sink = vec![0; 4096];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(1 + random.below(2000)));
        tokio::select! {
            written = theirs.write_all(now) => if written.is_err() { break },
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
        drop(
            tokio::time::timeout(
                Duration::ZERO,
                tokio::io::AsyncReadExt::read(&mut theirs, &mut sink),
            )
            .await,
        );
        assert!(shared.pool.used() <= 20_000 + (128 << 10), "{} bytes held", shared.pool.used());
        let (frames, waiting) = shared.outbox.waiting();
        assert!(frames <= 1100 && waiting <= 300 << 10, "{frames} frames and {waiting} bytes wait");
        rest = later;
    }
    drop(theirs);
    let bound = Duration::from_secs(30);
    tokio::time::timeout(bound, ended).await.unwrap();
    tokio::time::timeout(bound, shared.closed()).await.unwrap();
    tokio::time::timeout(bound, user).await.unwrap().unwrap();
}

#[test]
fn no_client_makes_a_session_fall_hang_or_grow() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let bound = Duration::from_secs(number("SPDY_FUZZ_SECONDS").unwrap_or(5));
    let seed = number("SPDY_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("SPDY_FUZZ_SEED={seed}");
    let (begin, mut random, mut runs) = (Instant::now(), Random(seed), 0);
    while begin.elapsed() < bound {
        // Time stands still while anything runs: a session that hangs is seen at once.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(once(&mut random));
        runs += 1;
    }
    println!("{runs} sessions");
}
