//! The embedded network as a whole: leases in memory, work on threads, the base put back when someone removed it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use names::SandboxId;

use crate::error::told;
use crate::netlink::{Protocol, Shared};
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
    netfilter: Shared,
    /// Another, because looking through all flows takes long.
    flows: Shared,
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
        let (netfilter, flows) =
            (Shared::new(Protocol::Netfilter), Shared::new(Protocol::Netfilter));
        let inner =
            Inner { config: config.clone(), state, base: Mutex::new(None), netfilter, flows };
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
        let (inner, of) = (Arc::clone(&self.inner), sandbox.clone());
        let (lease, netns) = (intent.clone(), netns.clone());
        let link = move || {
            let base = inner.ensure_base().map_err(AttachError::Base)?;
            super::attach(&base, &of, &lease, &netns)
        };
        thread::run(link).await.map_err(AttachError::Thread)??;
        if intent.ports.is_empty() {
            return Ok(());
        }
        // On another thread: that one stayed in the pod's namespace.
        let (inner, of, lease) = (Arc::clone(&self.inner), sandbox.clone(), intent.clone());
        let publish = move || inner.publish(&of, &lease);
        thread::run(publish).await.map_err(AttachError::Thread)??;
        // The walk through all flows is long, and nothing that the pod's start waits for.
        let (inner, lease) = (Arc::clone(&self.inner), intent.clone());
        thread::spawn(move || inner.forget(&lease)).map_err(AttachError::Thread)
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
            keep.sort_by(|a, b| a.link.cmp(&b.link));
            keep.dedup_by(|a, b| a.link == b.link);
            let swept = super::sweep(&inner.netfilter, &inner.wanted(), &keep);
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
            let made = wanted.establish(&self.netfilter);
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
        let (swept, errors) = super::sweep(&self.netfilter, &base, &self.leases());
        drop(standing);
        tracing::warn!(
            restored = swept.restored,
            errors = errors.len(),
            "nftables table was gone, made it again"
        );
        Ok(base)
    }

    /// Puts the rules back if they are gone.
    fn look(&self) {
        let table = &self.config.table;
        let stands = self.netfilter.with(|socket| nft::table_exists(socket, table));
        let wanted = self.base().is_some() || self.state().trouble.is_some();
        if wanted
            && matches!(stands, Ok(false))
            && let Err(e) = self.heal()
        {
            self.state().trouble = Some(told(&e));
        }
    }

    fn publish(&self, sandbox: &SandboxId, intent: &NativeIntent) -> Result<(), AttachError> {
        let elements = elements_of(intent);
        let table = &self.config.table;
        let publish = || self.netfilter.with(|socket| super::publish(socket, table, &elements));
        let published = match publish() {
            // The table is gone: someone flushed the ruleset of the node.
            Err(e) if e.errno() == Some(libc::ENOENT) => {
                self.heal().map_err(AttachError::Base)?;
                publish()
            }
            done => done,
        };
        let kernel = |e| AttachError::Kernel { sandbox: sandbox.clone(), source: KernelError(e) };
        published.map_err(kernel)
    }

    fn detach(&self, sandbox: &SandboxId, intent: &NativeIntent) -> Result<Released, DetachError> {
        let elements = self.own_elements(sandbox, intent);
        let standing = (!elements.is_empty()).then(|| self.base());
        let released =
            super::detach(&self.netfilter, &self.config.table, sandbox, intent, &elements)?;
        self.state().pool.release(sandbox);
        drop(standing);
        if !elements.is_empty() {
            self.forget(intent);
        }
        Ok(released)
    }

    fn forget(&self, intent: &NativeIntent) {
        let forgotten = self.flows.with(|socket| super::forget_udp(socket, intent));
        if let Err(e) = forgotten {
            let error = told(&KernelError(e));
            tracing::warn!(
                error,
                link = intent.link,
                "udp flows of a host port were not forgotten"
            );
        }
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
