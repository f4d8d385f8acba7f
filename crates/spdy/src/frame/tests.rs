use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn every_eight_bytes_are_a_head_that_is_written_back_alike(bytes: [u8; HEAD]) {
        prop_assert_eq!(Head::parse(bytes).encode(), bytes);
    }
}

#[test]
fn a_data_frame_has_its_stream_flags_and_length_in_eight_bytes() {
    let frame = Frame::data(0x0102_0304, FIN, Bytes::from(vec![0; 0x01_0203]));
    assert_eq!(frame.head, [1, 2, 3, 4, FIN, 1, 2, 3]);
    assert_eq!(frame.len(), 8 + 0x01_0203);
}

#[test]
fn control_frames_say_version_3_and_their_type() {
    assert_eq!(Frame::ping(7).head, [0x80, 3, 0, 6, 0, 0, 0, 4]);
    assert_eq!(Frame::goaway(5, 1).head, [0x80, 3, 0, 7, 0, 0, 0, 8]);
    assert_eq!(&Frame::reset(9, reset::CANCEL).payload[..], [0, 0, 0, 9, 0, 0, 0, 5]);
    assert_eq!(Frame::syn_reply(3, b"xyz").head, [0x80, 3, 0, 2, 0, 0, 0, 7]);
}
