//! Where a cgroup lies, relative to every hierarchy's mount.

use std::fmt;
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};

use names::{ContainerId, Kind, SandboxId};
use serde::{Deserialize, Serialize};

/// Every pod cgroup's last name starts so: what has this prefix is ours to sweep.
pub(super) const PREFIX: &str = "ferropod-";
const DEFAULT_PARENT: &str = "/ferropod";

/// An absolute, normal path below every hierarchy's mount point; never the root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath(String);

/// A path that no cgroup of ours can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CgroupPathError {
    /// It climbs, or is nowhere.
    #[error("{0:?} is not an absolute cgroup path without . and ..")]
    Path(String),
    /// A parent for the other driver.
    #[error(
        "{0:?} is not a slice, which the parent of a pod is with the systemd driver: kubelet and runtime need the same driver"
    )]
    NoSlice(String),
}

impl CgroupPathError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// The cgroup of a pod: `<parent>/ferropod-<sandbox id>`, or a systemd scope of that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "CgroupPath", into = "CgroupPath")]
pub struct PodCgroup(CgroupPath);

// === impl CgroupPath ===

impl CgroupPath {
    /// The path as libcontainer and /proc write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This cgroup's directory in the hierarchy that is mounted at `point`.
    pub(super) fn under(&self, point: &Path) -> PathBuf {
        point.join(self.relative())
    }

    pub(super) fn relative(&self) -> &str {
        self.0.trim_start_matches('/')
    }

    pub(super) fn child(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0))
    }

    pub(super) fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/')?;
        (!parent.is_empty()).then(|| Self(parent.to_owned()))
    }

    pub(super) fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = CgroupPathError;
    fn try_from(text: String) -> Result<Self, CgroupPathError> {
        let mut parts = Path::new(&text).components();
        let absolute = parts.next() == Some(Component::RootDir);
        let names: Option<Vec<&str>> = parts
            .map(|part| match part {
                Component::Normal(name) => name.to_str().filter(|n| !n.contains('\n')),
                Component::RootDir
                | Component::Prefix(_)
                | Component::CurDir
                | Component::ParentDir => None,
            })
            .collect();
        match names {
            Some(names) if absolute && !names.is_empty() && !dotted(&text) => {
                Ok(Self(format!("/{}", names.join("/"))))
            }
            _ => Err(CgroupPathError::Path(text)),
        }
    }
}

