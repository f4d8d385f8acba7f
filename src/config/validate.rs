//! Whether values make sense together. An error is the key and what is wrong with its value.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::{Config, Stream};

/// `sun_path` holds 108 bytes, the last of which is 0.
const SOCKET_PATH_MAX: usize = 107;

type Checked = Result<(), (String, String)>;

pub(super) fn check(config: &Config) -> Checked {
    absolute("root", &config.root)?;
    absolute("state", &config.state)?;
    absolute("socket", &config.socket())?;
    let socket = config.socket();
    let length = socket.as_os_str().len();
    that(length <= SOCKET_PATH_MAX, "socket", || {
        format!("{} is longer than {SOCKET_PATH_MAX} bytes", socket.display())
    })?;
    that(config.root != config.state, "state", || "must differ from root".to_owned())?;
    places("calls_at_once", config.calls_at_once)?;
    log_level(&config.log.level)?;
    metrics_address(&config.metrics.address)?;
    stream(&config.stream)?;
    network(config)?;
    image(config)?;
    runtime(config)
}

/// The two limits that `"SOFT:HARD"` means.
pub(super) fn rlimit(text: &str) -> Option<(u64, u64)> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let value = |text: &str| match text {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    let (soft, hard) = (value(soft)?, value(hard)?);
    (soft <= hard).then_some((soft, hard))
}

fn log_level(level: &str) -> Checked {
    let filter = level.parse::<tracing_subscriber::EnvFilter>();
    filter.map(drop).map_err(|error| ("log.level".to_owned(), format!("{level:?}: {error}")))
}

/// Metrics tell what runs on the node: not for the network.
fn metrics_address(address: &str) -> Checked {
    let key = "metrics.address";
    if let Some(path) = address.strip_prefix("unix:") {
        return absolute(key, Path::new(path));
    }
    let loopback = address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
    that(address.is_empty() || loopback, key, || {
        format!("{address:?} is neither a loopback address with a port nor unix:/path")
    })
}

fn stream(stream: &Stream) -> Checked {
    let address = stream.address.parse::<SocketAddr>();
    that(address.is_ok(), "stream.address", || {
        format!("{:?} is not an address with a port", stream.address)
    })?;
    let anywhere = address.is_ok_and(|address| address.ip().is_unspecified());
    that(!anywhere || !stream.advertise.is_empty(), "stream.advertise", || {
        format!(
            "must be set when stream.address is {:?}: clients cannot connect to that",
            stream.address
        )
    })?;
    let host = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
    that(stream.advertise.chars().all(host), "stream.advertise", || {
        format!("{:?} is neither HOST nor HOST:PORT", stream.advertise)
    })?;
    absolute_or_empty("stream.tls_cert", &stream.tls_cert)?;
    absolute_or_empty("stream.tls_key", &stream.tls_key)?;
    let both = stream.tls_cert.as_os_str().is_empty() == stream.tls_key.as_os_str().is_empty();
    that(both, "stream.tls_cert", || "and stream.tls_key go together".to_owned())?;
    positive("stream.idle_timeout", stream.idle_timeout.0.as_millis())?;
    positive("stream.creation_timeout", stream.creation_timeout.0.as_millis())?;
    places("stream.max_sessions", stream.max_sessions)
}

/// The port at the end of `HOST:PORT`, where there is one.
pub(crate) fn port_of(authority: &str) -> Option<u16> {
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return Some(address.port());
    }
    let (host, port) = authority.rsplit_once(':')?;
    if host.contains(':') { None } else { port.parse().ok() }
}

