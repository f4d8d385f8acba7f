//! The registry client of one pull: its endpoints in order, its secrets, its patience.
//!
//! Redirects are followed here and not by the HTTP library, so that no secret leaves the host it is for and no https
//! becomes http. All of a client ends with the pull, so that an idle daemon holds no connection and no trust store.

pub(crate) mod auth;
pub(crate) mod blob;
mod conf;
pub(crate) mod endpoint;
mod hosts;
mod search;
mod session;

use names::Kind;
use reqwest::StatusCode;
use thiserror::Error;

use crate::digest::Digest;
use crate::manifest::{INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT, Part};
use crate::options::Options;
use crate::reference::{Reference, Target};
pub use auth::{Credentials, Secret};
pub use endpoint::ConfigError;
use session::Session;

/// What one pull talks to.
#[derive(Debug)]
pub(crate) struct Registry {
    sessions: Vec<Session>,
}

/// A document and what the registry said about it.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) content_type: Option<String>,
    pub(crate) digest: Digest,
}

/// Why something did not come from a registry.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The configuration of registries cannot be used.
    #[error("read the configuration of registries")]
    Config(#[from] ConfigError),
    /// A certificate or key cannot be used.
    #[error("set up TLS for {host}: {what}")]
    Tls {
        /// The host.
        host: String,
        /// What is wrong.
        what: String,
    },
    /// No endpoint may be asked.
    #[error("no endpoint may be asked for {0}")]
    NoEndpoint(String),
    /// No connection, or it broke, as often as it was tried.
    #[error("no answer from {host}")]
    Unreachable {
        /// The host.
        host: String,
        /// What the HTTP library says.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing, or next to nothing, came for too long.
    #[error("{host} sent next to nothing for {seconds} s")]
    Stalled {
        /// The host.
        host: String,
        /// For how long.
        seconds: u64,
    },
    /// The answer is a refusal.
    #[error("{host} answered {status} for {what}{detail}")]
    Status {
        /// The host.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// What the registry says about it.
        detail: String,
    },
    /// The token server gave no token.
    #[error("no token from {realm}: {what}")]
    Token {
        /// The token server.
        realm: String,
        /// What is wrong.
        what: String,
    },
    /// A redirect that must not be followed.
    #[error("{host} redirects {what}")]
    Redirect {
        /// The host.
        host: String,
        /// Where.
        what: &'static str,
    },
    /// More bytes than announced or allowed.
    #[error("{host} sent more than {limit} bytes for {what}")]
    TooLarge {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// How much it may be.
        limit: u64,
    },
    /// The connection broke more often than it may.
    #[error("{host} broke off {what} after {at} bytes")]
    Cut {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// How far it came.
        at: u64,
    },
    /// The bytes are not those asked for.
    #[error("{host} sent {found} for {expected}")]
    Digest {
        /// The host.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Mirrors failed, and then the registry.
    #[error("{mirrors}; and then")]
    Everywhere {
        /// What the mirrors answered.
        mirrors: String,
        /// What the registry answered.
        #[source]
        last: Box<FetchError>,
    },
    /// The unpacking side went away; it knows why.
    #[error("the layer is not wanted any more")]
    Unwanted,
}

impl FetchError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Config(_) | Self::Tls { .. } | Self::NoEndpoint(_) | Self::Token { .. } => {
                Kind::Refused
            }
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::Cut { .. } => {
                Kind::RegistryUnavailable
            }
            Self::Status { status, .. } => match status {
                404 => Kind::NotFound,
                429 | 500.. => Kind::RegistryUnavailable,
                401 | 403 => Kind::Refused,
                _ => Kind::Internal,
            },
            Self::Redirect { .. } | Self::TooLarge { .. } | Self::Digest { .. } => Kind::Invalid,
            Self::Everywhere { last, .. } => last.kind(),
            Self::Unwanted => Kind::Cancelled,
        }
    }
}

impl Registry {
    pub(crate) fn new(
        reference: &Reference,
        credentials: &Credentials,
        options: &Options,
    ) -> Result<Self, FetchError> {
        let endpoints = search::endpoints(reference, options)?;
        if endpoints.is_empty() {
            return Err(FetchError::NoEndpoint(reference.name()));
        }
        let session = |endpoint| Session::new(endpoint, credentials, options);
        let sessions = endpoints.into_iter().map(session).collect::<Result<_, _>>()?;
        Ok(Self { sessions })
    }

    /// The document that the reference names.
    pub(crate) async fn resolve(&self, reference: &Reference) -> Result<Fetched, FetchError> {
        match reference.target() {
            Target::Tag(tag) => self.manifest(tag, None).await,
            Target::Digest(digest) => self.manifest(&digest.to_string(), Some(*digest)).await,
        }
    }

    /// The manifest of that digest.
    pub(crate) async fn manifest_of(&self, part: Part) -> Result<Fetched, FetchError> {
        self.manifest(&part.digest.to_string(), Some(part.digest)).await
    }

    async fn manifest(&self, name: &str, digest: Option<Digest>) -> Result<Fetched, FetchError> {
        let accept = [INDEX_TYPES.join(", "), MANIFEST_TYPES.join(", ")].join(", ");
        self.document(&format!("manifests/{name}"), &accept, digest).await
    }

    /// A configuration: small, and kept in memory.
    pub(crate) async fn config(&self, part: Part) -> Result<Fetched, FetchError> {
        self.document(&format!("blobs/{}", part.digest), "*/*", Some(part.digest)).await
    }

    async fn document(
        &self,
        tail: &str,
        accept: &str,
        digest: Option<Digest>,
    ) -> Result<Fetched, FetchError> {
        let mut failures = Failures::default();
        for session in &self.sessions {
            match session.document(tail, accept, digest, MAX_DOCUMENT).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => failures.add(error),
            }
        }
        Err(failures.finish(tail))
    }
}

/// What several endpoints answered, for one error in the end.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    before: Vec<String>,
    last: Option<FetchError>,
}

impl Failures {
    pub(crate) fn add(&mut self, error: FetchError) {
        if let Some(before) = self.last.replace(error) {
            self.before.push(chain(&before));
        }
    }

    pub(crate) fn finish(self, what: &str) -> FetchError {
        let last = self.last.unwrap_or_else(|| FetchError::NoEndpoint(what.to_owned()));
        if self.before.is_empty() {
            return last;
        }
        FetchError::Everywhere { mirrors: self.before.join("; "), last: Box::new(last) }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

fn is_transient(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || status.is_server_error()
}
