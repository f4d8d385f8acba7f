//! Images made on the spot: layers from a few lines, compressed and described as a registry wants them.

use std::io::Write;

use crate::digest::Digest;
use crate::manifest::MANIFEST_TYPES;

/// A tar stream being written.
pub(super) struct Tar(tar::Builder<Vec<u8>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packed {
    Plain,
    Gzip,
    Zstd,
}

#[derive(Clone)]
pub(super) struct Layer {
    pub(super) blob: Vec<u8>,
    pub(super) diff_id: Digest,
}

#[derive(Clone)]
pub(super) struct Made {
    pub(super) layers: Vec<Layer>,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
}

impl Tar {
    pub(super) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// A member with exactly this name, however wicked.
    pub(super) fn entry(
        mut self,
        kind: tar::EntryType,
        path: &str,
        link: &str,
        body: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        let name = &mut header.as_gnu_mut().unwrap().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_link_name_literal(link).unwrap();
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_size(body.len() as u64);
        header.set_cksum();
        self.0.append(&header, body).unwrap();
        self
    }

    pub(super) fn header(mut self, header: &tar::Header, body: &[u8]) -> Self {
        self.0.append(header, body).unwrap();
        self
    }

    /// The next member gets these PAX records.
    pub(super) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub(super) fn file(self, path: &str, body: &[u8]) -> Self {
        self.entry(tar::EntryType::Regular, path, "", body)
    }

    pub(super) fn dir(self, path: &str) -> Self {
        self.entry(tar::EntryType::Directory, path, "", b"")
    }

    pub(super) fn symlink(self, path: &str, to: &str) -> Self {
        self.entry(tar::EntryType::Symlink, path, to, b"")
    }

    pub(super) fn link(self, path: &str, to: &str) -> Self {
        self.entry(tar::EntryType::Link, path, to, b"")
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    pub(super) fn layer(self, packed: Packed) -> Layer {
        layer(&self.bytes(), packed)
    }
}

pub(super) fn layer(tar: &[u8], packed: Packed) -> Layer {
    let diff_id = Digest::of(tar);
    let blob = match packed {
        Packed::Plain => tar.to_vec(),
        Packed::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(tar).unwrap();
            gzip.finish().unwrap()
        }
        Packed::Zstd => zstd::encode_all(tar, 1).unwrap(),
    };
    Layer { blob, diff_id }
}

pub(super) fn image(layers: &[Layer], env: &str) -> Made {
    let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id.to_string()).collect();
    let config = serde_json::json!({
        "architecture": crate::manifest::host().0,
        "os": "linux",
        "config": { "Env": [env], "Cmd": ["/bin/true"], "User": "7" },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = manifest(&config, layers);
    Made { layers: layers.to_vec(), config, manifest }
}

fn manifest(config: &[u8], layers: &[Layer]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|l| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": Digest::of(&l.blob).to_string(),
                "size": l.blob.len(),
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[0],
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(config).to_string(),
            "size": config.len(),
        },
        "layers": layers,
    });
    serde_json::to_vec(&manifest).unwrap()
}

/// Bytes that do not compress and do not repeat.
pub(super) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(next).collect()
}

/// Writes a file as a test may.
pub(super) fn put(path: &std::path::Path, bytes: &[u8]) {
    std::fs::File::create(path).unwrap().write_all(bytes).unwrap();
}
