//! A container's configuration.

use cri_proto::cri;
use names::ContainerName;
use pod::config::{
    ContainerConfig, ContainerSecurity, Device, GroupsPolicy, ImageSpec, RunAs, SecurityProfile,
    Stdio,
};

use super::mount::mounts;
use super::security::{self, Whose};
use super::{
    At, Invalid, absolute, absolute_or_empty, ident, ids, known, name, no_way_up, not_empty, plain,
    resources, without_nul,
};
use signal::kernel_signal;
pub(crate) use signal::wire_signal;

mod signal;

pub(crate) fn container_config(
    at: &At<'_>,
    wire: Option<&cri::ContainerConfig>,
) -> Result<ContainerConfig, Invalid> {
    let wire = at.required(wire)?;
    at.field("windows").unasked(wire.windows.is_some())?;
    absolute_or_empty(&at.field("working_dir"), &wire.working_dir)?;
    log_path(&at.field("log_path"), &wire.log_path)?;
    let absent = cri::LinuxContainerConfig::default();
    let linux = wire.linux.as_ref().unwrap_or(&absent);
    let at_linux = at.field("linux");
    let limits = linux.resources.clone().unwrap_or_default();
    Ok(ContainerConfig {
        name: metadata(&at.field("metadata"), wire.metadata.as_ref())?,
        image: image(&at.field("image"), wire.image.as_ref())?,
        command: words(&at.field("command"), &wire.command)?,
        args: words(&at.field("args"), &wire.args)?,
        working_dir: wire.working_dir.clone(),
        envs: envs(&at.field("envs"), &wire.envs)?,
        mounts: mounts(&at.field("mounts"), &wire.mounts)?,
        devices: devices(&at.field("devices"), &wire.devices)?,
        cdi_devices: cdi_devices(&at.field("CDI_devices"), &wire.cdi_devices)?,
        labels: wire.labels.clone().into_iter().collect(),
        annotations: wire.annotations.clone().into_iter().collect(),
        log_path: wire.log_path.clone(),
        stdio: Stdio { stdin: wire.stdin, stdin_once: wire.stdin_once, tty: wire.tty },
        stop_signal: kernel_signal(&at.field("stop_signal"), wire.stop_signal)?,
        stop_signal_enum: wire.stop_signal,
        resources: resources(&at_linux.field("resources"), &limits)?,
        security: security(&at_linux, linux.security_context.as_ref())?,
    })
}

/// How an image is named, in a container or in a call of the image service. Every handler runs the same images.
pub(crate) fn image(at: &At<'_>, wire: Option<&cri::ImageSpec>) -> Result<ImageSpec, Invalid> {
    let wire = at.required(wire)?;
    let named = at.field("image");
    not_empty(&named, &wire.image)?;
    plain(&named, &wire.image)?;
    Ok(ImageSpec {
        image: wire.image.clone(),
        annotations: wire.annotations.clone().into_iter().collect(),
        user_specified_image: wire.user_specified_image.clone(),
        runtime_handler: wire.runtime_handler.clone(),
    })
}

fn metadata(at: &At<'_>, wire: Option<&cri::ContainerMetadata>) -> Result<ContainerName, Invalid> {
    let wire = at.required(wire)?;
    Ok(ContainerName { name: name(&at.field("name"), &wire.name)?, attempt: wire.attempt })
}

pub(super) fn words(at: &At<'_>, wire: &[String]) -> Result<Vec<String>, Invalid> {
    for (index, word) in wire.iter().enumerate() {
        without_nul(&at.item(index), word)?;
    }
    Ok(wire.to_vec())
}

/// It is joined to the sandbox's log directory, and must stay below.
fn log_path(at: &At<'_>, path: &str) -> Result<(), Invalid> {
    if path.starts_with('/') {
        return Err(at.invalid(format!("{path:?} is not relative to the log directory")));
    }
    no_way_up(at, path)
}

fn envs(at: &At<'_>, wire: &[cri::KeyValue]) -> Result<Vec<(String, Vec<u8>)>, Invalid> {
    let env = |(index, wire): (usize, &cri::KeyValue)| {
        let at = at.item(index);
        let key = at.field("key");
        not_empty(&key, &wire.key)?;
        without_nul(&key, &wire.key)?;
        if wire.key.contains('=') {
            return Err(key.invalid(format!("{:?} has a '='", wire.key)));
        }
        if wire.value.contains(&0) {
            return Err(at.field("value").invalid(format!("that of {} has a NUL", wire.key)));
        }
        Ok((wire.key.clone(), wire.value.clone()))
    };
    wire.iter().enumerate().map(env).collect()
}

fn devices(at: &At<'_>, wire: &[cri::Device]) -> Result<Vec<Device>, Invalid> {
    wire.iter().enumerate().map(|(index, wire)| device(&at.item(index), wire)).collect()
}

