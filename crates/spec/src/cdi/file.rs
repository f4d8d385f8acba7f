//! One file, as the CDI specification lays it out.

use serde::Deserialize;

use super::{Bind, Node, is_kind, is_word};

/// All that were released: each only adds fields.
const VERSIONS: [&str; 9] =
    ["0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    cdi_version: String,
    pub(super) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    pub(super) devices: Vec<Device>,
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    pub(super) container_edits: ContainerEdits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ContainerEdits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    pub(super) net_devices: Vec<serde::de::IgnoredAny>,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Vec<Hook>,
    pub(super) intel_rdt: Option<serde::de::IgnoredAny>,
    #[serde(rename = "additionalGids")]
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceNode {
    path: String,
    #[serde(default)]
    host_path: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    major: i64,
    #[serde(default)]
    minor: i64,
    file_mode: Option<u32>,
    #[serde(default)]
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    #[serde(rename = "hookName")]
    at: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

/// YAML, which JSON is too.
pub(super) fn parse(text: &str) -> Result<File, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().to_owned()
    })?;
    if !VERSIONS.contains(&file.cdi_version.as_str()) {
        return Err(format!("cdiVersion {:?} is not known", file.cdi_version));
    }
    if !is_kind(&file.kind) {
        return Err(format!("kind {:?} is not of the form vendor.com/class", file.kind));
    }
    match file.devices.iter().find(|device| !is_word(&device.name, "_-.:")) {
        Some(wrong) => Err(format!("{:?} is not a device's name", wrong.name)),
        None => Ok(file),
    }
}

fn variables(what: &str, all: &[String]) -> Result<(), String> {
    let is_wrong = |env: &&String| env.find('=').is_none_or(|at| at == 0) || env.contains('\0');
    all.iter().find(is_wrong).map_or(Ok(()), |env| Err(format!("{what} {env:?} is not NAME=value")))
}

impl ContainerEdits {
    /// What cannot be, named.
    pub(super) fn check(&self) -> Result<(), String> {
        let absolute = |what: &str, path: &str| match path {
            path if path.starts_with('/') && !path.contains('\0') => Ok(()),
            path => Err(format!("{what} {path:?} is not an absolute path")),
        };
        variables("env", &self.env)?;
        for node in &self.device_nodes {
            absolute("deviceNodes.path", &node.path)?;
            if !["", "b", "c", "u", "p"].contains(&node.kind.as_str()) {
                return Err(format!("deviceNodes.type {:?} is not b, c, u or p", node.kind));
            }
            if node.permissions != "none" && !node.permissions.bytes().all(|b| b"rwm".contains(&b))
            {
                return Err(format!(
                    "deviceNodes.permissions {:?} is not of rwm",
                    node.permissions
                ));
            }
        }
        for mount in &self.mounts {
            absolute("mounts.containerPath", &mount.container_path)?;
            if mount.is_bind() {
                absolute("mounts.hostPath", &mount.host_path)?;
            }
        }
        for hook in &self.hooks {
            absolute("hooks.path", &hook.path)?;
            variables("hooks.env", &hook.env)?;
            if !HOOKS.contains(&hook.at.as_str()) {
                return Err(format!("hooks.hookName {:?} is not known", hook.at));
            }
            if let Some(timeout) = hook.timeout.filter(|timeout| *timeout <= 0) {
                return Err(format!("hooks.timeout {timeout} is not above zero"));
            }
        }
        Ok(())
    }
}

impl DeviceNode {
    pub(super) fn node(&self) -> Node {
        let host_path = if self.host_path.is_empty() { &self.path } else { &self.host_path };
        let permissions = match self.permissions.as_str() {
            "" => "rwm",
            "none" => "",
            letters => letters,
        };
        let kind = self.kind.chars().next().filter(|kind| *kind == 'p' || self.major != 0);
        Node {
            path: self.path.clone(),
            host_path: host_path.clone(),
            permissions: permissions.to_owned(),
            number: kind.map(|kind| (kind, self.major, self.minor)),
            mode: self.file_mode,
            uid: self.uid,
            gid: self.gid,
        }
    }
}

impl Mount {
    fn is_bind(&self) -> bool {
        self.kind.is_empty() || self.kind == "bind"
    }

    pub(super) fn bind(&self) -> Bind {
        let kind = if self.is_bind() { "bind" } else { &self.kind };
        Bind {
            container_path: self.container_path.clone(),
            host_path: self.host_path.clone(),
            kind: kind.to_owned(),
            options: self.options.clone(),
        }
    }
}

impl Hook {
    pub(super) fn hook(&self) -> super::Hook {
        super::Hook {
            at: self.at.clone(),
            path: self.path.clone(),
            args: self.args.clone(),
            env: self.env.clone(),
            timeout: self.timeout,
        }
    }
}
