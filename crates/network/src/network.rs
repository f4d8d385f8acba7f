//! The one door: it knows which of the two networks a pod gets, and keeps the leases.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use names::SandboxId;

use crate::native::{self, Base, Pool};
use crate::nft::{Element, elements_of};
use crate::{
    AttachError, Attachment, BaseError, Cidr, Config, DetachError, Intent, NativeConfig,
    NativeIntent, Netns, ParseCidrError, PlanError, Released, Request, StartError, Swept, Wiring,
    thread,
};

/// How many characters a link's name may have.
const LINK_NAME: usize = 15;

/// The network of this node's pods. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    native: Mutex<Native>,
    /// Held while the base is made: pods that come meanwhile wait for it.
    base: Mutex<Option<Base>>,
}

#[derive(Debug)]
struct Native {
    pool: Pool,
    trouble: Option<String>,
}

/// Whether pods can have a network now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// They can.
    pub ready: bool,
    /// One word for machines; empty when ready.
    pub reason: String,
    /// A sentence for people; empty when ready.
    pub message: String,
}

impl Network {
    /// Checks the configuration and prepares the node where that is possible already.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let native = validated(&config.native)?;
        let pool = Pool::new(&native);
        let native = Mutex::new(Native { pool, trouble: None });
        let inner = Arc::new(Inner { config, native, base: Mutex::new(None) });
        let network = Self { inner };
        let inner = Arc::clone(&network.inner);
        drop(thread::run(move || inner.ensure_base()).await);
        Ok(network)
    }

    /// Promises a network: leases what it needs, touches nothing. Asked again for the same sandbox, it says the same.
    pub fn plan(&self, request: &Request) -> Result<Intent, PlanError> {
        let link = link_name(&self.inner.config.native.interface_prefix, &request.sandbox);
        let lease = self.inner.native().pool.lease(&request.sandbox, link, &request.ports)?;
        Ok(Intent {
            sandbox: request.sandbox.clone(),
            name: request.name.clone(),
            wiring: Wiring::Native(lease),
        })
    }

    /// Makes what was promised, in a namespace that is there. May be called again after it failed.
    pub async fn attach(&self, intent: &Intent, netns: &Netns) -> Result<Attachment, AttachError> {
        match &intent.wiring {
            Wiring::Native(native) => self.attach_native(&intent.sandbox, native, netns).await?,
            Wiring::Cni(_) => {}
        }
        Ok(Attachment { addresses: intent.addresses(), intent: intent.clone() })
    }

    /// Lets it go, whatever came of it, and the lease with it. `netns` is only needed by CNI plugins, and not by all.
    pub async fn detach(&self, intent: &Intent, netns: Option<&Path>) -> Result<Released, DetachError> {
        let _ = netns;
        match &intent.wiring {
            Wiring::Native(native) => self.detach_native(&intent.sandbox, native).await,
            Wiring::Cni(_) => Ok(Released::AlreadyGone),
        }
    }

    /// Holds again what was promised before a restart.
    pub fn adopt(&self, intent: &Intent) {
        if let Wiring::Native(native) = &intent.wiring {
            self.inner.native().pool.hold(&intent.sandbox, native);
        }
    }

    /// Releases what is ours and belongs to none of `keep`.
    pub async fn sweep(&self, keep: &[Intent]) -> Swept {
        let kept: Vec<NativeIntent> = keep.iter().filter_map(native_of).collect();
        let inner = Arc::clone(&self.inner);
        let swept = thread::run(move || native::sweep(&inner.wanted_base(), &kept)).await;
        let (swept, errors) = swept.unwrap_or_default();
        for error in errors {
            tracing::warn!(error = &error as &dyn std::error::Error, "sweep went on past an error");
        }
        swept
    }

    /// Whether pods can have a network now.
    pub fn status(&self) -> Status {
        match &self.inner.native().trouble {
            None => Status { ready: true, reason: String::new(), message: String::new() },
            Some(message) => {
                Status { ready: false, reason: "NetworkNotReady".to_owned(), message: message.clone() }
            }
        }
    }

    /// Takes addresses of new pods from these ranges, separated by commas.
    pub fn set_pod_cidr(&self, cidrs: &str) -> Result<(), ParseCidrError> {
        let cidrs = cidrs.split(',').filter(|c| !c.trim().is_empty());
        let cidrs = cidrs.map(str::parse).collect::<Result<Vec<Cidr>, _>>()?;
        if !cidrs.is_empty() {
            self.inner.native().pool.set_ranges(&cidrs);
        }
        Ok(())
    }

    async fn attach_native(
        &self,
        sandbox: &SandboxId,
        native: &NativeIntent,
        netns: &Netns,
    ) -> Result<(), AttachError> {
        let (inner, sandbox) = (Arc::clone(&self.inner), sandbox.clone());
        let (native, netns) = (native.clone(), netns.clone());
        let work = move || {
            let base = inner.ensure_base().map_err(AttachError::Base)?;
            native::attach(&base, &sandbox, &native, &netns)
        };
        thread::run(work).await.map_err(AttachError::Thread)?
    }

    async fn detach_native(
        &self,
        sandbox: &SandboxId,
        native: &NativeIntent,
    ) -> Result<Released, DetachError> {
        let (inner, sandbox, native) = (Arc::clone(&self.inner), sandbox.clone(), native.clone());
        let work = move || {
            let elements = inner.own_elements(&sandbox, &native);
            let table = &inner.config.native.table;
            let released = native::detach(table, &sandbox, &native, &elements)?;
            inner.native().pool.release(&sandbox);
            Ok(released)
        };
        thread::run(work).await.map_err(DetachError::Thread)?
    }
}

