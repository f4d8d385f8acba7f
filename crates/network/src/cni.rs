//! CNI: a client of versions 0.3 to 1.1 of the specification.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// All that a later DEL needs, as it was when the network was promised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CniIntent {
    /// The configuration, as a list.
    pub network: Value,
    /// Where it was read.
    pub source: PathBuf,
    /// Where plugins lie.
    pub bin_dirs: Vec<PathBuf>,
    /// `CNI_ARGS`.
    pub args: String,
    /// What plugins with capabilities get in `runtimeConfig`.
    pub capabilities: serde_json::Map<String, Value>,
    /// The result of ADD, when it came to that.
    pub result: Option<Value>,
}

impl CniIntent {
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }
}
