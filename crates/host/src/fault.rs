//! The two shapes that most failures here have: one step on one path, and all that a release could not let go.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use names::Kind;

/// One step on one path that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct FsError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl FsError {
    pub(crate) fn new(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { doing, path: path.to_owned(), source: source.into() }
    }

    /// For `map_err`: the step and the path are known, the cause comes.
    pub(crate) fn at<E: Into<io::Error>>(
        doing: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::new(doing, path, source)
    }

    /// The kernel's error number, when there is one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// The path that it was about.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        io_kind(&self.source)
    }
}

pub(crate) fn io_kind(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::AlreadyExists => Kind::AlreadyExists,
        io::ErrorKind::InvalidInput => Kind::Invalid,
        io::ErrorKind::TimedOut => Kind::TimedOut,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => {
            Kind::Exhausted
        }
        io::ErrorKind::Unsupported => Kind::Unsupported,
        _ => Kind::Internal,
    }
}

/// Everything that a release could not let go; the rest is gone.
#[derive(Debug, thiserror::Error)]
pub struct ReleaseError {
    what: String,
    errors: Vec<FsError>,
}

impl ReleaseError {
    /// Nothing went wrong, or this.
    pub(crate) fn unless_empty(what: impl fmt::Display, errors: Vec<FsError>) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self { what: what.to_string(), errors }) }
    }

    /// Each step that failed.
    pub fn errors(&self) -> &[FsError] {
        &self.errors
    }

    /// Whether all that is left is in use by processes.
    pub fn is_busy(&self) -> bool {
        self.errors.iter().all(|e| e.errno() == Some(libc::EBUSY))
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.errors.first().map_or(Kind::Internal, FsError::kind)
    }
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "release {}: ", self.what)?;
        for (n, error) in self.errors.iter().enumerate() {
            let gap = if n == 0 { "" } else { "; " };
            write!(f, "{gap}{error}: {}", error.source)?;
        }
        Ok(())
    }
}
