//! CNI: a client of versions 0.1 to 1.1 of the specification.
//!
//! A promise takes the configuration along, so that DEL works when the file is gone or says something else by then.

mod conf;
mod plugins;
mod request;
mod result;
mod run;
mod watch;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Cidr, CniConfig, PlanError, PluginError, Request};

use conf::{NetworkList, Since, plugin_type};
pub(crate) use plugins::Plugins;
use run::find;
use run::{Call, Verb};
use watch::{Loaded, Watch};

/// The interface that plugins make in the pod.
const INTERFACE: &str = "eth0";

/// All that a later DEL needs, as it was when the network was promised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CniIntent {
    /// The configuration as it was read.
    pub network: Value,
    /// Where it was read.
    pub source: PathBuf,
    /// Where plugins lie.
    pub bin_dirs: Vec<PathBuf>,
    /// `CNI_ARGS`.
    pub args: String,
    /// What plugins with capabilities get in `runtimeConfig`.
    pub capabilities: Map<String, Value>,
    /// The result of ADD, when it came to that.
    pub result: Option<Value>,
}

impl CniIntent {
    pub(crate) fn plan(
        config: &CniConfig,
        loaded: &Loaded,
        request: &Request,
        ranges: &[Cidr],
    ) -> Result<Self, PlanError> {
        let (source, network) = match loaded {
            Loaded::Ready { source, value, .. } => (source, value.as_ref()),
            Loaded::Nothing => {
                let dir = config.config_dir.display();
                return Err(PlanError::NoConfiguration(format!("no configuration in {dir}")));
            }
            Loaded::Broken(reason) => return Err(PlanError::NoConfiguration(reason.clone())),
        };
        Ok(Self {
            network: network.clone(),
            source: source.clone(),
            bin_dirs: config.bin_dirs.clone(),
            args: request::args(request),
            capabilities: request::capabilities(request, ranges)?,
            result: None,
        })
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.result.as_ref().map(result::addresses).unwrap_or_default()
    }

    /// ADD of every plugin in order, each with the result of the one before; the last result.
    pub(crate) async fn add(&self, place: &Place<'_>) -> Result<Value, PluginError> {
        let list = self.list(Verb::Add)?;
        let mut result_so_far = Value::Null;
        for plugin in &list.plugins {
            let previous = (!result_so_far.is_null()).then_some(&result_so_far);
            let printed = self.call(Verb::Add, &list, plugin, previous, place).await?;
            if !printed.is_null() {
                result_so_far = result::for_version(&printed, &list.version);
            }
        }
        if result::addresses(&result_so_far).is_empty() {
            let plugin = list.plugins.last().and_then(plugin_type).unwrap_or_default().to_owned();
            let reason = "it has no address for the pod".to_owned();
            return Err(PluginError::Result { plugin, command: Verb::Add.name(), reason });
        }
        Ok(result_so_far)
    }

    /// DEL of every plugin, last first; one that fails keeps no other from being called.
    pub(crate) async fn del(&self, place: &Place<'_>) -> Vec<PluginError> {
        let list = match self.list(Verb::Del) {
            Ok(list) => list,
            Err(e) => return vec![e],
        };
        let previous = self.result.as_ref().filter(|_| list.has(Since::Check));
        let mut errors = Vec::new();
        for plugin in list.plugins.iter().rev() {
            errors.extend(self.call(Verb::Del, &list, plugin, previous, place).await.err());
        }
        errors
    }

    /// CHECK of every plugin, where the version has it.
    pub(crate) async fn check(&self, place: &Place<'_>) -> Result<(), PluginError> {
        let list = self.list(Verb::Check)?;
        if list.disable_check || !list.has(Since::Check) {
            return Ok(());
        }
        for plugin in &list.plugins {
            self.call(Verb::Check, &list, plugin, self.result.as_ref(), place).await?;
        }
        Ok(())
    }

