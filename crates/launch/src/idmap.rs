//! What a pod with a user namespace of its own needs that libcontainer cannot give: mounts on which the namespace's ids are
//! those on the disk, made while this process is root of the node.
//!
//! A mount can be mapped only while it is attached nowhere, so volumes and layers are mapped on their clones. An overlay takes
//! mapped layers but cannot be mapped itself, on any kernel: its upper directory belongs to the mapped root instead.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use nix::sys::stat::SFlag;
use wire::inherited::USER_FD;
use wire::v1;

use crate::node::Node;
use crate::path;
use crate::raw::{self, MountAttr};
use process::failure::{At, Failure, Kind};

const STAGE: &str = "user namespace";
/// What libcontainer makes in every container: name, major and minor number.
pub(crate) const USUAL: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// The ids of a user namespace, from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    uids: Range,
    gids: Range,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    length: u32,
}

/// The ids, and the namespace itself, as it was inherited.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    pub(crate) ids: Ids,
    /// Open as long as libcontainer looks for it by its number.
    namespace: OwnedFd,
}

impl Ids {
    /// Those of a specification that has a user namespace.
    pub(crate) fn of(spec: &Spec) -> Result<Option<Self>, Failure> {
        let Some(linux) = spec.linux() else { return Ok(None) };
        let mut namespaces = linux.namespaces().iter().flatten();
        if !namespaces.any(|n| n.typ() == LinuxNamespaceType::User) {
            return Ok(None);
        }
        match (range(linux.uid_mappings().as_ref()), range(linux.gid_mappings().as_ref())) {
            (Some(uids), Some(gids)) => Ok(Some(Self { uids, gids })),
            _ => Err(Failure::invalid(
                STAGE,
                "it must have one range of users and one of groups, from 0 on",
            )),
        }
    }

    /// What a user inside is on the node; root of the node where there is none, which no caller comes to.
    pub(crate) fn user(&self, inside: u32) -> u32 {
        self.uids.first.saturating_add(inside)
    }

    /// Root inside, as a user and group of the host.
    pub(crate) fn root(&self) -> (u32, u32) {
        (self.uids.first, self.gids.first)
    }

    /// Refuses a user that the namespace has not: the kernel would, but only when the program is to run.
    pub(crate) fn check(&self, uid: u32, gid: u32, groups: &[u32]) -> Result<(), Failure> {
        let none = |what: &str, id: u32, range: Range| {
            let message = format!("{what} {id} is none of the {} of the pod", range.length);
            Err(Failure::invalid("user", message))
        };
        if uid >= self.uids.length {
            return none("user", uid, self.uids);
        }
        let mut all = std::iter::once(&gid).chain(groups);
        all.find(|g| **g >= self.gids.length).map_or(Ok(()), |g| none("group", *g, self.gids))
    }
}

impl From<Ids> for v1::IdMap {
    fn from(ids: Ids) -> Self {
        Self {
            first_uid: ids.uids.first,
            uids: ids.uids.length,
            first_gid: ids.gids.first,
            gids: ids.gids.length,
        }
    }
}

fn range(mappings: Option<&Vec<LinuxIdMapping>>) -> Option<Range> {
    let [one] = mappings?.as_slice() else { return None };
    (one.container_id() == 0 && one.size() > 0)
        .then(|| Range { first: one.host_id(), length: one.size() })
}

impl UserNamespace {
    /// That of a specification, when it has one.
    pub(crate) fn of(spec: &Spec) -> Result<Option<Self>, Failure> {
        let Some(ids) = Ids::of(spec)? else { return Ok(None) };
        let namespace = raw::inherited(USER_FD).at(STAGE, || "taking the namespace".into())?;
        Ok(Some(Self { ids, namespace }))
    }

