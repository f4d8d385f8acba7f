use proptest::prelude::*;

use super::*;

fn block(pairs: &[(&str, &str)]) -> Vec<u8> {
    let number = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    let mut out = number(pairs.len()).to_vec();
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        out.extend(number(text.len()));
        out.extend(text.as_bytes());
    }
    out
}

#[test]
fn values_are_parted_at_nul_and_names_are_lowered() {
    let headers = Headers::parse(&block(&[("StreamType", "a\0b"), ("port", "80")]), 8).unwrap();
    assert_eq!(
        headers.iter().collect::<Vec<_>>(),
        [("streamtype", "a"), ("streamtype", "b"), ("port", "80")]
    );
    assert_eq!(headers.first("streamtype"), Some("a"));
    assert_eq!(headers.first("none"), None);
}

#[test]
fn what_the_draft_forbids_is_refused() {
    let parse = |pairs: &[(&str, &str)]| Headers::parse(&block(pairs), 3);
    assert_eq!(parse(&[("", "x")]), Err(HeaderError::Unnamed));
    assert_eq!(parse(&[("a", "x"), ("A", "y")]), Err(HeaderError::Twice));
    assert_eq!(parse(&[("a", "\0\0\0")]), Err(HeaderError::TooMany(3)));
    assert_eq!(parse(&[("a", ""); 4]), Err(HeaderError::TooMany(3)));
    assert_eq!(Headers::parse(&[0, 0, 0, 0, 9], 3), Err(HeaderError::Length));
    assert_eq!(
        Headers::parse(&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0], 3),
        Err(HeaderError::Text)
    );
}

#[test]
fn a_count_or_a_length_of_two_thousand_million_allocates_nothing() {
    assert_eq!(Headers::parse(&(1u32 << 31).to_be_bytes(), 64), Err(HeaderError::TooMany(64)));
    assert_eq!(Headers::parse(&[0, 0, 0, 1, 0x80, 0, 0, 0], 64), Err(HeaderError::Length));
}

proptest! {
    #[test]
    fn a_block_is_read_back_whole_and_never_when_cut(
        pairs in prop::collection::btree_map("[a-z-]{1,12}", "[ -~]{0,40}", 0..20usize)
    ) {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let block = block(&pairs);
        let headers = Headers::parse(&block, 20).unwrap();
        prop_assert_eq!(headers.iter().collect::<Vec<_>>(), pairs);
        for cut in 0..block.len() {
            prop_assert!(Headers::parse(&block[..cut], 20).is_err());
        }
    }

    #[test]
    fn no_bytes_make_the_parser_fall(bytes: Vec<u8>) {
        let values = Headers::parse(&bytes, 16).map_or(0, |headers| headers.iter().count());
        prop_assert!(values <= 16);
    }
}
