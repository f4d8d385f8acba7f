//! The network of pods: the embedded routed network, and CNI.

mod cidr;
mod cni;
mod config;
mod counters;
mod error;
mod intent;
mod native;
mod netlink;
mod network;
mod nft;
mod thread;

pub use cidr::{Cidr, ParseCidrError};
pub use cni::CniIntent;
pub use config::{CniConfig, Config, Mode, NativeConfig};
pub use counters::{InterfaceCounters, counters};
pub use error::{
    AttachError, BaseError, DetachError, KernelError, PlanError, PluginError, RangeError, StartError,
};
pub use intent::{
    Attachment, Dns, Intent, NativeIntent, Netns, PortMapping, Protocol, Released, Request, Wiring,
};
pub use native::Swept;
pub use network::{Network, Status};
