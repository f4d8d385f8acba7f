//! A connection before its upgrade: a token is redeemed, a protocol is chosen, or the client is told why not.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use engine::world::World;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::{Instrument, debug, debug_span};

use super::negotiate::{self, Known, Wire};
use super::websocket::tunnel::Tunnel;
use super::{Ask, Server, websocket};

/// How long a client may take to say what it wants.
const HEAD_FOR: Duration = Duration::from_secs(30);
/// And how many bytes.
const HEAD_MAX: usize = 64 << 10;
const SPDY: &str = "SPDY/3.1";
const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

type Answer = Response<Full<Bytes>>;

/// Room for one session.
pub(crate) type Place = OwnedSemaphorePermit;

/// What an upgraded connection is for.
#[derive(Debug)]
struct Upgrade {
    ask: Ask,
    wire: Wire,
}

impl<W: World> Server<W> {
    /// Serves one connection to its end. Without a place it is told to come again.
    pub(crate) async fn serve<IO>(&self, io: IO, place: Option<Place>)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let upgrade = Mutex::new(None);
        let service = service_fn(|request: Request<Incoming>| {
            let answered = if place.is_some() { self.answer(&request) } else { Err(no_place()) };
            let response = match answered {
                Ok((response, granted)) => {
                    *upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(granted);
                    response
                }
                Err(refused) => *refused,
            };
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_FOR)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(io), service);
        let served = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        let http1::Parts { io, read_buf: early, .. } = connection.into_parts();
        let mut io = io.into_inner();
        if let Err(error) = served {
            return debug!(%error, "a client left before its session began");
        }
        let granted = upgrade.into_inner().unwrap_or_else(PoisonError::into_inner);
        match granted {
            Some(upgrade) => self.upgraded(io, early, upgrade).await,
            // An error means that the client is gone already.
            None => drop(io.shutdown().await),
        }
    }

    async fn upgraded<IO>(&self, io: IO, early: Bytes, Upgrade { ask, wire }: Upgrade)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let span = match &ask {
            Ask::Exec { container, .. } => debug_span!("exec", %container),
            Ask::Attach { container, .. } => debug_span!("attach", %container),
            Ask::Forward { sandbox, .. } => debug_span!("forward", %sandbox),
        };
        self.session(io, early, ask, wire).instrument(span).await;
    }

    async fn session<IO>(&self, io: IO, early: Bytes, ask: Ask, wire: Wire)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        debug!(?wire, "session");
        let spdy = ::spdy::Limits::default;
        match (&ask, wire) {
            (Ask::Forward { sandbox, .. }, Wire::Spdy(_)) => {
                let session = ::spdy::Session::serve(io, early, spdy());
                self.forward_over_spdy(sandbox, session).await;
            }
            (Ask::Forward { sandbox, .. }, Wire::Tunnel) => {
                let tunnel = Tunnel::new(websocket::upgraded(io, &early).await);
                let session = ::spdy::Session::serve(tunnel, Bytes::new(), spdy());
                self.forward_over_spdy(sandbox, session).await;
            }
            (Ask::Forward { sandbox, ports }, Wire::Channels(version, codec)) => {
                let io = websocket::upgraded(io, &early).await;
                self.forward_over_channels((sandbox, ports), (version, codec), io).await;
            }
            (_, Wire::Spdy(version)) => {
                let session = ::spdy::Session::serve(io, early, spdy());
                self.command_over_spdy(&ask, version, session).await;
            }
            (_, Wire::Channels(version, codec)) => {
                let io = websocket::upgraded(io, &early).await;
                self.command_over_channels(&ask, (version, codec), io).await;
            }
            // No command is offered it.
            (_, Wire::Tunnel) => {}
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Result<(Answer, Upgrade), Box<Answer>> {
        if request.method() != Method::GET && request.method() != Method::POST {
            return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "GET and POST only"));
        }
        let mut path = request.uri().path().split('/').skip(1);
        let (Some(verb), Some(token), None) = (path.next(), path.next(), path.next()) else {
            return Err(not_found());
        };
        let ask = self.urls.tokens.redeem(verb, token).ok_or_else(not_found)?;
        let (response, wire) = negotiated(request, &ask)?;
        Ok((response, Upgrade { ask, wire }))
    }
}

