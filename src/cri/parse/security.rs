//! Namespaces, profiles and capabilities: what a sandbox and a container have alike.

use cri_proto::cri;
use pod::config::{
    IdRange, NamespaceMode, Namespaces, SecurityProfile, SelinuxOptions, UserNamespace,
};

use super::{At, Invalid, absolute, id, known, not_empty, plain};

/// Whose namespaces are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Sandbox,
    Container,
}

/// Absent means POD throughout, the enum's zero.
pub(super) fn namespaces(
    at: &At<'_>,
    wire: Option<&cri::NamespaceOption>,
    whose: Whose,
) -> Result<Namespaces, Invalid> {
    let Some(wire) = wire else { return Ok(Namespaces::default()) };
    let pid = mode(&at.field("pid"), wire.pid)?;
    let target = match (pid, whose) {
        (NamespaceMode::Target, Whose::Sandbox) => {
            return Err(at.field("pid").invalid("a sandbox cannot join a container"));
        }
        (NamespaceMode::Target, Whose::Container) => {
            Some(id(&at.field("target_id"), &wire.target_id)?)
        }
        _ => None,
    };
    let mut namespaces = Namespaces {
        network: pod_or_node(&at.field("network"), wire.network)?,
        pid,
        ipc: pod_or_node(&at.field("ipc"), wire.ipc)?,
        target,
        user: None,
    };
    if let Some(wire) = &wire.userns_options {
        namespaces.user = user_namespace(&at.field("userns_options"), wire, &namespaces)?;
    }
    Ok(namespaces)
}

/// NODE is what everybody has.
fn user_namespace(
    at: &At<'_>,
    wire: &cri::UserNamespace,
    beside: &Namespaces,
) -> Result<Option<UserNamespace>, Invalid> {
    match mode(&at.field("mode"), wire.mode)? {
        NamespaceMode::Node if wire.uids.is_empty() && wire.gids.is_empty() => Ok(None),
        NamespaceMode::Node => Err(at.invalid("has mappings, but its mode is NODE")),
        NamespaceMode::Container | NamespaceMode::Target => {
            Err(at.field("mode").invalid("is neither POD nor NODE"))
        }
        NamespaceMode::Pod => {
            if beside.pid == NamespaceMode::Node || beside.ipc == NamespaceMode::Node {
                return Err(at.invalid("does not go with the node's PID or IPC namespace"));
            }
            let uids = range(&at.field("uids"), &wire.uids)?;
            Ok(Some(UserNamespace { uids, gids: range(&at.field("gids"), &wire.gids)? }))
        }
    }
}

/// The ids of a volume: as a rule those of the pod, both or none.
pub(super) fn mapped(at: &At<'_>, wire: &cri::Mount) -> Result<Option<UserNamespace>, Invalid> {
    if wire.uid_mappings.is_empty() && wire.gid_mappings.is_empty() {
        return Ok(None);
    }
    let uids = range(&at.field("uidMappings"), &wire.uid_mappings)?;
    Ok(Some(UserNamespace { uids, gids: range(&at.field("gidMappings"), &wire.gid_mappings)? }))
}

fn range(at: &At<'_>, wire: &[cri::IdMapping]) -> Result<IdRange, Invalid> {
    let [one] = wire else { return Err(at.invalid("must be exactly one mapping")) };
    if one.container_id != 0 || one.length == 0 {
        return Err(at.invalid("does not map id 0"));
    }
    // 4294967295 means "none" to the kernel.
    match one.host_id.checked_add(one.length) {
        Some(_) => Ok(IdRange { first: one.host_id, length: one.length }),
        None => Err(at.invalid("goes beyond the last id")),
    }
}

fn pod_or_node(at: &At<'_>, value: i32) -> Result<NamespaceMode, Invalid> {
    match mode(at, value)? {
        mode @ (NamespaceMode::Pod | NamespaceMode::Node) => Ok(mode),
        NamespaceMode::Container | NamespaceMode::Target => {
            Err(at.invalid("is neither POD nor NODE"))
        }
    }
}

fn mode(at: &At<'_>, value: i32) -> Result<NamespaceMode, Invalid> {
    Ok(match known(at, value)? {
        cri::NamespaceMode::Pod => NamespaceMode::Pod,
        cri::NamespaceMode::Container => NamespaceMode::Container,
        cri::NamespaceMode::Node => NamespaceMode::Node,
        cri::NamespaceMode::Target => NamespaceMode::Target,
    })
}

