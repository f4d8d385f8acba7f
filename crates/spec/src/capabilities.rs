//! The five capability sets.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use crate::request::{BuildError, Request};

/// What the field gives a container that asks for nothing.
pub(crate) const USUAL: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

type Names = BTreeSet<String>;

pub(crate) fn capabilities(request: &Request<'_>) -> Result<LinuxCapabilities, BuildError> {
    let ambient = ambient(request)?;
    let held = oci(&held(request)?.union(&ambient).cloned().collect())?;
    let ambient = oci(&ambient)?;
    // A set that is left out means "unchanged" to libcontainer: all five are always written.
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(held.clone())
        .effective(held.clone())
        .permitted(held)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()?)
}

/// The names that a container holds, ambient ones aside.
pub(crate) fn held(request: &Request<'_>) -> Result<Names, BuildError> {
    let security = &request.container.security;
    let bounding = &request.node.bounding;
    if security.privileged {
        return Ok(bounding.clone());
    }
    let add = &security.add_capabilities;
    let drop = &security.drop_capabilities;
    let mut held: Names = request.node.default_capabilities.iter().cloned().collect();
    if has_all(add) {
        held.clone_from(bounding);
    }
    if has_all(drop) {
        held.clear();
    }
    held.extend(named("add_capabilities", add)?);
    for name in named("drop_capabilities", drop)? {
        held.remove(&name);
    }
    Ok(held.intersection(bounding).cloned().collect())
}

fn ambient(request: &Request<'_>) -> Result<Names, BuildError> {
    let security = &request.container.security;
    let asked = &security.add_ambient_capabilities;
    let bounding = &request.node.bounding;
    let mut ambient: Names = if has_all(asked) { bounding.clone() } else { Names::new() };
    ambient.extend(named("add_ambient_capabilities", asked)?);
    for name in named("drop_capabilities", &security.drop_capabilities)? {
        ambient.remove(&name);
    }
    Ok(ambient.intersection(bounding).cloned().collect())
}

fn has_all(list: &[String]) -> bool {
    list.iter().any(|n| n.eq_ignore_ascii_case("ALL"))
}

/// The names of a list but `ALL`, without prefix, in capitals.
fn named(field: &str, list: &[String]) -> Result<Vec<String>, BuildError> {
    let one = |text: &String| {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned();
        let known = names::CAPABILITIES.contains(&name.as_str());
        let field = format!("config.linux.security_context.capabilities.{field}");
        known
            .then_some(name)
            .ok_or_else(|| BuildError::field(field, format!("{text:?} is no capability")))
    };
    list.iter().filter(|n| !n.eq_ignore_ascii_case("ALL")).map(one).collect()
}

fn oci(names: &Names) -> Result<Capabilities, BuildError> {
    let one = |name: &String| {
        name.parse::<Capability>()
            .map_err(|_| BuildError::field("capabilities", format!("{name:?} is unknown")))
    };
    names.iter().map(one).collect()
}
