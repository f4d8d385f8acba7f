//! One request: a header, a family's fixed part, and attributes.

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;

/// A request under construction. `what` names its step in errors.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) what: &'static str,
    bytes: Vec<u8>,
    overlong: bool,
}

/// Attributes of a message or of a nest.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    bytes: Vec<u8>,
    overlong: bool,
}

impl Message {
    /// `kind` and `flags` are the header's; `fixed` is the family's part (ifinfomsg, rtmsg, nfgenmsg ...).
    pub(crate) fn new(what: &'static str, kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        put(&mut bytes, 4, &kind.to_ne_bytes());
        put(&mut bytes, 6, &flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        pad(&mut bytes);
        Self { what, bytes, overlong: false }
    }

    /// Adds attributes.
    #[must_use]
    pub(crate) fn with(mut self, fill: impl FnOnce(Fields) -> Fields) -> Self {
        let fields = fill(Fields::default());
        self.bytes.extend_from_slice(&fields.bytes);
        self.overlong |= fields.overlong;
        self
    }

    pub(crate) fn flag(&mut self, flags: u16) {
        let old =
            self.bytes.get(6..8).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes);
        put(&mut self.bytes, 6, &(old | flags).to_ne_bytes());
    }

    /// The bytes to send, or nothing when an attribute outgrew its 16-bit length.
    pub(crate) fn finish(mut self, sequence: u32) -> Option<Vec<u8>> {
        let length = u32::try_from(self.bytes.len()).ok()?;
        put(&mut self.bytes, 0, &length.to_ne_bytes());
        put(&mut self.bytes, 8, &sequence.to_ne_bytes());
        (!self.overlong).then_some(self.bytes)
    }
}

impl Fields {
    #[must_use]
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        match u16::try_from(value.len() + 4) {
            Ok(length) => {
                self.bytes.extend_from_slice(&length.to_ne_bytes());
                self.bytes.extend_from_slice(&kind.to_ne_bytes());
                self.bytes.extend_from_slice(value);
                pad(&mut self.bytes);
            }
            Err(_) => self.overlong = true,
        }
        self
    }

    #[must_use]
    pub(crate) fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    #[must_use]
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    #[must_use]
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    #[must_use]
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    #[must_use]
    pub(crate) fn nest(self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        self.nest_after(kind, &[], fill)
    }

    /// A nest that begins with a fixed part, as a veth's peer does.
    #[must_use]
    pub(crate) fn nest_after(
        self,
        kind: u16,
        fixed: &[u8],
        fill: impl FnOnce(Self) -> Self,
    ) -> Self {
        let inner = fill(Self::default());
        let overlong = inner.overlong;
        let mut value = fixed.to_vec();
        value.extend_from_slice(&inner.bytes);
        let mut outer = self.bytes(kind | NESTED, &value);
        outer.overlong |= overlong;
        outer
    }

    /// The same as `fill(self)`, for a loop's body.
    #[must_use]
    pub(crate) fn each<T>(
        self,
        items: impl IntoIterator<Item = T>,
        fill: impl Fn(Self, T) -> Self,
    ) -> Self {
        items.into_iter().fold(self, fill)
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_laid_out_as_the_kernel_reads_it() {
        let message = Message::new("try", 0x10, 0x5, &[1, 2, 3, 4])
            .with(|f| f.text(3, "lo").nest(18, |n| n.u8(1, 7)));
        let bytes = message.finish(9).unwrap();
        assert_eq!(bytes.len(), 16 + 4 + 8 + 12);
        assert_eq!(bytes[..4], 40u32.to_ne_bytes());
        assert_eq!(bytes[4..8], [0x10, 0, 5, 0]);
        assert_eq!(bytes[8..12], 9u32.to_ne_bytes());
        assert_eq!(bytes[20..28], [7, 0, 3, 0, b'l', b'o', 0, 0]);
        assert_eq!(bytes[28..40], [12, 0, 18, 0x80, 5, 0, 1, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn an_attribute_beyond_its_length_field_is_refused_and_not_cut() {
        let message =
            Message::new("try", 1, 0, &[]).with(|f| f.nest(1, |n| n.bytes(2, &vec![0; 70_000])));
        assert!(message.finish(1).is_none());
    }
}
