//! Clients that mean harm.

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::client::{Seen, data, words};
use super::{opened, pair, soon};
use crate::{Breach, End, Limits};

#[tokio::test]
async fn a_bomb_in_a_header_block_ends_the_session() {
    let (session, mut client, _stream) = opened(Limits::default(), 1024).await;
    let bomb = client.encoder.syn_block(3, 0, &vec![0; 20 << 20]);
    drop(client.io.write_all(&bomb).await);
    assert_eq!(soon(client.rest()).await, [Seen::Away(1, 1)]);
    assert_eq!(session.ended().await, End::Protocol(Breach::HeaderBytes(32 << 10)));
}

#[tokio::test]
async fn a_header_count_of_two_thousand_million_resets_its_stream_only() {
    let (_session, mut client, _stream) = opened(Limits::default(), 1024).await;
    let frame = client.encoder.syn_block(3, 0, &(1u32 << 31).to_be_bytes());
    client.say(&frame).await;
    assert_eq!(client.next().await, Some(Seen::Reset(3, 1)));
    client.open(5, 0, &[("a", &"\0".repeat(5000))]).await;
    assert_eq!(client.next().await, Some(Seen::Reset(5, 1)));
    client.say(&words(6, &[1])).await;
    assert_eq!(client.next().await, Some(Seen::Ping(1)));
}

#[tokio::test]
async fn an_id_that_goes_back_ends_the_session() {
    for id in [0, 3] {
        let (mut session, mut client) = pair(Limits::default(), 1024);
        client.open(5, 0, &[]).await;
        let _incoming = session.accept().await.unwrap();
        client.open(id, 0, &[]).await;
        assert_eq!(client.rest().await, [Seen::Away(5, 1)]);
        assert_eq!(session.ended().await, End::Protocol(Breach::StreamId(id)));
    }
}

#[tokio::test]
async fn a_hundred_thousand_streams_cost_no_more_than_the_limit() {
    let (mut session, mut client) = pair(Limits { streams: 1000, ..Limits::default() }, 1 << 16);
    let accept = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(incoming) = session.accept().await {
            held.push(incoming.accept());
        }
        held.len()
    });
    let frames: Vec<_> =
        (0..100_000).map(|n| client.encoder.syn(2 * n + 1, 0, &[("streamtype", "data")])).collect();
    let (mut read, mut write) = tokio::io::split(client.io);
    let write = tokio::spawn(async move {
        for frame in frames {
            write.write_all(&frame).await.unwrap();
        }
        write
    });
    let mut decoder = super::client::Decoder::new();
    let mut answers = [0; 2];
    for _ in 0..100_000 {
        match soon(decoder.next(&mut read)).await.unwrap() {
            Seen::Reply(_) => answers[0] += 1,
            Seen::Reset(_, 3) => answers[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers, [1000, 99_000]);
    drop((write.await.unwrap(), read));
    assert_eq!(accept.await.unwrap(), 1000);
}

#[tokio::test(start_paused = true)]
async fn streams_that_nobody_accepts_are_refused_beyond_a_backlog_and_hold_up_the_rest_a_second() {
    let (session, mut client) = pair(Limits::default(), 1024);
    let begin = tokio::time::Instant::now();
    for id in 0..1000 {
        let frames = [client.encoder.syn(2 * id + 1, 0, &[]), words(3, &[2 * id + 1, 5])];
        client.say(&frames.concat()).await;
        if id >= 64 {
            assert_eq!(client.next().await, Some(Seen::Reset(2 * id + 1, 3)));
        }
    }
    assert_eq!(begin.elapsed().as_secs(), 1);
    drop(client);
    assert_eq!(session.ended().await, End::Gone);
}

#[tokio::test]
async fn answers_that_are_not_read_stop_the_reading() {
    let (session, client, _stream) = opened(Limits::default(), 1024).await;
    let shared = session.shared();
    let (_read, mut write) = tokio::io::split(client.io);
    let feed = tokio::spawn(async move {
        let pings = words(6, &[1]).repeat(64);
        while write.write_all(&pings).await.is_ok() {}
    });
    for _ in 0..20_000 {
        tokio::task::yield_now().await;
    }
    assert!((1000..1100).contains(&shared.outbox.waiting().0), "{:?}", shared.outbox.waiting());
    assert!(!feed.is_finished());
    feed.abort();
}

#[tokio::test]
async fn refusals_that_are_not_read_stop_the_reading() {
    let (mut session, client) = pair(Limits { streams: 100, ..Limits::default() }, 1024);
    let shared = session.shared();
    tokio::spawn(
        async move { while session.accept().await.map(crate::Incoming::refuse).is_some() {} },
    );
    let mut encoder = client.encoder;
    let (_read, mut write) = tokio::io::split(client.io);
    let feed = tokio::spawn(async move {
        for n in 0.. {
            write.write_all(&encoder.syn(2 * n + 1, 0, &[])).await.unwrap();
        }
    });
    for _ in 0..50_000 {
        tokio::task::yield_now().await;
    }
    let refusals = shared.outbox.waiting().1 / 16;
    assert!((1000..1300).contains(&refusals), "{refusals}");
    assert!(!feed.is_finished());
    feed.abort();
}

#[tokio::test]
async fn the_smallest_chunks_count_for_what_they_cost() {
    let (session, mut client, _stream) =
        opened(Limits { stream_buffer: 6500, ..Limits::default() }, 1024).await;
    let shared = session.shared();
    let feed = tokio::spawn(async move {
        for _ in 0..10_000 {
            client.say(&data(1, 0, b"x")).await;
        }
    });
    for _ in 0..5000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(shared.pool.used(), 6500);
    assert!(!feed.is_finished());
    feed.abort();
}

#[tokio::test]
async fn a_frame_of_sixteen_mebibytes_is_dealt_out_as_it_comes() {
    let (session, mut client, stream) = opened(Limits::default(), 1 << 16).await;
    let shared = session.shared();
    let feed = tokio::spawn(async move {
        client.say(&data(1, 1, &vec![7; (1 << 24) - 1])).await;
        client
    });
    let (mut recv, _send) = stream.split();
    let mut bytes = 0;
    while let Some(chunk) = recv.chunk().await.unwrap() {
        bytes += chunk.len();
        assert!(chunk.len() <= 128 << 10 && shared.pool.used() <= 400 << 10);
    }
    assert_eq!(bytes, (1 << 24) - 1);
    drop(feed.await.unwrap());
}

#[tokio::test]
async fn early_bytes_are_the_first_of_the_connection() {
    let (ours, theirs) = tokio::io::duplex(1024);
    let mut client = super::Client::new(theirs);
    let bytes = [client.encoder.syn(1, 0, &[]), data(1, 1, b"early")].concat();
    let (early, late) = bytes.split_at(bytes.len() - 3);
    let mut session = crate::Session::serve(ours, Bytes::copy_from_slice(early), Limits::default());
    let (recv, _send) = session.accept().await.unwrap().accept().split();
    client.say(late).await;
    assert_eq!(super::all(recv).await.unwrap(), b"early");
}
