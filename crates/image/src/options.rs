//! What the daemon's configuration says about images.

use std::path::PathBuf;
use std::time::Duration;

/// Where images lie and how they come there.
#[derive(Debug, Clone)]
pub struct Options {
    /// Images live in `images` under this directory.
    pub root: PathBuf,
    /// Directories in containerd's style, `<dir>/<host>/hosts.toml`; the first that knows a host wins.
    pub hosts_dir: Vec<PathBuf>,
    /// A `registries.conf` (version 2) for hosts that have no `hosts.toml`.
    pub registries_conf: Option<PathBuf>,
    /// Registries (`host` or `host:port`) spoken to by plain http.
    pub insecure_registries: Vec<String>,
    /// Globs of references whose images the kubelet must not collect.
    pub pinned: Vec<String>,
    /// Archives in this directory are loaded at start.
    pub archives_dir: Option<PathBuf>,
    /// A transfer that brings less than [`Options::stall_bytes`] in this time is begun anew.
    pub stall_timeout: Duration,
    /// The least that must come within [`Options::stall_timeout`].
    pub stall_bytes: u64,
    /// How often one request is tried at one registry.
    pub attempts: u32,
    /// The first pause between two tries; it doubles each time.
    pub backoff: Duration,
    /// How many layers of one pull are fetched and unpacked at once.
    pub layers_at_once: usize,
    /// What a layer may contain.
    pub limits: TarLimits,
}

/// What a layer may contain before it counts as an attack.
#[derive(Debug, Clone)]
pub struct TarLimits {
    /// Entries in one layer.
    pub entries: u64,
    /// Bytes of one inflated layer, and of one file's length.
    pub bytes: u64,
    /// Directories in one path.
    pub depth: usize,
    /// How many times larger than its compressed form a layer may be, once it is larger than `ratio_from`.
    pub ratio: u64,
    /// Bytes up to which a layer may inflate as much as it likes.
    pub ratio_from: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/var/lib/ferropod"),
            hosts_dir: vec![PathBuf::from("/etc/containerd/certs.d")],
            registries_conf: Some(PathBuf::from("/etc/containers/registries.conf")),
            insecure_registries: Vec::new(),
            pinned: Vec::new(),
            archives_dir: None,
            stall_timeout: Duration::from_secs(30),
            stall_bytes: 4096,
            attempts: 5,
            backoff: Duration::from_millis(250),
            layers_at_once: 3,
            limits: TarLimits::default(),
        }
    }
}

impl Default for TarLimits {
    fn default() -> Self {
        Self { entries: 800_000, bytes: 64 << 30, depth: 256, ratio: 400, ratio_from: 1 << 30 }
    }
}
