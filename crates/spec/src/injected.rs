//! What a container gets with its CDI devices, in the terms of a specification.

use oci_spec::runtime::{Hook, HookBuilder, Hooks, HooksBuilder, Mount, MountBuilder};

use crate::cdi::{self, Edits};
use crate::request::{BuildError, DeviceRequest, OwnNode};

pub(crate) fn device(node: &cdi::Node) -> DeviceRequest {
    let own = OwnNode { number: node.number, mode: node.mode, uid: node.uid, gid: node.gid };
    DeviceRequest {
        container_path: node.path.clone(),
        host_path: node.host_path.clone(),
        permissions: node.permissions.clone(),
        own: Some(own),
    }
}

/// A bind mount carries what is mounted below its source, unless its options say otherwise.
pub(crate) fn mount(bind: &cdi::Bind) -> Result<Mount, BuildError> {
    let mut options = bind.options.clone();
    if bind.kind == "bind" && !options.iter().any(|o| o == "bind" || o == "rbind") {
        options.insert(0, "rbind".to_owned());
    }
    let mount = MountBuilder::default()
        .destination(crate::mounts::clean(&bind.container_path))
        .typ(bind.kind.as_str())
        .source(bind.host_path.as_str());
    Ok(mount.options(options).build()?)
}

/// What a vendor's file binds must be there.
pub(crate) fn sources(edits: &Edits) -> Vec<String> {
    edits.mounts.iter().filter(|m| m.kind == "bind").map(|m| m.host_path.clone()).collect()
}

/// None: there are none.
pub(crate) fn hooks(edits: &Edits) -> Result<Option<Hooks>, BuildError> {
    if edits.hooks.is_empty() {
        return Ok(None);
    }
    let at = |name: &str| {
        let hooks = edits.hooks.iter().filter(|hook| hook.at == name).map(hook);
        hooks.collect::<Result<Vec<_>, _>>()
    };
    let mut all = HooksBuilder::default().build()?;
    all.set_create_runtime(Some(at("createRuntime")?))
        .set_create_container(Some(at("createContainer")?))
        .set_start_container(Some(at("startContainer")?))
        .set_poststart(Some(at("poststart")?))
        .set_poststop(Some(at("poststop")?));
    all.set_prestart(Some(at("prestart")?));
    Ok(Some(all))
}

fn hook(hook: &cdi::Hook) -> Result<Hook, BuildError> {
    let mut made = HookBuilder::default().path(hook.path.as_str()).build()?;
    made.set_args(Some(hook.args.clone())).set_env(Some(hook.env.clone()));
    made.set_timeout(hook.timeout);
    Ok(made)
}
