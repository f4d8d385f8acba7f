//! Window sizes: JSON objects, one after the other, cut anywhere.

use serde::Deserialize;

use super::ends::Input;

/// No object is longer; more than this that makes none is thrown away.
const PENDING_MAX: usize = 4096;

/// A window's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Size {
    pub(super) width: u16,
    pub(super) height: u16,
}

/// A window, whose sizes the client tells.
#[derive(Debug)]
pub(super) struct Window {
    from: Input,
    sizes: Sizes,
}

impl Window {
    pub(super) fn new(from: Input) -> Self {
        Self { from, sizes: Sizes::default() }
    }

    /// Its next size; none when the client tells no more. Cancel-safe.
    pub(super) async fn size(&mut self) -> Option<Size> {
        while let Ok(Some(bytes)) = self.from.chunk().await {
            let size = self.sizes.feed(&bytes);
            if size.is_some() {
                return size;
            }
        }
        None
    }
}

/// What came and makes no whole object yet.
#[derive(Debug, Default)]
struct Sizes {
    pending: Vec<u8>,
}

impl Sizes {
    /// The last size that these bytes complete: what lies between has no meaning any more.
    fn feed(&mut self, bytes: &[u8]) -> Option<Size> {
        self.pending.extend_from_slice(bytes);
        let mut last = None;
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'}') {
            let object: Vec<u8> = self.pending.drain(..=end).collect();
            // What cannot be understood is no size: the next one may be.
            last = size(&object).or(last);
        }
        if self.pending.len() > PENDING_MAX {
            self.pending.clear();
        }
        last
    }
}

/// The object that ends these bytes.
fn size(bytes: &[u8]) -> Option<Size> {
    let start = bytes.iter().rposition(|byte| *byte == b'{')?;
    serde_json::from_slice(bytes.get(start..)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_may_be_cut_anywhere_and_the_last_counts() {
        let mut sizes = Sizes::default();
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":120,\"Height\":40}\n";
        let fed: Vec<Size> = text.iter().filter_map(|byte| sizes.feed(&[*byte])).collect();
        assert_eq!(fed, [Size { width: 80, height: 24 }, Size { width: 120, height: 40 }]);
        assert_eq!(sizes.feed(text), Some(Size { width: 120, height: 40 }));
    }

    #[test]
    fn nonsense_is_passed_over() {
        let mut sizes = Sizes::default();
        assert_eq!(
            sizes.feed(b"}}{\"Width\":-1,\"Height\":2}{\"Width\":70000,\"Height\":2}"),
            None
        );
        assert_eq!(sizes.feed(b"{{\"Width\":1,\"Height\":2}"), Some(Size { width: 1, height: 2 }));
        for _ in 0..10 {
            assert_eq!(sizes.feed(&[b'{'; 1000]), None);
            assert!(sizes.pending.len() <= PENDING_MAX);
        }
        assert_eq!(sizes.feed(b"{\"Width\":1,\"Height\":2}"), Some(Size { width: 1, height: 2 }));
    }
}
