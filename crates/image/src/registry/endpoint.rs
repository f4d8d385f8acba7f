//! A server that may have an image, and how it is recognised.

use std::path::PathBuf;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::options::Options;

/// One server that may have the image.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// Ends with a slash; repository paths follow.
    pub(crate) base: Url,
    /// The repository's name there.
    pub(crate) repository: String,
    /// A stand-in for the registry that the image names, and so not trusted with its credentials.
    pub(crate) mirror: bool,
    /// The `ns` query that a proxy for many registries needs.
    pub(crate) namespace: Option<String>,
    /// May say what a tag means.
    pub(crate) resolves: bool,
    pub(crate) tls: Tls,
    pub(crate) headers: HeaderMap,
}

/// How a server is recognised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) insecure: bool,
    pub(crate) ca: Vec<PathBuf>,
    /// Certificate and key, or both in one file.
    pub(crate) client: Vec<PathBuf>,
}

/// A configuration file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: {what}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The registry is blocked in the configuration.
    #[error("registry {0} is blocked by its configuration")]
    Blocked(String),
}

impl Endpoint {
    /// `host` or `host:port`, as written in the base.
    pub(crate) fn host(&self) -> String {
        host_of(&self.base)
    }

    pub(crate) fn url(&self, tail: &str) -> Option<Url> {
        let mut url = self.base.join(&format!("{}/{tail}", self.repository)).ok()?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Some(url)
    }
}

pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The registry of that name itself.
pub(crate) fn upstream(
    host: &str,
    repository: &str,
    options: &Options,
    insecure: bool,
) -> Option<Endpoint> {
    let scheme = if insecure || is_plain(host, options) { "http" } else { "https" };
    let server = if host == "docker.io" { "registry-1.docker.io" } else { host };
    Some(Endpoint {
        base: Url::parse(&format!("{scheme}://{server}/v2/")).ok()?,
        repository: repository.to_owned(),
        mirror: false,
        namespace: None,
        resolves: true,
        tls: Tls { insecure, ..Tls::default() },
        headers: HeaderMap::new(),
    })
}

/// Loopback is plain as with the peers, unless the port says otherwise.
pub(crate) fn is_plain(host: &str, options: &Options) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let loopback = name == "localhost"
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let listed = options.insecure_registries.iter().any(|one| one == host || one == name);
    listed || (loopback && !host.ends_with(":443"))
}

pub(crate) fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((name.parse().ok()?, value.parse().ok()?))
}
