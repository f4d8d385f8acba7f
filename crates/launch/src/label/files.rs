//! Labels of files: a volume's, and the pod's own.
//!
//! Whoever writes to a volume may exchange a directory for a link meanwhile: every step is from an open directory to a name in
//! it, and no link is followed.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{path, raw};
use process::failure::{At, Failure};

const STAGE: &str = "selinux";
const ATTRIBUTE: &CStr = c"security.selinux";
/// The host's own, which would stop working: never relabelled, whatever a pod asks for.
const NEVER: [&str; 26] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/tmp",
];

/// Gives a file of the host and all below it a label.
pub(super) fn relabel(path: &str, label: &str) -> Result<(), Failure> {
    let doing = || format!("labelling {path}");
    let true_path = fs::canonicalize(path).at(STAGE, doing)?;
    if NEVER.iter().any(|never| true_path == Path::new(never)) {
        let message = format!("{path} is the host's own and is not relabelled");
        return Err(Failure::invalid(STAGE, message));
    }
    let place = path::place(&true_path.display().to_string())?;
    tree(&place.into(), label).at(STAGE, doing)
}

fn tree(place: &OwnedFd, label: &str) -> io::Result<()> {
    let shown = format!("/proc/self/fd/{}", raw::shown(place));
    set(&CString::new(shown.as_str())?, label)?;
    if !File::from(place.try_clone()?).metadata()?.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(shown)? {
        let name = CString::new(entry?.file_name().as_bytes())?;
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        match raw::open_below(place.as_fd(), &name, flags, 0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            found => tree(&found?, label)?,
        }
    }
    Ok(())
}

/// Only where it is another: a write changes the file's ctime, and costs a journal entry.
fn set(path: &CStr, label: &str) -> io::Result<()> {
    let mut held = [0; 512];
    let length = raw::get_xattr(path, ATTRIBUTE, &mut held).unwrap_or(0);
    let held = held.get(..length).unwrap_or_default();
    if held.strip_suffix(b"\0").unwrap_or(held) == label.as_bytes() {
        return Ok(());
    }
    match raw::set_xattr(path, ATTRIBUTE, label.as_bytes()) {
        // A file system without labels has one for all of it.
        Err(e) if [Some(libc::ENOTSUP), Some(libc::EROFS)].contains(&e.raw_os_error()) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    fn label_of(path: &Path) -> String {
        let mut held = [0; 512];
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        let length = raw::get_xattr(&path, ATTRIBUTE, &mut held).unwrap_or(0);
        String::from_utf8_lossy(&held[..length]).trim_end_matches('\0').to_owned()
    }

    #[test]
    fn a_tree_is_labelled_once_and_links_lead_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let (volume, outside) = (root.path().join("v"), root.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        File::create(volume.join("a/b/f")).unwrap();
        File::create(&outside).unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        relabel(volume.to_str().unwrap(), LABEL).unwrap();
        for path in ["", "a", "a/b", "a/b/f"] {
            assert_eq!(label_of(&volume.join(path)), LABEL, "{path}");
        }
        assert_eq!(label_of(&outside), "");
        let changed = |path: &Path| {
            let meta = fs::metadata(path).unwrap();
            (meta.ctime(), meta.ctime_nsec())
        };
        let before = changed(&volume.join("a/b/f"));
        relabel(volume.to_str().unwrap(), LABEL).unwrap();
        assert_eq!(changed(&volume.join("a/b/f")), before);
    }

    #[test]
    fn directories_of_the_host_are_never_labelled_by_whatever_name() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("etc");
        symlink("/etc", &link).unwrap();
        for path in ["/", "/usr/../etc/", link.to_str().unwrap()] {
            let refused = relabel(path, LABEL).unwrap_err().to_string();
            assert!(refused.contains("the host's own"), "{refused}");
        }
    }
}
