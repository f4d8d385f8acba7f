//! A tar stream, entry by entry: ustar, GNU and PAX, sparse files of all four dialects.
//!
//! The tar crate reads header blocks here and nothing more: its own iteration holds extended headers of any size in
//! memory and splits PAX records at newlines, which a binary extended attribute may contain.

use std::io::{self, BufRead};

use tar::{EntryType, Header};
use thiserror::Error;

pub(crate) const BLOCK: usize = 512;
const MAX_EXTENSION: u64 = 1 << 20;
const MAX_SEGMENTS: usize = 1 << 16;

/// One member of the archive.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    File { length: u64, sparse: Option<Vec<Segment>> },
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// A stretch of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What is wrong with the stream.
#[derive(Debug, Error)]
pub enum TarError {
    /// The stream itself ended or failed.
    #[error("read the tar stream")]
    Read(#[source] io::Error),
    /// A header block whose sum is wrong or whose numbers are not.
    #[error("malformed tar header at byte {at}: {what}")]
    Header {
        /// Where in the inflated stream.
        at: u64,
        /// What of it.
        what: &'static str,
    },
    /// An extended header that is larger than any honest one.
    #[error("extended tar header of {size} bytes at byte {at}")]
    Extension {
        /// Where in the inflated stream.
        at: u64,
        /// Its size.
        size: u64,
    },
}

/// The reader: at a header, or within the payload of the last entry.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    inner: R,
    at: u64,
    payload: u64,
    padding: u64,
}

