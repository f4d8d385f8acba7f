//! The embedded network as a whole: leases in memory, work on threads, the base put back when someone removed it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use names::SandboxId;

use crate::error::told;
use crate::netlink::{Protocol, Socket};
use crate::nft::{self, Element, elements_of};
use crate::{
    AttachError, BaseError, Cidr, DetachError, KernelError, NativeConfig, NativeIntent, Netns,
    PlanError, PortMapping, Released, StartError, thread,
};

use super::{Base, Pool, Swept};

/// How many characters a link's name may have.
const LINK_NAME: usize = 15;
/// How often it is looked whether the rules still stand.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Routed {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: NativeConfig,
    state: Mutex<State>,
    /// The base that stands. Held while it is made, and while elements go, so that none is put back.
    base: Mutex<Option<Base>>,
}

#[derive(Debug)]
struct State {
    pool: Pool,
    trouble: Option<String>,
    looked: Instant,
}

impl Routed {
    pub(crate) fn new(config: &NativeConfig) -> Result<Self, StartError> {
        let pool = Pool::new(&validated(config)?);
        let state = Mutex::new(State { pool, trouble: None, looked: Instant::now() });
        let inner = Inner { config: config.clone(), state, base: Mutex::new(None) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes the base; whether that worked is told by [`Routed::trouble`].
    pub(crate) async fn prepare(&self) {
        let inner = Arc::clone(&self.inner);
        if let Err(e) = thread::run(move || drop(inner.ensure_base())).await {
            self.inner.state().trouble = Some(told(&e));
        }
    }

    pub(crate) fn plan(
        &self,
        sandbox: &SandboxId,
        ports: &[PortMapping],
    ) -> Result<NativeIntent, PlanError> {
        let link = link_name(&self.inner.config.interface_prefix, sandbox);
        self.inner.state().pool.lease(sandbox, link, ports)
    }

    pub(crate) async fn attach(
        &self,
        sandbox: &SandboxId,
        intent: &NativeIntent,
        netns: &Netns,
    ) -> Result<(), AttachError> {
        let (inner, sandbox) = (Arc::clone(&self.inner), sandbox.clone());
        let (native, netns) = (intent.clone(), netns.clone());
        let work = move || {
            let base = inner.ensure_base().map_err(AttachError::Base)?;
            match super::attach(&base, &sandbox, &native, &netns) {
                // The table is gone: someone flushed the ruleset of the node.
                Err(AttachError::Kernel { source, .. }) if source.0.errno() == Some(libc::ENOENT) => {
                    let base = inner.heal().map_err(AttachError::Base)?;
                    super::attach(&base, &sandbox, &native, &netns)
                }
                done => done,
            }
        };
        thread::run(work).await.map_err(AttachError::Thread)??;
        let ports = intent.clone();
        // The walk through all flows is long, and needed by no one who waits for the pod.
        if ports.ports.iter().any(|p| p.protocol == crate::Protocol::Udp) {
            thread::spawn(move || forget(&ports)).map_err(AttachError::Thread)?;
        }
        Ok(())
    }

    pub(crate) async fn detach(
        &self,
        sandbox: &SandboxId,
        intent: &NativeIntent,
    ) -> Result<Released, DetachError> {
        let (inner, sandbox, intent) = (Arc::clone(&self.inner), sandbox.clone(), intent.clone());
        thread::run(move || inner.detach(&sandbox, &intent)).await.map_err(DetachError::Thread)?
    }

    pub(crate) fn adopt(&self, sandbox: &SandboxId, intent: &NativeIntent) {
        self.inner.state().pool.hold(sandbox, intent);
    }

    /// What is ours and belongs neither to `keep` nor to a lease of this process goes.
    pub(crate) async fn sweep(&self, mut keep: Vec<NativeIntent>) -> Swept {
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let standing = inner.base();
            keep.extend(inner.leases());
            let swept = super::sweep(&inner.wanted(), &keep);
            drop(standing);
            swept
        };
        let (swept, errors) = thread::run(work).await.unwrap_or_default();
        for error in errors {
            tracing::warn!(error = told(&error), "sweep went on past an error");
        }
        swept
    }

    /// What keeps pods from having this network; also sees to it that the rules are looked at now and then.
    pub(crate) fn trouble(&self) -> Option<String> {
        let mut state = self.inner.state();
        if state.looked.elapsed() >= LOOK_AGAIN {
            state.looked = Instant::now();
            let inner = Arc::clone(&self.inner);
            let look = thread::spawn(move || inner.look());
            state.trouble = state.trouble.take().or_else(|| look.err().map(|e| told(&e)));
        }
        state.trouble.clone()
    }

    pub(crate) fn set_ranges(&self, cidrs: &[Cidr]) {
        self.inner.state().pool.set_ranges(cidrs);
        let inner = Arc::clone(&self.inner);
        if let Err(e) = thread::spawn(move || drop(inner.ensure_base())) {
            self.inner.state().trouble = Some(told(&e));
        }
    }

    pub(crate) fn told(&self) -> serde_json::Value {
        let state = self.inner.state();
        let cidrs: Vec<String> = state.pool.ranges().iter().map(ToString::to_string).collect();
        serde_json::json!({
            "podCIDRs": cidrs,
            "table": self.inner.config.table,
            "leases": state.pool.leases().count(),
            "trouble": state.trouble,
        })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn base(&self) -> MutexGuard<'_, Option<Base>> {
        self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> Vec<NativeIntent> {
        self.state().pool.leases().map(|(_, lease)| lease.clone()).collect()
    }

    /// The base as it should be: addresses of pods that stand count, although new pods get none of their range.
    fn wanted(&self) -> Base {
        let state = self.state();
        let mut pods = state.pool.ranges();
        let ranges = pods.len();
        for address in state.pool.leases().flat_map(|(_, lease)| lease.addresses.clone()) {
            if !pods.iter().any(|c| c.contains(address)) {
                pods.extend(Cidr::new(address, if address.is_ipv6() { 128 } else { 32 }));
            }
        }
        if let Some(strays) = pods.get_mut(ranges..) {
            strays.sort_by_key(Cidr::network);
        }
        Base {
            table: self.config.table.clone(),
            prefix: self.config.interface_prefix.clone(),
            mtu: self.config.mtu,
            pods,
            direct: self.config.non_masquerade_cidrs.clone(),
        }
    }

    /// Makes the base unless it stands as wanted.
    fn ensure_base(&self) -> Result<Base, BaseError> {
        let mut standing = self.base();
        let wanted = self.wanted();
        if standing.as_ref() != Some(&wanted) {
            let made = wanted.establish();
            self.state().trouble = made.as_ref().err().map(|e| told(e));
            made?;
            *standing = Some(wanted.clone());
        }
        Ok(wanted)
    }

    /// Makes the base anew and puts back what pods had in it.
    fn heal(&self) -> Result<Base, BaseError> {
        *self.base() = None;
        let base = self.ensure_base()?;
        let standing = self.base();
        let (swept, errors) = super::sweep(&base, &self.leases());
        drop(standing);
        tracing::warn!(restored = swept.restored, errors = errors.len(), "nftables table was gone, made it again");
        Ok(base)
    }

    /// Puts the rules back if they are gone.
    fn look(&self) {
        let table = &self.config.table;
        let stands = Socket::open(Protocol::Netfilter).and_then(|mut s| nft::table_exists(&mut s, table));
        let wanted = self.base().is_some() || self.state().trouble.is_some();
        if wanted && matches!(stands, Ok(false)) && let Err(e) = self.heal() {
            self.state().trouble = Some(told(&e));
        }
    }

    fn detach(&self, sandbox: &SandboxId, intent: &NativeIntent) -> Result<Released, DetachError> {
        let elements = self.own_elements(sandbox, intent);
        let standing = (!elements.is_empty()).then(|| self.base());
        let released = super::detach(&self.config.table, sandbox, intent, &elements)?;
        self.state().pool.release(sandbox);
        drop(standing);
        if !elements.is_empty() {
            forget(intent);
        }
        Ok(released)
    }

    /// The sandbox's elements without those whose port another sandbox holds by now.
    fn own_elements(&self, sandbox: &SandboxId, intent: &NativeIntent) -> Vec<Element> {
        let state = self.state();
        let another = |e: &Element| {
            e.port.as_ref().is_some_and(|port| state.pool.belongs_to_another(sandbox, port))
        };
        elements_of(intent).into_iter().filter(|e| !another(e)).collect()
    }
}

fn forget(intent: &NativeIntent) {
    if let Err(e) = super::forget_udp(intent) {
        let error = told(&KernelError(e));
        tracing::warn!(error, link = intent.link, "udp flows of a host port were not forgotten");
    }
}

fn link_name(prefix: &str, sandbox: &SandboxId) -> String {
    let digits = sandbox.as_str().chars().take(LINK_NAME.saturating_sub(prefix.len()));
    prefix.chars().chain(digits).collect()
}

/// The ranges that this kernel can serve.
pub(crate) fn usable(cidrs: &[Cidr]) -> Vec<Cidr> {
    let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    cidrs.iter().filter(|c| ipv6 || !c.is_ipv6()).copied().collect()
}

fn validated(config: &NativeConfig) -> Result<Vec<Cidr>, StartError> {
    let plain =
        |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let prefix = &config.interface_prefix;
    if !(1..=5).contains(&prefix.len()) || !plain(prefix) {
        return Err(StartError::Prefix(prefix.clone()));
    }
    if !(1..=64).contains(&config.table.len()) || !plain(&config.table) {
        return Err(StartError::Table(config.table.clone()));
    }
    let usable = usable(&config.pod_cidrs);
    if usable.is_empty() { Err(StartError::NoRange) } else { Ok(usable) }
}
