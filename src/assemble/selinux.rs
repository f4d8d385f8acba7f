//! SELinux at the daemon's start: the labels of containers, and those of the directories that they are made of.

use anyhow::Context;
use spec::selinux::Contexts;

use crate::config::Config;

/// What the policy calls containers; nothing where there is none, or when the configuration says so. Containers' directories
/// are labelled before anything is made in them.
pub(super) fn contexts(config: &Config) -> anyhow::Result<Option<Contexts>> {
    if !config.runtime.selinux || !host::selinux::enabled() {
        return Ok(None);
    }
    let Some(found) = host::selinux::container_contexts().context("runtime.selinux")? else {
        return Ok(None);
    };
    for dir in ["images", "c"] {
        host::selinux::make_labelled(&config.root.join(dir), &found.shared)
            .context("runtime.selinux")?;
    }
    Ok(Some(Contexts { process: found.process, file: found.file }))
}
