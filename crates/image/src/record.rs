//! Images on disk: one JSON file each, replaced as a whole. A layer exists if a record names it, and not otherwise.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use names::ImageId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Digest;
use crate::layer::Stats;

/// Readers refuse a newer one.
const VERSION: u32 = 1;

/// An image as it is remembered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) id: ImageId,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) digests: BTreeSet<String>,
    pub(crate) layers: Vec<LayerRecord>,
    /// Removed, but a container has its layers mounted.
    #[serde(default)]
    pub(crate) hidden: bool,
    /// It has files and no root filesystem, and `config` is its manifest.
    #[serde(default)]
    pub(crate) artifact: bool,
    /// Of two records that claim a tag, which happens when a move is cut short, the later one has it.
    pub(crate) written: u64,
    /// The configuration, byte for byte: its digest is the image's id.
    pub(crate) config: String,
}

/// A layer of an image, topmost last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// A file that is no record, and why.
pub(crate) type Unreadable = (PathBuf, String);

/// A record could not be written or removed.
#[derive(Debug, Error)]
#[error("{step} {}", path.display())]
pub struct RecordError {
    step: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Record {
    pub(crate) fn new(
        id: ImageId,
        config: String,
        layers: Vec<LayerRecord>,
        artifact: bool,
    ) -> Self {
        let (tags, digests) = (BTreeSet::new(), BTreeSet::new());
        let (version, hidden, written) = (VERSION, false, 0);
        Self { version, id, tags, digests, layers, hidden, artifact, written, config }
    }

    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        path_of(dir, &self.id)
    }
}

impl LayerRecord {
    pub(crate) fn new(diff_id: Digest, number: u64, stats: Stats) -> Self {
        Self { diff_id, number, bytes: stats.bytes, inodes: stats.inodes }
    }
}

pub(crate) fn path_of(dir: &Path, id: &ImageId) -> PathBuf {
    dir.join(format!("{}.json", id.hex()))
}

/// All records of a directory, and the files that are none.
pub(crate) fn load(dir: &Path) -> io::Result<(Vec<Record>, Vec<Unreadable>)> {
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(".new-") {
            fs::remove_file(&path)?;
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match read(&path) {
            Ok(record) => records.push(record),
            Err(why) => unreadable.push((path, why)),
        }
    }
    Ok((records, unreadable))
}

fn read(path: &Path) -> Result<Record, String> {
    let bytes = fs::read(path).map_err(|e| e.to_string())?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if record.version > VERSION {
        return Err(format!("format {} is newer than this program", record.version));
    }
    if Digest::of(record.config.as_bytes()).to_string() != record.id.as_str() {
        return Err("its configuration is damaged".to_owned());
    }
    let expected = format!("{}.json", record.id.hex());
    if path.file_name().is_none_or(|name| *name != *expected) {
        return Err("it has another image's name".to_owned());
    }
    Ok(record)
}

/// Writes a record so that after a crash there is the old one or the new one.
pub(crate) fn write(dir: &Path, record: &Record) -> Result<(), RecordError> {
    let path = record.path(dir);
    let bytes = serde_json::to_vec(record).map_err(|e| RecordError {
        step: "encode",
        path: path.clone(),
        source: e.into(),
    })?;
    replace(&path, &bytes)
}

/// Puts these bytes at `path` so that after a crash there are the old ones or the new ones.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
    let step = |step| move |source| RecordError { step, path: path.to_owned(), source };
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".new-{name}"));
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let mut file = opened.map_err(step("create"))?;
    file.write_all(bytes).map_err(step("write"))?;
    file.sync_all().map_err(step("sync"))?;
    fs::rename(&temporary, path).map_err(step("replace"))?;
    sync_dir(dir).map_err(step("sync the directory of"))
}

pub(crate) fn remove(dir: &Path, id: &ImageId) -> Result<(), RecordError> {
    let path = path_of(dir, id);
    match fs::remove_file(&path).and_then(|()| sync_dir(dir)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RecordError { step: "remove", path, source })
        }
        _ => Ok(()),
    }
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl RecordError {
    pub(crate) fn sync(path: &Path, source: io::Error) -> Self {
        Self { step: "sync", path: path.to_owned(), source }
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> names::Kind {
        match self.source.kind() {
            io::ErrorKind::StorageFull => names::Kind::Exhausted,
            _ => names::Kind::Internal,
        }
    }
}
