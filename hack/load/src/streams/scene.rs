//! The pod that the sessions are with.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cri_proto::cri::{ContainerConfig, Mount, PodSandboxConfig};
use sha2::{Digest, Sha256};

use crate::client::Client;
use crate::request::{Template, strings};

const NAME: &str = "streams";
/// Where a container sees what is carried.
pub(super) const NOISE: &str = "/noise/noise";
/// Of the pod: it says the noise, hears until the end and says so, hears and says the hash, repeats.
pub(super) const SAYS: u16 = 9000;
pub(super) const HEARS: u16 = 9001;
pub(super) const HASHES: u16 = 9002;
pub(super) const REPEATS: u16 = 9003;
/// Nobody listens there.
pub(super) const SILENT: u16 = 9004;
/// Takes all there is, in pieces of the same size wherever it runs: busybox's cat reads 4 KiB, Debian's 128.
pub(super) const TAKES: &str = "dd bs=256k of=/dev/null 2>/dev/null";

/// Says a file, in the same pieces.
pub(super) fn says(file: impl Display) -> String {
    format!("dd bs=256k if={file} 2>/dev/null")
}

#[derive(Debug)]
pub(super) struct Scene {
    pub(super) client: Client,
    pub(super) pod: String,
    /// A container that waits, for commands in it.
    pub(super) container: String,
    pub(super) ip: String,
    scratch: PathBuf,
    template: Template,
    sandbox: PodSandboxConfig,
}

/// A container's standard input.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input {
    None,
    Open,
    Once,
}

impl Scene {
    pub(super) async fn make(client: Client, template: Template, scratch: &Path) -> Result<Self> {
        let sandbox = template.sandbox(NAME, 0);
        let pod = client.run_pod(&sandbox).await?;
        let network = client.pod_status(&pod).await?.network.context("the pod has no network")?;
        let scratch = scratch.to_owned();
        let container = String::new();
        let mut scene = Self { client, pod, container, ip: network.ip, scratch, template, sandbox };
        let serve = |port, answer: &str| format!("nc -ll -p {port} -e {answer} & ");
        let servers = [
            serve(SAYS, &format!("sh -c '{}'", says(NOISE))),
            serve(HEARS, &format!("sh -c '{TAKES}; echo heard'")),
            serve(HASHES, "sha256sum"),
            serve(REPEATS, "cat"),
        ]
        .concat();
        let script = format!("{servers} trap exit TERM; while :; do sleep 1; done");
        scene.container = scene.start("app", &script, Input::None).await?;
        Ok(scene)
    }

    /// A running container without a log.
    pub(super) async fn start(&self, name: &str, script: &str, input: Input) -> Result<String> {
        let config = self.template.container(NAME, name, strings(&["sh", "-c", script]));
        let config = ContainerConfig {
            log_path: String::new(),
            stdin: matches!(input, Input::Open | Input::Once),
            stdin_once: matches!(input, Input::Once),
            mounts: vec![Mount {
                container_path: "/noise".to_owned(),
                host_path: self.scratch.to_string_lossy().into_owned(),
                readonly: true,
                ..Mount::default()
            }],
            ..config
        };
        let id = self.client.create(&self.pod, &config, &self.sandbox).await?;
        self.client.start(&id).await?;
        Ok(id)
    }

    pub(super) async fn remove(&self, container: &str) -> Result<()> {
        self.client.stop(container, 0).await?;
        self.client.remove(container).await
    }

    pub(super) fn file(&self) -> PathBuf {
        self.scratch.join("noise")
    }

    /// Writes what is carried; gives its hash.
    pub(super) fn make_noise(&self, mebibytes: usize) -> Result<String> {
        let path = self.file();
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let (mut file, mut hash) = (BufWriter::new(file), Sha256::new());
        let mut state = 88_172_645_463_325_252_u64;
        for _ in 0..mebibytes {
            let words = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            let mebibyte: Vec<u8> = words.take((1 << 20) / 8).flatten().collect();
            hash.update(&mebibyte);
            file.write_all(&mebibyte)?;
        }
        file.flush()?;
        Ok(hex(&hash.finalize()))
    }

    /// The name of the pod, which its processes have in their environment.
    pub(super) fn name() -> &'static str {
        NAME
    }

    pub(super) async fn end(self) -> Result<()> {
        self.client.stop_pod(&self.pod).await?;
        self.client.remove_pod(&self.pod).await
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
