//! Debian's docker-registry on a free loopback port, ended by its pid with the test.

use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tempfile::TempDir;

use super::made::{Made, put};
use crate::digest::Digest;
use crate::manifest::{INDEX_TYPES, MANIFEST_TYPES};

const PROGRAM: &str = "/usr/bin/docker-registry";

pub(super) struct Server {
    child: Child,
    _dir: TempDir,
    pub(super) host: String,
    client: reqwest::Client,
    scheme: &'static str,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with("", None).await
    }

    /// With further lines of configuration.
    #[expect(clippy::disallowed_methods, reason = "a test spawns its server itself")]
    pub(super) async fn with(more: &str, secret: Option<(&str, &str)>) -> Self {
        assert!(
            std::path::Path::new(PROGRAM).exists(),
            "these tests need {PROGRAM}: apt-get install docker-registry"
        );
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.path().join("config.yml");
        let storage = dir.path().join("storage");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{more}",
            storage.display()
        );
        put(&config, text.as_bytes());
        let child = std::process::Command::new(PROGRAM)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let host = format!("127.0.0.1:{port}");
        let scheme = if more.contains("tls:") { "https" } else { "http" };
        let server = Self { child, _dir: dir, host, client: client(secret), scheme };
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.get("/v2/").await.is_err() {
            assert!(Instant::now() < deadline, "the registry does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    pub(super) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }

    async fn get(&self, path: &str) -> Result<reqwest::Response, reqwest::Error> {
        self.client.get(format!("{}://{}{path}", self.scheme, self.host)).send().await
    }

    pub(super) async fn push(&self, repository: &str, tag: &str, made: &Made) -> Digest {
        for layer in &made.layers {
            self.blob(repository, &layer.blob).await;
        }
        self.blob(repository, &made.config).await;
        self.manifest(repository, tag, MANIFEST_TYPES[0], &made.manifest).await
    }

    /// An index of one image under each of these architectures.
    pub(super) async fn push_index(
        &self,
        repository: &str,
        tag: &str,
        entries: &[(&str, &Made)],
    ) -> Digest {
        let mut manifests = Vec::new();
        for (architecture, made) in entries {
            let digest = self.push(repository, &format!("{tag}-{architecture}"), made).await;
            manifests.push(serde_json::json!({
                "mediaType": MANIFEST_TYPES[0],
                "digest": digest.to_string(),
                "size": made.manifest.len(),
                "platform": { "os": "linux", "architecture": architecture },
            }));
        }
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": manifests,
        });
        let bytes = serde_json::to_vec(&index).unwrap();
        self.manifest(repository, tag, INDEX_TYPES[0], &bytes).await
    }

    async fn manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) -> Digest {
        let url = format!("{}://{}/v2/{repository}/manifests/{tag}", self.scheme, self.host);
        let put = self.client.put(url).header("content-type", kind).body(bytes.to_vec());
        let answer = put.send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        Digest::of(bytes)
    }

    async fn blob(&self, repository: &str, bytes: &[u8]) {
        let url = format!("{}://{}/v2/{repository}/blobs/uploads/", self.scheme, self.host);
        let answer = self.client.post(url).send().await.unwrap();
        let location = answer.headers()["location"].to_str().unwrap().to_owned();
        let joint = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{joint}digest={}", Digest::of(bytes));
        let put = self.client.put(url).header("content-type", "application/octet-stream");
        let answer = put.body(bytes.to_vec()).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn client(secret: Option<(&str, &str)>) -> reqwest::Client {
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut headers = reqwest::header::HeaderMap::new();
    if let Some((user, password)) = secret {
        let value = BASE64_STANDARD.encode(format!("{user}:{password}"));
        headers.insert("authorization", format!("Basic {value}").parse().unwrap());
    }
    reqwest::Client::builder()
        .default_headers(headers)
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .tls_certs_only([])
        .build()
        .unwrap()
}
