//! Pulls that meet trouble: broken transfers, refusals, redirects, mirrors, impatience.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use names::Kind;

use super::made::{Made, Packed, Tar, image, noise, put};
use super::mock::{Asked, Mock, Reply, honest};
use super::pulls::{left, one, options, request, until};
use super::server::Server;
use crate::digest::Digest;
use crate::pull::PullStep;
use crate::{Credentials, Images, Options, PullRequest, Secret};

const LARGE: usize = 3 << 20;

fn large() -> Made {
    image(&[Tar::new().file("large", &noise(LARGE, 7)).layer(Packed::Gzip)], "")
}

fn layer_digest(made: &Made) -> String {
    Digest::of(&made.layers[0].blob).to_string()
}

fn absent() -> Reply {
    Reply::new(404, b"absent")
}

async fn pull_from(mock: &Mock, more: impl FnOnce(&mut Options)) -> Result<(), crate::PullError> {
    let root = tempfile::tempdir().unwrap();
    let mut options = options(&root);
    more(&mut options);
    let images = Images::open(options).unwrap();
    let pulled = images.pull(request(&mock.name("x:1"))).await;
    if pulled.is_err() {
        images.wait_swept();
        assert_eq!(left(&root), 0, "a failed pull leaves nothing");
    }
    pulled.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_transfer_goes_on_where_it_stopped() {
    let made = large();
    let digest = layer_digest(&made);
    let tries = AtomicUsize::new(0);
    let mock = Mock::start({
        let (made, digest) = (made.clone(), digest.clone());
        move |asked| {
            let mut reply = honest(&made, asked).unwrap_or_else(absent);
            if asked.target.contains(&digest) && tries.fetch_add(1, Ordering::SeqCst) < 2 {
                reply.cut = Some(1 << 20);
            }
            reply
        }
    })
    .await;
    pull_from(&mock, |_| ()).await.unwrap();
    let from: Vec<_> =
        mock.asked_for(&digest).iter().map(|asked| asked.from().unwrap_or(0)).collect();
    assert_eq!(from.len(), 3, "{from:?}");
    assert!(from[0] == 0 && from[1] > 0 && from[2] > from[1], "{from:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_no_ranges_is_read_again_from_the_start() {
    let made = large();
    let digest = layer_digest(&made);
    let tries = AtomicUsize::new(0);
    let mock = Mock::start(move |asked| {
        let whole = Asked { headers: std::collections::HashMap::new(), ..asked.clone() };
        let mut reply = honest(&made, &whole).unwrap_or_else(absent);
        if asked.target.contains(&digest) && tries.fetch_add(1, Ordering::SeqCst) == 0 {
            reply.cut = Some(1 << 20);
        }
        reply
    })
    .await;
    pull_from(&mock, |_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_always_cut_fails_and_names_the_layer() {
    let made = large();
    let digest = layer_digest(&made);
    let mock = Mock::start({
        let digest = digest.clone();
        move |asked| {
            let mut reply = honest(&made, asked).unwrap_or_else(absent);
            if asked.target.contains(&digest) {
                reply.cut = Some(100);
            }
            reply
        }
    })
    .await;
    let error = pull_from(&mock, |_| ()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::RegistryUnavailable);
    assert!(error.step().to_string().contains(&digest), "{}", error.step());
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_a_stall_and_the_transfer_begins_anew() {
    let made = large();
    let digest = layer_digest(&made);
    let tries = AtomicUsize::new(0);
    let mock = Mock::start({
        let digest = digest.clone();
        move |asked| {
            let mut reply = honest(&made, asked).unwrap_or_else(absent);
            if asked.target.contains(&digest) && tries.fetch_add(1, Ordering::SeqCst) == 0 {
                reply.stall = Some(1 << 20);
            }
            reply
        }
    })
    .await;
    pull_from(&mock, |o| o.stall_timeout = Duration::from_millis(300)).await.unwrap();
    assert_eq!(mock.asked_for(&digest).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_than_promised_leave_nothing_and_name_the_layer() {
    let made = large();
    let digest = layer_digest(&made);
    let mock = Mock::start({
        let digest = digest.clone();
        move |asked| {
            let mut reply = honest(&made, asked).unwrap_or_else(absent);
            if asked.target.contains(&digest) {
                let other =
                    Tar::new().file("other", &noise(2 * LARGE, 9)).layer(Packed::Plain).blob;
                reply.body = other[..made.layers[0].blob.len()].to_vec();
            }
            reply
        }
    })
    .await;
    let error = pull_from(&mock, |_| ()).await.unwrap_err();
    assert!(matches!(error.step(), PullStep::Layer { .. }), "{error:?}");
    assert!(error.step().to_string().contains(&digest));
    assert_eq!(error.kind(), Kind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_layer_leaves_nothing_and_names_itself() {
    let good = Tar::new().file("good", b"g").layer(Packed::Gzip);
    let bad = Tar::new().link("x", "/etc/shadow").layer(Packed::Gzip);
    let digest = Digest::of(&bad.blob).to_string();
    let made = image(&[good, bad], "");
    let mock = Mock::start(move |asked| honest(&made, asked).unwrap_or_else(absent)).await;
    let error = pull_from(&mock, |_| ()).await.unwrap_err();
    assert!(error.step().to_string().contains(&digest), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_registry_is_asked_again_and_a_refusal_is_not() {
    let made = one("busy");
    let tries = AtomicUsize::new(0);
    let mock = Mock::start(move |asked| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(429, b"later").with("retry-after", "0"),
        1 => Reply::new(503, b"later"),
        _ => honest(&made, asked).unwrap_or_else(absent),
    })
    .await;
    pull_from(&mock, |_| ()).await.unwrap();
    let mock = Mock::start(|_| Reply::new(503, b"for ever")).await;
    let error = pull_from(&mock, |_| ()).await.unwrap_err();
    assert_eq!((error.kind(), mock.asked().len()), (Kind::RegistryUnavailable, 3));
    let mock = Mock::start(|_| Reply::new(403, b"never")).await;
    let error = pull_from(&mock, |_| ()).await.unwrap_err();
    assert_eq!((error.kind(), mock.asked().len()), (Kind::Refused, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn giant_documents_are_not_read_to_their_end() {
    let mock = Mock::start(|_| Reply::new(200, &vec![b' '; 9 << 20])).await;
    let error = pull_from(&mock, |_| ()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}

fn with_secret(reference: &str, secret: Secret, server: &str) -> PullRequest {
    let credentials = Credentials { secret, server_address: server.to_owned() };
    PullRequest { reference: reference.to_owned(), credentials }
}

fn basic() -> Secret {
    Secret::Basic { user: "u".into(), password: "p".into() }
}

/// A registry that wants a token, and its token server, which gives one for these credentials.
async fn guarded(
    made: Made,
    accepted: impl Fn(&Asked) -> bool + Send + Sync + 'static,
) -> (Mock, Mock) {
    let tokens = Mock::start(move |asked| {
        if accepted(asked) { Reply::new(200, b"{\"token\":\"T\"}") } else { Reply::new(401, b"no") }
    })
    .await;
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"s\",scope=\"repository:x:pull\"",
        tokens.host
    );
    let registry = Mock::start(move |asked| {
        if asked.header("authorization") == Some("Bearer T") {
            return honest(&made, asked).unwrap_or_else(absent);
        }
        Reply::new(401, b"who?").with("www-authenticate", &challenge)
    })
    .await;
    (registry, tokens)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_with_whatever_secret_there_is() {
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    let password = format!("Basic {}", BASE64_STANDARD.encode("u:p"));
    let (registry, tokens) =
        guarded(one("b"), move |asked| asked.header("authorization") == Some(&password)).await;
    let name = registry.name("x:1");
    images.pull(with_secret(&name, basic(), "")).await.unwrap();
    let asked = &tokens.asked()[0];
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str()),
        ("GET", "/token?service=s&scope=repository%3Ax%3Apull")
    );
    assert_eq!(tokens.asked().len(), 1, "one token for the whole pull");
    let error = images.pull(request(&name)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "another secret is another pull");
    let (registry, tokens) = guarded(one("i"), |asked| {
        asked.method == "POST" && asked.body.contains("refresh_token=R%2F1")
    })
    .await;
    let identity = Secret::IdentityToken("R/1".into());
    images.pull(with_secret(&registry.name("x:1"), identity, "")).await.unwrap();
    assert!(tokens.asked()[0].body.contains("grant_type=refresh_token"));
    let (registry, tokens) = guarded(one("r"), |_| false).await;
    let token = Secret::RegistryToken("T".into());
    images.pull(with_secret(&registry.name("x:1"), token, "")).await.unwrap();
    assert!(tokens.asked().is_empty(), "a registry token is sent as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_to_no_other_host() {
    let made = large();
    let blobs = Mock::start({
        let made = made.clone();
        move |asked| honest(&made, asked).unwrap_or_else(absent)
    })
    .await;
    let elsewhere = blobs.host.clone();
    let password = format!("Basic {}", BASE64_STANDARD.encode("u:p"));
    let registry = Mock::start(move |asked| {
        if asked.header("authorization") != Some(&password) {
            return Reply::new(401, b"").with("www-authenticate", "Basic realm=\"r\"");
        }
        if asked.target.contains("/blobs/") {
            let to = format!("http://{elsewhere}{}", asked.target);
            return Reply::new(307, b"").with("location", &to);
        }
        honest(&made, asked).unwrap_or_else(absent)
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    let name = registry.name("x:1");
    let other = images.pull(with_secret(&name, basic(), "other.example")).await.unwrap_err();
    assert_eq!(other.kind(), Kind::Refused);
    assert!(registry.asked().iter().all(|asked| asked.header("authorization").is_none()));
    images
        .pull(with_secret(&name, basic(), &format!("http://{}/v2/", registry.host)))
        .await
        .unwrap();
    assert!(!blobs.asked().is_empty());
    assert!(blobs.asked().iter().all(|asked| asked.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_without_the_secret_and_the_registry_last() {
    let made = large();
    let digest = layer_digest(&made);
    let broken = Mock::start({
        let (made, digest) = (made.clone(), digest.clone());
        move |asked| {
            // Has the manifest, and half a layer.
            let mut reply = honest(&made, asked).unwrap_or_else(absent);
            if asked.target.contains(&digest) {
                if asked.from().is_some() {
                    return absent();
                }
                reply.cut = Some(1 << 20);
            }
            reply
        }
    })
    .await;
    let registry = Mock::start(move |asked| honest(&made, asked).unwrap_or_else(absent)).await;
    let (root, hosts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = hosts.path().join(&registry.host);
    std::fs::create_dir(&dir).unwrap();
    let images =
        Images::open(Options { hosts_dir: vec![hosts.path().to_owned()], ..options(&root) })
            .unwrap();
    // Written after the store was opened: the file is read at every pull.
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}\"]\n",
        registry.host, broken.host
    );
    put(&dir.join("hosts.toml"), text.as_bytes());
    images.pull(with_secret(&registry.name("x:1"), basic(), "")).await.unwrap();
    let mirror = broken.asked();
    assert!(
        mirror[0].target.ends_with(&format!("?ns={}", registry.host.replace(':', "%3A"))),
        "{mirror:?}"
    );
    assert!(mirror.iter().all(|asked| asked.header("authorization").is_none()));
    let rest = registry.asked_for(&digest);
    assert!(rest[0].from().is_some_and(|from| from > 0), "only the rest comes from the registry");
    assert!(registry.asked_for("/manifests/").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_conf_names_a_mirror_too() {
    let server = Server::start().await;
    server.push("hub/library/x", "1", &one("mirrored")).await;
    let (root, etc) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = etc.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nprefix=\"docker.io\"\nlocation=\"127.0.0.1:1\"\n[[registry.mirror]]\nlocation=\"{}/hub\"\n",
        server.host
    );
    put(&path, text.as_bytes());
    let images = Images::open(Options { registries_conf: Some(path), ..options(&root) }).unwrap();
    images.pull(request("x:1")).await.unwrap();
    assert_eq!(images.find("x:1").unwrap().tags, ["docker.io/library/x:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_registry_wants_a_password_and_gets_it() {
    let secrets = tempfile::tempdir().unwrap();
    let path = secrets.path().join("htpasswd");
    // The bcrypt form of "p", by `htpasswd -Bbn u p`.
    put(&path, b"u:$2y$05$abcdefghijklmnopqrstuuqwWMzKt5N8p.u2GX5MuH1t19BMWuLOW\n");
    let auth = format!("auth:\n  htpasswd:\n    realm: r\n    path: {}\n", path.display());
    let server = Server::with(&auth, Some(("u", "p"))).await;
    server.push("x", "1", &one("guarded")).await;
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    let name = server.name("x:1");
    assert_eq!(images.pull(request(&name)).await.unwrap_err().kind(), Kind::Refused);
    images.pull(with_secret(&name, basic(), &server.host)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "a test makes its certificate itself")]
async fn a_certificate_is_checked_against_the_authority_that_the_file_names() {
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ])
        .args(["-subj", "/CN=r", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .expect("this test needs openssl");
    assert!(made.status.success(), "{made:?}");
    let (key, cert) = (key.display(), cert.display());
    let server =
        Server::with(&format!("  tls:\n    certificate: {cert}\n    key: {key}\n"), None).await;
    server.push("x", "1", &one("tls")).await;
    let (root, hosts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = hosts.path().join(&server.host).join("hosts.toml");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    let options = Options { hosts_dir: vec![hosts.path().to_owned()], ..options(&root) };
    let images = Images::open(options).unwrap();
    let name = server.name("x:1");
    let server = format!("server = \"https://{}\"\n", server.host);
    put(&file, server.as_bytes());
    let error = images.pull(request(&name)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::RegistryUnavailable, "an unknown authority");
    put(&file, format!("{server}ca = \"{cert}\"\n").as_bytes());
    images.pull(request(&name)).await.unwrap();
    put(&file, format!("{server}skip_verify = true\n").as_bytes());
    images.pull(request(&name)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_of_the_same_image_are_one_and_end_with_the_last_who_waits() {
    let made = large();
    let digest = layer_digest(&made);
    let gate = Arc::new(AtomicUsize::new(0));
    let mock = Mock::start({
        let (gate, digest) = (Arc::clone(&gate), digest.clone());
        move |asked| {
            let mut reply = honest(&made, asked).unwrap_or_else(absent);
            if asked.target.contains(&digest) && gate.load(Ordering::SeqCst) == 0 {
                reply.stall = Some(1 << 20);
            }
            reply
        }
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    let spawn = || {
        let (images, name) = (images.clone(), mock.name("x:1"));
        tokio::spawn(async move { images.pull(request(&name)).await })
    };
    let (first, second) = (spawn(), spawn());
    let reached = || images.progress().first().is_some_and(|p| p.bytes_done >= 1 << 20);
    until("half of the layer is here", reached).await;
    let progress = images.progress();
    assert_eq!((progress.len(), progress[0].layers_total), (1, 1), "{progress:?}");
    first.abort();
    first.await.unwrap_err();
    assert_eq!(images.progress().len(), 1, "the second still waits");
    second.abort();
    second.await.unwrap_err();
    assert!(images.progress().is_empty());
    until("nothing is left", || left(&root) == 0).await;
    gate.store(1, Ordering::SeqCst);
    let asked_before = mock.asked_for("/manifests/").len();
    let (first, second) = (spawn(), spawn());
    assert_eq!(first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!(mock.asked_for("/manifests/").len(), asked_before + 1);
}
