//! Streams: opening, half-close each way, resets.

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::client::{Seen, control, data, words};
use super::{all, opened, pair, soon};
use crate::{Limits, StreamError};

#[tokio::test]
async fn a_stream_is_replied_at_once_and_carries_bytes_both_ways() {
    let (mut session, mut client) = pair(Limits::default(), 4096);
    client.open(1, 0, &[("streamtype", "stdin"), ("requestID", "0\x001")]).await;
    let incoming = session.accept().await.unwrap();
    assert_eq!((incoming.id(), incoming.header("streamtype")), (1, Some("stdin")));
    assert_eq!(incoming.headers().last(), Some(("requestid", "1")));
    let (recv, mut send) = incoming.accept().split();
    assert_eq!(client.next().await, Some(Seen::Reply(1)));
    client.say(&[data(1, 0, b"he"), data(1, 0, b""), data(1, 1, b"llo")].concat()).await;
    assert_eq!(all(recv).await.unwrap(), b"hello");
    send.send(Bytes::from_static(b"world")).await.unwrap();
    send.finish().await.unwrap();
    assert_eq!(client.next().await, Some(Seen::data(1, 0, b"world")));
    assert_eq!(client.next().await, Some(Seen::data(1, 1, b"")));
}

#[tokio::test]
async fn after_the_clients_fin_the_server_may_go_on() {
    for fin_in_syn in [true, false] {
        let (mut session, mut client) = pair(Limits::default(), 4096);
        client.open(1, u8::from(fin_in_syn), &[]).await;
        if !fin_in_syn {
            let frame = client.encoder.headers(1, 1);
            client.say(&frame).await;
        }
        let (recv, mut send) = session.accept().await.unwrap().accept().split();
        assert_eq!(all(recv).await.unwrap(), b"");
        send.send(Bytes::from_static(b"late")).await.unwrap();
        send.finish().await.unwrap();
        assert_eq!(client.next().await, Some(Seen::Reply(1)));
        assert_eq!(client.next().await, Some(Seen::data(1, 0, b"late")));
        assert_eq!(client.next().await, Some(Seen::data(1, 1, b"")));
    }
}

#[tokio::test]
async fn after_the_servers_fin_the_client_may_go_on() {
    let (_session, mut client, stream) = opened(Limits::default(), 4096).await;
    let (mut recv, send) = stream.split();
    send.finish().await.unwrap();
    assert_eq!(client.next().await, Some(Seen::data(1, 1, b"")));
    client.say(&data(1, 0, b"still here")).await;
    let mut text = [0; 10];
    recv.read_exact(&mut text[..5]).await.unwrap();
    assert_eq!(recv.chunk().await.unwrap().unwrap(), " here");
    assert_eq!(&text[..5], b"still");
    client.say(&data(1, 1, b"")).await;
    assert_eq!(recv.chunk().await, Ok(None));
}

#[tokio::test]
async fn all_that_has_come_is_taken_at_once_and_nothing_waits_for_what_has_not() {
    let (_session, mut client, stream) = opened(Limits::default(), 4096).await;
    let (mut recv, _send) = stream.split();
    let half = &data(1, 0, b"and half of this")[..8 + 8];
    client.say(&[&data(1, 0, b"one, "), &data(1, 0, b"two, "), half].concat()).await;
    let mut pieces = Vec::new();
    assert_eq!(soon(recv.chunks(&mut pieces)).await, Ok(18));
    assert_eq!(pieces.concat(), b"one, two, and half");
    client.say(b" of this").await;
    assert_eq!(soon(recv.chunks(&mut pieces)).await, Ok(8));
    client.say(&data(1, 1, b"")).await;
    assert_eq!(soon(recv.chunks(&mut pieces)).await, Ok(0));
    assert_eq!(pieces.concat(), b"one, two, and half of this");
}

#[tokio::test]
async fn a_reset_by_the_client_comes_after_its_data() {
    let (_session, mut client, stream) = opened(Limits::default(), 4096).await;
    let (mut recv, mut send) = stream.split();
    client.say(&[data(1, 0, b"last"), words(3, &[1, 8])].concat()).await;
    assert_eq!(recv.chunk().await.unwrap().unwrap(), "last");
    assert_eq!(recv.chunk().await, Err(StreamError::Reset(8)));
    assert_eq!(send.send(Bytes::from_static(b"x")).await, Err(StreamError::Reset(8)));
    assert_eq!(send.finish().await, Err(StreamError::Reset(8)));
    client.say(&words(6, &[1])).await;
    assert_eq!(client.next().await, Some(Seen::Ping(1)));
}

