//! What the configuration file says about the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::Cidr;

/// Which network the pods of this node get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The embedded routed network.
    Native,
    /// CNI plugins; not ready while there is no configuration.
    Cni,
    /// CNI while its directory holds a configuration, else the embedded network.
    #[default]
    Auto,
}

/// Everything that can be configured here.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Embedded, CNI, or whichever is there.
    pub mode: Mode,
    /// The embedded network.
    pub native: NativeConfig,
    /// CNI.
    pub cni: CniConfig,
}

/// The embedded network.
#[derive(Debug, Clone)]
pub struct NativeConfig {
    /// Ranges that pods take their addresses from: one or more of IPv4, of IPv6, or of both.
    pub pod_cidrs: Vec<Cidr>,
    /// Destinations that see the pod's own address, beside `pod_cidrs`.
    pub non_masquerade_cidrs: Vec<Cidr>,
    /// The name of the nftables table; daemons that share a network namespace need different ones.
    pub table: String,
    /// The MTU of pods; without one, that of the interface with the default route.
    pub mtu: Option<u32>,
    /// How the host's ends of the pods' links begin, at most 5 characters.
    pub interface_prefix: String,
}

impl Default for NativeConfig {
    fn default() -> Self {
        let v4 = Cidr::new(IpAddr::V4(Ipv4Addr::new(10, 88, 0, 0)), 16);
        let v6 = Cidr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0xfe, 0, 0, 0, 0, 0, 0)), 64);
        Self {
            pod_cidrs: v4.into_iter().chain(v6).collect(),
            non_masquerade_cidrs: Vec::new(),
            table: "ferropod".to_owned(),
            mtu: None,
            interface_prefix: "fp".to_owned(),
        }
    }
}

/// CNI.
#[derive(Debug, Clone)]
pub struct CniConfig {
    /// Where network configurations lie; the first by name counts.
    pub config_dir: PathBuf,
    /// Where plugins lie, in order of search.
    pub bin_dirs: Vec<PathBuf>,
    /// How long one plugin may take.
    pub timeout: Duration,
}

impl Default for CniConfig {
    fn default() -> Self {
        Self {
            config_dir: PathBuf::from("/etc/cni/net.d"),
            bin_dirs: vec![PathBuf::from("/opt/cni/bin")],
            timeout: Duration::from_mins(1),
        }
    }
}