/// `components` swallows `/./`, which would make two names of one cgroup.
fn dotted(text: &str) -> bool {
    text.split('/').any(|name| name == "." || name == "..")
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> Self {
        path.0
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl PodCgroup ===

impl PodCgroup {
    /// The cgroup of a sandbox below `parent`, as the cgroupfs driver lays it out; an empty parent is `/ferropod`.
    pub(super) fn cgroupfs(parent: &str, id: &SandboxId) -> Result<Self, CgroupPathError> {
        let parent = if parent.is_empty() { DEFAULT_PARENT } else { parent };
        Self::below(parent, &format!("{PREFIX}{id}"))
    }

    /// The same as a scope: `a-b.slice` lies in `a.slice`.
    pub(super) fn systemd(parent: &str, id: &SandboxId) -> Result<Self, CgroupPathError> {
        let scope = format!("{PREFIX}{id}.scope");
        match parent.trim_matches('/').rsplit('/').next() {
            Some(slice) if slice.strip_suffix(".slice").is_some() => {
                Self::below(&expand_slice(slice), &scope)
            }
            _ if parent.is_empty() => Self::below("/ferropod.slice", &scope),
            _ => Err(CgroupPathError::NoSlice(parent.to_owned())),
        }
    }

    fn below(parent: &str, name: &str) -> Result<Self, CgroupPathError> {
        let parent = if parent.starts_with('/') { parent.to_owned() } else { format!("/{parent}") };
        CgroupPath::try_from(format!("{}/{name}", parent.trim_end_matches('/'))).map(Self)
    }

    /// A container's cgroup, where libcontainer puts its processes.
    pub fn container(&self, id: &ContainerId) -> CgroupPath {
        self.0.child(id.as_str())
    }

    /// Where the shim lives (unified hierarchy only).
    pub fn shim(&self) -> CgroupPath {
        self.0.child("shim")
    }

    /// The sandbox that it belongs to.
    pub fn sandbox(&self) -> Option<SandboxId> {
        let name = self.0.name().strip_prefix(PREFIX)?;
        name.strip_suffix(".scope").unwrap_or(name).parse().ok()
    }
}

impl TryFrom<CgroupPath> for PodCgroup {
    type Error = CgroupPathError;
    fn try_from(path: CgroupPath) -> Result<Self, CgroupPathError> {
        let pod = Self(path);
        if pod.sandbox().is_some() { Ok(pod) } else { Err(CgroupPathError::Path(pod.0.0)) }
    }
}

impl From<PodCgroup> for CgroupPath {
    fn from(pod: PodCgroup) -> Self {
        pod.0
    }
}

impl Deref for PodCgroup {
    type Target = CgroupPath;
    fn deref(&self) -> &CgroupPath {
        &self.0
    }
}

/// `kubepods-burstable.slice` is `/kubepods.slice/kubepods-burstable.slice`; `-.slice` is the root.
fn expand_slice(slice: &str) -> String {
    let stem = slice.trim_end_matches(".slice");
    let mut prefix = String::new();
    let mut path = String::new();
    for part in stem.split('-').filter(|part| !part.is_empty()) {
        prefix = if prefix.is_empty() { part.to_owned() } else { format!("{prefix}-{part}") };
        path = format!("{path}/{prefix}.slice");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SandboxId {
        SandboxId::from_random([0xab; 32])
    }

    #[test]
    fn a_pod_cgroup_lies_below_its_parent_and_an_empty_parent_is_ours() {
        let id = id();
        let pod = |parent: &str| PodCgroup::cgroupfs(parent, &id).map(|p| p.as_str().to_owned());
        assert_eq!(pod("").unwrap(), format!("/ferropod/ferropod-{id}"));
        assert_eq!(pod("/kubepods/pod1/").unwrap(), format!("/kubepods/pod1/ferropod-{id}"));
        assert_eq!(pod("kubepods").unwrap(), format!("/kubepods/ferropod-{id}"));
        assert_eq!(pod("/").unwrap(), format!("/ferropod-{id}"));
    }

    #[test]
    fn a_parent_that_climbs_out_is_refused() {
        for parent in ["/a/../b", "..", "/a/./b", "/a\nb"] {
            assert!(PodCgroup::cgroupfs(parent, &id()).is_err(), "{parent:?}");
        }
    }

    #[test]
    fn a_slice_lies_in_the_slices_that_its_name_tells() {
        let pod = PodCgroup::systemd("kubepods-burstable-pod1.slice", &id()).unwrap();
        let parents = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice";
        assert_eq!(pod.as_str(), format!("{parents}/ferropod-{}.scope", id()));
        assert_eq!(pod.sandbox(), Some(id()));
        let said = PodCgroup::systemd("/kubepods", &id()).unwrap_err().to_string();
        assert!(said.contains("/kubepods") && said.contains("is not a slice"), "{said}");
    }

    #[test]
    fn a_record_names_only_cgroups_of_ours() {
        let pod = PodCgroup::cgroupfs("/p", &id()).unwrap();
        let text = serde_json::to_string(&pod).unwrap();
        assert_eq!(serde_json::from_str::<PodCgroup>(&text).unwrap(), pod);
        for bad in ["\"/\"", "\"/system.slice\"", "\"/ferropod-x\"", "\"relative\""] {
            assert!(serde_json::from_str::<PodCgroup>(bad).is_err(), "{bad}");
        }
    }
}
