//! Devices of the host: found here, because only here is the host's /dev at hand and a stranger's path no danger.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    Spec,
};
use wire::v1;

use crate::failure::{At, Failure, Kind};

const STAGE: &str = "device";
/// Not devices of the machine, or a container's own.
const NOT_GIVEN: [&str; 9] =
    ["pts", "ptmx", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"];
const DEEPEST: usize = 8;

/// Adds the devices that a job asks for to a specification.
pub(crate) fn add(spec: &mut Spec, job: &v1::CreateJob) -> Result<(), Failure> {
    let mut found = Vec::new();
    for device in &job.devices {
        let host = fs::canonicalize(&device.host_path).map_err(|e| {
            Failure::new(
                STAGE,
                Kind::NotFound,
                format!("no device {} on the host: {e}", device.host_path),
            )
        })?;
        walk(&host, Path::new(&device.container_path), &device.permissions, &mut found, 0)?;
        if found.is_empty() {
            return Err(Failure::invalid(STAGE, format!("{} is no device", device.host_path)));
        }
    }
    if job.all_devices {
        all(&mut found)?;
    }
    if found.is_empty() {
        return Ok(());
    }
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    let (nodes, rules): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.extend(nodes);
    linux.set_devices(Some(devices));
    if let Some(resources) = linux.resources_mut() {
        let mut all = resources.devices().clone().unwrap_or_default();
        all.extend(rules);
        resources.set_devices(Some(all));
    }
    Ok(())
}

type Found = (LinuxDevice, LinuxDeviceCgroup);

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
) -> Result<Found, libcontainer::oci_spec::OciSpecError> {
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
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(kind)
        .major(major)
        .minor(minor)
        .access(permissions)
        .build()?;
    Ok((node, rule))
}
