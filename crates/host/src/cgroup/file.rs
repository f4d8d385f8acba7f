//! One value of one control file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// Writes a control file in one write, as the kernel wants it.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}
