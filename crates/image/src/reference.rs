//! Image references as people write them, and the one full form in which they are kept.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::digest::Digest;

const DEFAULT_HOST: &str = "docker.io";
const MAX_NAME: usize = 255;

/// A full reference: host, repository and what in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    repository: String,
    target: Target,
}

/// What of a repository is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Target {
    Tag(String),
    Digest(Digest),
}

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no image reference: {why}")]
pub struct ParseReferenceError {
    text: String,
    why: &'static str,
}

impl Reference {
    /// The registry that the name belongs to, `docker.io` where none was written.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Host and repository, as a repo digest begins.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tag(tag) => write!(f, "{}/{}:{tag}", self.host, self.repository),
            Target::Digest(digest) => write!(f, "{}/{}@{digest}", self.host, self.repository),
        }
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    /// A tag beside a digest is dropped: the digest alone decides, as with every peer.
    fn from_str(text: &str) -> Result<Self, ParseReferenceError> {
        let refuse = |why| ParseReferenceError { text: text.chars().take(300).collect(), why };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        let (host, repository) = split_host(name);
        if host.len() + repository.len() >= MAX_NAME {
            return Err(refuse("the name is too long"));
        }
        if !is_host(&host) {
            return Err(refuse("the registry's host is malformed"));
        }
        if !repository.split('/').all(is_component) {
            return Err(refuse("a repository is made of lower-case words, . _ and -"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(refuse("the tag is malformed"));
        }
        let target = match digest {
            Some(digest) => Target::Digest(
                digest.parse().map_err(|_| refuse("only sha256 digests of 64 digits are known"))?,
            ),
            None => Target::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { host, repository, target })
    }
}

fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn split_host(name: &str) -> (String, String) {
    let (host, rest) = match name.split_once('/') {
        Some((first, rest)) if looks_like_host(first) => (first, rest),
        _ => (DEFAULT_HOST, name),
    };
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    if host == DEFAULT_HOST && !rest.contains('/') {
        return (host.to_owned(), format!("library/{rest}"));
    }
    (host.to_owned(), rest.to_owned())
}

fn looks_like_host(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.chars().any(|c| c.is_ascii_uppercase())
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let named = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.chars().all(plain) && !name.contains(".."),
    };
    named && port.is_none_or(|p| p.parse::<u16>().is_ok())
}

fn is_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = text.starts_with(word) && text.ends_with(word);
    let separators = text.split(word).filter(|s| !s.is_empty());
    ends && separators
        .into_iter()
        .all(|s| matches!(s, "." | "_" | "__") || s.chars().all(|c| c == '-'))
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn a_short_name_gets_the_default_host_library_and_tag() {
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("index.docker.io/me/x:1"), "docker.io/me/x:1");
        assert_eq!(full("localhost:5000/a/b"), "localhost:5000/a/b:latest");
        assert_eq!(full("registry.k8s.io/pause:3.10"), "registry.k8s.io/pause:3.10");
        assert_eq!(full("localhost/x"), "localhost/x:latest");
        assert_eq!(full("[::1]:5000/x:y"), "[::1]:5000/x:y");
    }

    #[test]
    fn a_digest_makes_the_tag_of_no_account() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(full(&format!("x:1@{digest}")), format!("docker.io/library/x@{digest}"));
    }

    #[test]
    fn what_could_leave_its_place_is_refused() {
        let digest = format!("x@sha256:{}", "A".repeat(64));
        for bad in [
            "",
            "..",
            "a/../b",
            "A",
            "x:",
            "x:-a",
            "a//b",
            "/a",
            "a/",
            "x@sha256:12",
            "a b",
            "-a",
            &digest,
            "h..x/a",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        "a".repeat(300).parse::<Reference>().unwrap_err();
    }
}
