//! How fast bytes go, measured by hand: `cargo test --release -p spdy speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::client::{Encoder, data};
use crate::{Limits, Session};

const TOTAL: usize = 8 << 30;

fn report(what: &str, frame: usize, took: Duration) {
    let rate = f64::from(u32::try_from(TOTAL >> 10).unwrap()) * 1024e-9 / took.as_secs_f64();
    println!("{what}, frames of {} KiB: {rate:.2} GB/s", frame >> 10);
}

#[tokio::test]
#[ignore = "a measurement"]
async fn received() {
    for size in [32 << 10, 64 << 10] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut session = Session::serve(ours, Bytes::new(), Limits::default());
        theirs.write_all(&Encoder::new().syn(1, 0, &[])).await.unwrap();
        let (mut recv, _send) = session.accept().await.unwrap().accept().split();
        let frames = data(1, 0, &vec![7; size]).repeat((1 << 20) / size);
        let begin = Instant::now();
        let feed = tokio::spawn(async move {
            for _ in 0..TOTAL >> 20 {
                theirs.write_all(&frames).await.unwrap();
            }
            theirs
        });
        let mut bytes = 0;
        while bytes < TOTAL {
            bytes += recv.chunk().await.unwrap().unwrap().len();
        }
        report("received", size, begin.elapsed());
        drop(feed.await.unwrap());
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn sent() {
    for size in [32 << 10, 64 << 10] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut session = Session::serve(ours, Bytes::new(), Limits::default());
        theirs.write_all(&Encoder::new().syn(1, 0, &[])).await.unwrap();
        let (_recv, mut send) = session.accept().await.unwrap().accept().split();
        let begin = Instant::now();
        let feed = tokio::spawn(async move {
            let payload = Bytes::from(vec![7; size]);
            for _ in 0..TOTAL / size {
                send.send(payload.clone()).await.unwrap();
            }
            send.finish().await.unwrap();
        });
        let (mut buffer, mut bytes) = (vec![0; 256 << 10], 0);
        // Frames' heads come on top, so that `finish` can return.
        while bytes < TOTAL + TOTAL / size * 8 + 8 {
            bytes += theirs.read(&mut buffer).await.unwrap();
        }
        report("sent", size, begin.elapsed());
        feed.await.unwrap();
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn the_bare_socket() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let begin = Instant::now();
    let feed = tokio::spawn(async move {
        let bytes = vec![7; 256 << 10];
        for _ in 0..TOTAL / bytes.len() {
            ours.write_all(&bytes).await.unwrap();
        }
    });
    let (mut buffer, mut bytes) = (vec![0; 128 << 10], 0);
    while bytes < TOTAL {
        bytes += theirs.read(&mut buffer).await.unwrap();
    }
    report("bare socket", 256 << 10, begin.elapsed());
    feed.await.unwrap();
}