fn cdi_devices(at: &At<'_>, wire: &[cri::CdiDevice]) -> Result<Vec<String>, Invalid> {
    let name = |(index, device): (usize, &cri::CdiDevice)| {
        if spec::cdi::is_device_name(&device.name) {
            return Ok(device.name.clone());
        }
        let wrong = format!("{:?} is not of the form vendor.com/class=name", device.name);
        Err(at.item(index).field("name").invalid(wrong))
    };
    wire.iter().enumerate().map(name).collect()
}

fn device(at: &At<'_>, wire: &cri::Device) -> Result<Device, Invalid> {
    absolute(&at.field("host_path"), &wire.host_path)?;
    absolute(&at.field("container_path"), &wire.container_path)?;
    let letters = &wire.permissions;
    if letters.is_empty() || !letters.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(at.field("permissions").invalid(format!("{letters:?} is not of r, w and m")));
    }
    Ok(Device {
        container_path: wire.container_path.clone(),
        host_path: wire.host_path.clone(),
        permissions: letters.clone(),
    })
}

#[expect(deprecated, reason = "old clients send it, and it counts where the new field is absent")]
fn security(
    at: &At<'_>,
    wire: Option<&cri::LinuxContainerSecurityContext>,
) -> Result<ContainerSecurity, Invalid> {
    let Some(wire) = wire else { return Ok(ContainerSecurity::default()) };
    let at = at.field("security_context");
    let options = at.field("namespace_options");
    let absent = cri::Capability::default();
    let capabilities = wire.capabilities.as_ref().unwrap_or(&absent);
    let at_capabilities = at.field("capabilities");
    let set = |name, wire| security::capabilities(&at_capabilities.field(name), wire);
    let user = user(&at, wire)?;
    Ok(ContainerSecurity {
        privileged: wire.privileged,
        add_capabilities: set("add_capabilities", &capabilities.add_capabilities)?,
        drop_capabilities: set("drop_capabilities", &capabilities.drop_capabilities)?,
        add_ambient_capabilities: set(
            "add_ambient_capabilities",
            &capabilities.add_ambient_capabilities,
        )?,
        namespaces: security::namespaces(
            &options,
            wire.namespace_options.as_ref(),
            Whose::Container,
        )?,
        group: group(&at.field("run_as_group"), wire, user.is_some())?,
        user,
        supplemental_groups: ids(&at.field("supplemental_groups"), &wire.supplemental_groups)?,
        groups_policy: policy(&at, wire.supplemental_groups_policy)?,
        readonly_rootfs: wire.readonly_rootfs,
        no_new_privs: wire.no_new_privs,
        masked_paths: paths(&at.field("masked_paths"), &wire.masked_paths)?,
        readonly_paths: paths(&at.field("readonly_paths"), &wire.readonly_paths)?,
        seccomp: confinement(&at, wire)?,
        apparmor: security::apparmor(&at, wire.apparmor.as_ref(), &wire.apparmor_profile)?,
        selinux: security::selinux(&at, wire.selinux_options.as_ref())?,
    })
}

/// A privileged container has none, whatever is asked for.
#[expect(deprecated, reason = "old clients send it, and it counts where the new field is absent")]
fn confinement(
    at: &At<'_>,
    wire: &cri::LinuxContainerSecurityContext,
) -> Result<Option<SecurityProfile>, Invalid> {
    let profile = security::seccomp(at, wire.seccomp.as_ref(), &wire.seccomp_profile_path)?;
    Ok(profile.filter(|_| !wire.privileged))
}

fn user(at: &At<'_>, wire: &cri::LinuxContainerSecurityContext) -> Result<Option<RunAs>, Invalid> {
    let number = ident::optional(&at.field("run_as_user"), wire.run_as_user.as_ref())?;
    match (number, wire.run_as_username.as_str()) {
        (Some(_), username) if !username.is_empty() => {
            Err(at.field("run_as_username").invalid("does not go with run_as_user"))
        }
        (Some(uid), _) => Ok(Some(RunAs::Uid(uid))),
        (None, "") => Ok(None),
        (None, username) => Ok(Some(RunAs::Name(name(&at.field("run_as_username"), username)?))),
    }
}

fn group(
    at: &At<'_>,
    wire: &cri::LinuxContainerSecurityContext,
    has_user: bool,
) -> Result<Option<u32>, Invalid> {
    match ident::optional(at, wire.run_as_group.as_ref())? {
        Some(_) if !has_user => Err(at.invalid("needs run_as_user or run_as_username")),
        group => Ok(group),
    }
}

fn policy(at: &At<'_>, value: i32) -> Result<GroupsPolicy, Invalid> {
    Ok(match known(&at.field("supplemental_groups_policy"), value)? {
        cri::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        cri::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    })
}

fn paths(at: &At<'_>, wire: &[String]) -> Result<Vec<String>, Invalid> {
    for (index, path) in wire.iter().enumerate() {
        absolute(&at.item(index), path)?;
    }
    Ok(wire.to_vec())
}
