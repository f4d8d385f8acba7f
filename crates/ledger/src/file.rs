//! One redb file: a header, and records that carry a checksum.

use std::collections::BTreeMap;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};

/// The newest format that this program reads, and the one it writes.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"ferropod";
const CACHE: usize = 64 << 10;
const CRC: usize = 4;
/// Environments of containers are in it.
const MODE: u32 = 0o600;

const HEADER: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("header");
const RECORDS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("records");

/// `(table, key)`.
pub(crate) type Place = (String, String);
/// What is to become of each place; a later change of a place replaces an earlier one.
pub(crate) type Changes = BTreeMap<Place, Option<Vec<u8>>>;

/// What a file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) ledger_id: u64,
    pub(crate) generation: u64,
    pub(crate) boot_id: String,
}

/// What a header's bytes turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderBytes {
    Good(Header),
    Newer(u32),
    Bad,
}

/// All that one file holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// None in a file that was made and never written.
    pub(crate) header: Option<HeaderBytes>,
    pub(crate) records: BTreeMap<Place, Vec<u8>>,
    /// Records whose checksum is wrong, as they lie in the file.
    pub(crate) garbled: BTreeMap<Place, Vec<u8>>,
}

/// An open file. Only one process can have it open.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    database: Database,
}

impl File {
    pub(crate) fn open(path: &Path) -> Result<Self, redb::Error> {
        keep_to_ourselves(path).map_err(redb::Error::Io)?;
        let database = Database::builder()
            .set_cache_size(CACHE)
            .set_check_integrity_on_open(true)
            .create(path)?;
        Ok(Self { path: path.to_owned(), database })
    }

    pub(crate) fn read(&self) -> Result<Contents, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut contents = Contents::default();
        match transaction.open_table(HEADER) {
            Ok(table) => contents.header = table.get("")?.map(|bytes| parse_header(bytes.value())),
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        match transaction.open_table(RECORDS) {
            Ok(table) => read_records(&table, &mut contents)?,
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(contents)
    }

    /// One transaction, durable as far as the file system is.
    pub(crate) fn commit(&self, changes: &Changes) -> Result<(), redb::Error> {
        self.commit_with_header(changes, None)
    }

    pub(crate) fn commit_with_header(
        &self,
        changes: &Changes,
        header: Option<&Header>,
    ) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        if let Some(header) = header {
            transaction.open_table(HEADER)?.insert("", header_bytes(header).as_slice())?;
        }
        if !changes.is_empty() {
            let mut table = transaction.open_table(RECORDS)?;
            for (place, value) in changes {
                let key = (place.0.as_str(), place.1.as_str());
                match value {
                    Some(value) => drop(table.insert(key, seal(place, value).as_slice())?),
                    None => drop(table.remove(key)?),
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

/// Makes the file where there is none: the database takes an empty one for its own, but would let everybody read it.
fn keep_to_ourselves(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))
}

fn read_records(
    table: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    contents: &mut Contents,
) -> Result<(), redb::Error> {
    for row in table.iter()? {
        let (key, bytes) = row?;
        let place = (key.value().0.to_owned(), key.value().1.to_owned());
        match unseal(&place, bytes.value()) {
            Some(value) => drop(contents.records.insert(place, value.to_owned())),
            None => drop(contents.garbled.insert(place, bytes.value().to_owned())),
        }
    }
    Ok(())
}

/// The checksum covers the place too: a value that landed under another key is garbled.
fn checksum(place: &Place, value: &[u8]) -> [u8; CRC] {
    let mut hasher = crc32fast::Hasher::new();
    for part in [place.0.as_bytes(), &[0], place.1.as_bytes(), &[0], value] {
        hasher.update(part);
    }
    hasher.finalize().to_le_bytes()
}

fn seal(place: &Place, value: &[u8]) -> Vec<u8> {
    [checksum(place, value).as_slice(), value].concat()
}

fn unseal<'a>(place: &Place, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, value) = bytes.split_first_chunk::<CRC>()?;
    (*crc == checksum(place, value)).then_some(value)
}

/// `magic, format, crc of the rest, ledger id, generation, boot id`; what follows the format may differ in newer ones.
fn header_bytes(header: &Header) -> Vec<u8> {
    let rest = [
        header.ledger_id.to_le_bytes().as_slice(),
        &header.generation.to_le_bytes(),
        header.boot_id.as_bytes(),
    ]
    .concat();
    let crc = crc32fast::hash(&rest).to_le_bytes();
    [MAGIC.as_slice(), &FORMAT.to_le_bytes(), &crc, &rest].concat()
}

fn parse_header(bytes: &[u8]) -> HeaderBytes {
    let format = bytes.strip_prefix(MAGIC).and_then(|bytes| bytes.split_first_chunk::<4>());
    let Some((format, rest)) = format else { return HeaderBytes::Bad };
    match u32::from_le_bytes(*format) {
        FORMAT => parse_rest(rest).map_or(HeaderBytes::Bad, HeaderBytes::Good),
        newer if newer > FORMAT => HeaderBytes::Newer(newer),
        _ => HeaderBytes::Bad,
    }
}

fn parse_rest(bytes: &[u8]) -> Option<Header> {
    let (crc, rest) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*crc) != crc32fast::hash(rest) {
        return None;
    }
    let (ledger_id, rest) = rest.split_first_chunk::<8>()?;
    let (generation, boot_id) = rest.split_first_chunk::<8>()?;
    Some(Header {
        ledger_id: u64::from_le_bytes(*ledger_id),
        generation: u64::from_le_bytes(*generation),
        boot_id: String::from_utf8(boot_id.to_vec()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { ledger_id: 7, generation: 9, boot_id: "boot".into() }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        assert_eq!(parse_header(&header_bytes(&header())), HeaderBytes::Good(header()));
    }

    #[test]
    fn any_flipped_bit_of_a_header_is_noticed() {
        let good = header_bytes(&header());
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(parse_header(&bytes), HeaderBytes::Good(_)), "bit {bit}");
        }
        assert_eq!(parse_header(b""), HeaderBytes::Bad);
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut bytes = header_bytes(&header());
        bytes[8] = 2;
        assert_eq!(parse_header(&bytes), HeaderBytes::Newer(2));
    }

    #[test]
    fn a_value_under_another_key_or_with_a_flipped_bit_is_garbled() {
        let place = ("t".to_owned(), "k".to_owned());
        let sealed = seal(&place, b"value");
        assert_eq!(unseal(&place, &sealed), Some(b"value".as_slice()));
        assert_eq!(unseal(&("t".into(), "l".into()), &sealed), None);
        let mut flipped = sealed.clone();
        flipped[6] ^= 1;
        assert_eq!(unseal(&place, &flipped), None);
        assert_eq!(unseal(&place, &sealed[..3]), None);
    }
}
