//! The one door: it knows which of the two networks a pod gets.

use std::path::Path;

use serde_json::{Value, json};

use crate::cni::Plugins;
use crate::native::{Routed, Swept, usable};
use crate::{
    AttachError, Attachment, Cidr, Config, DetachError, Intent, Mode, NativeIntent, Netns,
    PlanError, PluginError, RangeError, Released, Request, StartError, Wiring,
};

/// The network of this node's pods. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    mode: Mode,
    native: Routed,
    cni: Plugins,
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
        let native = Routed::new(&config.native)?;
        let network = Self { mode: config.mode, native, cni: Plugins::new(&config.cni) };
        if network.uses_cni() {
            // Has STATUS asked, so that the first answer is not "not yet".
            drop(network.cni.trouble());
        } else {
            network.native.prepare().await;
        }
        Ok(network)
    }

    /// Promises a network: leases what it needs, touches nothing. Asked again for the same sandbox, the embedded
    /// network says the same.
    pub fn plan(&self, request: &Request) -> Result<Intent, PlanError> {
        let wiring = if self.uses_cni() {
            Wiring::Cni(Box::new(self.cni.plan(request)?))
        } else {
            Wiring::Native(self.native.plan(&request.sandbox, &request.ports)?)
        };
        Ok(Intent { sandbox: request.sandbox.clone(), name: request.name.clone(), wiring })
    }

    /// Makes what was promised, in a namespace that is there. May be called again after it failed.
    pub async fn attach(&self, intent: &Intent, netns: &Netns) -> Result<Attachment, AttachError> {
        let sandbox = &intent.sandbox;
        let mut intent = intent.clone();
        match &mut intent.wiring {
            Wiring::Native(native) => self.native.attach(sandbox, native, netns).await?,
            Wiring::Cni(cni) => **cni = self.cni.attach(sandbox, cni, netns).await?,
        }
        Ok(Attachment { addresses: intent.addresses(), intent })
    }

    /// Lets it go, whatever came of it, and the lease with it. The embedded network's link goes with the namespace.
    /// `netns` is for CNI plugins that clean up inside; it need not exist.
    pub async fn detach(
        &self,
        intent: &Intent,
        netns: Option<&Path>,
    ) -> Result<Released, DetachError> {
        match &intent.wiring {
            Wiring::Native(native) => self.native.detach(&intent.sandbox, native).await,
            Wiring::Cni(cni) => self.cni.detach(&intent.sandbox, cni, netns).await,
        }
    }

    /// CHECK of a CNI network; the embedded one is not checked so.
    pub async fn verify(&self, intent: &Intent, netns: &Netns) -> Result<(), PluginError> {
        match &intent.wiring {
            Wiring::Native(_) => Ok(()),
            Wiring::Cni(cni) => self.cni.check(&intent.sandbox, cni, netns).await,
        }
    }

    /// Holds again what was promised before a restart.
    pub fn adopt(&self, intent: &Intent) {
        if let Wiring::Native(native) = &intent.wiring {
            self.native.adopt(&intent.sandbox, native);
        }
    }

    /// Releases what is ours and belongs to none of `keep`, to no lease of this process, and to no promise in flight.
    /// Host ports that are missing are put back.
    pub async fn sweep(&self, keep: &[Intent]) -> Swept {
        let native = keep.iter().filter_map(native_of).collect();
        let swept = self.native.sweep(native).await;
        let cni = keep.iter().filter(|i| matches!(i.wiring, Wiring::Cni(_)));
        let valid: Vec<&str> = cni.map(|i| i.sandbox.as_str()).collect();
        if self.mode != Mode::Native {
            self.cni.sweep(&valid).await;
        }
        swept
    }

    /// Whether pods can have a network now.
    pub fn status(&self) -> Status {
        let trouble = if self.uses_cni() { self.cni.trouble() } else { self.native.trouble() };
        let reason = if trouble.is_some() { "NetworkPluginNotReady" } else { "" };
        let ready = trouble.is_none();
        Status { ready, reason: reason.to_owned(), message: trouble.unwrap_or_default() }
    }

    /// Takes addresses of new pods from these ranges, separated by commas. Nothing changes when there is none.
    pub fn set_pod_cidr(&self, cidrs: &str) -> Result<(), RangeError> {
        let texts = cidrs.split(',').filter(|c| !c.trim().is_empty());
        let cidrs = texts.map(str::parse).collect::<Result<Vec<Cidr>, _>>()?;
        if cidrs.is_empty() {
            return Ok(());
        }
        let usable = usable(&cidrs);
        if usable.is_empty() {
            return Err(RangeError::Unusable);
        }
        self.cni.set_ranges(&cidrs);
        self.native.set_ranges(&usable);
        Ok(())
    }

    /// What this network is, for people who ask for details.
    pub fn verbose(&self) -> Value {
        let in_use = if self.uses_cni() { "cni" } else { "native" };
        json!({"network": in_use, "native": self.native.told(), "cni": self.cni.told()})
    }

    fn uses_cni(&self) -> bool {
        match self.mode {
            Mode::Native => false,
            Mode::Cni => true,
            Mode::Auto => self.cni.configured(),
        }
    }
}

fn native_of(intent: &Intent) -> Option<NativeIntent> {
    match &intent.wiring {
        Wiring::Native(native) => Some(native.clone()),
        Wiring::Cni(_) => None,
    }
}