fn network(config: &Config) -> Checked {
    let network = &config.network;
    cidrs("network.pod_cidrs", &network.pod_cidrs)?;
    cidrs("network.non_masquerade_cidrs", &network.non_masquerade_cidrs)?;
    that(!network.pod_cidrs.is_empty(), "network.pod_cidrs", || "must not be empty".to_owned())?;
    let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let table = &network.table;
    that(!table.is_empty() && table.chars().all(named), "network.table", || {
        format!("{table:?} is not a name of letters, digits, - and _")
    })?;
    let prefix = &network.interface_prefix;
    let fits = (1..=5).contains(&prefix.len()) && prefix.chars().all(named);
    that(fits, "network.interface_prefix", || {
        format!("{prefix:?} is not a name of 1 to 5 letters, digits, - and _")
    })?;
    let mtu = network.mtu.is_none_or(|mtu| (1280..=65_535).contains(&mtu));
    that(mtu, "network.mtu", || "must lie between 1280 and 65535".to_owned())?;
    absolute("network.cni.config_dir", &network.cni.config_dir)?;
    for (index, dir) in network.cni.bin_dirs.iter().enumerate() {
        absolute(&format!("network.cni.bin_dirs[{index}]"), dir)?;
    }
    positive("network.cni.timeout", network.cni.timeout.0.as_millis())
}

fn image(config: &Config) -> Checked {
    let image = &config.image;
    for (index, dir) in image.hosts_dirs.iter().enumerate() {
        absolute(&format!("image.hosts_dirs[{index}]"), dir)?;
    }
    absolute_or_empty("image.registries_conf", &image.registries_conf)?;
    absolute_or_empty("image.archives_dir", &image.archives_dir)?;
    positive("image.stall_timeout", image.stall_timeout.0.as_millis())?;
    positive("image.attempts", u128::from(image.attempts))?;
    that(image.layers_at_once > 0, "image.layers_at_once", || "must not be 0".to_owned())?;
    positive("image.max_layer_entries", u128::from(image.max_layer_entries))?;
    positive("image.max_layer_size", u128::from(image.max_layer_size.0))
}

fn runtime(config: &Config) -> Checked {
    let runtime = &config.runtime;
    absolute_or_empty("runtime.programs", &runtime.programs)?;
    absolute_or_empty("runtime.seccomp_profile", &runtime.seccomp_profile)?;
    for dir in &runtime.cdi_spec_dirs {
        absolute("runtime.cdi_spec_dirs", dir)?;
    }
    positive("runtime.shm_size", u128::from(runtime.shm_size.0))?;
    for (index, name) in runtime.capabilities.iter().enumerate() {
        let spelt = !name.is_empty()
            && !name.starts_with("CAP_")
            && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        that(spelt, &format!("runtime.capabilities[{index}]"), || {
            format!("{name:?} is not a capability's name in capitals without CAP_")
        })?;
    }
    for (name, value) in &runtime.rlimits {
        that(rlimit(value).is_some(), &format!("runtime.rlimits.{name}"), || {
            format!("{value:?} is not \"SOFT:HARD\" with SOFT at most HARD")
        })?;
    }
    for (name, handler) in &runtime.handlers {
        let checked = handler.check(name);
        checked.map_err(|(key, wrong)| (format!("runtime.handlers.{name}{key}"), wrong))?;
    }
    Ok(())
}

fn cidrs(key: &str, texts: &[String]) -> Checked {
    for (index, text) in texts.iter().enumerate() {
        that(is_cidr(text), &format!("{key}[{index}]"), || {
            format!("{text:?} is not a range of addresses such as 10.88.0.0/16")
        })?;
    }
    Ok(())
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let (Ok(address), Ok(length)) = (address.parse::<IpAddr>(), length.parse::<u8>()) else {
        return false;
    };
    length <= if address.is_ipv4() { 32 } else { 128 }
}

fn absolute(key: &str, path: &Path) -> Checked {
    that(path.is_absolute(), key, || format!("{:?} is not an absolute path", path.display()))
}

fn absolute_or_empty(key: &str, path: &Path) -> Checked {
    if path.as_os_str().is_empty() { Ok(()) } else { absolute(key, path) }
}

fn positive(key: &str, value: u128) -> Checked {
    that(value > 0, key, || "must not be 0".to_owned())
}

/// Far beyond what a node can serve, and still a number that can be counted down from.
const PLACES_MAX: usize = 1 << 20;

fn places(key: &str, number: usize) -> Checked {
    that((1..=PLACES_MAX).contains(&number), key, || {
        format!("must not be {number}, but 1 to {PLACES_MAX}")
    })
}

fn that(holds: bool, key: &str, wrong: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err((key.to_owned(), wrong())) }
}
