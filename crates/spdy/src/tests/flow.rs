//! Back-pressure, fairness, and what may overtake.

use bytes::Bytes;

use super::client::{Seen, data, words};
use super::{opened, pair, soon};
use crate::Limits;
use crate::core::CHUNK_COST;

#[tokio::test]
async fn a_stream_that_is_not_read_holds_up_the_connection_and_no_more_than_its_bound() {
    let limits = Limits { stream_buffer: 10_000, ..Limits::default() };
    let (session, client, stream) = opened(limits, 1024).await;
    let shared = session.shared();
    let mut client = client;
    let talk = tokio::spawn(async move {
        for _ in 0..100 {
            client.say(&data(1, 0, &[7; 1000])).await;
        }
        client.say(&data(1, 1, b"")).await;
        client
    });
    while shared.pool.used() < 10_000 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert!(shared.pool.used() <= 10_000 + 1000 + CHUNK_COST);
    }
    assert!(!talk.is_finished());
    assert_eq!(soon(super::all(stream.split().0)).await.unwrap().len(), 100_000);
    drop(talk.await.unwrap());
    assert_eq!(shared.pool.used(), 0);
}

#[tokio::test]
async fn a_ping_overtakes_data_that_waits() {
    let (_session, mut client, stream) = opened(Limits::default(), 1 << 16).await;
    let (_recv, mut send) = stream.split();
    tokio::spawn(async move { while send.send(Bytes::from(vec![7; 1 << 20])).await.is_ok() {} });
    client.next().await.unwrap();
    client.say(&words(6, &[7])).await;
    let mut before = 0;
    while client.next().await.unwrap() != Seen::Ping(7) {
        before += 1;
    }
    assert!(before < 20, "{before} frames of 64 KiB before the ping");
}

#[tokio::test]
async fn streams_that_send_at_once_take_turns() {
    let (mut session, mut client) = pair(Limits::default(), 1 << 16);
    let mut streams = Vec::new();
    for id in [1, 3] {
        client.open(id, 0, &[]).await;
        streams.push(session.accept().await.unwrap().accept());
        assert_eq!(client.next().await, Some(Seen::Reply(id)));
    }
    for stream in streams {
        tokio::spawn(async move {
            let (_recv, mut send) = stream.split();
            while send.send(Bytes::from(vec![7; 4 << 20])).await.is_ok() {}
        });
    }
    let mut frames = [0; 2];
    for _ in 0..100 {
        match client.next().await.unwrap() {
            Seen::Data { stream, data, .. } => {
                assert!(data.len() <= crate::outbox::DATA);
                frames[usize::from(stream == 3)] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(frames.iter().all(|frames| *frames >= 30), "{frames:?}");
}

#[tokio::test]
async fn a_sender_waits_for_a_client_that_does_not_read() {
    let limits = Limits { send_buffer: 100_000, ..Limits::default() };
    let (_session, mut client, stream) = opened(limits, 1024).await;
    let (_recv, mut send) = stream.split();
    let feed = tokio::spawn(async move {
        send.send(Bytes::from(vec![7; 1_000_000])).await.unwrap();
        send.finish().await.unwrap();
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!feed.is_finished());
    let mut bytes = 0;
    while let Some(Seen::Data { data, flags: 0, .. }) = client.next().await {
        bytes += data.len();
    }
    assert_eq!(bytes, 1_000_000);
    feed.await.unwrap();
}
