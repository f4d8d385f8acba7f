//! The CRI log format: `2026-01-02T03:04:05.000000006Z stdout F text`.
//!
//! A line of more than [`MAX_LINE`] bytes is cut into records tagged P, of which the last is tagged F. What is left
//! without a newline at the end of a stream is tagged P. Where the process's writes were cut does not matter.

use std::io::Write;
use std::time::Duration;

/// The longest text of one record.
pub(crate) const MAX_LINE: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// What precedes the tag of each record read at one moment: the time and the stream.
#[derive(Debug)]
pub(crate) struct Prefix(Vec<u8>);

/// Cuts what a stream gives into records.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// The beginning of a line whose end has not come, at most [`MAX_LINE`].
    partial: Vec<u8>,
}

// === impl Prefix ===

impl Prefix {
    /// The prefix of what is read this long after the epoch.
    pub(crate) fn new(now: Duration, stream: Stream) -> Self {
        let (year, month, day) = civil(now.as_secs() / 86_400);
        let second = now.as_secs() % 86_400;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let nanos = now.subsec_nanos();
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let mut text = Vec::with_capacity(40);
        // Writing to a vector cannot fail.
        write!(
            text,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z {stream} "
        )
        .ok();
        Self(text)
    }
}

// === impl Splitter ===

impl Splitter {
    /// How long the records are at most that these bytes complete.
    pub(crate) fn most(&self, bytes: &[u8], prefix: &Prefix) -> usize {
        let lines = bytes.split(|&byte| byte == b'\n').count();
        let text = self.partial.len() + bytes.len();
        text + (lines + text / MAX_LINE) * (prefix.0.len() + 3)
    }

    /// Appends the records that these bytes complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], prefix: &Prefix, out: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            let tail = self.cut(line, prefix, out);
            record(prefix, b'F', [&self.partial, tail], out);
            self.partial.clear();
            bytes = rest.get(1..).unwrap_or_default();
        }
        let tail = self.cut(bytes, prefix, out);
        self.partial.extend_from_slice(tail);
        if self.partial.is_empty() {
            // Most streams end their writes with a newline: nothing is held for them.
            self.partial = Vec::new();
        }
    }

    /// The end of the stream: what is left without a newline.
    pub(crate) fn finish(&mut self, prefix: &Prefix, out: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.partial);
        if !rest.is_empty() {
            record(prefix, b'P', [&rest, &[]], out);
        }
    }

    /// Writes whole pieces until what is left fits into one record together with what is held.
    fn cut<'b>(&mut self, mut bytes: &'b [u8], prefix: &Prefix, out: &mut Vec<u8>) -> &'b [u8] {
        while self.partial.len() + bytes.len() > MAX_LINE {
            let (piece, rest) = bytes.split_at(MAX_LINE - self.partial.len());
            record(prefix, b'P', [&self.partial, piece], out);
            self.partial.clear();
            bytes = rest;
        }
        bytes
    }
}

fn record(prefix: &Prefix, tag: u8, text: [&[u8]; 2], out: &mut Vec<u8>) {
    out.extend_from_slice(&prefix.0);
    out.extend_from_slice(&[tag, b' ']);
    for part in text {
        out.extend_from_slice(part);
    }
    out.push(b'\n');
}

/// Year, month and day of a day after the epoch, in the Gregorian calendar, by eras of 400 years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day - (153 * march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const PREFIX: &str = "1970-01-01T00:00:00.000000000Z stdout ";

    fn split(writes: &[Vec<u8>]) -> Vec<u8> {
        let prefix = Prefix::new(Duration::ZERO, Stream::Stdout);
        let (mut splitter, mut out) = (Splitter::default(), Vec::new());
        for write in writes {
            let (most, before) = (splitter.most(write, &prefix), out.len());
            splitter.push(write, &prefix, &mut out);
            assert!(out.len() - before <= most);
            assert!(splitter.partial.len() <= MAX_LINE);
        }
        splitter.finish(&prefix, &mut out);
        out
    }

    /// What the process wrote, from the records.
    fn join(log: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for line in log.split_inclusive(|&byte| byte == b'\n') {
            let line = line.strip_prefix(PREFIX.as_bytes()).unwrap();
            let (tag, line) = (line[0], &line[2..line.len() - 1]);
            assert!(line.len() <= MAX_LINE);
            text.extend_from_slice(line);
            match tag {
                b'F' => text.push(b'\n'),
                b'P' => assert!(!line.is_empty()),
                other => panic!("tag {other}"),
            }
        }
        text
    }

    fn some_text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..100),
            (0usize..3 * MAX_LINE).prop_map(|n| vec![b'x'; n]),
            (MAX_LINE - 2..MAX_LINE + 3).prop_map(|n| [vec![b'y'; n], vec![b'\n']].concat()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_log_holds_what_was_written_however_it_was_cut(
            text in vec(some_text(), 0..4).prop_map(|parts| parts.concat()),
            sizes in vec(1usize..20_000, 1..6),
        ) {
            let mut writes = Vec::new();
            let (mut rest, mut sizes) = (text.as_slice(), sizes.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                writes.push(now.to_vec());
                rest = later;
            }
            let log = split(&writes);
            prop_assert_eq!(&join(&log), &text);
            prop_assert_eq!(log, split(&[text]));
        }
    }

    #[test]
    fn a_line_of_the_longest_length_is_one_record() {
        let line = "z".repeat(MAX_LINE);
        assert_eq!(
            split(&[format!("{line}\n").into()]),
            format!("{PREFIX}F {line}\n").into_bytes()
        );
        let longer = split(&[format!("{line}z\n").into()]);
        assert_eq!(longer, format!("{PREFIX}P {line}\n{PREFIX}F z\n").into_bytes());
    }

    #[test]
    fn an_unterminated_end_is_tagged_partial() {
        let out = split(&[b"one\n\nend".to_vec()]);
        assert_eq!(out, format!("{PREFIX}F one\n{PREFIX}F \n{PREFIX}P end\n").into_bytes());
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |secs, nanos| {
            let prefix = Prefix::new(Duration::new(secs, nanos), Stream::Stderr);
            String::from_utf8(prefix.0).unwrap()
        };
        assert_eq!(at(0, 7), "1970-01-01T00:00:00.000000007Z stderr ");
        assert_eq!(at(951_782_399, 0), "2000-02-28T23:59:59.000000000Z stderr ");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000000000Z stderr ");
        assert_eq!(at(4_102_444_799, 999_999_999), "2099-12-31T23:59:59.999999999Z stderr ");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z stderr ");
    }
}