/// The protocol that both sides know.
fn negotiated<B>(request: &Request<B>, ask: &Ask) -> Result<(Answer, Wire), Box<Answer>> {
    let headers = request.headers();
    if !words(headers, &header::CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade")) {
        let text = "unable to upgrade: missing upgrade headers in request";
        return Err(refusal(StatusCode::BAD_REQUEST, text));
    }
    let mut upgrades = words(headers, &header::UPGRADE);
    match upgrades.next() {
        Some(word) if word.eq_ignore_ascii_case(SPDY) => over_spdy(headers, ask),
        Some(word) if word.eq_ignore_ascii_case("websocket") => over_websocket(request, ask),
        _ => {
            let text = "unable to upgrade: neither to SPDY/3.1 nor to websocket";
            Err(refusal(StatusCode::BAD_REQUEST, text))
        }
    }
}

fn over_spdy(headers: &HeaderMap, ask: &Ask) -> Result<(Answer, Wire), Box<Answer>> {
    let offered: Vec<String> = words(headers, &PROTOCOL).map(str::to_owned).collect();
    if offered.is_empty() {
        let text = format!("unable to upgrade: {PROTOCOL} header is required");
        return Err(refusal(StatusCode::BAD_REQUEST, &text));
    }
    let known = negotiate::spdy(ask);
    let chosen = negotiate::choose(&offered, known);
    let (name, wire) = chosen.ok_or_else(|| unknown(&offered, known))?;
    let response = switching(&[
        (header::UPGRADE, HeaderValue::from_static(SPDY)),
        (PROTOCOL, HeaderValue::from_static(name)),
    ]);
    Ok((response, wire))
}

fn over_websocket<B>(request: &Request<B>, ask: &Ask) -> Result<(Answer, Wire), Box<Answer>> {
    let headers = request.headers();
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let (true, Some(key)) = (version.is_some_and(|v| v == "13"), key) else {
        let text = "unable to upgrade: a key and version 13 of websocket are required";
        let mut refused = refusal(StatusCode::BAD_REQUEST, text);
        let version = HeaderValue::from_static("13");
        refused.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, version);
        return Err(refused);
    };
    let mut offered: Vec<String> =
        words(headers, &header::SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect();
    if offered.is_empty() {
        offered.push(String::new());
    }
    let known = negotiate::websocket(ask);
    let chosen = negotiate::choose(&offered, known);
    let (name, wire) = chosen.ok_or_else(|| unknown(&offered, known))?;
    if let (Ask::Forward { ports, .. }, Wire::Channels(..)) = (ask, wire)
        && (ports.is_empty() || ports.len() > PORTS_MAX)
    {
        let text = format!("unable to forward: 1 to {PORTS_MAX} ports must have been asked for");
        return Err(refusal(StatusCode::BAD_REQUEST, &text));
    }
    // What base64 makes is a header's value.
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
    let accept = accept.map_err(|_| refusal(StatusCode::BAD_REQUEST, "no key"))?;
    let mut response = switching(&[
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ]);
    if !name.is_empty() {
        let name = HeaderValue::from_static(name);
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    Ok((response, wire))
}

/// Two channels each, and a channel is a byte.
const PORTS_MAX: usize = 120;

/// A header's words, from all its lines.
fn words<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

// === answers ===

fn switching(headers: &[(HeaderName, HeaderValue)]) -> Answer {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().extend(headers.iter().cloned());
    response
}

/// Boxed: it is the rare case.
fn refusal(status: StatusCode, text: &str) -> Box<Answer> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Box::new(response)
}

/// The same for a token that never was, one that was used, and one that is for something else.
fn not_found() -> Box<Answer> {
    refusal(StatusCode::NOT_FOUND, "404 page not found")
}