    /// Maps a clone of a volume, with `recursive` all that is mounted in it. `path` is where it comes from.
    pub(crate) fn map(
        &self,
        mount: BorrowedFd<'_>,
        path: &str,
        recursive: bool,
    ) -> Result<(), Failure> {
        self.try_map(mount, recursive).map_err(|error| {
            if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::PermissionDenied) {
                let culprit = culprit(path, |m| self.try_map(m, false).is_err());
                let message = format!(
                    "the volume {path} cannot be used in a pod with a user namespace of its own: {culprit}"
                );
                return Failure::new("mount", Kind::Unsupported, message);
            }
            let message = format!("mapping the ids of {path}: {error}");
            Failure::new("mount", Kind::Internal, message)
        })
    }

    fn try_map(&self, mount: BorrowedFd<'_>, recursive: bool) -> std::io::Result<()> {
        let userns = u64::try_from(raw::shown(&self.namespace)).map_err(std::io::Error::other)?;
        let attr = MountAttr { set: raw::MOUNT_ATTR_IDMAP, userns, ..MountAttr::default() };
        raw::set_mount(mount, attr, recursive)
    }

    /// The image's layers with mapped ids, attached at a place of the staging root, and the container's own directories given
    /// to the mapped root. Layers are named relative to there.
    pub(crate) fn layers(&self, rootfs: &v1::Rootfs, at: BorrowedFd<'_>) -> Result<(), Failure> {
        let dir = &rootfs.dir;
        let clone = raw::clone_tree(raw::here(), &path::c_path(dir)?, false)
            .at(STAGE, || format!("cloning the mount of {dir}"))?;
        self.try_map(clone.as_fd(), false).map_err(|error| {
            let message = format!(
                "the images in {dir} cannot be used in a pod with a user namespace of its own: their file system takes no mapped ids ({error})"
            );
            Failure::new(STAGE, Kind::Unsupported, message)
        })?;
        raw::attach(clone.as_fd(), at).at(STAGE, || "attaching the layers".into())?;
        let (uid, gid) = self.ids.root();
        for dir in [&rootfs.upper, &rootfs.work] {
            std::os::unix::fs::chown(dir, Some(uid), Some(gid))
                .at(STAGE, || format!("giving {dir} to the pod's root"))?;
        }
        Ok(())
    }

    /// The devices of a specification in a directory, for libcontainer to bind: in a user namespace nobody may make one. They
    /// keep the owners that they have on the node, so that nobody in the pod may do more with them than there.
    pub(crate) fn devices(&self, spec: &Spec, dev: BorrowedFd<'_>) -> Result<(), Failure> {
        let (uid, gid) = self.ids.root();
        let linux = spec.linux().as_ref();
        let asked = linux.and_then(|l| l.devices().clone()).unwrap_or_default();
        for device in &asked {
            let below = device.path().strip_prefix("/dev").unwrap_or(device.path());
            Node::of(device)?.make(dev, below)?;
        }
        for (name, major, minor) in USUAL {
            let path = Path::new("/dev").join(name);
            if asked.iter().all(|d| *d.path() != path) {
                let (kind, number) = (SFlag::S_IFCHR, (major, minor));
                let node = Node { kind, mode: 0o666, owner: (uid, gid), number };
                node.make(dev, Path::new(name))?;
            }
        }
        Ok(())
    }
}

/// Which of the mounts at and below a path takes no mapped ids.
fn culprit(path: &str, is_refused: impl Fn(BorrowedFd<'_>) -> bool) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::canonicalize(path).map_or_else(|_| path.to_owned(), |p| p.display().to_string());
    let at_fault = |at: &str| {
        let clone =
            path::c_path(at).ok().and_then(|name| raw::clone_tree(raw::here(), &name, false).ok());
        clone.is_some_and(|clone| is_refused(clone.as_fd()))
    };
    let mut mounts = table.lines().filter_map(mount).collect::<Vec<_>>();
    mounts.reverse();
    let holder = mounts.iter().find(|(point, _)| Path::new(&own).starts_with(point));
    if let Some((_, kind)) = holder.filter(|_| at_fault(&own)) {
        return format!("its file system, {kind}, takes no mapped ids");
    }
    let below =
        mounts.iter().find(|(point, _)| Path::new(point).starts_with(&own) && at_fault(point));
    below.map_or_else(
        || "it takes no mapped ids".to_owned(),
        |(point, kind)| {
            format!("the file system {kind} that is mounted in it at {point} takes no mapped ids")
        },
    )
}

/// The mount point and the type of a line of a mount table.
fn mount(line: &str) -> Option<(&str, &str)> {
    let (place, kind) = line.split_once(" - ")?;
    Some((place.split(' ').nth(4)?, kind.split(' ').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(linux: &str) -> Spec {
        let text = format!(r#"{{"ociVersion":"1.2.0","linux":{linux}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn ids_are_those_of_one_range_each() {
        let ids = |uids: &str| {
            let gids = r#""gidMappings":[{"containerID":0,"hostID":9000,"size":10}]"#;
            Ids::of(&spec(&format!(
                r#"{{"namespaces":[{{"type":"user","path":"/proc/self/fd/8"}}],"uidMappings":{uids},{gids}}}"#
            )))
        };
        let one = ids(r#"[{"containerID":0,"hostID":7000,"size":100}]"#).unwrap().unwrap();
        assert_eq!((one.root(), one.user(33)), ((7000, 9000), 7033));
        one.check(99, 9, &[0, 9]).unwrap();
        for (uid, gid, groups) in [(100, 0, [0]), (0, 10, [0]), (0, 0, [10])] {
            one.check(uid, gid, &groups).unwrap_err();
        }
        for bad in ["[]", r#"[{"containerID":1,"hostID":7,"size":1}]"#] {
            ids(bad).unwrap_err();
        }
        assert_eq!(Ids::of(&spec("{}")).unwrap(), None);
    }

    #[test]
    fn a_mounts_point_and_type_are_found_in_its_line() {
        let line = "22 21 0:6 / /mnt rw,nosuid shared:7 master:3 - tmpfs b rw";
        assert_eq!(mount(line), Some(("/mnt", "tmpfs")));
    }
}