/// The profile and, where there is none, the deprecated string.
pub(super) fn seccomp(
    at: &At<'_>,
    wire: Option<&cri::SecurityProfile>,
    old: &str,
) -> Result<Option<SecurityProfile>, Invalid> {
    let field = at.field("seccomp");
    let profile = match wire {
        Some(wire) => Some(profile(&field, wire)?),
        None => old_profile(&at.field("seccomp_profile_path"), old)?,
    };
    if let Some(SecurityProfile::Localhost(path)) = &profile {
        absolute(&field.field("localhost_ref"), path)?;
    }
    Ok(profile)
}

/// The profile and, where there is none, the deprecated string.
pub(super) fn apparmor(
    at: &At<'_>,
    wire: Option<&cri::SecurityProfile>,
    old: &str,
) -> Result<Option<SecurityProfile>, Invalid> {
    let field = at.field("apparmor");
    let asked = match wire {
        Some(wire) => Some(profile(&field, wire)?),
        None => old_profile(&at.field("apparmor_profile"), old)?,
    };
    let Some(SecurityProfile::Localhost(name)) = asked else { return Ok(asked) };
    // As it stood in the annotations that came before the field.
    let name = name.strip_prefix("localhost/").unwrap_or(&name);
    let named = field.field("localhost_ref");
    not_empty(&named, name)?;
    plain(&named, name)?;
    Ok(Some(SecurityProfile::Localhost(name.to_owned())))
}

/// Only a level has colons; what becomes part of a label has no spaces.
pub(super) fn selinux(
    at: &At<'_>,
    wire: Option<&cri::SeLinuxOption>,
) -> Result<Option<SelinuxOptions>, Invalid> {
    let Some(wire) = wire else { return Ok(None) };
    let at = at.field("selinux_options");
    let parts = [("user", &wire.user), ("role", &wire.role), ("type", &wire.r#type)];
    for (name, text) in parts {
        selinux_part(&at.field(name), text, "_-.")?;
    }
    selinux_part(&at.field("level"), &wire.level, "_-.,:")?;
    let asked = SelinuxOptions {
        user: wire.user.clone(),
        role: wire.role.clone(),
        kind: wire.r#type.clone(),
        level: wire.level.clone(),
    };
    Ok(Some(asked).filter(|asked| *asked != SelinuxOptions::default()))
}

fn selinux_part(at: &At<'_>, text: &str, marks: &str) -> Result<(), Invalid> {
    if text.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c)) {
        return Ok(());
    }
    Err(at.invalid(format!("{text:?} is no part of an SELinux label")))
}

fn profile(at: &At<'_>, wire: &cri::SecurityProfile) -> Result<SecurityProfile, Invalid> {
    use cri::security_profile::ProfileType;
    Ok(match known(&at.field("profile_type"), wire.profile_type)? {
        ProfileType::RuntimeDefault => SecurityProfile::RuntimeDefault,
        ProfileType::Unconfined => SecurityProfile::Unconfined,
        ProfileType::Localhost if wire.localhost_ref.is_empty() => {
            return Err(at.field("localhost_ref").invalid("is empty"));
        }
        ProfileType::Localhost => SecurityProfile::Localhost(wire.localhost_ref.clone()),
    })
}

fn old_profile(at: &At<'_>, text: &str) -> Result<Option<SecurityProfile>, Invalid> {
    match text {
        "" => Ok(None),
        "runtime/default" | "docker/default" => Ok(Some(SecurityProfile::RuntimeDefault)),
        "unconfined" => Ok(Some(SecurityProfile::Unconfined)),
        other => match other.strip_prefix("localhost/") {
            Some(path) => Ok(Some(SecurityProfile::Localhost(path.to_owned()))),
            None => Err(at.invalid(format!("{other:?} is not a profile"))),
        },
    }
}

/// Upper case, without `CAP_`; `ALL` stays.
pub(super) fn capabilities(at: &At<'_>, wire: &[String]) -> Result<Vec<String>, Invalid> {
    let capability = |(index, text): (usize, &String)| {
        let upper = text.to_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" || names::CAPABILITIES.contains(&name) {
            return Ok(name.to_owned());
        }
        Err(at.item(index).invalid(format!("{text:?} is not a capability")))
    };
    wire.iter().enumerate().map(capability).collect()
}
