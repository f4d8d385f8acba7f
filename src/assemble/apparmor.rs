//! AppArmor profiles, loaded before a container that has one is made.

use std::sync::atomic::{AtomicBool, Ordering};

use host::apparmor::{ApparmorError, DEFAULT, Profiles};
use pod::step::Fault;
use spec::apparmor::Wanted;
use tracing::warn;

use super::{Node, fault};

const FIELD: &str = "config.linux.security_context.apparmor";

/// The node's profiles, and which of them is the default.
#[derive(Debug)]
pub(crate) struct Apparmor {
    profiles: Profiles,
    /// The site's own; `None`: ours.
    site: Option<String>,
    warned: AtomicBool,
}

impl Apparmor {
    /// `site` is empty or the name of a profile that the site loads itself.
    pub(super) fn new(site: &str) -> Self {
        Self {
            profiles: Profiles::default(),
            site: (!site.is_empty()).then(|| site.to_owned()),
            warned: AtomicBool::new(false),
        }
    }

    /// The name of the wanted profile, which is loaded now. Who names none gets what can be had, as with other runtimes: a node
    /// may have a kernel with AppArmor and none of its tools.
    pub(super) async fn have(&self, wanted: Wanted) -> Result<Option<String>, Fault> {
        let refused = |error: ApparmorError| {
            let reason = fault(error.kind(), &error);
            Fault::new(reason.kind, format!("{FIELD}: {}", reason.message))
        };
        let asked = match wanted {
            Wanted::Named(name) => {
                self.profiles.named(&name).await.map_err(refused)?;
                return Ok(Some(name));
            }
            Wanted::Default { asked } => asked,
        };
        match self.default().await {
            Ok(name) => Ok(Some(name)),
            Err(error) if asked => Err(refused(error)),
            Err(error) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    let error = engine::record::chain(&error);
                    warn!(error, "containers that name no AppArmor profile run without one");
                }
                Ok(None)
            }
        }
    }

    async fn default(&self) -> Result<String, ApparmorError> {
        match &self.site {
            Some(site) => self.profiles.named(site).await.map(|()| site.clone()),
            None => self.profiles.ours().await.map(|()| DEFAULT.to_owned()),
        }
    }
}

/// Loads the default profile beside the daemon's start, and tells then already when it cannot be had: the first container
/// shall not wait for a compiler.
pub(super) async fn prepare(node: Node) {
    if node.facts.apparmor {
        // Who asks for it is told again.
        drop(node.apparmor.have(Wanted::Default { asked: false }).await);
    }
}
