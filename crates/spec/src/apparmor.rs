//! Which AppArmor profile a container is to have.

use pod::config::{ContainerSecurity, SecurityProfile};

use crate::request::{BuildError, NodeFacts};

/// A profile that has to be loaded before the container is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The node's default one. Who did not ask for it goes without when it cannot be had.
    Default {
        /// The client named it.
        asked: bool,
    },
    /// One of the node's, by its name.
    Named(String),
}

/// Nothing is wanted for a privileged container that names no profile, nor where the kernel has no AppArmor.
pub fn wanted(
    security: &ContainerSecurity,
    node: &NodeFacts,
) -> Result<Option<Wanted>, BuildError> {
    Ok(match &security.apparmor {
        Some(SecurityProfile::Unconfined) => None,
        Some(SecurityProfile::Localhost(name)) if !node.apparmor => {
            return Err(BuildError::NoApparmor(name.clone()));
        }
        Some(SecurityProfile::Localhost(name)) => Some(Wanted::Named(name.clone())),
        _ if !node.apparmor || security.privileged => None,
        other => Some(Wanted::Default { asked: other.is_some() }),
    })
}
