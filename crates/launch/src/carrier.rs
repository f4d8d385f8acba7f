//! The specification that libcontainer gets: the true one with everything taken out that it does wrongly or too early.
//!
//! It runs as root with every capability and no filter, so that our executor can do the last steps in the right order:
//! ids, capabilities, filter, limits, working directory, program.

use std::path::PathBuf;

use libcontainer::capabilities::CapabilityExt;
use libcontainer::oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilitiesBuilder, Mount, MountBuilder, Process, Spec,
    UserBuilder,
};

use crate::cgroups::{self, CgroupOwner};
use crate::ground::Ground;
use crate::{options, raw};
use process::failure::{At, Failure};

const STAGE: &str = "spec";

/// Whether a mount covers /dev or lies below one that does. libcontainer makes devices and links below /dev by path and
/// removes its ptmx: in a directory of the host that would change the host, so these are mounted after it is done.
pub(crate) fn is_late(mount: &Mount, all: &[Mount]) -> bool {
    let covers = |m: &Mount| options::is_bind(m) && m.destination() == "/dev";
    mount.destination().starts_with("/dev") && options::is_bind(mount) && all.iter().any(covers)
}

/// The carrier of a true specification whose bind sources are staged in order.
pub(crate) fn carrier(spec: &Spec, owner: CgroupOwner, ground: &Ground) -> Result<Spec, Failure> {
    let mut carrier = spec.clone();
    let all = spec.mounts().clone().unwrap_or_default();
    let late = all.iter().any(|m| is_late(m, &all));
    let mut mounts = Vec::new();
    let mut staged = 0;
    for mount in &all {
        if is_late(mount, &all) {
            continue;
        }
        let mut mount = mount.clone();
        // Done on the clone: libcontainer refuses it.
        mount.set_uid_mappings(None).set_gid_mappings(None);
        if let Some(options) = mount.options_mut() {
            options.retain(|option| option != "ridmap");
        }
        if options::is_bind(&mount) {
            mount.set_source(Some(ground.staged(staged)));
            staged += 1;
        }
        mounts.push(mount);
    }
    if late {
        mounts.extend(own_dev()?);
    }
    if let Some(label) = spec.linux().as_ref().and_then(|l| l.mount_label().as_deref()) {
        for mount in &mut mounts {
            take_label(mount, label);
        }
    }
    carrier.set_mounts(Some(mounts)).set_hooks(None);
    if let Some(root) = carrier.root_mut() {
        root.set_path(ground.rootfs().into());
    }
    if let Some(linux) = carrier.linux_mut() {
        // It would label file systems that are one for many mounts, which the kernel refuses.
        linux.set_seccomp(None).set_mount_label(None);
        if owner == CgroupOwner::Launch {
            linux.set_resources(None);
            // Where the host is in sight that would be a path of the host's, and there are no hierarchies.
            if !ground.shows_host() {
                linux.set_cgroups_path(Some(PathBuf::from(cgroups::BLIND)));
            }
        }
    }
    let process = carrier.process().as_ref().map(process).transpose()?;
    carrier.set_process(process);
    Ok(carrier)
}

/// SELinux takes a label for a file system that is new with its mount, and in a user namespace for these only.
fn take_label(mount: &mut Mount, label: &str) {
    if matches!(mount.typ().as_deref(), Some("tmpfs" | "devpts")) {
        mount.options_mut().get_or_insert_default().push(format!("context={label}"));
    }
}

fn process(true_process: &Process) -> Result<Process, Failure> {
    let doing = || "making the carrier's process".to_owned();
    let mut process = true_process.clone();
    let all = held()?;
    let none = Capabilities::new();
    // A set that is left out means "unchanged", so all five are there.
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(all.clone())
        .effective(all.clone())
        .permitted(all)
        .inheritable(none.clone())
        .ambient(none)
        .build()
        .at(STAGE, doing)?;
    process
        .set_user(UserBuilder::default().uid(0_u32).gid(0_u32).build().at(STAGE, doing)?)
        .set_capabilities(Some(capabilities))
        // An explicit false makes libcontainer load filters at another time.
        .set_no_new_privileges(None)
        .set_rlimits(None)
        .set_oom_score_adj(None)
        // Ours too: its way is by the container's /proc, and it knows no SELinux.
        .set_apparmor_profile(None)
        .set_selinux_label(None)
        .set_cwd(PathBuf::from("/"))
        // With HOME it does not read the image's passwd.
        .set_env(Some(vec!["PATH=/".to_owned(), "HOME=/".to_owned()]));
    Ok(process)
}

fn held() -> Result<Capabilities, Failure> {
    let mask = raw::permitted().at(STAGE, || "reading capabilities".into())?;
    let known = names::CAPABILITIES.iter().filter_map(|name| name.parse::<Capability>().ok());
    Ok(known.filter(|c| mask & c.to_cap().bitmask() != 0).collect())
}

/// A /dev of the container's own below the one that covers it: libcontainer needs a place to work in, and a terminal.
fn own_dev() -> Result<Vec<Mount>, Failure> {
    let mount = |at: &str, kind: &str, options: &[&str]| {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        let built =
            MountBuilder::default().destination(at).typ(kind).source(kind).options(options).build();
        built.at(STAGE, || format!("making the mount at {at}"))
    };
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    Ok(vec![mount("/dev", "tmpfs", &["nosuid", "mode=755"])?, mount("/dev/pts", "devpts", &pts)?])
}
