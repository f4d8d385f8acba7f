//! Images become one archive that is an OCI layout and a docker archive at once.
//!
//! Compressed blobs are not kept, so layers are packed anew: the contents are the same, the digests are not, and an exported image
//! has another id wherever it is imported.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use names::Kind;
use serde_json::{Value, json};
use thiserror::Error;

use super::bundle::nameless;
use super::import::member_of;
use super::pack::pack;
use crate::digest::{Digest, Summer};
use crate::images::Images;
use crate::manifest::{INDEX_TYPES, MANIFEST_TYPES};
use crate::record::Record;
use crate::store::{PinError, Store};
use crate::view::Image;

/// Tells one export's pins from another's.
static EXPORTS: AtomicU64 = AtomicU64::new(0);

/// Why images were not exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// There is no such image.
    #[error("no image {0}")]
    NotFound(String),
    /// It has no layers, and tools that read archives expect some.
    #[error("{0} is an artifact, and only images can be exported")]
    Artifact(String),
    /// Its layers cannot be kept meanwhile.
    #[error("keep the image")]
    Pin(#[from] PinError),
    /// A layer cannot be packed.
    #[error("pack layer {}", path.display())]
    Pack {
        /// The layer.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("write the archive")]
    Write(#[source] io::Error),
    /// The image's configuration is no JSON object.
    #[error("read the image's configuration")]
    Config(#[source] serde_json::Error),
    /// The program ends.
    #[error("the export was given up")]
    GivenUp,
}

impl ExportError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Artifact(_) => Kind::Invalid,
            Self::Pin(source) => source.kind(),
            Self::Pack { source, .. } | Self::Write(source) => match source.kind() {
                io::ErrorKind::StorageFull => Kind::Exhausted,
                _ => Kind::Internal,
            },
            Self::Config(_) => Kind::Internal,
            Self::GivenUp => Kind::Cancelled,
        }
    }
}

/// The archive being written.
struct Archive<W: Write> {
    tar: tar::Builder<W>,
    written: Vec<Digest>,
}

/// What both descriptions of an image need to know.
struct Exported {
    descriptors: Vec<Value>,
    docker: Value,
}

impl Images {
    /// Writes these images as a tar archive, which `import` of any runtime reads.
    pub async fn export(
        &self,
        references: Vec<String>,
        into: impl Write + Send + 'static,
    ) -> Result<(), ExportError> {
        let mut found = Vec::new();
        for reference in &references {
            let image = self.find(reference);
            let image = image.ok_or_else(|| ExportError::NotFound(reference.clone()))?;
            if image.is_artifact {
                return Err(ExportError::Artifact(reference.clone()));
            }
            found.push(image);
        }
        // The pin keeps the layers while they are read; its owner is this call alone.
        let owner = format!("export {}", EXPORTS.fetch_add(1, Ordering::Relaxed));
        let mut sources = Vec::new();
        for image in found {
            self.pin(&image.id, &owner)?;
            let record = self.store().record(&image.id);
            sources.extend(record.map(|record| (record, image)));
        }
        let images = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let written = write(images.store(), &sources, into);
            images.unpin(&owner);
            written
        });
        written.await.map_err(|_| ExportError::GivenUp)?
    }
}

