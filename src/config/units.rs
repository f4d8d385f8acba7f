//! Spans of time and sizes as people write them: `"30s"`, `"64MiB"`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// A span of time: a number and `ms`, `s`, `m` or `h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(super) Duration);

/// A number of bytes: a number and, for large ones, `KiB`, `MiB`, `GiB` or `TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(super) u64);

const SPANS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
const SIZES: [(&str, u64); 5] =
    [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("", 1)];

impl Span {
    pub(crate) fn duration(self) -> Duration {
        self.0
    }
}

impl Size {
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || format!("{text:?} is not a span of time such as \"30s\" (ms, s, m, h)");
        let milliseconds = scaled(&text, &SPANS).ok_or_else(|| D::Error::custom(wrong()))?;
        Ok(Self(Duration::from_millis(milliseconds)))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || format!("{text:?} is not a size such as \"64MiB\" (KiB, MiB, GiB, TiB)");
        Ok(Self(scaled(&text, &SIZES).ok_or_else(|| D::Error::custom(wrong()))?))
    }
}

/// The first unit that leaves a number counts.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let number = |unit: &str| text.strip_suffix(unit)?.trim_end().parse::<u64>().ok();
    units.iter().find_map(|(unit, scale)| number(unit)?.checked_mul(*scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Both {
        span: Span,
        size: Size,
    }

    fn both(span: &str, size: &str) -> Result<Both, toml::de::Error> {
        toml::from_str(&format!("span = {span:?}\nsize = {size:?}"))
    }

    #[test]
    fn spans_and_sizes_are_numbers_with_units() {
        let both = both("250ms", "64 GiB").unwrap();
        assert_eq!(both.span.0, Duration::from_millis(250));
        assert_eq!(both.size.0, 64 << 30);
    }

    #[test]
    fn what_has_no_unit_or_overflows_is_refused_with_an_example() {
        for (span, size) in [("30", "1"), ("s", "1"), ("1s", "MiB"), ("1s", "99999999999TiB")] {
            let error = both(span, size).unwrap_err().to_string();
            assert!(error.contains("such as"), "{error}");
        }
    }
}
