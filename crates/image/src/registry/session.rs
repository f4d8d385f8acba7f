//! Requests to one endpoint: retried, authorised, redirected.

use std::time::Duration;

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, StatusCode, Url};
use tokio::sync::{Mutex, OnceCell};

use super::auth::{self, Challenge, Credentials, Secret, TokenReply};
use super::endpoint::{Endpoint, host_of};
use super::{FetchError, Fetched, chain, is_transient};
use crate::digest::Digest;
use crate::options::Options;

const MAX_REDIRECTS: usize = 8;
const MAX_TOKEN: usize = 1 << 20;
const MAX_DETAIL: usize = 4096;
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// An endpoint, and what this pull has learnt about how to talk to it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) endpoint: Endpoint,
    secret: Secret,
    /// The header that worked last; whoever is refused with it fetches a new one.
    authorization: Mutex<Option<HeaderValue>>,
    plain: Client,
    /// Loading the trust store costs milliseconds: only for hosts spoken to by https.
    secure: OnceCell<Client>,
    pub(super) patience: Patience,
}

#[derive(Debug, Clone)]
pub(super) struct Patience {
    pub(super) attempts: u32,
    backoff: Duration,
    pub(super) stall: Duration,
    pub(super) stall_bytes: u64,
}

/// One GET.
#[derive(Debug, Clone, Copy)]
pub(super) struct Get<'g> {
    pub(super) tail: &'g str,
    pub(super) accept: &'g str,
    pub(super) from: u64,
}

impl Patience {
    /// The pause before try number `tried + 1`, spread so that many nodes do not come back at once.
    pub(super) fn pause(&self, tried: u32) -> Duration {
        let full = self.backoff.saturating_mul(1 << tried.min(10)).min(MAX_PAUSE);
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let spread = clock.map_or(0, |since| since.subsec_nanos() % 256);
        full * (256 + spread) / 512
    }
}

impl Session {
    pub(super) fn new(
        endpoint: Endpoint,
        credentials: &Credentials,
        options: &Options,
    ) -> Result<Self, FetchError> {
        // Whoever came first in this process has chosen; that is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let secret = credentials.for_endpoint(&endpoint).clone();
        let authorization = match &secret {
            Secret::RegistryToken(token) => auth::bearer(token),
            _ => None,
        };
        let host = endpoint.host();
        let plain = builder(options, &host).tls_certs_only([]).build();
        Ok(Self {
            secret,
            authorization: Mutex::new(authorization),
            plain: plain.map_err(|e| FetchError::Tls { host, what: chain(&e) })?,
            secure: OnceCell::new(),
            patience: Patience {
                attempts: options.attempts.max(1),
                backoff: options.backoff,
                stall: options.stall_timeout,
                stall_bytes: options.stall_bytes,
            },
            endpoint,
        })
    }

    pub(super) fn host(&self) -> String {
        self.endpoint.host()
    }

    /// A whole small body, checked against the digest that it was asked by.
    pub(super) async fn document(
        &self,
        tail: &str,
        accept: &str,
        digest: Option<Digest>,
        limit: usize,
    ) -> Result<Fetched, FetchError> {
        let response = self.get(Get { tail, accept, from: 0 }).await?;
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let bytes = self.bounded(response, tail, limit).await?;
        let found = Digest::of(&bytes);
        match digest.filter(|expected| *expected != found) {
            Some(expected) => Err(FetchError::Digest { host: self.host(), expected, found }),
            None => Ok(Fetched { bytes, content_type, digest: found }),
        }
    }