fn write(
    store: &Store,
    sources: &[(Record, std::sync::Arc<Image>)],
    into: impl Write,
) -> Result<(), ExportError> {
    let buffered = BufWriter::with_capacity(256 << 10, into);
    let mut archive = Archive { tar: tar::Builder::new(buffered), written: Vec::new() };
    let (mut manifests, mut docker) = (Vec::new(), Vec::new());
    for (record, image) in sources {
        let exported = archive.image(store, record, image)?;
        manifests.extend(exported.descriptors);
        docker.push(exported.docker);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": manifests });
    archive.document("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
    archive.document("index.json", &index)?;
    archive.document("manifest.json", &Value::Array(docker))?;
    let buffered = archive.tar.into_inner().map_err(ExportError::Write)?;
    let mut into = buffered.into_inner().map_err(|e| ExportError::Write(e.into_error()))?;
    into.flush().map_err(ExportError::Write)
}

impl<W: Write> Archive<W> {
    fn image(
        &mut self,
        store: &Store,
        record: &Record,
        image: &Image,
    ) -> Result<Exported, ExportError> {
        let mut layers = Vec::new();
        for layer in &record.layers {
            layers.push(self.layer(store, layer.number)?);
        }
        let mut config: Value =
            serde_json::from_str(&record.config).map_err(ExportError::Config)?;
        let diff_ids: Vec<_> = layers.iter().map(|(digest, _)| digest.to_string()).collect();
        if let Some(fields) = config.as_object_mut() {
            fields.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": diff_ids }));
        }
        let config = serde_json::to_vec(&config).map_err(ExportError::Config)?;
        let config_digest = self.blob(&config)?;
        let described = layers.iter().map(|(digest, size)| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest.to_string(),
                "size": size,
            })
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPES[0],
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest.to_string(),
                "size": config.len(),
            },
            "layers": described.collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).map_err(ExportError::Config)?;
        let digest = self.blob(&manifest)?;
        let descriptor = |tag: Option<&String>| {
            let mut one = json!({
                "mediaType": MANIFEST_TYPES[0],
                "digest": digest.to_string(),
                "size": manifest.len(),
            });
            if let (Some(tag), Some(fields)) = (tag, one.as_object_mut()) {
                let name = json!({ "io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag });
                fields.insert("annotations".into(), name);
            }
            one
        };
        let descriptors = match image.tags.as_slice() {
            [] => vec![descriptor(None)],
            tags => tags.iter().map(|tag| descriptor(Some(tag))).collect(),
        };
        let docker = json!({
            "Config": member_of(config_digest),
            "RepoTags": image.tags,
            "Layers": layers.iter().map(|(digest, _)| member_of(*digest)).collect::<Vec<_>>(),
        });
        Ok(Exported { descriptors, docker })
    }

    /// Packs to a nameless file first: a member's name is its digest, and comes before it.
    fn layer(&mut self, store: &Store, number: u64) -> Result<(Digest, u64), ExportError> {
        let path = store.layer_path(number);
        let packed = packed(&path, &store.tmp_dir());
        let (mut file, digest, size) =
            packed.map_err(|source| ExportError::Pack { path, source })?;
        if !self.written.contains(&digest) {
            self.written.push(digest);
            self.member(&member_of(digest), size, &mut file)?;
        }
        Ok((digest, size))
    }

    fn blob(&mut self, bytes: &[u8]) -> Result<Digest, ExportError> {
        let digest = Digest::of(bytes);
        if !self.written.contains(&digest) {
            self.written.push(digest);
            self.member(&member_of(digest), bytes.len() as u64, &mut &*bytes)?;
        }
        Ok(digest)
    }

    fn document(&mut self, name: &str, value: &Value) -> Result<(), ExportError> {
        let bytes = serde_json::to_vec(value).map_err(ExportError::Config)?;
        self.member(name, bytes.len() as u64, &mut bytes.as_slice())
    }

    fn member(
        &mut self,
        name: &str,
        size: u64,
        from: &mut dyn io::Read,
    ) -> Result<(), ExportError> {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(size);
        self.tar.append_data(&mut header, name, from).map_err(ExportError::Write)
    }
}

fn packed(layer: &Path, tmp: &Path) -> io::Result<(File, Digest, u64)> {
    let file = BufWriter::with_capacity(256 << 10, nameless(tmp)?);
    let summed = pack(layer, Summed { inner: file, sum: Summer::default(), count: 0 })?;
    let mut file = summed.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    io::Seek::rewind(&mut file)?;
    Ok((file, summed.sum.finish(), summed.count))
}

struct Summed<W> {
    inner: W,
    sum: Summer,
    count: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.add(bytes.get(..written).unwrap_or(bytes));
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
