//! Who may see which secret: challenges, tokens and the hosts they are for.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::endpoint::Endpoint;

/// What a pull may prove itself with.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The secret itself.
    pub secret: Secret,
    /// The only host it is for; empty means the registry that the image names.
    pub server_address: String,
}

/// The kinds of secret that the CRI knows.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum Secret {
    /// None.
    #[default]
    Anonymous,
    /// A user and a password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// An `OAuth2` refresh token, exchanged at the token server.
    IdentityToken(String),
    /// A bearer token, sent to the registry as it is.
    RegistryToken(String),
}

/// One way that a registry offers to prove oneself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String>, scope: Option<String> },
}

/// What a token server answers.
#[derive(Deserialize)]
pub(super) struct TokenReply {
    token: Option<String>,
    access_token: Option<String>,
}

impl Credentials {
    /// The secret, if this endpoint is where it belongs.
    pub(super) fn for_endpoint(&self, endpoint: &Endpoint) -> &Secret {
        let belongs = if self.server_address.is_empty() {
            !endpoint.mirror
        } else {
            canonical(&self.server_address) == canonical(&endpoint.host())
        };
        if belongs { &self.secret } else { &Secret::Anonymous }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} for {:?}", self.secret, self.server_address)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "anonymous",
            Self::Basic { .. } => "a password",
            Self::IdentityToken(_) => "an identity token",
            Self::RegistryToken(_) => "a registry token",
        })
    }
}

impl TokenReply {
    pub(super) fn into_token(self) -> Option<String> {
        self.token.or(self.access_token).filter(|token| !token.is_empty())
    }
}

/// The host of an address as people and Docker's files write it.
fn canonical(address: &str) -> String {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = address.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

pub(super) fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    sensitive(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
}

pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The best of what is offered: a token rather than the password on every request.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let offered = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<_> = offered.flat_map(parse).collect();
    let bearer = offered.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
    bearer.or_else(|| offered.first()).cloned()
}

/// `Scheme key="value", key=value, Scheme …`
fn parse(text: &str) -> Vec<Challenge> {
    let mut schemes: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = parse_value(value);
            if let Some((_, parameters)) = schemes.last_mut() {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else {
            schemes.push((word.to_ascii_lowercase(), Vec::new()));
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    schemes.into_iter().filter_map(|(scheme, parameters)| known(&scheme, &parameters)).collect()
}

fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    (value, characters.as_str())
}

fn known(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |key: &str| parameters.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            let realm = Url::parse(&get("realm")?).ok()?;
            Some(Challenge::Bearer { realm, service: get("service"), scope: get("scope") })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let mut headers = HeaderMap::new();
        let text = r#"Basic realm="r, s", Bearer realm="https://t/token",service="a,b",scope="repository:x:pull""#;
        headers.append(WWW_AUTHENTICATE, text.parse().unwrap());
        let Some(Challenge::Bearer { realm, service, scope }) = challenge(&headers) else {
            panic!("bearer")
        };
        assert_eq!(realm.as_str(), "https://t/token");
        assert_eq!(service.as_deref(), Some("a,b"));
        assert_eq!(scope.as_deref(), Some("repository:x:pull"));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in ["", "=", "Bearer", "Bearer realm=", "Digest a=b", "Bearer realm=\"", ",,,"] {
            assert_eq!(parse(text), [], "{text}");
        }
    }

    #[test]
    fn docker_hub_has_one_address_however_it_is_written() {
        for text in ["docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"] {
            assert_eq!(canonical(text), "docker.io");
        }
        assert_eq!(canonical("http://R:5000/v2/"), "r:5000");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::Basic { user: "u".into(), password: "hunter2".into() };
        let text = format!("{:?}", Credentials { secret, server_address: "r".into() });
        assert!(!text.contains("hunter2"), "{text}");
    }
}
