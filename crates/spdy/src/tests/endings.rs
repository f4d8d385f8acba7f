//! How sessions end.

use std::time::Duration;

use bytes::Bytes;

use super::client::{Seen, data, words};
use super::{all, opened, soon};
use crate::{Breach, End, Limits, StreamError};

#[tokio::test]
async fn closing_says_goaway_after_all_that_was_sent() {
    let (session, mut client, stream) = opened(Limits::default(), 1024).await;
    let (mut recv, mut send) = stream.split();
    send.send(Bytes::from(vec![7; 100_000])).await.unwrap();
    let ended = session.ended();
    let close = tokio::spawn(session.close());
    let mut seen = client.rest().await;
    assert_eq!(seen.pop(), Some(Seen::Away(1, 0)));
    let bytes: usize = seen
        .iter()
        .map(|seen| if let Seen::Data { data, .. } = seen { data.len() } else { 0 })
        .sum();
    assert_eq!(bytes, 100_000);
    drop(client);
    soon(close).await.unwrap();
    assert_eq!(ended.await, End::Closed);
    assert_eq!(recv.chunk().await, Err(StreamError::Ended));
    assert_eq!(send.send(Bytes::from_static(b"x")).await, Err(StreamError::Ended));
}

#[tokio::test]
async fn the_last_handle_dropped_closes_the_connection() {
    let (session, mut client, stream) = opened(Limits::default(), 1024).await;
    let ended = session.ended();
    drop(session);
    client.say(&words(6, &[1])).await;
    assert_eq!(client.next().await, Some(Seen::Ping(1)));
    drop(stream);
    assert_eq!(ended.await, End::Closed);
    assert_eq!(client.rest().await, [Seen::Reset(1, 5), Seen::Away(1, 0)]);
}

#[tokio::test]
async fn a_client_that_goes_ends_streams_and_session() {
    let (mut session, client, stream) = opened(Limits::default(), 1024).await;
    drop(client);
    assert!(session.accept().await.is_none());
    assert_eq!(session.ended().await, End::Gone);
    assert_eq!(session.ended().await, End::Gone);
    let (recv, mut send) = stream.split();
    assert_eq!(all(recv).await, Err(StreamError::Ended));
    assert_eq!(send.send(Bytes::from_static(b"x")).await, Err(StreamError::Ended));
    soon(session.close()).await;
}

#[tokio::test]
async fn what_a_client_said_before_it_went_is_whole_only_with_its_fin() {
    for fin in [true, false] {
        let (session, mut client, stream) = opened(Limits::default(), 1024).await;
        client.say(&data(1, u8::from(fin), b"word")).await;
        drop(client);
        assert_eq!(session.ended().await, End::Gone);
        let (mut recv, _send) = stream.split();
        assert_eq!(recv.chunk().await.unwrap().unwrap(), "word");
        assert_eq!(recv.chunk().await, if fin { Ok(None) } else { Err(StreamError::Ended) });
    }
}

#[tokio::test]
async fn after_the_clients_goaway_there_are_no_new_streams_and_the_old_go_on() {
    let (mut session, mut client, stream) = opened(Limits::default(), 1024).await;
    client.say(&words(7, &[0, 0])).await;
    assert!(session.accept().await.is_none());
    client.open(3, 0, &[]).await;
    assert_eq!(client.next().await, Some(Seen::Reset(3, 3)));
    client.say(&data(1, 1, b"on")).await;
    assert_eq!(all(stream.split().0).await.unwrap(), b"on");
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_and_a_talking_one_does_not() {
    let limits = Limits { idle: Some(Duration::from_mins(1)), ..Limits::default() };
    let (session, mut client, stream) = opened(limits, 1024).await;
    let begin = tokio::time::Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        client.say(&data(1, 0, b"x")).await;
    }
    assert_eq!(session.ended().await, End::Idle);
    assert!((309..=312).contains(&begin.elapsed().as_secs()));
    assert_eq!(client.rest().await, [Seen::Away(1, 0)]);
    drop(stream);
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_session_with_goaway() {
    let cases: [(Vec<u8>, Breach); 6] = [
        (vec![0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], Breach::Version(2)),
        (vec![0x80, 3, 0, 6, 0, 0, 0, 5], Breach::Malformed { kind: 6, length: 5 }),
        (vec![0x80, 3, 0, 1, 0, 0, 0, 9], Breach::Malformed { kind: 1, length: 9 }),
        (vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], Breach::HeaderBytes(32 << 10)),
        (vec![0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 6, 6], Breach::Inflate),
        (vec![0, 0, 0, 1, 0, 0x10, 0, 1], Breach::FrameLength((1 << 20) + 1)),
    ];
    for (bytes, breach) in cases {
        let limits = Limits { frame_bytes: 1 << 20, ..Limits::default() };
        let bound =
            if breach == Breach::HeaderBytes(32 << 10) { Limits::default() } else { limits };
        let (session, mut client, _stream) = opened(bound, 1024).await;
        client.say(&bytes).await;
        assert_eq!(client.rest().await, [Seen::Away(1, 1)]);
        assert_eq!(session.ended().await, End::Protocol(breach));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_dies_while_its_data_is_stuck_is_noticed_within_a_second() {
    let limits = Limits { stream_buffer: 1000, ..Limits::default() };
    let (session, mut client, stream) = opened(limits, 1 << 17).await;
    for _ in 0..3 {
        client.say(&data(1, 0, &vec![7; 30_000])).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(client.next().await, Some(Seen::data(1, 0, b"")));
    let begin = tokio::time::Instant::now();
    drop(client);
    assert_eq!(session.ended().await, End::Gone);
    assert!(begin.elapsed() < Duration::from_secs(1));
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_does_not_keep_a_closed_session() {
    let (session, client, stream) = opened(Limits::default(), 1024).await;
    let mut send = stream.split().1;
    send.send(Bytes::from(vec![7; 100_000])).await.unwrap();
    let begin = tokio::time::Instant::now();
    session.close().await;
    assert_eq!(begin.elapsed().as_secs(), 11);
    drop(client);
}
