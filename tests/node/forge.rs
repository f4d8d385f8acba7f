//! Images as no builder would make them: OCI layouts written by hand, and imported.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::node::{Node, text, told, tool};

/// What the tests' scripts call by name.
const APPLETS: [&str; 31] = [
    "sh", "cat", "chmod", "cut", "date", "dd", "echo", "find", "grep", "head", "hostname", "id",
    "ln", "ls", "mkdir", "mknod", "mount", "mv", "printf", "pwd", "readlink", "rm", "sed", "sleep",
    "stat", "tail", "test", "touch", "true", "wc", "yes",
];

/// The members of a layer, in the order in which they are unpacked.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

// === impl Layer ===

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.member(EntryType::Directory, path, (0o755, "", (0, 0)), b"")
    }

    pub(crate) fn file(self, path: &str, mode: u32, body: &[u8]) -> Self {
        self.member(EntryType::Regular, path, (mode, "", (0, 0)), body)
    }

    pub(crate) fn symlink(self, path: &str, to: &str) -> Self {
        self.member(EntryType::Symlink, path, (0o777, to, (0, 0)), b"")
    }

    pub(crate) fn fifo(self, path: &str) -> Self {
        self.member(EntryType::Fifo, path, (0o666, "", (0, 0)), b"")
    }

    pub(crate) fn device(self, kind: EntryType, path: &str, number: (u32, u32)) -> Self {
        self.member(kind, path, (0o666, "", number), b"")
    }

    fn member(
        mut self,
        kind: EntryType,
        path: &str,
        (mode, link, (major, minor)): (u32, &str, (u32, u32)),
        body: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        // Not `set_path`, which knows better than a stranger.
        let name = &mut header.as_gnu_mut().expect("the GNU form").name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_link_name_literal(link).expect("a target");
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_device_major(major).expect("a device");
        header.set_device_minor(minor).expect("a device");
        header.set_size(body.len() as u64);
        header.set_cksum();
        self.0.append(&header, body).expect("a member");
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("a tar archive")
    }
}

/// An image that is being made.
pub(crate) struct Forged {
    layers: Vec<Vec<u8>>,
    config: Value,
}

// === impl Forged ===

impl Forged {
    /// With nothing in it.
    pub(crate) fn empty() -> Self {
        Self { layers: Vec::new(), config: json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}) }
    }

    /// With a shell and a few tools, and no /etc, /dev, /proc or /sys: those are what tests make.
    pub(crate) fn with_shell() -> Self {
        let body = std::fs::read(busybox()).expect("busybox");
        let layer = Layer::new().dir("bin").file("bin/busybox", 0o755, &body);
        let link = |layer: Layer, applet: &&str| layer.symlink(&format!("bin/{applet}"), "busybox");
        Self::empty().layer(APPLETS.iter().fold(layer, link))
    }

    pub(crate) fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer.bytes());
        self
    }

    /// A field of the configuration's `config`.
    pub(crate) fn says(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// Puts it into the node's store; what it is called there.
    pub(crate) fn import(&self, node: &Node, name: &str) -> String {
        let reference = format!("registry.test/hostile/{name}:1");
        let dir = node.path(&format!("layout-{name}"));
        self.write(&dir, &reference);
        let done = import(node, &dir);
        assert!(done.status.success(), "import: {}", String::from_utf8_lossy(&done.stderr));
        std::fs::remove_dir_all(dir).expect("the layout");
        reference
    }

    /// Writes the OCI layout.
    pub(crate) fn write(&self, dir: &Path, reference: &str) {
        std::fs::create_dir_all(dir.join("blobs/sha256")).expect("a directory");
        let layers: Vec<_> = self.layers.iter().map(|layer| Blob::write(dir, layer)).collect();
        let diff_ids: Vec<_> = layers.iter().map(|blob| &blob.digest).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Blob::write(dir, config.to_string().as_bytes());
        let oci = |kind: &str| format!("application/vnd.oci.image.{kind}");
        let layers: Vec<_> =
            layers.iter().map(|blob| blob.descriptor(&oci("layer.v1.tar"))).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": oci("manifest.v1+json"),
            "config": config.descriptor(&oci("config.v1+json")),
            "layers": layers,
        });
        let manifest = Blob::write(dir, manifest.to_string().as_bytes());
        let mut manifest = manifest.descriptor(&oci("manifest.v1+json"));
        manifest["annotations"] = json!({"io.containerd.image.name": reference});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        crate::node::write(&dir.join("index.json"), &index.to_string());
        crate::node::write(&dir.join("oci-layout"), "{\"imageLayoutVersion\": \"1.0.0\"}");
    }
}

struct Blob {
    digest: String,
    size: usize,
}

// === impl Blob ===

impl Blob {
    fn write(dir: &Path, bytes: &[u8]) -> Self {
        let hash = Sha256::digest(bytes);
        let hex = hash.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let path = dir.join("blobs/sha256").join(&hex);
        std::io::Write::write_all(&mut std::fs::File::create(path).expect("a blob"), bytes)
            .expect("its content");
        Self { digest: format!("sha256:{hex}"), size: bytes.len() }
    }

    fn descriptor(&self, kind: &str) -> Value {
        json!({"mediaType": kind, "digest": self.digest, "size": self.size})
    }
}

/// `ferropod image import`.
pub(crate) fn import(node: &Node, path: &Path) -> Output {
    let mut command = tool(&format!("{}/ferropod", told("FERROPOD_BIN")));
    command.arg("--config").arg(node.path("config.toml"));
    command.args(["image", "import", text(path)]).output().expect("it runs")
}

/// The program, in a layer of a node that has pulled it.
pub(crate) fn busybox() -> PathBuf {
    find(Path::new(&told("FERROPOD_ROOT")), "bin/busybox").expect("a node with busybox")
}

fn find(dir: &Path, end: &str) -> Option<PathBuf> {
    let wanted = dir.join(end);
    if wanted.is_file() {
        return Some(wanted);
    }
    let entries = std::fs::read_dir(dir).ok()?.filter_map(Result::ok);
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).find_map(|dir| find(&dir, end))
}
