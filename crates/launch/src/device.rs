//! Devices of the host: found here, because only here is the host's /dev at hand and a stranger's path no danger.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    Mount, MountBuilder, Spec,
};
use wire::v1;

use crate::node::Elsewhere;
use crate::options::is_bind;
use process::failure::{At, Failure, Kind};

const STAGE: &str = "device";
/// Not devices of the machine, or a container's own.
const NOT_GIVEN: [&str; 9] =
    ["pts", "ptmx", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"];
const DEEPEST: usize = 8;
/// Of a node that is described without one.
const USUAL_MODE: u32 = 0o660;

/// Adds the devices that a job asks for to a specification, those whose places are not below /dev as mounts. Where a volume covers
/// /dev there is no place for nodes in it, and what may be done with the devices counts for those that are in the volume.
pub(crate) fn add(spec: &mut Spec, job: &v1::CreateJob) -> Result<Elsewhere, Failure> {
    let mut found = Vec::new();
    if job.all_devices {
        all(&mut found)?;
    }
    for device in &job.devices {
        found.extend(asked(device)?);
    }
    let (nodes, rules): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let nodes = last_of_each(nodes);
    if let Some(strange) = nodes.iter().find(|node| !is_place(node)) {
        let message = format!("{} is no place for a device", strange.path().display());
        return Err(Failure::invalid(STAGE, message));
    }
    let (mut nodes, elsewhere): (Vec<_>, Vec<_>) =
        nodes.into_iter().partition(|node| node.path().starts_with("/dev"));
    if covers_dev(spec) {
        nodes.clear();
    }
    let elsewhere = Elsewhere::add(elsewhere, spec.mounts_mut().get_or_insert_default())
        .at(STAGE, || "describing devices".into())?;
    let Some(linux) = spec.linux_mut() else { return Ok(elsewhere) };
    if !nodes.is_empty() {
        linux.devices_mut().get_or_insert_default().extend(nodes);
    }
    if let Some(resources) = linux.resources_mut() {
        resources.devices_mut().get_or_insert_default().extend(rules.into_iter().flatten());
    }
    Ok(elsewhere)
}

/// One entry of a job: a device, or those of a directory.
fn asked(device: &v1::Device) -> Result<Vec<Found>, Failure> {
    if let Some(own) = device.own.as_ref().filter(|own| !own.kind.is_empty()) {
        return Ok(vec![described(device, own)?]);
    }
    let host = fs::canonicalize(&device.host_path).map_err(|e| {
        let message = format!("no device {} on the host: {e}", device.host_path);
        Failure::new(STAGE, Kind::NotFound, message)
    })?;
    let mut found = Vec::new();
    walk(&host, Path::new(&device.container_path), &device.permissions, &mut found, 0)?;
    if found.is_empty() {
        return Err(Failure::invalid(STAGE, format!("{} is no device", device.host_path)));
    }
    if let Some(mode) = device.own.as_ref().and_then(|own| own.mode) {
        for (node, _) in &mut found {
            node.set_file_mode(Some(mode));
        }
    }
    Ok(found)
}

/// Of nodes at one place the last counts: what was asked for, and not what every privileged container has.
fn last_of_each(nodes: Vec<LinuxDevice>) -> Vec<LinuxDevice> {
    let mut places = BTreeSet::new();
    let mut last: Vec<_> =
        nodes.into_iter().rev().filter(|node| places.insert(node.path().clone())).collect();
    last.reverse();
    last
}

fn is_place(node: &LinuxDevice) -> bool {
    let below = node.path().strip_prefix("/");
    below.is_ok_and(|below| below.components().all(|part| matches!(part, Component::Normal(_))))
}

/// Runtimes leave such a directory alone.
fn covers_dev(spec: &Spec) -> bool {
    let mut all = spec.mounts().iter().flatten();
    all.any(|mount| is_bind(mount) && mount.destination() == "/dev")
}

/// Gives the nodes that a job describes to whom it says, else to the container's user.
pub(crate) fn own(
    spec: &mut Spec,
    elsewhere: &mut Elsewhere,
    job: &v1::CreateJob,
    (uid, gid): (u32, u32),
) {
    let Some(linux) = spec.linux_mut() else { return };
    let mut nodes = linux.devices().clone().unwrap_or_default();
    for (device, own) in job.devices.iter().filter_map(|d| Some((d, d.own.as_ref()?))) {
        let inside = Path::new(&device.container_path);
        let all = nodes.iter_mut().chain(&mut elsewhere.devices);
        for node in all.filter(|node| node.path().starts_with(inside)) {
            // Root needs no node of its own.
            if let Some(uid) = own.uid.or_else(|| (uid != 0).then_some(uid)) {
                node.set_uid(Some(uid));
            }
            if let Some(gid) = own.gid.or_else(|| (gid != 0).then_some(gid)) {
                node.set_gid(Some(gid));
            }
        }
    }
    linux.set_devices(Some(nodes));
}

fn described(device: &v1::Device, own: &v1::OwnNode) -> Result<Found, Failure> {
    let doing = || format!("describing {}", device.container_path);
    let kind = match own.kind.as_str() {
        "b" => LinuxDeviceType::B,
        "p" => LinuxDeviceType::P,
        "u" => LinuxDeviceType::U,
        _ => LinuxDeviceType::C,
    };
    let node = LinuxDeviceBuilder::default()
        .path(device.container_path.as_str())
        .typ(kind)
        .major(own.major)
        .minor(own.minor)
        .file_mode(own.mode.unwrap_or(USUAL_MODE))
        .build()
        .at(STAGE, doing)?;
    Ok((node, rule(kind, (own.major, own.minor), &device.permissions).at(STAGE, doing)?))
}

/// A node, and what may be done with it.
type Found = (LinuxDevice, Option<LinuxDeviceCgroup>);

fn all(found: &mut Vec<Found>) -> Result<(), Failure> {
    for entry in fs::read_dir("/dev").at(STAGE, || "reading /dev".into())? {
        let path = entry.at(STAGE, || "reading /dev".into())?.path();
        let given = path.file_name().is_none_or(|n| NOT_GIVEN.iter().all(|not| n != *not));
        if given {
            walk(&path, &path, "rwm", found, 1)?;
        }
    }
    Ok(())
}

fn walk(
    host: &Path,
    inside: &Path,
    permissions: &str,
    found: &mut Vec<Found>,
    depth: usize,
) -> Result<(), Failure> {
    // A device may vanish while we look.
    let Ok(meta) = fs::symlink_metadata(host) else { return Ok(()) };
    if meta.is_dir() && depth < DEEPEST {
        for entry in fs::read_dir(host).at(STAGE, || format!("reading {}", host.display()))? {
            let entry = entry.at(STAGE, || format!("reading {}", host.display()))?;
            walk(&entry.path(), &inside.join(entry.file_name()), permissions, found, depth + 1)?;
        }
    } else if let Some(kind) = kind(&meta) {
        found.push(
            device(inside.to_owned(), kind, &meta, permissions)
                .at(STAGE, || format!("describing {}", host.display()))?,
        );
    }
    Ok(())
}

fn kind(meta: &Metadata) -> Option<LinuxDeviceType> {
    let kind = meta.file_type();
    match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => Some(LinuxDeviceType::C),
        (_, true) => Some(LinuxDeviceType::B),
        _ => None,
    }
}

