//! What the configuration means: files and flags put together, checked once, then never changed.
//!
//! `default.toml` beside this file is what `ferropod config default` prints; a test holds the two together.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Table;

use crate::args::{Network, Place};
use units::{Size, Span};

mod handlers;
mod units;
mod validate;

pub(crate) use handlers::Handler;
pub(crate) use validate::port_of;

/// The configuration as `ferropod config default` prints it.
pub(crate) const DEFAULT: &str = include_str!("config/default.toml");
const DEFAULT_PATH: &str = "/etc/ferropod/config.toml";

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    socket: Option<PathBuf>,
    pub(crate) cgroup_driver: CgroupDriver,
    pub(crate) calls_at_once: usize,
    pub(crate) log: Log,
    pub(crate) metrics: Metrics,
    pub(crate) stream: Stream,
    pub(crate) network: NetworkConfig,
    pub(crate) image: ImageConfig,
    pub(crate) runtime: Runtime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CgroupDriver {
    Auto,
    Systemd,
    Cgroupfs,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Empty, a loopback address with its port, or `unix:` and a path.
    pub(crate) address: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Stream {
    pub(crate) address: String,
    /// Empty: the address.
    pub(crate) advertise: String,
    tls_cert: PathBuf,
    tls_key: PathBuf,
    pub(crate) idle_timeout: Span,
    pub(crate) creation_timeout: Span,
    pub(crate) max_sessions: usize,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NetworkConfig {
    pub(crate) mode: NetworkMode,
    pub(crate) pod_cidrs: Vec<String>,
    pub(crate) non_masquerade_cidrs: Vec<String>,
    pub(crate) table: String,
    pub(crate) interface_prefix: String,
    pub(crate) mtu: Option<u32>,
    pub(crate) cni: Cni,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NetworkMode {
    Native,
    Cni,
    Auto,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cni {
    pub(crate) config_dir: PathBuf,
    pub(crate) bin_dirs: Vec<PathBuf>,
    pub(crate) timeout: Span,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ImageConfig {
    pub(crate) hosts_dirs: Vec<PathBuf>,
    pub(crate) registries_conf: PathBuf,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) pinned: Vec<String>,
    pub(crate) archives_dir: PathBuf,
    pub(crate) stall_timeout: Span,
    pub(crate) stall_size: Size,
    pub(crate) attempts: u32,
    pub(crate) backoff: Span,
    pub(crate) layers_at_once: usize,
    pub(crate) max_layer_entries: u64,
    pub(crate) max_layer_size: Size,
    pub(crate) max_layer_depth: usize,
    pub(crate) max_layer_ratio: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Runtime {
    /// Empty: beside the executable.
    pub(crate) programs: PathBuf,
    pub(crate) shm_size: Size,
    pub(crate) capabilities: Vec<String>,
    /// Empty: the built-in one.
    pub(crate) seccomp_profile: PathBuf,
    pub(crate) device_ownership_from_security_context: bool,
    /// The last counts most.
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,
    /// Empty: ours.
    pub(crate) apparmor_profile: String,
    pub(crate) selinux: bool,
    pub(crate) rlimits: BTreeMap<String, String>,
    /// By the name that pods ask for.
    pub(crate) handlers: BTreeMap<String, Handler>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {}", path.display(), wrong.to_string().trim_end())]
    Parse { path: PathBuf, wrong: Box<toml::de::Error> },
    #[error("{from}: {key}: {wrong}")]
    Wrong { from: String, key: String, wrong: String },
}

/// One file, as far as it has been understood.
struct Source {
    path: PathBuf,
    table: Table,
}

// === impl Config ===

impl Config {
    /// Files, then flags; all of it checked.
    pub(crate) fn load(place: &Place, network: Option<Network>) -> Result<Self, ConfigError> {
        let sources = read_all(place.config.as_deref())?;
        let mut config = merged(&sources)?;
        config.override_with(place, network);
        match validate::check(&config) {
            Ok(()) => Ok(config),
            Err((key, wrong)) => {
                Err(ConfigError::Wrong { from: origin(&sources, &key), key, wrong })
            }
        }
    }

    /// Where the daemon listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.state.join("ferropod.sock"))
    }

    /// What people who ask the daemon are shown; `stateDir` is what critest looks for.
    pub(crate) fn shown(&self) -> serde_json::Value {
        serde_json::json!({
            "rootDir": self.root,
            "stateDir": self.state,
            "socket": self.socket(),
            "streamAddress": self.stream.address,
            "networkMode": format!("{:?}", self.network.mode),
            "podCidrs": self.network.pod_cidrs,
            "cniConfigDir": self.network.cni.config_dir,
            "cniBinDirs": self.network.cni.bin_dirs,
            "capabilities": self.runtime.capabilities,
            "rlimits": self.runtime.rlimits,
            "handlers": self.runtime.handlers.iter().map(|(name, handler)| (name, &handler.path)).collect::<BTreeMap<_, _>>(),
        })
    }

    /// The directory of ferropod-shim, ferropod-launch and ferropod-enter; unset, it is this program's own.
    pub(crate) fn programs(&self) -> Option<PathBuf> {
        if !self.runtime.programs.as_os_str().is_empty() {
            return Some(self.runtime.programs.clone());
        }
        std::env::current_exe().ok()?.parent().map(Path::to_owned)
    }

    /// The limits of containers' processes: name, soft, hard; `u64::MAX` is unlimited.
    pub(crate) fn rlimits(&self) -> Vec<(String, u64, u64)> {
        let pairs = self.runtime.rlimits.iter();
        pairs
            .filter_map(|(name, value)| {
                validate::rlimit(value).map(|(soft, hard)| (name.clone(), soft, hard))
            })
            .collect()
    }

    fn override_with(&mut self, place: &Place, network: Option<Network>) {
        let set = |to: &mut PathBuf, from: &Option<PathBuf>| {
            if let Some(path) = from {
                to.clone_from(path);
            }
        };
        set(&mut self.root, &place.root);
        set(&mut self.state, &place.state);
        if place.socket.is_some() {
            self.socket.clone_from(&place.socket);
        }
        if let Some(level) = &place.log_level {
            self.log.level.clone_from(level);
        }
        match network {
            Some(Network::Native) => self.network.mode = NetworkMode::Native,
            Some(Network::Cni) => self.network.mode = NetworkMode::Cni,
            Some(Network::Auto) => self.network.mode = NetworkMode::Auto,
            None => {}
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/ferropod".into(),
            state: "/run/ferropod".into(),
            socket: None,
            cgroup_driver: CgroupDriver::Auto,
            calls_at_once: 1024,
            log: Log::default(),
            metrics: Metrics::default(),
            stream: Stream::default(),
            network: NetworkConfig::default(),
            image: ImageConfig::default(),
            runtime: Runtime::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Stream {
    /// Certificate chain and key, where streaming clients are served by TLS.
    pub(crate) fn certificate(&self) -> Option<(&Path, &Path)> {
        let configured = !self.tls_cert.as_os_str().is_empty();
        configured.then_some((self.tls_cert.as_path(), self.tls_key.as_path()))
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:0".to_owned(),
            advertise: String::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            idle_timeout: Span(Duration::from_hours(4)),
            creation_timeout: Span(Duration::from_secs(30)),
            max_sessions: 1024,
        }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            mode: NetworkMode::Auto,
            pod_cidrs: vec!["10.88.0.0/16".to_owned(), "fd00:fe::/64".to_owned()],
            non_masquerade_cidrs: Vec::new(),
            table: "ferropod".to_owned(),
            interface_prefix: "fp".to_owned(),
            mtu: None,
            cni: Cni::default(),
        }
    }
}

impl Default for Cni {
    fn default() -> Self {
        Self {
            config_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into()],
            timeout: Span(Duration::from_mins(1)),
        }
    }
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            hosts_dirs: vec!["/etc/containerd/certs.d".into()],
            registries_conf: "/etc/containers/registries.conf".into(),
            insecure_registries: Vec::new(),
            pinned: Vec::new(),
            archives_dir: PathBuf::new(),
            stall_timeout: Span(Duration::from_secs(30)),
            stall_size: Size(4096),
            attempts: 5,
            backoff: Span(Duration::from_millis(250)),
            layers_at_once: 3,
            max_layer_entries: 800_000,
            max_layer_size: Size(64 << 30),
            max_layer_depth: 256,
            max_layer_ratio: 400,
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        let capabilities = [
            "AUDIT_WRITE",
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "NET_BIND_SERVICE",
            "NET_RAW",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
        ];
        Self {
            programs: PathBuf::new(),
            shm_size: Size(64 << 20),
            capabilities: capabilities.map(str::to_owned).to_vec(),
            seccomp_profile: PathBuf::new(),
            device_ownership_from_security_context: false,
            cdi_spec_dirs: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).into(),
            apparmor_profile: String::new(),
            selinux: true,
            rlimits: BTreeMap::from([("nofile".to_owned(), "1024:524288".to_owned())]),
            handlers: BTreeMap::new(),
        }
    }
}

// === files ===

/// The file and its drop-ins; without a file that was asked for, the default one may be absent.
fn read_all(asked: Option<&Path>) -> Result<Vec<Source>, ConfigError> {
    let path = asked.unwrap_or_else(|| Path::new(DEFAULT_PATH));
    let mut sources = Vec::new();
    if asked.is_some() || path.exists() {
        sources.push(read(path)?);
    }
    for drop_in in drop_ins(path)? {
        sources.push(read(&drop_in)?);
    }
    Ok(sources)
}

/// `<path>.d/*.toml`, by name.
fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut dir = path.as_os_str().to_owned();
    dir.push(".d");
    let dir = PathBuf::from(dir);
    let failed = |source| ConfigError::Read { path: dir.clone(), source };
    let entries = match dir.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Each file is understood by itself first, so that a mistake is reported with its file, line and key.
fn read(path: &Path) -> Result<Source, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let wrong = |wrong| ConfigError::Parse { path: path.to_owned(), wrong: Box::new(wrong) };
    toml::from_str::<Config>(&text).map_err(wrong)?;
    let table = text.parse::<Table>().map_err(wrong)?;
    Ok(Source { path: path.to_owned(), table })
}

fn merged(sources: &[Source]) -> Result<Config, ConfigError> {
    let mut all = Table::new();
    for source in sources {
        lay_over(&mut all, &source.table);
    }
    let last = sources.last().map_or_else(PathBuf::new, |source| source.path.clone());
    all.try_into().map_err(|wrong| ConfigError::Parse { path: last, wrong: Box::new(wrong) })
}

/// Tables are merged key by key; anything else is replaced.
fn lay_over(below: &mut Table, above: &Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The last file that sets a key, for the error about its value.
fn origin(sources: &[Source], key: &str) -> String {
    let sets = |source: &&Source| {
        let mut parts = key.split(['.', '[']);
        let first = parts.next().and_then(|part| source.table.get(part));
        let mut names = parts.filter(|part| !part.ends_with(']'));
        names.try_fold(first, |value, part| Some(value?.get(part))).flatten().is_some()
    };
    let source = sources.iter().rev().find(sets);
    source.map_or_else(|| "command line".to_owned(), |source| source.path.display().to_string())
}

#[cfg(test)]
mod tests;
