//! Images as no builder would make them: OCI layouts written by hand, and imported.

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::node::{GUARDED, Node, eventually, text, told, tool};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
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
        let digest = digest(bytes);
        let path = dir.join("blobs").join(digest.replace(':', "/"));
        std::io::Write::write_all(&mut std::fs::File::create(path).expect("a blob"), bytes)
            .expect("its content");
        Self { digest, size: bytes.len() }
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

/// An artifact: its manifest, and the blobs that it names.
pub(crate) struct Artifact {
    manifest: Vec<u8>,
    blobs: Vec<Vec<u8>>,
}

/// Files under their titles, with the configuration that most artifacts have.
pub(crate) fn artifact(files: &[(&str, &[u8])]) -> Artifact {
    let described = |body: &[u8], kind: &str| json!({"mediaType": kind, "digest": digest(body), "size": body.len()});
    let layer = |(title, body): &(&str, &[u8])| {
        let mut layer = described(body, "application/vnd.test.model");
        layer["annotations"] = json!({"org.opencontainers.image.title": title});
        layer
    };
    let config = b"{}";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.test.model",
        "config": described(config, "application/vnd.oci.empty.v1+json"),
        "layers": files.iter().map(layer).collect::<Vec<_>>(),
    });
    let blobs = files.iter().map(|(_, body)| body.to_vec()).chain([config.to_vec()]).collect();
    Artifact { manifest: manifest.to_string().into_bytes(), blobs }
}

/// A registry that can be pushed to, with nothing in it; it ends with the test.
pub(crate) struct Registry {
    child: Child,
    scratch: PathBuf,
}

// === impl Registry ===

impl Registry {
    pub(crate) fn start(node: &Node) -> Self {
        let scratch = node.path("registry");
        std::fs::create_dir(&scratch).expect("a directory");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {:?}}}\nhttp: {{addr: {GUARDED:?}}}\n",
            scratch.join("storage"),
        );
        crate::node::write(&scratch.join("config.yml"), &config);
        let mut command = tool(&told("REGISTRY"));
        command.arg("serve").arg(scratch.join("config.yml")).stderr(Stdio::null());
        let child = command.spawn().expect("it starts");
        eventually("the registry listens", || std::net::TcpStream::connect(GUARDED).is_ok());
        Self { child, scratch }
    }

    pub(crate) fn push(&self, repository: &str, tag: &str, artifact: &Artifact) {
        for blob in &artifact.blobs {
            let upload = format!("http://{GUARDED}/v2/{repository}/blobs/uploads/");
            let place = curl(&["-X", "POST", "-w", "%header{location}", &upload]);
            let url = format!("{place}&digest={}", digest(blob));
            self.put(&url, "application/octet-stream", blob);
        }
        let url = format!("http://{GUARDED}/v2/{repository}/manifests/{tag}");
        self.put(&url, MANIFEST, &artifact.manifest);
    }

    fn put(&self, url: &str, kind: &str, body: &[u8]) {
        let path = self.scratch.join("body");
        std::fs::File::create(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, body))
            .expect("the body");
        let (kind, from) = (format!("Content-Type: {kind}"), format!("@{}", text(&path)));
        curl(&["-f", "-X", "PUT", "-H", &kind, "--data-binary", &from, url]);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It has ended already: then there is nothing to end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn curl(args: &[&str]) -> String {
    let done = tool("curl").args(["-s", "-S"]).args(args).output().expect("curl runs");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |hex, byte| hex + &format!("{byte:02x}"))
}