fn no_place() -> Box<Answer> {
    let mut refused = refusal(StatusCode::SERVICE_UNAVAILABLE, "too many streaming sessions");
    refused.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    refused
}

fn unknown(offered: &[String], known: &'static Known) -> Box<Answer> {
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).filter(|n| !n.is_empty()).collect();
    let text = format!(
        "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {names:?}"
    );
    let mut refused = refusal(StatusCode::FORBIDDEN, &text);
    let accepted = names.into_iter().map(|name| (ACCEPTED, HeaderValue::from_static(name)));
    for (header, name) in accepted {
        refused.headers_mut().append(header, name);
    }
    refused
}

#[cfg(test)]
mod tests {
    use engine::world::Ends;
    use names::{ContainerId, SandboxId};

    use super::super::negotiate::{Codec, Version};
    use super::*;

    fn exec() -> Ask {
        let ends = Ends { stdin: false, stdout: true, stderr: true, tty: false };
        Ask::Exec { container: ContainerId::from_random([1; 32]), command: Vec::new(), ends }
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().uri("/exec/token").header("connection", "Upgrade");
        let request = headers.iter().fold(request, |r, (name, value)| r.header(*name, *value));
        request.body(()).unwrap()
    }

    fn refused(headers: &[(&str, &str)]) -> Answer {
        *negotiated(&request(headers), &exec()).unwrap_err()
    }

    const PROTOCOLS: &str = "X-Stream-Protocol-Version";

    #[test]
    fn spdy_clients_list_their_protocols_in_one_line_or_many() {
        for lines in [
            &["v5.channel.k8s.io", "v4.channel.k8s.io"][..],
            &["v5.channel.k8s.io, v4.channel.k8s.io,v3.channel.k8s.io"],
        ] {
            let mut headers = vec![("upgrade", "SPDY/3.1")];
            headers.extend(lines.iter().map(|line| (PROTOCOLS, *line)));
            let (response, wire) = negotiated(&request(&headers), &exec()).unwrap();
            assert_eq!(wire, Wire::Spdy(Version::V4));
            assert_eq!(response.status(), 101);
            assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
            assert_eq!(response.headers()["connection"], "Upgrade");
            assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
        }
    }

    #[test]
    fn without_protocols_it_is_400_and_without_a_known_one_403_with_the_list() {
        assert_eq!(refused(&[("upgrade", "SPDY/3.1")]).status(), 400);
        let response = refused(&[("upgrade", "SPDY/3.1"), (PROTOCOLS, "v9.channel.k8s.io")]);
        assert_eq!(response.status(), 403);
        let accepted = response.headers().get_all("x-accepted-stream-protocol-versions");
        assert_eq!(accepted.iter().count(), 4);
        assert_eq!(refused(&[("upgrade", "h2c")]).status(), 400);
    }

    #[test]
    fn websocket_clients_may_name_no_protocol() {
        let key = [
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let (response, wire) = negotiated(&request(&key), &exec()).unwrap();
        assert_eq!(wire, Wire::Channels(Version::V1, Codec::Raw));
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!response.headers().contains_key("sec-websocket-protocol"));
        let named = [&key[..], &[("sec-websocket-protocol", "x, v5.channel.k8s.io")]].concat();
        let (response, wire) = negotiated(&request(&named), &exec()).unwrap();
        assert_eq!(wire, Wire::Channels(Version::V5, Codec::Raw));
        assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        let response = refused(&[("upgrade", "websocket")]);
        assert_eq!(response.headers()["sec-websocket-version"], "13");
    }

    #[test]
    fn channels_are_for_ports_that_were_asked_for() {
        let sandbox = SandboxId::from_random([1; 32]);
        let ask = |ports| Ask::Forward { sandbox: sandbox.clone(), ports };
        let headers = [
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v4.channel.k8s.io"),
        ];
        let refused = negotiated(&request(&headers), &ask(Vec::new())).unwrap_err();
        assert_eq!(refused.status(), 400);
        negotiated(&request(&headers), &ask(vec![80])).unwrap();
    }
}