    /// A response that is a success, after as many tries as are allowed.
    pub(super) async fn get(&self, get: Get<'_>) -> Result<Response, FetchError> {
        let mut tried = 0;
        loop {
            let mut pause = self.patience.pause(tried);
            let error = match self.authorised(get).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let transient = is_transient(response.status());
                    pause = pause.max(retry_after(response.headers()));
                    let error = self.refusal(response, get.tail).await;
                    if !transient {
                        return Err(error);
                    }
                    error
                }
                Err(error @ (FetchError::Unreachable { .. } | FetchError::Stalled { .. })) => error,
                Err(error) => return Err(error),
            };
            tried += 1;
            if tried >= self.patience.attempts {
                return Err(error);
            }
            tracing::debug!(
                host = self.host(),
                what = get.tail,
                tried,
                error = chain(&error),
                "registry retry"
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// One request, repeated once with what the registry's challenge asks for.
    async fn authorised(&self, get: Get<'_>) -> Result<Response, FetchError> {
        let known = self.authorization.lock().await.clone();
        let response = self.followed(get, known.clone()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let Some(challenge) = auth::challenge(response.headers()) else { return Ok(response) };
        let mut current = self.authorization.lock().await;
        if *current == known {
            let Some(fresh) = self.answer(challenge).await? else { return Ok(response) };
            *current = Some(fresh);
        }
        let fresh = current.clone();
        drop(current);
        self.followed(get, fresh).await
    }

    async fn followed(
        &self,
        get: Get<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, FetchError> {
        let host = self.host();
        let malformed = FetchError::Redirect { host, what: "to a malformed address" };
        let Some(mut url) = self.endpoint.url(get.tail) else { return Err(malformed) };
        let home = url.origin();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client(&url).await?.get(url.clone()).header(ACCEPT, get.accept);
            if get.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", get.from));
            }
            // Secrets and configured headers are for this endpoint alone.
            if url.origin() == home {
                request = request.headers(self.endpoint.headers.clone());
                if let Some(value) = &authorization {
                    request = request.header(AUTHORIZATION, value.clone());
                }
            }
            let response = self.answered(request, &url).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let next = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            let Some(next) = next.and_then(|next| url.join(next).ok()) else {
                return Err(malformed);
            };
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(FetchError::Redirect { host: self.host(), what: "from https to http" });
            }
            url = next;
        }
        Err(FetchError::Redirect { host: self.host(), what: "too often" })
    }

    async fn answered(
        &self,
        request: reqwest::RequestBuilder,
        url: &Url,
    ) -> Result<Response, FetchError> {
        let host = host_of(url);
        match tokio::time::timeout(self.patience.stall, request.send()).await {
            Ok(answer) => answer
                .map_err(|source| FetchError::Unreachable { host, source: source.without_url() }),
            Err(_) => Err(FetchError::Stalled { host, seconds: self.patience.stall.as_secs() }),
        }
    }

    /// What to send after this challenge; none when there is nothing to prove oneself with.
    async fn answer(&self, challenge: Challenge) -> Result<Option<HeaderValue>, FetchError> {
        match (challenge, &self.secret) {
            (Challenge::Basic, Secret::Basic { user, password }) => Ok(auth::basic(user, password)),
            (Challenge::Bearer { realm, service, scope }, secret) => {
                let scope = scope
                    .unwrap_or_else(|| format!("repository:{}:pull", self.endpoint.repository));
                let token = self.token(realm, service.as_deref(), &scope, secret).await?;
                Ok(auth::bearer(&token))
            }
            (Challenge::Basic, _) => Ok(None),
        }
    }

