//! The few shapes in which the kernel writes numbers.

use super::{Pressure, Stall};

/// More than any memory: v1 writes "unlimited" as the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

/// One number.
pub(super) fn whole(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// One number, or `max` for none.
pub(super) fn max(text: &str) -> Option<u64> {
    whole(text).filter(|n| *n < UNLIMITED)
}

/// Lines of a name and a number.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse().ok()?))
    })
}

/// One of those lines.
pub(super) fn key(text: &str, name: &str) -> Option<u64> {
    lines(text).find_map(|(n, value)| (n == name).then_some(value))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for full.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let line = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(stall);
    Some(Pressure { some: line("some ")?, full: line("full ").unwrap_or_default() })
}

fn stall(line: &str) -> Stall {
    let mut stall = Stall::default();
    for (name, value) in line.split(' ').filter_map(|pair| pair.split_once('=')) {
        match name {
            "avg10" => stall.avg10 = value.parse().unwrap_or_default(),
            "avg60" => stall.avg60 = value.parse().unwrap_or_default(),
            "avg300" => stall.avg300 = value.parse().unwrap_or_default(),
            "total" => stall.total_us = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    stall
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlimited_is_no_number() {
        assert_eq!(max("max\n"), None);
        assert_eq!(max("9223372036854771712\n"), None);
        assert_eq!(max("1048576\n"), Some(1 << 20));
    }

    #[test]
    fn stalls_are_read_and_a_kernel_without_full_has_none() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 total=7\n";
        let found = pressure(text).unwrap();
        assert!((found.some.avg10 - 1.5).abs() < f64::EPSILON);
        assert_eq!((found.some.total_us, found.full.total_us), (42, 7));
        assert_eq!(pressure("some avg10=0.00 total=1").unwrap().full, Stall::default());
        assert_eq!(pressure(""), None);
    }
}
