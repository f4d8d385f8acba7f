//! CNI as a whole: the configuration of the moment, its health, and the calls.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use names::SandboxId;
use serde_json::Value;

use crate::error::told;
use crate::{
    AttachError, Cidr, CniConfig, CniIntent, DetachError, Netns, PlanError, PluginError, Released,
    Request, native, thread,
};

use super::{Loaded, NetworkList, Place, Since, Watch, collect, missing, status};

/// How long an answer to STATUS counts.
const HEALTH: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Plugins {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: CniConfig,
    watch: Watch,
    health: Mutex<Health>,
    ranges: Mutex<Vec<Cidr>>,
}

/// The last answer to STATUS.
#[derive(Debug, Default)]
struct Health {
    /// Of which configuration.
    of: Option<Arc<NetworkList>>,
    asked: Option<Instant>,
    answer: Option<Result<(), String>>,
}

impl Plugins {
    pub(crate) fn new(config: &CniConfig) -> Self {
        let watch = Watch::new(config.config_dir.clone());
        let (health, ranges) = (Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { config: config.clone(), watch, health, ranges }) }
    }

    /// Whether there is a configuration, be it a broken one.
    pub(crate) fn configured(&self) -> bool {
        !matches!(self.inner.watch.current(), Loaded::Nothing)
    }

    pub(crate) fn set_ranges(&self, cidrs: &[Cidr]) {
        *self.inner.ranges.lock().unwrap_or_else(PoisonError::into_inner) = cidrs.to_vec();
    }

    pub(crate) fn plan(&self, request: &Request) -> Result<CniIntent, PlanError> {
        let ranges = self.inner.ranges.lock().unwrap_or_else(PoisonError::into_inner).clone();
        CniIntent::plan(&self.inner.config, &self.inner.watch.current(), request, &ranges)
    }

    pub(crate) async fn attach(
        &self,
        sandbox: &SandboxId,
        intent: &CniIntent,
        netns: &Netns,
    ) -> Result<CniIntent, AttachError> {
        let (of, at) = (sandbox.clone(), netns.clone());
        thread::run(move || native::loopback_up(&of, &at)).await.map_err(AttachError::Thread)??;
        let added = intent.add(&self.place(sandbox, Some(&netns.path))).await;
        let result =
            added.map_err(|source| AttachError::Plugin { sandbox: sandbox.clone(), source })?;
        Ok(CniIntent { result: Some(result), ..intent.clone() })
    }

    pub(crate) async fn detach(
        &self,
        sandbox: &SandboxId,
        intent: &CniIntent,
        netns: Option<&Path>,
    ) -> Result<Released, DetachError> {
        // A path that no longer leads to a namespace (a reboot leaves plain files) would make plugins fail for ever.
        let netns = netns.filter(|path| is_netns(path));
        let errors = intent.del(&self.place(sandbox, netns)).await;
        if errors.is_empty() {
            Ok(Released::Now)
        } else {
            Err(DetachError::Plugins { sandbox: sandbox.clone(), errors })
        }
    }

    pub(crate) async fn check(
        &self,
        sandbox: &SandboxId,
        intent: &CniIntent,
        netns: &Netns,
    ) -> Result<(), PluginError> {
        intent.check(&self.place(sandbox, Some(&netns.path))).await
    }

    /// GC with the sandboxes that still count.
    pub(crate) async fn sweep(&self, valid: &[&str]) {
        let Loaded::Ready { list, .. } = self.inner.watch.current() else { return };
        for error in collect(&self.inner.config, &list, valid).await {
            tracing::warn!(error = told(&error), "cni gc went on past an error");
        }
    }

    /// What keeps pods from having this network. Cheap: STATUS is asked beside it, its last answer counts.
    pub(crate) fn trouble(&self) -> Option<String> {
        let list = match self.inner.watch.current() {
            Loaded::Nothing => {
                return Some(format!(
                    "no cni configuration in {}",
                    self.inner.config.config_dir.display()
                ));
            }
            Loaded::Broken(reason) => return Some(format!("cni configuration {reason}")),
            Loaded::Ready { list, .. } => list,
        };
        if let Some(missing) = missing(&self.inner.config, &list) {
            return Some(missing);
        }
        if !list.has(Since::Status) {
            return None;
        }
        self.ask_health(&list);
        match &self.inner.health().answer {
            None => Some("cni plugins have not answered STATUS yet".to_owned()),
            Some(answer) => answer.clone().err(),
        }
    }

    pub(crate) fn told(&self) -> Value {
        let loaded = self.inner.watch.current();
        let network = match &loaded {
            Loaded::Ready { value, .. } => value.as_ref().clone(),
            Loaded::Nothing | Loaded::Broken(_) => Value::Null,
        };
        serde_json::json!({
            "configDir": self.inner.config.config_dir,
            "binDirs": self.inner.config.bin_dirs,
            "found": loaded.to_string(),
            "network": network,
        })
    }

    fn ask_health(&self, list: &Arc<NetworkList>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut health = self.inner.health();
        if health.of.as_ref() != Some(list) {
            *health = Health { of: Some(Arc::clone(list)), ..Health::default() };
        }
        if health.asked.is_some_and(|at| at.elapsed() < HEALTH) {
            return;
        }
        health.asked = Some(Instant::now());
        let (inner, list) = (Arc::clone(&self.inner), Arc::clone(list));
        drop(runtime.spawn(async move {
            let answer = status(&inner.config, &list).await.map_err(|e| told(&e));
            let mut health = inner.health();
            if health.of.as_ref() == Some(&list) {
                health.answer = Some(answer);
            }
        }));
    }

    fn place<'a>(&self, sandbox: &'a SandboxId, netns: Option<&'a Path>) -> Place<'a> {
        Place { container: sandbox.as_str(), netns, timeout: self.inner.config.timeout }
    }
}

impl Inner {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_netns(path: &Path) -> bool {
    use nix::sys::statfs::{NSFS_MAGIC, statfs};
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)
}