    async fn token(
        &self,
        realm: Url,
        service: Option<&str>,
        scope: &str,
        secret: &Secret,
    ) -> Result<String, FetchError> {
        let wrong = |what: String| FetchError::Token { realm: realm.to_string(), what };
        if self.endpoint.base.scheme() == "https" && realm.scheme() != "https" {
            return Err(wrong("a secret would be sent by plain http".into()));
        }
        let mut query = realm.clone();
        if let Some(service) = service {
            query.query_pairs_mut().append_pair("service", service);
        }
        query.query_pairs_mut().append_pair("scope", scope);
        let client = self.client(&realm).await?;
        let request = match secret {
            Secret::IdentityToken(token) => {
                query
                    .query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "ferropod")
                    .append_pair("refresh_token", token);
                let form = "application/x-www-form-urlencoded";
                let body = query.query().unwrap_or_default().to_owned();
                client.post(realm.clone()).header(CONTENT_TYPE, form).body(body)
            }
            Secret::Basic { user, password } => client.get(query).basic_auth(user, Some(password)),
            Secret::Anonymous | Secret::RegistryToken(_) => client.get(query),
        };
        let response = self.answered(request, &realm).await?;
        let status = response.status();
        if is_transient(status) {
            return Err(self.refusal(response, "a token").await);
        }
        if !status.is_success() {
            return Err(wrong(format!("it answered {status}")));
        }
        let bytes = self.bounded(response, "a token", MAX_TOKEN).await?;
        let reply: Result<TokenReply, _> = serde_json::from_slice(&bytes);
        let token = reply.map_err(|e| wrong(e.to_string()))?.into_token();
        token.ok_or_else(|| wrong("its answer has none".into()))
    }

    async fn bounded(
        &self,
        mut response: Response,
        what: &str,
        limit: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let host = self.host();
        let mut bytes = Vec::new();
        loop {
            let chunk = tokio::time::timeout(self.patience.stall, response.chunk()).await;
            match chunk {
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
                Ok(Ok(None)) => return Ok(bytes),
                Ok(Err(source)) => {
                    return Err(FetchError::Unreachable { host, source: source.without_url() });
                }
                Err(_) => {
                    let seconds = self.patience.stall.as_secs();
                    return Err(FetchError::Stalled { host, seconds });
                }
            }
            if bytes.len() > limit {
                let limit = limit as u64;
                return Err(FetchError::TooLarge { host, what: what.to_owned(), limit });
            }
        }
    }

    /// The error in a response that is none: the status, and what the registry says, cut short.
    async fn refusal(&self, response: Response, what: &str) -> FetchError {
        let status = response.status().as_u16();
        let body = self.bounded(response, what, MAX_DETAIL).await.unwrap_or_default();
        let text: String = String::from_utf8_lossy(&body).chars().take(300).collect();
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        let detail = if text.is_empty() { text } else { format!(": {text}") };
        FetchError::Status { host: self.host(), status, what: what.to_owned(), detail }
    }

    async fn client(&self, url: &Url) -> Result<&Client, FetchError> {
        if url.scheme() == "http" {
            return Ok(&self.plain);
        }
        let make = || async {
            let endpoint = self.endpoint.clone();
            let stall = self.patience.stall;
            let host = host_of(url);
            let built = tokio::task::spawn_blocking(move || secure(&endpoint, stall)).await;
            let built = built.unwrap_or_else(|e| Err(e.to_string()));
            built.map_err(|what| FetchError::Tls { host, what })
        };
        self.secure.get_or_try_init(make).await
    }
}

fn builder(options: &Options, host: &str) -> ClientBuilder {
    let builder = plain_builder(options.stall_timeout);
    // As Go's client does: what is on this machine is not asked for through a proxy.
    let local = ["localhost", "127.", "[::1]"].iter().any(|prefix| host.starts_with(prefix));
    if local { builder.no_proxy() } else { builder }
}

fn plain_builder(stall: Duration) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("ferropod/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(stall.min(Duration::from_secs(15)))
}

fn secure(endpoint: &Endpoint, stall: Duration) -> Result<Client, String> {
    let tls = &endpoint.tls;
    let mut builder = plain_builder(stall).tls_danger_accept_invalid_certs(tls.insecure);
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|e| format!("read {}: {e}", path.display()))
    };
    for path in &tls.ca {
        let bundle = Certificate::from_pem_bundle(&read(path)?);
        let bundle = bundle.map_err(|e| format!("{}: {}", path.display(), chain(&e)))?;
        builder = builder.tls_certs_merge(bundle);
    }
    if !tls.client.is_empty() {
        let mut pem = Vec::new();
        for path in &tls.client {
            pem.extend(read(path)?);
            pem.push(b'\n');
        }
        builder = builder.identity(Identity::from_pem(&pem).map_err(|e| chain(&e))?);
    }
    builder.build().map_err(|e| chain(&e))
}

/// Seconds; the date form is rare and a pause of ours does as well.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(MAX_PAUSE)
}
