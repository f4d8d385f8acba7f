//! `registries.conf`, version 2: prefixes, rewritten locations and mirrors, as Podman and CRI-O read them.

use std::path::Path;

use serde::Deserialize;

use super::endpoint::{ConfigError, Endpoint, upstream};
use crate::options::Options;
use crate::reference::{Reference, Target};

#[derive(Deserialize, Default)]
struct File {
    #[serde(default)]
    registry: Vec<Registry>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
#[expect(clippy::struct_excessive_bools, reason = "the file's own fields")]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    #[serde(rename = "pull-from-mirror")]
    pull_from: String,
}

/// Mirrors and location of the longest prefix that fits, the location last; empty when none fits.
pub(super) fn find(
    path: &Path,
    reference: &Reference,
    options: &Options,
) -> Result<Vec<Endpoint>, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let file: File = toml::from_str(&text)
        .map_err(|e| ConfigError::Parse { path: path.to_owned(), what: e.message().to_owned() })?;
    choose(&file, reference, options)
}

fn choose(
    file: &File,
    reference: &Reference,
    options: &Options,
) -> Result<Vec<Endpoint>, ConfigError> {
    let name = reference.name();
    let fits = file.registry.iter().filter_map(|r| Some((r, rest_of(&name, r.prefix())?)));
    let Some((registry, rest)) = fits.max_by_key(|(r, _)| r.prefix().len()) else {
        return Ok(Vec::new());
    };
    if registry.blocked {
        return Err(ConfigError::Blocked(registry.prefix().to_owned()));
    }
    let mirrors = registry.mirror.iter().filter(|m| registry.uses(m, reference));
    let mut found: Vec<_> = mirrors
        .filter_map(|m| place(&m.location, rest, m.insecure, options))
        .map(|endpoint| Endpoint { mirror: true, ..endpoint })
        .collect();
    let (host, repository) = (reference.host(), reference.repository());
    found.extend(if registry.location.is_empty() {
        upstream(host, repository, options, registry.insecure)
    } else {
        place(&registry.location, rest, registry.insecure, options)
    });
    Ok(found)
}

impl Registry {
    fn prefix(&self) -> &str {
        if self.prefix.is_empty() { &self.location } else { &self.prefix }
    }

    fn uses(&self, mirror: &Mirror, reference: &Reference) -> bool {
        let by_digest = matches!(reference.target(), Target::Digest(_));
        match mirror.pull_from.as_str() {
            "digest-only" => by_digest,
            "tag-only" => !by_digest,
            _ => by_digest || !self.mirror_by_digest_only,
        }
    }
}

/// What of `name` follows the prefix, which ends at a boundary; `*.example.com` stands for hosts below it.
fn rest_of<'n>(name: &'n str, prefix: &str) -> Option<&'n str> {
    if let Some(suffix) = prefix.strip_prefix('*') {
        let (host, rest) = name.split_once('/')?;
        return host.ends_with(suffix).then_some(rest);
    }
    let rest = name.strip_prefix(prefix)?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest),
        None => rest.is_empty().then_some(rest),
    }
}

fn place(location: &str, rest: &str, insecure: bool, options: &Options) -> Option<Endpoint> {
    let (host, path) = location.split_once('/').unwrap_or((location, ""));
    let parts: Vec<_> = [path, rest].into_iter().filter(|part| !part.is_empty()).collect();
    upstream(host, &parts.join("/"), options, insecure)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        unqualified-search-registries = ["docker.io"]
        [[registry]]
        prefix = "docker.io"
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror:5000/hub"
        insecure = true
        [[registry]]
        prefix = "docker.io/evil"
        blocked = true
        [[registry]]
        prefix = "*.example.com"
        location = "inner.net/ex"
        [[registry]]
        location = "quay.io"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m"
    "#;

    fn urls(reference: &str) -> Result<Vec<String>, ConfigError> {
        let file = toml::from_str(FILE).unwrap();
        let found = choose(&file, &reference.parse().unwrap(), &Options::default())?;
        Ok(found.iter().map(|e| format!("{}{}", e.base, e.repository)).collect())
    }

    #[test]
    fn mirrors_and_locations_replace_the_prefix() {
        let hub = urls("busybox").unwrap();
        assert_eq!(hub[0], "http://mirror:5000/v2/hub/library/busybox");
        assert_eq!(hub[1], "https://registry-1.docker.io/v2/library/busybox");
        assert_eq!(urls("a.example.com/x/y:1").unwrap(), ["https://inner.net/v2/ex/x/y"]);
        assert_eq!(urls("other.io/x").unwrap(), Vec::<String>::new());
        assert_eq!(urls("quay.io/x").unwrap(), ["https://quay.io/v2/x"]);
        let digest = "0".repeat(64);
        assert_eq!(urls(&format!("quay.io/x@sha256:{digest}")).unwrap().len(), 2);
    }

    #[test]
    fn the_longest_prefix_decides_and_may_block() {
        assert!(matches!(urls("evil/x"), Err(ConfigError::Blocked(_))));
        urls("evilish/x").unwrap();
    }
}
