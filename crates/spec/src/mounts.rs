//! Mounts: the defaults, the pod's files, and volumes, in the order in which they are made.

use oci_spec::runtime::{Mount, MountBuilder};
use pod::config::{self, MountOption, NamespaceMode, Propagation};

use crate::request::{BuildError, Request};
use crate::{confine, injected};

pub(crate) const CGROUP: &str = "/sys/fs/cgroup";

pub(crate) fn mounts(request: &Request<'_>) -> Result<Vec<Mount>, BuildError> {
    let volumes = volumes(request)?;
    let taken = |path: &str| volumes.iter().any(|v| v.destination().as_os_str() == path);
    let hides_dev = taken("/dev");
    let mut all = Vec::new();
    for mount in [defaults(request)?, pod_files(request)?].concat() {
        let path = mount.destination().display().to_string();
        let hidden = hides_dev && ["/dev/pts", "/dev/mqueue"].contains(&path.as_str());
        if !taken(&path) && !hidden {
            all.push(mount);
        }
    }
    all.extend(volumes);
    // Parents before children; among equals the order given.
    all.sort_by_key(|m| m.destination().components().count());
    Ok(all)
}

fn defaults(request: &Request<'_>) -> Result<Vec<Mount>, BuildError> {
    let access = if request.container.security.privileged { "rw" } else { "ro" };
    let namespaces = &request.sandbox.namespaces;
    // The group of terminals; a user namespace may be too small to have it.
    let group = namespaces.user.is_none_or(|user| user.gids.length > 5).then_some("gid=5");
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    let pts: Vec<&str> = pts.into_iter().chain(group).collect();
    // A sysfs shows a network namespace, and only who owns that may mount it: else this is the node's, without what is mounted in it.
    let nodes_sys = namespaces.user.is_some() && namespaces.network == NamespaceMode::Node;
    let sys = if nodes_sys {
        ("/sys", "bind", "/sys", &["bind", "rprivate", "nosuid", "noexec", "nodev", "ro"][..])
    } else {
        ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access][..])
    };
    [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"][..]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", &pts),
        ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
        (CGROUP, "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ]
    .into_iter()
    .map(|(at, kind, source, options)| mount(at, kind, source, options))
    .collect()
}

fn pod_files(request: &Request<'_>) -> Result<Vec<Mount>, BuildError> {
    let place = request.place;
    let access = if request.container.security.readonly_rootfs { "ro" } else { "rw" };
    let shm = match request.sandbox.namespaces.ipc {
        NamespaceMode::Node => "/dev/shm",
        NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Target => place.shm.as_str(),
    };
    [
        ("/etc/hostname", place.hostname.as_str(), access),
        ("/etc/hosts", &place.hosts, access),
        ("/etc/resolv.conf", &place.resolv_conf, access),
        ("/dev/shm", shm, "rw"),
    ]
    .into_iter()
    .filter(|(_, source, _)| !source.is_empty())
    .map(|(at, source, access)| mount(at, "bind", source, &["rbind", "rprivate", access]))
    .collect()
}

fn volumes(request: &Request<'_>) -> Result<Vec<Mount>, BuildError> {
    let mut all: Vec<Mount> = Vec::new();
    for (index, volume) in request.container.mounts.iter().enumerate() {
        let mount = match &volume.image {
            Some(_) => image_mount(volume, index)?,
            None => volume_mount(request, volume)?,
        };
        // Of two at one place the later wins, as it would when both were mounted.
        all.retain(|m| m.destination() != mount.destination());
        all.push(mount);
    }
    for bind in &request.injected.mounts {
        let mount = injected::mount(bind)?;
        all.retain(|m| m.destination() != mount.destination());
        all.push(mount);
    }
    Ok(all)
}

/// How the source of an image volume is written, which launch makes: the number of the mount in the container's configuration. No
/// path of the host is relative, so that nothing else is called so.
pub fn image_source(mount: usize) -> String {
    format!("image:{mount}")
}

/// Read-only whatever is asked for. Nothing of a stranger's image may give rights or be a device, but it may be executed, as the
/// interface has it since the enhancement took `noexec` back: who wants that asks for it by an option.
fn image_mount(volume: &config::Mount, index: usize) -> Result<Mount, BuildError> {
    let at = destination(volume)?;
    let fixed = [MountOption::NoSuid, MountOption::NoDev];
    let more = volume.options.iter().filter(|option| !fixed.contains(option));
    let denied = fixed.iter().chain(more).map(|option| option.as_str());
    let options: Vec<&str> = ["rbind", "rprivate", "ro"].into_iter().chain(denied).collect();
    mount(&at, "bind", &image_source(index), &options)
}

fn field(volume: &config::Mount, name: &str) -> String {
    format!("config.mounts[{}].{name}", volume.container_path)
}

fn destination(volume: &config::Mount) -> Result<String, BuildError> {
    let at = clean(&volume.container_path);
    if volume.container_path.starts_with('/') && at != "/" {
        return Ok(at);
    }
    let wrong = "is not an absolute path below the root";
    Err(BuildError::field(field(volume, "container_path"), wrong))
}

fn volume_mount(request: &Request<'_>, volume: &config::Mount) -> Result<Mount, BuildError> {
    let field = |name: &str| field(volume, name);
    let at = destination(volume)?;
    if !volume.host_path.starts_with('/') {
        return Err(BuildError::field(
            field("host_path"),
            format!("{:?} is not absolute", volume.host_path),
        ));
    }
    let propagation = match volume.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (volume.readonly, volume.recursive_read_only) {
        (_, true) => recursive(request, volume)?,
        (true, false) => "ro",
        (false, false) => "rw",
    };
    if request.sandbox.namespaces.user.is_some() && volume.propagation == Propagation::Bidirectional
    {
        let wrong = "what a pod with a user namespace of its own mounts cannot reach the node";
        return Err(BuildError::field(field("propagation"), wrong));
    }
    let mut options = vec!["rbind", propagation, access];
    options.extend(volume.options.iter().map(|option| option.as_str()));
    let Some(ids) = &volume.mapped else {
        return mount(&at, "bind", &volume.host_path, &options);
    };
    options.push("ridmap");
    let mut mount = mount(&at, "bind", &volume.host_path, &options)?;
    mount.set_uid_mappings(Some(vec![confine::mapping(ids.uids)?]));
    mount.set_gid_mappings(Some(vec![confine::mapping(ids.gids)?]));
    Ok(mount)
}

fn recursive(request: &Request<'_>, volume: &config::Mount) -> Result<&'static str, BuildError> {
    let field = format!("config.mounts[{}].recursive_read_only", volume.container_path);
    if !volume.readonly {
        return Err(BuildError::field(field, "needs readonly"));
    }
    if volume.propagation != Propagation::Private {
        return Err(BuildError::field(field, "needs private propagation"));
    }
    if !request.node.recursive_read_only {
        return Err(BuildError::RecursiveReadOnly(volume.container_path.clone()));
    }
    Ok("rro")
}

fn mount(at: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount, BuildError> {
    let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    Ok(MountBuilder::default().destination(at).typ(kind).source(source).options(options).build()?)
}

/// A path without `.`, `..` and doubled slashes; it never climbs above the root.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}