impl Inner {
    fn native(&self) -> MutexGuard<'_, Native> {
        self.native.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The base as it should be: ranges of pods that stand count, although new pods get none of them.
    fn wanted_base(&self) -> Base {
        let native = &self.config.native;
        let state = self.native();
        let mut pods = state.pool.ranges();
        for address in state.pool.leases().flat_map(|(_, lease)| lease.addresses.clone()) {
            if !pods.iter().any(|c| c.contains(address)) {
                pods.extend(Cidr::new(address, if address.is_ipv6() { 128 } else { 32 }));
            }
        }
        Base {
            table: native.table.clone(),
            prefix: native.interface_prefix.clone(),
            mtu: native.mtu,
            pods,
            direct: native.non_masquerade_cidrs.clone(),
        }
    }

    /// Makes the base unless it stands as wanted.
    fn ensure_base(&self) -> Result<Base, BaseError> {
        let mut standing = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = self.wanted_base();
        if standing.as_ref() != Some(&wanted) {
            let made = wanted.establish();
            self.native().trouble = made.as_ref().err().map(|e| crate::error::told(e));
            made?;
            *standing = Some(wanted.clone());
        }
        Ok(wanted)
    }

    /// The sandbox's elements without those whose port another sandbox holds by now.
    fn own_elements(&self, sandbox: &SandboxId, native: &NativeIntent) -> Vec<Element> {
        let state = self.native();
        let another = |e: &Element| {
            e.port.as_ref().is_some_and(|port| state.pool.belongs_to_another(sandbox, port))
        };
        elements_of(native).into_iter().filter(|e| !another(e)).collect()
    }
}

fn native_of(intent: &Intent) -> Option<NativeIntent> {
    match &intent.wiring {
        Wiring::Native(native) => Some(native.clone()),
        Wiring::Cni(_) => None,
    }
}

fn link_name(prefix: &str, sandbox: &SandboxId) -> String {
    let digits = sandbox.as_str().chars().take(LINK_NAME.saturating_sub(prefix.len()));
    prefix.chars().chain(digits).collect()
}

fn validated(config: &NativeConfig) -> Result<Vec<Cidr>, StartError> {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let prefix = &config.interface_prefix;
    if !(1..=5).contains(&prefix.len()) || !plain(prefix) {
        return Err(StartError::Prefix(prefix.clone()));
    }
    if !(1..=64).contains(&config.table.len()) || !plain(&config.table) {
        return Err(StartError::Table(config.table.clone()));
    }
    let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let usable: Vec<Cidr> =
        config.pod_cidrs.iter().filter(|c| ipv6 || !c.is_ipv6()).copied().collect();
    if usable.is_empty() { Err(StartError::NoRange) } else { Ok(usable) }
}
