//! Opening: which of the two files is the truth, and making both say so.
//!
//! | run file | truth |
//! |---|---|
//! | of this boot | run; the disk is brought up to it |
//! | of another boot, absent or unreadable | disk |
//!
//! `rebooted` is what the file that is the truth says of its boot, so a run file that somebody removed is not taken for a
//! reboot.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use names::Kind;

use crate::error::storage_kind;
use crate::file::{Changes, Contents, FORMAT, File, Header, HeaderBytes, Place};
use crate::{Loaded, OpenError, Options, Quarantined, Record, quarantine};

/// How long another's lock is waited for.
const LOCKED: Duration = Duration::from_secs(2);

/// Both files, open and agreed.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) run: File,
    pub(crate) disk: Disk,
    pub(crate) loaded: Loaded,
}

/// The disk file, or what it lacks since it is full.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    /// None when it has to be opened again first.
    pub(crate) file: Option<File>,
    pub(crate) owed: Changes,
    pub(crate) header: Option<Header>,
}

pub(crate) fn open(options: Options) -> Result<Opened, OpenError> {
    let Options { run, disk, boot_id } = options;
    let mut quarantined = Vec::new();
    let (run, run_has) = open_file(&run, &mut quarantined)?;
    let (disk, disk_has) = open_file(&disk, &mut quarantined)?;
    let (run_header, disk_header) = (header_of(&run_has), header_of(&disk_has));
    if let (Some(a), Some(b)) = (run_header, disk_header)
        && a.ledger_id != b.ledger_id
    {
        return Err(OpenError::Mismatched { run: run.path, disk: disk.path });
    }
    let same_boot = run_header.is_some_and(|header| header.boot_id == boot_id);
    let (truth, truth_header) =
        if same_boot { (&run_has, run_header) } else { (&disk_has, disk_header) };
    let rebooted = truth_header.is_some_and(|header| header.boot_id != boot_id);
    let header = next_header(&[run_header, disk_header], boot_id);
    move_garbled(&run, &run_has, &mut quarantined)?;
    move_garbled(&disk, &disk_has, &mut quarantined)?;
    let failed = |path| storage("bring up", path);
    run.commit_with_header(&lacks(&run_has, truth), Some(&header)).map_err(failed(&run.path))?;
    let owed = lacks(&disk_has, truth);
    let disk = match disk.commit_with_header(&owed, Some(&header)) {
        Ok(()) => {
            Disk { path: disk.path.clone(), file: Some(disk), owed: Changes::new(), header: None }
        }
        // A node whose disk is full must start, or nobody could stop its pods.
        Err(error) if same_boot && storage_kind(&error) == Kind::Exhausted => {
            Disk { path: disk.path, file: None, owed, header: Some(header.clone()) }
        }
        Err(error) => return Err(storage("bring up", &disk.path)(error)),
    };
    let records = truth.records.iter().map(record).collect();
    let loaded = Loaded { records, rebooted, generation: header.generation, quarantined };
    Ok(Opened { run, disk, loaded })
}

fn record((place, value): (&Place, &Vec<u8>)) -> Record {
    Record { table: place.0.clone(), key: place.1.clone(), value: value.clone() }
}

fn header_of(contents: &Contents) -> Option<&Header> {
    match &contents.header {
        Some(HeaderBytes::Good(header)) => Some(header),
        Some(HeaderBytes::Newer(_) | HeaderBytes::Bad) | None => None,
    }
}

fn next_header(found: &[Option<&Header>], boot_id: String) -> Header {
    let found = || found.iter().flatten();
    // The standard library's hash keys are the one source of randomness that is no system call of ours.
    let new_id = || RandomState::new().hash_one(&boot_id);
    Header {
        ledger_id: found().next().map_or_else(new_id, |header| header.ledger_id),
        generation: found().map(|header| header.generation).max().unwrap_or(0) + 1,
        boot_id,
    }
}

/// Opens the file and reads all of it; what is there and unreadable is moved aside and begun anew.
fn open_file(
    path: &Path,
    quarantined: &mut Vec<Quarantined>,
) -> Result<(File, Contents), OpenError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .map_err(|source| OpenError::Directory { path: parent.to_owned(), source })?;
    }
    let reason = match open_free(path).and_then(|file| Ok((file.read()?, file))) {
        Ok((contents, file)) => match contents.header {
            None | Some(HeaderBytes::Good(_)) => return Ok((file, contents)),
            Some(HeaderBytes::Newer(found)) => {
                return Err(OpenError::NewerFormat { path: path.to_owned(), found, known: FORMAT });
            }
            Some(HeaderBytes::Bad) => "the header is damaged".to_owned(),
        },
        Err(redb::Error::DatabaseAlreadyOpen) => {
            return Err(OpenError::InUse { path: path.to_owned() });
        }
        Err(error) if is_damage(&error) => error.to_string(),
        Err(error) => return Err(storage("open", path)(error)),
    };
    quarantined.push(quarantine::file(path, reason)?);
    let file = File::open(path).map_err(storage("open", path))?;
    Ok((file, Contents::default()))
}

/// A process that was killed in the middle of a fork leaves its lock to the child, until that has executed its program.
fn open_free(path: &Path) -> Result<File, redb::Error> {
    let begun = Instant::now();
    loop {
        match File::open(path) {
            Err(redb::Error::DatabaseAlreadyOpen) if begun.elapsed() < LOCKED => {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// Whether the file's bytes are at fault, and not the disk or our rights.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(e) => {
            matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. } => true,
        _ => false,
    }
}

fn move_garbled(
    file: &File,
    contents: &Contents,
    quarantined: &mut Vec<Quarantined>,
) -> Result<(), OpenError> {
    for (place, bytes) in &contents.garbled {
        quarantined.push(quarantine::record(&file.path, place, bytes)?);
    }
    Ok(())
}

/// What makes the file say what the truth says. What is garbled in the truth stays in the other file no more than
/// anything else that the truth lacks.
fn lacks(has: &Contents, truth: &Contents) -> Changes {
    let stale = has.records.keys().filter(|place| !truth.records.contains_key(*place));
    let gone = stale.chain(has.garbled.keys()).map(|place| (place.clone(), None));
    let differs =
        truth.records.iter().filter(|(place, value)| has.records.get(*place) != Some(value));
    let new = differs.map(|(place, value)| (place.clone(), Some(value.clone())));
    gone.chain(new).collect()
}

fn storage<'a>(step: &'static str, path: &'a Path) -> impl Fn(redb::Error) -> OpenError + 'a {
    move |source| OpenError::Storage { step, path: path.to_owned(), source: Box::new(source) }
}