fn device(
    path: PathBuf,
    kind: LinuxDeviceType,
    meta: &Metadata,
    permissions: &str,
) -> Result<Found, OciSpecError> {
    let (major, minor) = (i64::from(libc::major(meta.rdev())), i64::from(libc::minor(meta.rdev())));
    let node = LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(major)
        .minor(minor)
        .file_mode(meta.mode() & 0o7777)
        .uid(meta.uid())
        .gid(meta.gid())
        .build()?;
    Ok((node, rule(kind, (major, minor), permissions)?))
}

fn rule(
    kind: LinuxDeviceType,
    (major, minor): (i64, i64),
    permissions: &str,
) -> Result<Option<LinuxDeviceCgroup>, OciSpecError> {
    // The controller knows two kinds, and no rule that allows nothing.
    let kind = match kind {
        LinuxDeviceType::P => return Ok(None),
        LinuxDeviceType::U => LinuxDeviceType::C,
        kind => kind,
    };
    if permissions.is_empty() {
        return Ok(None);
    }
    let rule = LinuxDeviceCgroupBuilder::default().allow(true).typ(kind).major(major).minor(minor);
    rule.access(permissions).build().map(Some)
}
/// In a user namespace nobody makes a device, and runtimes bind the host's of the same name, not the one that was asked for.
pub(crate) fn bind(device: &LinuxDevice, over: &Path) -> Result<Mount, Failure> {
    let below = device.path().strip_prefix("/dev").unwrap_or(device.path());
    MountBuilder::default()
        .destination(device.path())
        .typ("bind")
        .source(over.join("dev").join(below))
        .options(vec!["bind".to_owned(), "nosuid".to_owned(), "noexec".to_owned()])
        .build()
        .at(STAGE, || format!("describing the device {}", device.path().display()))
}
