//! What the options of a mount of a specification ask for.

use libcontainer::oci_spec::runtime::Mount;

use crate::raw;

/// How later mounts travel between a source and the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Propagation {
    Private,
    Slave,
    Shared,
}

/// Whether a mount of a specification has a source on the host.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || options(mount).any(|o| o == "bind" || o == "rbind")
}

/// What a mount's options ask for.
pub(crate) fn propagation(mount: &Mount) -> Propagation {
    let one = |option: &str| match option {
        "rslave" | "slave" => Propagation::Slave,
        "rshared" | "shared" => Propagation::Shared,
        _ => Propagation::Private,
    };
    options(mount).map(one).max().unwrap_or(Propagation::Private)
}

/// What a mount's options deny.
pub(crate) fn attributes(mount: &Mount) -> u64 {
    let one = |option: &str| match option {
        "noexec" => raw::MOUNT_ATTR_NOEXEC,
        "nosuid" => raw::MOUNT_ATTR_NOSUID,
        "nodev" => raw::MOUNT_ATTR_NODEV,
        _ => 0,
    };
    options(mount).map(one).fold(0, |all, one| all | one)
}

/// All of them.
pub(crate) fn options(mount: &Mount) -> impl Iterator<Item = &str> {
    mount.options().iter().flatten().map(String::as_str)
}
