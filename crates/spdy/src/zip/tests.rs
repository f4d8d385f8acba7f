use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

use super::*;

/// What a client sends: squeezed blocks of one stream.
fn client() -> impl FnMut(&[u8]) -> Vec<u8> {
    let mut zlib = Compress::new(Compression::best(), true);
    zlib.set_dictionary(&DICTIONARY).unwrap();
    move |block| {
        let mut out = Vec::with_capacity(block.len() + 256);
        zlib.compress_vec(block, &mut out, FlushCompress::Sync).unwrap();
        assert!(out.len() < out.capacity());
        out
    }
}

proptest! {
    #[test]
    fn blocks_of_one_stream_come_out_as_they_went_in(
        blocks in prop::collection::vec(prop::collection::vec(0u8..4, 0..5000), 1..8)
    ) {
        let (mut squeeze, mut store) = (client(), Deflater::default());
        let (mut one, mut two) = (Inflater::new(5000), Inflater::new(5000));
        for block in &blocks {
            prop_assert_eq!(&one.inflate(&squeeze(block)).unwrap(), block);
            prop_assert_eq!(&two.inflate(&store.deflate(block)).unwrap(), block);
        }
    }

    #[test]
    fn no_bytes_make_the_inflater_fall_or_exceed_its_limit(bytes: Vec<u8>, torn in 0usize..200) {
        let mut valid = client()(&vec![7; 3000]);
        valid.truncate(torn);
        valid.extend(bytes);
        if let Ok(out) = Inflater::new(1000).inflate(&valid) {
            prop_assert!(out.len() <= 1000 && out.capacity() <= 1001);
        }
    }
}

#[test]
fn a_block_may_fill_the_limit_and_not_pass_it() {
    let mut squeeze = client();
    let mut inflater = Inflater::new(1000);
    assert_eq!(inflater.inflate(&squeeze(&[1; 1000])).unwrap().len(), 1000);
    assert_eq!(inflater.inflate(&squeeze(&[1; 1001])), Err(Breach::HeaderBytes(1000)));
}

#[test]
fn a_bomb_is_inflated_to_the_limit_only() {
    let bomb = client()(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100_000);
    let mut inflater = Inflater::new(32 << 10);
    assert_eq!(inflater.inflate(&bomb), Err(Breach::HeaderBytes(32 << 10)));
    assert!(inflater.zlib.total_out() <= 33 << 10);
}

#[test]
fn another_dictionary_and_the_streams_end_are_refused() {
    let mut zlib = Compress::new(Compression::fast(), true);
    zlib.set_dictionary(b"another").unwrap();
    let mut out = Vec::with_capacity(100);
    zlib.compress_vec(b"x", &mut out, FlushCompress::Sync).unwrap();
    assert_eq!(Inflater::new(100).inflate(&out), Err(Breach::Inflate));
    let mut zlib = Compress::new(Compression::fast(), true);
    let mut out = Vec::with_capacity(100);
    zlib.compress_vec(b"x", &mut out, FlushCompress::Finish).unwrap();
    out.extend(b"more");
    assert_eq!(Inflater::new(100).inflate(&out), Err(Breach::Inflate));
}
