//! The specification that a runtime gets: the true one, with what launch has already done, where launch has put it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxNamespace, Mount, Spec};
use nix::mount::{MsFlags, mount};

use super::STAGE;
use crate::device;
use crate::options::is_bind;
use crate::rootfs;
use process::failure::{At, Failure};

/// How the pod's namespaces are named, which are descriptors of this process.
const OWN: &str = "/proc/self/fd/";
/// Where they are bound, below the staging root. Not /proc/PID/fd/N: runc 1.5 then reads the ids of that process, and a runtime
/// that has entered the user namespace may not look there.
const NAMESPACES: &str = "ns";

/// For a staging root that covers `over`, where bind sources are staged in order.
pub(super) fn of(spec: &Spec, over: &Path, mapped: bool) -> Result<Spec, Failure> {
    let mut theirs = spec.clone();
    let mut mounts = mounts(spec, over);
    if let Some(root) = theirs.root_mut() {
        root.set_path(over.join("rootfs"));
    }
    if let Some(linux) = theirs.linux_mut() {
        if mapped {
            let devices = linux.devices().clone().unwrap_or_default();
            let binds = devices.iter().map(|device| device::bind(device, over));
            mounts.extend(binds.collect::<Result<Vec<_>, _>>()?);
            linux.set_devices(None);
        }
        // What launch makes of the simple words, runtimes make of these.
        let whole = linux.rootfs_propagation().as_ref().map(|word| format!("r{word}"));
        linux.set_rootfs_propagation(whole);
        for namespace in linux.namespaces_mut().iter_mut().flatten() {
            if is_own(namespace) {
                let place = over.join(NAMESPACES).join(namespace.typ().to_string());
                namespace.set_path(Some(place));
            }
        }
    }
    theirs.set_mounts(Some(mounts));
    Ok(theirs)
}

/// Gives the pod's namespaces names in the staging root, which is the working directory.
pub(super) fn bind_namespaces(spec: &Spec) -> Result<(), Failure> {
    let doing = || "binding the pod's namespaces".to_owned();
    fs::create_dir(NAMESPACES).at(STAGE, doing)?;
    let linux = spec.linux().as_ref();
    let all = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    for namespace in all.filter(|namespace| is_own(namespace)) {
        let place = Path::new(NAMESPACES).join(namespace.typ().to_string());
        File::create_new(&place).at(STAGE, doing)?;
        let none = None::<&str>;
        mount(namespace.path().as_ref(), &place, none, MsFlags::MS_BIND, none)
            .at(STAGE, || format!("binding the {} namespace", namespace.typ()))?;
    }
    Ok(())
}

fn is_own(namespace: &LinuxNamespace) -> bool {
    namespace.path().as_ref().is_some_and(|path| path.starts_with(OWN))
}

fn mounts(spec: &Spec, over: &Path) -> Vec<Mount> {
    let mut staged = 0;
    let one = |mount: &Mount| {
        let mut mount = mount.clone();
        // Done on the clone.
        mount.set_uid_mappings(None).set_gid_mappings(None);
        if let Some(options) = mount.options_mut() {
            options.retain(|option| option != "ridmap");
        }
        if is_bind(&mount) {
            mount.set_source(Some(PathBuf::from(format!(
                "{}{}",
                over.display(),
                rootfs::staged(staged)
            ))));
            staged += 1;
        }
        mount
    };
    spec.mounts().iter().flatten().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn theirs(mapped: bool) -> serde_json::Value {
        let spec = r#"{"ociVersion":"1.2.0","root":{"path":"/rootfs"},
            "mounts":[{"destination":"/proc","type":"proc","source":"proc"},
              {"destination":"/v","type":"bind","source":"/host","options":["rbind","ridmap"],
               "uidMappings":[{"containerID":0,"hostID":7,"size":1}],
               "gidMappings":[{"containerID":0,"hostID":7,"size":1}]}],
            "linux":{"rootfsPropagation":"slave","devices":[{"path":"/dev/d/x","type":"c","major":1,"minor":3}],
              "namespaces":[{"type":"network","path":"/proc/self/fd/4"},{"type":"mount"},
                {"type":"pid","path":"/run/netns/x"}]}}"#;
        let spec: Spec = serde_json::from_str(spec).unwrap();
        serde_json::to_value(of(&spec, Path::new("/over"), mapped).unwrap()).unwrap()
    }

    #[test]
    fn a_runtime_finds_everything_in_the_staging_root() {
        let theirs = theirs(false);
        assert_eq!(theirs["root"]["path"], "/over/rootfs");
        assert_eq!(theirs["mounts"][1]["source"], "/over/s/0");
        assert_eq!(theirs["mounts"][1]["options"], serde_json::json!(["rbind"]));
        assert!(theirs["mounts"][1].get("uidMappings").is_none());
        assert_eq!(theirs["mounts"][0]["source"], "proc");
        assert_eq!(theirs["linux"]["rootfsPropagation"], "rslave");
        assert_eq!(theirs["linux"]["namespaces"][0]["path"], "/over/ns/net");
        assert!(theirs["linux"]["namespaces"][1].get("path").is_none());
        assert_eq!(theirs["linux"]["namespaces"][2]["path"], "/run/netns/x");
        assert_eq!(theirs["linux"]["devices"][0]["path"], "/dev/d/x");
    }

    #[test]
    fn devices_of_a_user_namespace_are_bound() {
        let theirs = theirs(true);
        assert!(theirs["linux"].get("devices").is_none());
        assert_eq!(theirs["mounts"][2]["destination"], "/dev/d/x");
        assert_eq!(theirs["mounts"][2]["source"], "/over/dev/d/x");
    }
}
