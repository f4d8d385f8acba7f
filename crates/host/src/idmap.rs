//! Whether pods can have user namespaces of their own: tried, because it takes a kernel (5.19 for overlays, 6.3 for tmpfs) and
//! file systems that can.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::raw;

/// Why they cannot.
#[derive(Debug, thiserror::Error)]
pub enum IdmapError {
    /// A place to try it in.
    #[error("prepare a trial in {dir}")]
    Prepare {
        /// Where.
        dir: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel has none, or does not give one.
    #[error("make a user namespace")]
    Namespace(#[source] io::Error),
    /// A step of the trial.
    #[error("{0}")]
    Trial(&'static str),
}

/// How a trial's directory begins; the process that makes it comes next, for a daemon and a `check` may try at once.
const PREFIX: &str = ".idmap-";

/// Makes an overlay in this directory, which must exist, over a layer with mapped ids, and lets it go again. Blocks for a
/// millisecond or two.
pub fn try_in(dir: &Path) -> Result<(), IdmapError> {
    let refused = |source| IdmapError::Prepare { dir: dir.display().to_string(), source };
    sweep(dir);
    let trial = dir.join(format!("{PREFIX}{}", std::process::id()));
    let tried = lay_out(&trial).map_err(refused).and_then(|paths| mount(&paths));
    // The next trial takes along what this cannot.
    drop(fs::remove_dir_all(&trial));
    tried
}

/// What trials left whose processes were killed.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

fn lay_out(trial: &Path) -> io::Result<raw::Trial> {
    drop(fs::remove_dir_all(trial));
    let make = |name| {
        let path = trial.join(name);
        fs::create_dir_all(&path)?;
        raw::c_string(path.as_os_str().as_bytes())
    };
    Ok(raw::Trial { lower: make("l")?, upper: make("u")?, work: make("w")? })
}

fn mount(trial: &raw::Trial) -> Result<(), IdmapError> {
    let sleeper = raw::Sleeper::start().map_err(IdmapError::Namespace)?;
    let file = |name: &str| format!("/proc/{}/{name}", sleeper.pid());
    let map = |name| File::options().write(true).open(file(name))?.write_all(b"0 65536 65536");
    map("uid_map").and_then(|()| map("gid_map")).map_err(IdmapError::Namespace)?;
    let namespace = File::open(file("ns/user")).map_err(IdmapError::Namespace)?;
    match raw::try_idmap(trial, namespace.as_fd()).map_err(IdmapError::Namespace)? {
        0 => Ok(()),
        1 => Err(IdmapError::Trial("no mount namespace can be made")),
        2 => Err(IdmapError::Trial("the images' file system takes no mapped ids")),
        _ => Err(IdmapError::Trial("overlayfs takes no layers with mapped ids")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_leaves_nothing_and_says_what_does_not_go() {
        let dir = tempfile::tempdir().unwrap();
        // No process has this number: it is above the kernel's greatest.
        fs::create_dir_all(dir.path().join(format!("{PREFIX}4194305/w/work"))).unwrap();
        try_in(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // procfs takes no mapped ids, and no directories either.
        assert!(matches!(try_in(Path::new("/proc/self")), Err(IdmapError::Prepare { .. })));
    }
}