#[tokio::test]
async fn a_stream_dropped_unfinished_is_cancelled_and_its_data_thrown_away() {
    let limits = Limits { stream_buffer: 100, ..Limits::default() };
    let (_session, mut client, stream) = opened(limits, 4096).await;
    let (mut recv, mut send) = stream.split();
    send.send(Bytes::from_static(b"part")).await.unwrap();
    send.reset();
    assert_eq!(client.next().await, Some(Seen::data(1, 0, b"part")));
    assert_eq!(client.next().await, Some(Seen::Reset(1, 5)));
    assert_eq!(recv.chunk().await, Err(StreamError::Closed));
    client.say(&[data(1, 0, &[7; 3000]), data(1, 0, &[7; 3000]), words(6, &[1])].concat()).await;
    assert_eq!(soon(client.next()).await, Some(Seen::Ping(1)));
}

#[tokio::test]
async fn a_dropped_receiver_holds_up_nobody_and_the_stream_still_sends() {
    let limits = Limits { stream_buffer: 100, ..Limits::default() };
    let (_session, mut client, stream) = opened(limits, 4096).await;
    let (recv, mut send) = stream.split();
    client.say(&data(1, 0, &[7; 3000])).await;
    drop(recv);
    client.say(&[data(1, 0, &[7; 3000]), words(6, &[1])].concat()).await;
    assert_eq!(soon(client.next()).await, Some(Seen::Ping(1)));
    send.send(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(client.next().await, Some(Seen::data(1, 0, b"x")));
}

#[tokio::test]
async fn a_stream_not_wanted_is_refused() {
    let (mut session, mut client) = pair(Limits::default(), 4096);
    client.open(1, 0, &[]).await;
    client.open(3, 0, &[]).await;
    session.accept().await.unwrap().refuse();
    drop(session.accept().await.unwrap());
    assert_eq!(client.next().await, Some(Seen::Reset(1, 3)));
    assert_eq!(client.next().await, Some(Seen::Reset(3, 3)));
}

#[tokio::test]
async fn a_one_way_stream_is_not_answered() {
    let (mut session, mut client) = pair(Limits::default(), 4096);
    client.open(1, 2, &[]).await;
    client.say(&[data(1, 1, b"x"), words(6, &[1])].concat()).await;
    let (recv, mut send) = session.accept().await.unwrap().accept().split();
    assert_eq!(send.send(Bytes::from_static(b"x")).await, Err(StreamError::Closed));
    assert_eq!(all(recv).await.unwrap(), b"x");
    assert_eq!(client.next().await, Some(Seen::Ping(1)));
}

#[tokio::test]
async fn ids_that_the_client_may_not_use_are_protocol_errors_of_their_stream() {
    let (_session, mut client, stream) = opened(Limits::default(), 4096).await;
    client.open(2, 0, &[]).await;
    assert_eq!(client.next().await, Some(Seen::Reset(2, 1)));
    client.open(1, 0, &[]).await;
    assert_eq!(client.next().await, Some(Seen::Reset(1, 1)));
    assert_eq!(all(stream.split().0).await, Err(StreamError::Reset(1)));
    client.say(&data(99, 0, b"x")).await;
    assert_eq!(client.next().await, Some(Seen::Reset(99, 2)));
}

#[tokio::test]
async fn data_after_the_clients_own_fin_resets_the_stream() {
    let (_session, mut client, _stream) = opened(Limits::default(), 4096).await;
    client.say(&[data(1, 1, b"x"), data(1, 0, b"y")].concat()).await;
    assert_eq!(client.next().await, Some(Seen::Reset(1, 9)));
}

#[tokio::test]
async fn one_stream_too_many_is_refused_until_another_is_over() {
    let (mut session, mut client, stream) =
        opened(Limits { streams: 1, ..Limits::default() }, 4096).await;
    client.open(3, 0, &[]).await;
    assert_eq!(client.next().await, Some(Seen::Reset(3, 3)));
    stream.split().1.finish().await.unwrap();
    client.say(&data(1, 1, b"")).await;
    client.open(5, 0, &[]).await;
    assert_eq!(session.accept().await.unwrap().id(), 5);
}

#[tokio::test]
async fn pings_are_echoed_for_the_clients_parity_and_other_frames_are_passed_over() {
    let (_session, mut client, stream) = opened(Limits::default(), 4096).await;
    let settings = control(4, 0, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 1, 0]);
    let unknown = control(200, 0xff, &vec![1; 100_000]);
    let frames =
        [words(6, &[2]), settings, unknown, words(9, &[1, 500]), words(6, &[3]), data(1, 1, b"on")];
    client.say(&frames.concat()).await;
    assert_eq!(client.next().await, Some(Seen::Ping(3)));
    assert_eq!(all(stream.split().0).await.unwrap(), b"on");
}