#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, at: 0, payload: 0, padding: 0 }
    }

    /// How many bytes were read: after an entry, where its payload begins.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next member; what was left of the one before is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_payload()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = number(header.entry_size(), &header.as_old().size);
            let size = size.ok_or_else(|| self.wrong("size"))?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let bytes = self.extension(size)?;
                    extensions.pax = parse_pax(&bytes).ok_or_else(|| self.wrong("PAX record"))?;
                }
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                EntryType::GNULongName => extensions.path = Some(c_string(self.extension(size)?)),
                EntryType::GNULongLink => extensions.link = Some(c_string(self.extension(size)?)),
                _ => match self.entry(&header, size, std::mem::take(&mut extensions))? {
                    Some(entry) => return Ok(Some(entry)),
                    None => self.payload_is(size),
                },
            }
        }
    }

    /// Hands over the payload in the pieces it comes in.
    pub(crate) fn payload<E: From<TarError>>(
        &mut self,
        limit: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut left = limit.min(self.payload);
        let mut taken = 0;
        while left > 0 {
            let piece = self.inner.fill_buf().map_err(TarError::Read)?;
            if piece.is_empty() {
                return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into()).into());
            }
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            take(piece.get(..length).unwrap_or_default())?;
            self.inner.consume(length);
            let length = length as u64;
            left -= length;
            taken += length;
            self.payload -= length;
            self.at += length;
        }
        Ok(taken)
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        mut extensions: Extensions,
    ) -> Result<Option<Entry>, TarError> {
        let pax =
            |key: &str| extensions.pax.iter().rfind(|(k, _)| k == key.as_bytes()).map(|(_, v)| v);
        let extended = |key: &str| pax(key).map(|v| parse_number(v));
        let size = match extended("size") {
            Some(size) => size.ok_or_else(|| self.wrong("PAX size"))?,
            None => size,
        };
        let old = header.as_old();
        let id = |key, plain| extended(key).unwrap_or(plain).ok_or_else(|| self.wrong(key));
        let uid = id("uid", number(header.uid(), &old.uid))?;
        let gid = id("gid", number(header.gid(), &old.gid))?;
        let mtime = match pax("mtime") {
            Some(text) => parse_time(text).ok_or_else(|| self.wrong("PAX mtime"))?,
            None => (header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0), 0),
        };
        let mode = number(header.mode(), &old.mode).ok_or_else(|| self.wrong("mode"))?;
        let path = pax("GNU.sparse.name").or_else(|| pax("path")).cloned();
        let link = pax("linkpath").cloned();
        let xattrs = take_xattrs(&extensions.pax);
        let path = path
            .or_else(|| extensions.path.take())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = link
            .or_else(|| extensions.link.take())
            .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let device = || {
            let ustar = header.as_ustar().map(|h| (&h.dev_major, &h.dev_minor));
            let raw = ustar.or_else(|| header.as_gnu().map(|h| (&h.dev_major, &h.dev_minor)));
            let part =
                |read: io::Result<Option<u32>>, raw| number(read.map(|n| n.unwrap_or(0)), raw);
            raw.and_then(|(major, minor)| {
                Some((part(header.device_major(), major)?, part(header.device_minor(), minor)?))
            })
            .ok_or_else(|| self.wrong("device number"))
        };
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.payload_is(size);
                self.file(header, size, &extensions.pax)?
            }
            EntryType::Link => Kind::HardLink(link),
            EntryType::Symlink => Kind::Symlink(link),
            EntryType::Directory => Kind::Directory,
            EntryType::Char => device().map(|(major, minor)| Kind::Char(major, minor))?,
            EntryType::Block => device().map(|(major, minor)| Kind::Block(major, minor))?,
            EntryType::Fifo => Kind::Fifo,
            _ => return Ok(None),
        };
        Ok(Some(Entry { path, kind, mode, uid, gid, mtime, xattrs }))
    }

    fn file(
        &mut self,
        header: &Header,
        size: u64,
        pax: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Kind, TarError> {
        let get = |key: &str| pax.iter().rfind(|(k, _)| k == key.as_bytes()).map(|(_, v)| v);
        let real = get("GNU.sparse.realsize").or_else(|| get("GNU.sparse.size"));
        let (length, segments) = if header.entry_type() == EntryType::GNUSparse {
            self.old_sparse(header)?
        } else if let Some(real) = real {
            let real = parse_number(real).ok_or_else(|| self.wrong("sparse size"))?;
            let segments = if get("GNU.sparse.major").is_some_and(|v| v == b"1") {
                self.sparse_map()?
            } else {
                pax_segments(pax).ok_or_else(|| self.wrong("sparse map"))?
            };
            (real, segments)
        } else {
            return Ok(Kind::File { length: size, sparse: None });
        };
        let mut end = 0;
        for segment in &segments {
            let next = segment.offset.checked_add(segment.length).filter(|n| *n <= length);
            if segment.offset < end {
                return Err(self.wrong("sparse map"));
            }
            end = next.ok_or_else(|| self.wrong("sparse map"))?;
        }
        Ok(Kind::File { length, sparse: Some(segments) })
    }

    fn old_sparse(&mut self, header: &Header) -> Result<(u64, Vec<Segment>), TarError> {
        let gnu = header.as_gnu().ok_or_else(|| self.wrong("sparse header"))?;
        let length = gnu.real_size().map_err(|_| self.wrong("sparse size"))?;
        let mut segments = Vec::new();
        let mut more = gnu.is_extended();
        let add = |raw: &[tar::GnuSparseHeader], segments: &mut Vec<Segment>| {
            for one in raw.iter().filter(|one| !one.is_empty()) {
                let (offset, length) = (one.offset().ok()?, one.length().ok()?);
                segments.push(Segment { offset, length });
            }
            (segments.len() <= MAX_SEGMENTS).then_some(())
        };
        add(&gnu.sparse, &mut segments).ok_or_else(|| self.wrong("sparse map"))?;
        while more {
            let mut extended = tar::GnuExtSparseHeader::new();
            self.inner.read_exact(extended.as_mut_bytes()).map_err(TarError::Read)?;
            self.at += BLOCK as u64;
            add(extended.sparse(), &mut segments).ok_or_else(|| self.wrong("sparse map"))?;
            more = extended.is_extended();
        }
        Ok((length, segments))
    }

    /// The map of PAX sparse 1.0: decimal lines at the payload's start, filled up to a block.
    fn sparse_map(&mut self) -> Result<Vec<Segment>, TarError> {
        let mut numbers = Vec::new();
        let mut wanted = None;
        let mut line = Vec::new();
        while wanted.is_none_or(|w| numbers.len() < w) {
            let mut block = Vec::with_capacity(BLOCK);
            self.payload::<TarError>(BLOCK as u64, |piece| {
                block.extend_from_slice(piece);
                Ok(())
            })?;
            if block.len() < BLOCK {
                return Err(self.wrong("sparse map"));
            }
            for byte in block {
                if wanted.is_some_and(|w| numbers.len() >= w) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let number = parse_number(&line).ok_or_else(|| self.wrong("sparse map"))?;
                line.clear();
                match wanted {
                    None => {
                        let count = usize::try_from(number).ok().filter(|n| *n <= MAX_SEGMENTS);
                        wanted = Some(count.ok_or_else(|| self.wrong("sparse map"))? * 2);
                    }
                    Some(_) => numbers.push(number),
                }
            }
        }
        Ok(pairs(&numbers))
    }

    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        if self.inner.fill_buf().map_err(TarError::Read)?.is_empty() {
            return Ok(None);
        }
        self.inner.read_exact(block).map_err(TarError::Read)?;
        self.at += BLOCK as u64;
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let field = 148..156;
        let sum = |range: std::ops::Range<usize>| {
            block.get(range).unwrap_or_default().iter().map(|b| u32::from(*b)).sum::<u32>()
        };
        let sum = sum(0..field.start) + sum(field.end..BLOCK) + 8 * u32::from(b' ');
        if header.cksum().ok() != Some(sum) {
            return Err(self.wrong("checksum"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(TarError::Extension { at: self.at, size });
        }
        self.payload_is(size);
        let mut bytes = Vec::new();
        self.payload::<TarError>(size, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    fn payload_is(&mut self, size: u64) {
        self.payload = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_payload(&mut self) -> Result<(), TarError> {
        self.payload::<TarError>(u64::MAX, |_| Ok(()))?;
        self.payload = std::mem::take(&mut self.padding);
        self.payload::<TarError>(u64::MAX, |_| Ok(()))?;
        Ok(())
    }

    fn wrong(&self, what: &'static str) -> TarError {
        TarError::Header { at: self.at.saturating_sub(BLOCK as u64), what }
    }
}

/// A header's number; a field that was left empty is 0.
fn number<T: Default>(read: io::Result<T>, raw: &[u8]) -> Option<T> {
    match read {
        Err(_) if raw.iter().all(|b| matches!(b, 0 | b' ')) => Some(T::default()),
        read => read.ok(),
    }
}

fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Records of the form `<length> <key>=<value>\n`, where the length counts the whole record.
fn parse_pax(mut bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ')?;
        let length = usize::try_from(parse_number(bytes.get(..space)?)?).ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        records.push((record.get(..equals)?.to_vec(), record.get(equals + 1..)?.to_vec()));
        bytes = bytes.get(length..)?;
    }
    Some(records)
}

fn take_xattrs(pax: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    pax.iter()
        .filter_map(|(k, v)| Some((k.strip_prefix(b"SCHILY.xattr.")?.to_vec(), v.clone())))
        .collect()
}

/// The maps of PAX sparse 0.0 (a record per number) and 0.1 (one record).
fn pax_segments(pax: &[(Vec<u8>, Vec<u8>)]) -> Option<Vec<Segment>> {
    let mut numbers = Vec::new();
    for (key, value) in pax {
        match key.as_slice() {
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => numbers.push(parse_number(value)?),
            b"GNU.sparse.map" if value.is_empty() => {}
            b"GNU.sparse.map" => {
                for text in value.split(|b| *b == b',') {
                    numbers.push(parse_number(text)?);
                }
            }
            _ => {}
        }
    }
    (numbers.len() % 2 == 0).then(|| pairs(&numbers))
}

fn pairs(numbers: &[u64]) -> Vec<Segment> {
    let (pairs, _) = numbers.as_chunks::<2>();
    pairs.iter().map(|[offset, length]| Segment { offset: *offset, length: *length }).collect()
}

fn parse_number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Seconds with an optional fraction, possibly before 1970.
fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = whole.parse::<i64>().ok()?;
    let mut nanos = 0;
    let mut unit = 100_000_000;
    for digit in fraction.chars().take(9) {
        nanos += digit.to_digit(10)? * unit;
        unit /= 10;
    }
    if nanos > 0 && whole.starts_with('-') {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_value_may_contain_a_newline() {
        let records = parse_pax(b"12 a=1\n2\n34\n6 b=c\n").unwrap();
        assert_eq!(
            records,
            [(b"a".to_vec(), b"1\n2\n34".to_vec()), (b"b".to_vec(), b"c".to_vec())]
        );
        assert!(parse_pax(b"99 a=b\n").is_none());
        assert!(parse_pax(b"0 a=b\n").is_none());
    }

    #[test]
    fn a_time_may_lie_before_1970() {
        assert_eq!(parse_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(parse_time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parse_time(b"x"), None);
    }

    #[test]
    fn a_giant_extended_header_is_refused_before_it_is_read() {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(1 << 40);
        header.set_cksum();
        let mut reader = Reader::new(header.as_bytes().as_slice());
        assert!(matches!(reader.next_entry(), Err(TarError::Extension { .. })));
    }

    #[test]
    fn a_header_with_a_wrong_sum_is_refused() {
        let mut header = Header::new_ustar();
        header.set_size(0);
        header.set_cksum();
        header.as_mut_bytes()[0] = b'x';
        let mut reader = Reader::new(header.as_bytes().as_slice());
        assert!(matches!(reader.next_entry(), Err(TarError::Header { what: "checksum", .. })));
    }
}
