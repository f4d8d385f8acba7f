//! Mount points at which the image has a link to nowhere.
//!
//! Other runtimes make what the link names, inside the image, and so do we. libcontainer takes such a link for a directory that it
//! has just made, and fails: its mounts are told where that is. Links that lead somewhere are its own matter.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io::{Error, ErrorKind};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{Mount, Spec};
use nix::fcntl::readlinkat;

use crate::raw;
use process::failure::{At, Failure};

const STAGE: &str = "mount";
/// As many as the kernel follows.
const MOST: usize = 40;

/// Changes the mounts of a carrier. Nothing is mounted in the root yet, and nobody else is at work in it.
pub(crate) fn follow(carrier: &mut Spec, root: impl AsFd) -> Result<(), Failure> {
    let Some(mounts) = carrier.mounts().clone() else { return Ok(()) };
    let places: Vec<PathBuf> = mounts.iter().map(|m| m.destination().clone()).collect();
    let mut moved: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut followed = Vec::new();
    for mut mount in mounts {
        if let Some(to) = place(&mount, &places, &moved, &root)? {
            moved.push((mount.destination().clone(), to.clone()));
            mount.set_destination(to);
        }
        followed.push(mount);
    }
    carrier.set_mounts(Some(followed));
    Ok(())
}

/// Where a mount goes, when that is not where it says.
fn place(
    mount: &Mount,
    all: &[PathBuf],
    moved: &[(PathBuf, PathBuf)],
    root: &impl AsFd,
) -> Result<Option<PathBuf>, Failure> {
    let at = mount.destination();
    let above = |place: &&PathBuf| *place != at && at.starts_with(place);
    // What lies in another mount goes with it; what that has in it the image does not tell.
    if let Some(above) = all.iter().filter(above).max_by_key(|place| place.components().count()) {
        let parent = moved.iter().find(|(from, _)| from == above).map(|(_, to)| to);
        let below = at.strip_prefix(above).unwrap_or(at);
        return Ok(parent.map(|parent| parent.join(below)));
    }
    let to = target(at, root)
        .at(STAGE, || format!("following the image's links at {}", at.display()))?;
    let Some(Target { to, .. }) = to else { return Ok(None) };
    match all.iter().find(|place| to.starts_with(place)) {
        Some(inside) => Err(refused(at, &to, inside)),
        None => Ok(Some(to)),
    }
}

/// What is said of a mount point that a link moves into another mount.
pub(crate) fn refused(at: &Path, to: &Path, inside: &Path) -> Failure {
    let message = format!(
        "{} cannot be mounted at: the image has a link there to {}, which is in the mount at {}",
        at.display(),
        to.display(),
        inside.display()
    );
    Failure::invalid(STAGE, message)
}

/// Where links lead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) to: PathBuf,
    /// The last of the links that is on another mount than the root.
    pub(crate) link: Option<PathBuf>,
}

/// What a path names in a root, of which the last parts may be missing; `None` when no link leads there, or it is there.
pub(crate) fn target(path: &Path, root: impl AsFd) -> std::io::Result<Option<Target>> {
    let open = |path: &Path, flags: i32| {
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(Error::other)?;
        raw::open_below(root.as_fd(), &name, libc::O_PATH | flags, raw::RESOLVE_IN_ROOT)
    };
    match open(path, 0) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(_) | Ok(_) => return Ok(None),
    }
    let parts = |path: &Path| -> VecDeque<_> {
        let names = path.iter().filter(|part| *part != "/").map(std::ffi::OsStr::to_owned);
        names.collect()
    };
    let own = raw::mount_id(root.as_fd())?;
    let (mut left, mut here, mut links) = (parts(path), PathBuf::from("/"), 0);
    let mut strange = None;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        let found = match open(&next, libc::O_NOFOLLOW) {
            Ok(found) => readlinkat(Some(raw::shown(&found)), "").ok().zip(Some(found)),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let Some((link, found)) = found else {
            here = next;
            continue;
        };
        if raw::mount_id(found.as_fd())? != own {
            strange = Some(next);
        }
        let link = PathBuf::from(link);
        links += 1;
        if links > MOST {
            return Err(Error::from_raw_os_error(libc::ELOOP));
        }
        if link.is_absolute() {
            here = PathBuf::from("/");
        }
        let mut ahead = parts(&link);
        ahead.append(&mut left);
        left = ahead;
    }
    let found = links > 0 && here != Path::new("/");
    Ok(found.then_some(Target { to: here, link: strange }))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_to_nowhere_leads_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        for (link, to) in [
            ("up", "../../made/here"),
            ("d/twice", "/up"),
            ("d/near", "new"),
            ("fine", "d"),
            ("top", "gone/.."),
            ("loop", "loop"),
        ] {
            symlink(to, dir.path().join(link)).unwrap();
        }
        let root = File::open(dir.path()).unwrap();
        let to = |path: &str| target(Path::new(path), &root).unwrap().map(|target| target.to);
        for (path, want) in [
            ("/up", "/made/here"),
            ("/up/below", "/made/here/below"),
            ("/d/twice/x", "/made/here/x"),
            ("/d/near", "/d/new"),
            ("/fine/near", "/d/new"),
            ("/fine/missing", "/d/missing"),
        ] {
            assert_eq!(to(path), Some(PathBuf::from(want)), "{path}");
        }
        for path in ["/fine", "/d", "/missing", "/d/missing", "/top", "/loop", "/"] {
            assert_eq!(to(path), None, "{path}");
        }
    }

    #[test]
    fn what_lies_in_a_mount_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/made", dir.path().join("link")).unwrap();
        symlink("/proc/made", dir.path().join("bad")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let places = |all: &[&str]| {
            let mounts: Vec<_> = all
                .iter()
                .map(|at| serde_json::json!({"destination": at, "source": "x"}))
                .collect();
            let spec = serde_json::json!({"ociVersion": "1.2.0", "mounts": mounts});
            let mut spec: Spec = serde_json::from_value(spec).unwrap();
            follow(&mut spec, &root).map(|()| {
                let mounts = spec.mounts().clone().unwrap();
                mounts.iter().map(|m| m.destination().display().to_string()).collect::<Vec<_>>()
            })
        };
        let want = ["/proc", "/made", "/made/sub", "/made/sub/link"];
        assert_eq!(places(&["/proc", "/link", "/link/sub", "/link/sub/link"]).unwrap(), want);
        let wrong = places(&["/proc", "/bad"]).unwrap_err();
        assert!(wrong.message.contains("which is in the mount at /proc"), "{wrong}");
    }
}