    fn list(&self, verb: Verb) -> Result<NetworkList, PluginError> {
        NetworkList::parse(&self.network).map_err(|reason| PluginError::Result {
            plugin: self.source.display().to_string(),
            command: verb.name(),
            reason,
        })
    }

    async fn call(
        &self,
        verb: Verb,
        list: &NetworkList,
        plugin: &Map<String, Value>,
        previous: Option<&Value>,
        place: &Place<'_>,
    ) -> Result<Value, PluginError> {
        let mut more = Map::new();
        if let Some(previous) = previous {
            more.insert("prevResult".to_owned(), result::for_version(previous, &list.version));
        }
        let environment = vec![
            ("CNI_CONTAINERID", place.container.to_owned()),
            ("CNI_NETNS", place.netns.map(|p| p.display().to_string()).unwrap_or_default()),
            ("CNI_IFNAME", INTERFACE.to_owned()),
            ("CNI_ARGS", self.args.clone()),
        ];
        let call = Call {
            verb,
            plugin: plugin_type(plugin).unwrap_or_default(),
            bin_dirs: &self.bin_dirs,
            timeout: place.timeout,
            config: list.for_plugin(plugin, &self.capabilities, more),
            environment,
        };
        call.run().await
    }
}

/// Whose interface, and how long one plugin may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) container: &'a str,
    pub(crate) netns: Option<&'a Path>,
    pub(crate) timeout: Duration,
}

/// STATUS of every plugin: whether ADD would work now. Versions before 1.1 cannot tell.
pub(crate) async fn status(config: &CniConfig, list: &NetworkList) -> Result<(), PluginError> {
    if !list.has(Since::Status) {
        return Ok(());
    }
    for plugin in &list.plugins {
        node_call(config, list, plugin, Verb::Status, Map::new()).await?;
    }
    Ok(())
}

/// GC of every plugin: all that belongs to none of these sandboxes is let go. Versions before 1.1 cannot do it.
pub(crate) async fn collect(
    config: &CniConfig,
    list: &NetworkList,
    valid: &[&str],
) -> Vec<PluginError> {
    if list.disable_gc || !list.has(Since::Status) {
        return Vec::new();
    }
    let attachments: Vec<Value> =
        valid.iter().map(|id| json!({"containerID": id, "ifname": INTERFACE})).collect();
    let mut errors = Vec::new();
    for plugin in &list.plugins {
        let mut more = Map::new();
        more.insert("cni.dev/valid-attachments".to_owned(), Value::Array(attachments.clone()));
        errors.extend(node_call(config, list, plugin, Verb::Gc, more).await.err());
    }
    errors
}

/// What lies in the directory, for a report: the network's name, nothing, or what is wrong with it.
pub(crate) fn trouble_of(config: &CniConfig) -> Result<String, Option<String>> {
    match Watch::new(config.config_dir.clone()).current() {
        Loaded::Nothing => Err(None),
        Loaded::Broken(reason) => Err(Some(reason)),
        Loaded::Ready { source, list, .. } => match missing(config, &list) {
            Some(missing) => Err(Some(missing)),
            None => Ok(format!("{} ({})", list.name, source.display())),
        },
    }
}

/// The first program that the network needs and that is nowhere.
fn missing(config: &CniConfig, list: &NetworkList) -> Option<String> {
    let dirs = &config.bin_dirs;
    let missing = list.programs().find(|program| find(program, dirs).is_none())?;
    Some(format!("cni plugin {missing:?} is in none of {dirs:?}"))
}

async fn node_call(
    config: &CniConfig,
    list: &NetworkList,
    plugin: &Map<String, Value>,
    verb: Verb,
    more: Map<String, Value>,
) -> Result<Value, PluginError> {
    let call = Call {
        verb,
        plugin: plugin_type(plugin).unwrap_or_default(),
        bin_dirs: &config.bin_dirs,
        timeout: config.timeout,
        config: list.for_plugin(plugin, &Map::new(), more),
        environment: Vec::new(),
    };
    call.run().await
}
