//! What cannot be read is moved aside under a name of its own, never deleted.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::file::Place;
use crate::{OpenError, Quarantined};

/// Moves a whole file aside.
pub(crate) fn file(path: &Path, reason: String) -> Result<Quarantined, OpenError> {
    let (aside, _) = reserve(path)?;
    fs::rename(path, &aside)
        .map_err(|source| OpenError::Quarantine { path: aside.clone(), source })?;
    Ok(Quarantined { path: aside, record: None, reason })
}

/// Copies one record's bytes aside; the caller deletes it from the file afterwards.
pub(crate) fn record(path: &Path, place: &Place, bytes: &[u8]) -> Result<Quarantined, OpenError> {
    let (aside, mut file) = reserve(path)?;
    write_record(&mut file, place, bytes)
        .map_err(|source| OpenError::Quarantine { path: aside.clone(), source })?;
    let reason = "the checksum of the record is wrong".to_owned();
    Ok(Quarantined { path: aside, record: Some(place.clone()), reason })
}

fn write_record(file: &mut fs::File, place: &Place, bytes: &[u8]) -> io::Result<()> {
    writeln!(file, "table {:?} key {:?}", place.0, place.1)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The first free `<file>.quarantined-<n>`, made so that nobody else takes it.
fn reserve(path: &Path) -> Result<(PathBuf, fs::File), OpenError> {
    let mut n = 1_u32;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".quarantined-{n}"));
        let aside = PathBuf::from(name);
        match fs::File::create_new(&aside) {
            Ok(file) => return Ok((aside, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => n += 1,
            Err(source) => return Err(OpenError::Quarantine { path: aside, source }),
        }
    }
}
