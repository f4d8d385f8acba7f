//! The same session in other pieces, and random sessions in random pieces.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::client::{Decoder, Encoder, Seen, data, words};
use super::{all, soon};
use crate::{Limits, Session};

/// Echoes every stream whole, after its FIN.
fn echo(mut session: Session) {
    tokio::spawn(async move {
        while let Some(incoming) = session.accept().await {
            let (recv, mut send) = incoming.accept().split();
            tokio::spawn(async move {
                let bytes = all(recv).await.unwrap();
                send.send(bytes.into()).await.unwrap();
                send.finish().await.unwrap();
            });
        }
    });
}

/// What comes back on each stream when these bytes are said in these pieces to a session that echoes.
async fn echoed(
    bytes: Vec<u8>,
    pieces: Vec<usize>,
    room: usize,
    streams: usize,
) -> BTreeMap<u32, Vec<u8>> {
    let (ours, theirs) = tokio::io::duplex(room);
    echo(Session::serve(
        ours,
        bytes::Bytes::new(),
        Limits { stream_buffer: 1 << 20, ..Limits::default() },
    ));
    let (mut read, mut write) = tokio::io::split(theirs);
    let feed = tokio::spawn(async move {
        let mut rest = bytes.as_slice();
        for piece in pieces.into_iter().cycle() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            write.write_all(now).await.unwrap();
            tokio::task::yield_now().await;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        write
    });
    let (mut decoder, mut seen, mut over) = (Decoder::new(), BTreeMap::<u32, Vec<u8>>::new(), 0);
    while over < streams {
        match soon(decoder.next(&mut read)).await.unwrap() {
            Seen::Data { stream, flags, data } => {
                seen.entry(stream).or_default().extend(data);
                over += usize::from(flags == 1);
            }
            Seen::Reply(_) | Seen::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
    drop(feed.await.unwrap());
    seen
}

fn small() -> (Vec<u8>, BTreeMap<u32, Vec<u8>>) {
    let mut encoder = Encoder::new();
    let frames = [
        encoder.syn(1, 0, &[("streamtype", "error")]),
        data(1, 0, b"one"),
        encoder.syn(3, 0, &[("streamtype", "stdin"), ("port", "80")]),
        words(6, &[1]),
        data(3, 0, b"two"),
        data(1, 1, b" and more"),
        data(3, 1, b""),
    ];
    (frames.concat(), BTreeMap::from([(1, b"one and more".to_vec()), (3, b"two".to_vec())]))
}

#[tokio::test]
async fn a_session_torn_at_any_byte_is_the_same_session() {
    let (bytes, expected) = small();
    for at in 1..bytes.len() {
        assert_eq!(
            echoed(bytes.clone(), vec![at, bytes.len()], 1 << 16, 2).await,
            expected,
            "torn at {at}"
        );
    }
}

#[tokio::test]
async fn a_session_byte_by_byte_each_way_is_the_same_session() {
    let (bytes, expected) = small();
    assert_eq!(echoed(bytes, vec![1], 1, 2).await, expected);
}

/// What a random client says: for each chunk the stream (of six) and its bytes.
type Chunks = Vec<(u32, Vec<u8>)>;

fn session(chunks: &Chunks) -> (Vec<u8>, BTreeMap<u32, Vec<u8>>) {
    let (mut encoder, mut bytes, mut expected) =
        (Encoder::new(), Vec::new(), BTreeMap::<u32, Vec<u8>>::new());
    for id in (1..12).step_by(2) {
        bytes.extend(encoder.syn(id, 0, &[("id", &id.to_string())]));
        expected.insert(id, Vec::new());
    }
    for (stream, chunk) in chunks {
        bytes.extend(data(2 * stream + 1, 0, chunk));
        expected.get_mut(&(2 * stream + 1)).unwrap().extend(chunk);
    }
    for id in (1..12).step_by(2) {
        bytes.extend(data(id, 1, b""));
    }
    (bytes, expected)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn interleaved_streams_each_carry_their_own_bytes(
        chunks in prop::collection::vec((0u32..6, prop::collection::vec(any::<u8>(), 0..20_000)), 0..30),
        pieces in prop::collection::vec(1usize..40_000, 1..10),
        room in 1000usize..100_000,
    ) {
        let (bytes, expected) = session(&chunks);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let seen = runtime.block_on(echoed(bytes, pieces, room, 6));
        // Not `assert_eq`, which would print megabytes.
        prop_assert!(seen == expected);
    }
}
