//! Bind sources: clones of host mounts, taken before the host's tree is gone, with the propagation that was asked for.
//!
//! libcontainer ignores the propagation of a mount, but keeps what its source has when the root's is "shared" (and all
//! but shared when it is "slave"): so it is set here, on the clone.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libcontainer::oci_spec::runtime::Mount;

use crate::idmap::UserNamespace;
use crate::node::Part;
use crate::options::{Propagation, attributes, options, propagation};
use crate::path;
use crate::raw::{self, MountAttr};
use crate::volume::Volume;
use process::failure::{At, Failure, Kind};

const STAGE: &str = "mount";

/// A bind source, not attached anywhere yet.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) mount: Content,
    pub(crate) is_dir: bool,
}

/// What a bind source shows.
#[derive(Debug)]
pub(crate) enum Content {
    /// A clone of a mount of the host.
    Host(OwnedFd),
    /// An image, to be mounted when the layers are at hand.
    Image(Volume),
    /// A device, to be made in the staging root.
    Device(Part),
}

/// What is to be mounted in the container: attached nowhere yet, or only where it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready<'a> {
    pub(crate) mount: BorrowedFd<'a>,
    pub(crate) is_dir: bool,
}

/// Takes a clone of a bind mount's source.
pub(crate) fn take(
    mount: &Mount,
    deny_missing: &[String],
    user: Option<&UserNamespace>,
) -> Result<Source, Failure> {
    let path = mount.source().as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    if path.is_empty() {
        let message = format!("the mount at {} has no source", mount.destination().display());
        return Err(Failure::invalid(STAGE, message));
    }
    let is_dir = make_missing(&path, deny_missing)?;
    let recursive = !options(mount).any(|o| o == "bind");
    let name = path::c_path(&path)?;
    let clone = raw::clone_tree(raw::here(), &name, recursive)
        .at(STAGE, || format!("cloning the mount of {path}"))?;
    if let Some(user) = user.filter(|_| mount.uid_mappings().is_some()) {
        user.map(clone.as_fd(), &path, recursive)?;
    }
    if user.is_some() {
        // Before the mount comes into the user namespace: there nobody can take it back.
        make_read_only(clone.as_fd(), mount)?;
    }
    let wanted = propagation(mount);
    check(&path, wanted)?;
    let bits = match wanted {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
    };
    // Denied to what is mounted below too, which libcontainer would leave as it is.
    let attr = MountAttr { set: attributes(mount), propagation: bits, ..MountAttr::default() };
    raw::set_mount(clone.as_fd(), attr, recursive)
        .at(STAGE, || format!("setting the options of the mount of {path}"))?;
    Ok(Source { mount: Content::Host(clone), is_dir })
}

/// Makes a source read-only when the mount asks for it, with `rro` all below it too.
pub(crate) fn make_read_only(source: BorrowedFd<'_>, mount: &Mount) -> Result<(), Failure> {
    let has = |option: &str| options(mount).any(|o| o == option);
    if !has("ro") && !has("rro") {
        return Ok(());
    }
    let attr = MountAttr { set: raw::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    raw::set_mount(source, attr, has("rro"))
        .at(STAGE, || format!("making the mount at {} read-only", mount.destination().display()))
}

/// A missing source is made as a directory, as users of the other runtimes rely on. Says whether it is a directory.
fn make_missing(path: &str, deny_missing: &[String]) -> Result<bool, Failure> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.is_dir()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if deny_missing.iter().any(|d| std::path::Path::new(path).starts_with(d)) {
                return Err(Failure::new(
                    STAGE,
                    Kind::NotFound,
                    format!("{path} does not exist on the host"),
                ));
            }
            path::make_dirs(path, 0o755).at(STAGE, || format!("making the missing {path}"))?;
            Ok(true)
        }
        Err(e) => Err(e).at(STAGE, || format!("looking at {path}")),
    }
}

/// A mount can only receive from the host what the host's mount gives.
fn check(path: &str, wanted: Propagation) -> Result<(), Failure> {
    if wanted == Propagation::Private {
        return Ok(());
    }
    let place = path::place(path)?;
    let id = raw::mount_id(place.as_fd()).at(STAGE, || format!("finding the mount of {path}"))?;
    let table = fs::read_to_string("/proc/self/mountinfo")
        .at(STAGE, || "reading the mount table".into())?;
    let (point, tags) = line(&table, id).ok_or_else(|| {
        Failure::new(
            STAGE,
            Kind::Internal,
            format!("the mount of {path} is not in the mount table"),
        )
    })?;
    let shared = tags.iter().any(|t| t.starts_with("shared:"));
    let slave = tags.iter().any(|t| t.starts_with("master:"));
    match wanted {
        Propagation::Shared if !shared => {
            let message = format!(
                "{path} is on {point}, which is not a shared mount: it cannot be bidirectional"
            );
            Err(Failure::invalid(STAGE, message))
        }
        Propagation::Slave if !shared && !slave => {
            let message = format!(
                "{path} is on {point}, which is neither a shared nor a slave mount: the host cannot propagate into it"
            );
            Err(Failure::invalid(STAGE, message))
        }
        Propagation::Private | Propagation::Slave | Propagation::Shared => Ok(()),
    }
}

/// The mount point and the optional fields of one mount in a mount table.
fn line(table: &str, id: u64) -> Option<(&str, Vec<&str>)> {
    table.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()?.parse::<u64>().ok()? == id).then_some(())?;
        let point = fields.nth(3)?;
        let tags = fields.skip(1).take_while(|f| *f != "-").collect();
        Some((point, tags))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_mount_table_is_found_with_its_tags() {
        let table = "21 20 0:5 / / rw - ext4 a rw\n22 21 0:6 / /mnt rw,nosuid shared:7 master:3 - tmpfs b rw\n";
        assert_eq!(line(table, 22), Some(("/mnt", vec!["shared:7", "master:3"])));
        assert_eq!(line(table, 21), Some(("/", vec![])));
        assert_eq!(line(table, 2), None);
    }
}
