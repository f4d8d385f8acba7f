//! Reading what the kernel answers: bounded by the slice, whatever the lengths inside say.

/// One attribute: its kind without flags, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

/// The attributes in `bytes`, up to the first that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

/// The value of the first attribute of that kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|a| a.kind == kind).map(|a| a.value)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A whole attribute as a native 32-bit number.
pub(crate) fn u32_of(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_with_their_padding_and_without_their_flags() {
        let bytes = [5, 0, 1, 0x80, 7, 0, 0, 0, 8, 0, 2, 0, 1, 2, 3, 4];
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(
            read,
            [Attribute { kind: 1, value: &[7] }, Attribute { kind: 2, value: &[1, 2, 3, 4] }]
        );
    }

    #[test]
    fn a_length_that_lies_ends_the_list() {
        assert_eq!(attributes(&[200, 0, 1, 0, 7]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0, 7, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[3, 0]).count(), 0);
    }
}
