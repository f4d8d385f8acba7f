//! Archives become images: the same layers, checked the same way, as if they had been pulled.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use names::{ImageId, Kind};
use serde::Deserialize;
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use super::bundle::Bundle;
use crate::artifact;
use crate::digest::Digest;
use crate::images::Images;
use crate::layer::{self, Expected, LayerError};
use crate::manifest::artifact::Artifact;
use crate::manifest::{self, Document, DocumentError, MAX_DOCUMENT, Part};
use crate::pull::{Got, PullStep, commit, unpack};
use crate::reference::{Reference, Target};
use crate::store::{Held, Names, Store, Text};

/// An image that came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its id.
    pub id: ImageId,
    /// The references it has from the archive.
    pub tags: Vec<String>,
}

/// Why an archive was not imported.
#[derive(Debug, Error)]
pub enum ImportError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is neither an OCI layout nor a docker archive.
    #[error("{} is neither an OCI layout nor a docker archive", path.display())]
    Unknown {
        /// The archive.
        path: PathBuf,
    },
    /// A part is missing or damaged.
    #[error("read {name} of the archive")]
    Member {
        /// The part.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A document cannot be used.
    #[error("read {name} of the archive")]
    Document {
        /// The part.
        name: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// A layer cannot be used.
    #[error("layer {name} of the archive")]
    Layer {
        /// The part.
        name: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// The layers could not become an image.
    #[error("make the image")]
    Commit(#[source] PullStep),
    /// The program ends.
    #[error("the import was given up")]
    GivenUp,
}

impl ImportError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::NotFound,
            Self::Read { .. } | Self::Unknown { .. } | Self::Member { .. } => Kind::Invalid,
            Self::Document { source, .. } => source.kind(),
            Self::Layer { source, .. } => source.kind(),
            Self::Commit(step) => step.kind(),
            Self::GivenUp => Kind::Cancelled,
        }
    }
}

/// An image of an archive, before its layers are read.
#[derive(Debug)]
struct Found {
    /// When it is one; then `config` is its manifest.
    artifact: Option<Artifact>,
    config: Vec<u8>,
    /// Member, and digest where the archive says one.
    layers: Vec<(String, Option<Digest>)>,
    names: Names,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Images {
    /// Imports every image of an OCI layout (directory or tar) or docker archive, plain or compressed.
    pub async fn import(&self, path: PathBuf) -> Result<Vec<Imported>, ImportError> {
        let (tmp, limits) = (self.store().tmp_dir(), self.options().limits.clone());
        let at = path.clone();
        let opened = blocking(move || Bundle::open(&at, &tmp, &limits)).await?;
        let bundle = opened.map_err(|source| ImportError::Read { path: path.clone(), source })?;
        self.import_bundle(bundle, &path).await
    }

    /// Imports what a stream brings, in any of the archive forms.
    pub async fn import_stream(
        &self,
        source: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<Vec<Imported>, ImportError> {
        let (tmp, limits) = (self.store().tmp_dir(), self.options().limits.clone());
        let path = PathBuf::from("the stream");
        let bridge = SyncIoBridge::new(tokio::io::BufReader::new(source));
        let spooled = blocking(move || Bundle::spool(bridge, &tmp, &limits)).await?;
        let bundle = spooled.map_err(|source| ImportError::Read { path: path.clone(), source })?;
        self.import_bundle(bundle, &path).await
    }

    /// Imports the archives in the configured directory that changed since they were imported, or whose images are gone.
    pub async fn load_archives(&self) -> Vec<(PathBuf, Result<Vec<Imported>, ImportError>)> {
        let Some(dir) = self.options().archives_dir.clone() else { return Vec::new() };
        let mut results = Vec::new();
        for path in archives(&dir) {
            let mark = mark_of(&path);
            if mark.as_ref().is_some_and(|mark| self.is_loaded(mark)) {
                continue;
            }
            let imported = self.import(path.clone()).await;
            if let (Ok(images), Some(mark)) = (&imported, mark) {
                self.set_loaded(&mark, images);
            }
            results.push((path, imported));
        }
        results
    }

    async fn import_bundle(
        &self,
        bundle: Bundle,
        path: &Path,
    ) -> Result<Vec<Imported>, ImportError> {
        let (inner, at) = (bundle.clone(), path.to_owned());
        let found = blocking(move || find(&inner, &at)).await??;
        let mut imported = Vec::new();
        for one in found {
            imported.push(self.import_image(&bundle, one).await?);
        }
        Ok(imported)
    }

    async fn import_image(&self, bundle: &Bundle, found: Found) -> Result<Imported, ImportError> {
        if let Some(artifact) = found.artifact {
            return self.import_artifact(bundle, artifact, &found.config, found.names).await;
        }
        let config = manifest::parse_config(&found.config, found.layers.len());
        let config = config
            .map_err(|source| ImportError::Document { name: "the configuration".into(), source })?;
        let layers: Vec<_> = found
            .layers
            .into_iter()
            .zip(config.rootfs.diff_ids)
            .enumerate()
            .map(|(at, ((name, blob), diff_id))| async move {
                let expected = Expected { blob, diff_id };
                self.import_layer(bundle, name, expected).await.map(|got| (at, got))
            })
            .collect();
        let at_once = self.options().layers_at_once.max(1);
        let mut got: Vec<(usize, Got)> =
            stream::iter(layers).buffer_unordered(at_once).try_collect().await?;
        got.sort_by_key(|(at, _)| *at);
        let got = got.into_iter().map(|(_, got)| got).collect();
        let tags = found.names.tags.iter().cloned().collect();
        let text = Text::Config(String::from_utf8_lossy(&found.config).into_owned());
        let id = commit(self.store(), text, got, found.names).await;
        Ok(Imported { id: id.map_err(ImportError::Commit)?, tags })
    }

    async fn import_artifact(
        &self,
        bundle: &Bundle,
        artifact: Artifact,
        manifest: &[u8],
        names: Names,
    ) -> Result<Imported, ImportError> {
        let wrong =
            |source| ImportError::Document { name: "the artifact's manifest".into(), source };
        artifact.check(&self.options().limits).map_err(wrong)?;
        let text = String::from_utf8_lossy(manifest).into_owned();
        let key = Digest::of(text.as_bytes());
        let lock = self.puller().layer_lock(key);
        let _alone = lock.lock().await;
        let held = if let Some(held) = self.store().hold(&key) {
            held
        } else {
            let (store, bundle) = (Arc::clone(self.store()), bundle.clone());
            blocking(move || unpack_artifact(&store, &bundle, key, &artifact)).await??
        };
        let tags = names.tags.iter().cloned().collect();
        let got = vec![(held, Vec::new())];
        let id = commit(self.store(), Text::Artifact(text), got, names).await;
        Ok(Imported { id: id.map_err(ImportError::Commit)?, tags })
    }

    async fn import_layer(
        &self,
        bundle: &Bundle,
        name: String,
        expected: Expected,
    ) -> Result<Got, ImportError> {
        let lock = self.puller().layer_lock(expected.diff_id);
        let _alone = lock.lock().await;
        if let Some(held) = self.store().hold(&expected.diff_id) {
            return Ok((held, Vec::new()));
        }
        let (store, limits) = (Arc::clone(self.store()), self.options().limits.clone());
        let bundle = bundle.clone();
        blocking(move || {
            let member = |source| ImportError::Member { name: name.clone(), source };
            let source =
                BufReader::with_capacity(256 << 10, bundle.open_member(&name).map_err(member)?);
            let temporary = store.temporary().map_err(member)?;
            let unpacked = unpack(temporary, |path| layer::unpack(source, expected, path, &limits));
            let (unpacked, temporary) =
                unpacked.map_err(|source| ImportError::Layer { name: name.clone(), source })?;
            let held = temporary.keep(expected.diff_id, unpacked.stats).map_err(member)?;
            Ok((held, unpacked.implied))
        })
        .await?
    }
}

fn unpack_artifact(
    store: &Arc<Store>,
    bundle: &Bundle,
    key: Digest,
    artifact: &Artifact,
) -> Result<Held, ImportError> {
    let place = |what| move |source| ImportError::Commit(PullStep::Place { what, source });
    let temporary = store.temporary().map_err(place("make a directory for an artifact"))?;
    let dir = temporary.path();
    let stats = artifact.directories(&dir).map_err(place("make the artifact's directories"))?;
    for file in &artifact.files {
        let name = member_of(file.part.digest);
        let member = |source| ImportError::Member { name: name.clone(), source };
        let source =
            BufReader::with_capacity(256 << 10, bundle.open_member(&name).map_err(member)?);
        let written = file.write(source.take(file.part.size), &dir);
        written.map_err(|source| ImportError::Layer { name: name.clone(), source })?;
    }
    artifact::sync(&dir).map_err(place("sync the artifact's files"))?;
    temporary.keep(key, stats).map_err(place("move an artifact to its place"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ImportError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ImportError::GivenUp)
}

/// A docker archive says its tags plainly; newer ones are OCI layouts beside that.
fn find(bundle: &Bundle, path: &Path) -> Result<Vec<Found>, ImportError> {
    let name = "manifest.json";
    match bundle.read(name, MAX_DOCUMENT) {
        Ok(bytes) => return docker(bundle, &bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(ImportError::Member { name: name.into(), source }),
    }
    let name = "index.json";
    match bundle.read(name, MAX_DOCUMENT) {
        Ok(bytes) => layout(bundle, &bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(ImportError::Unknown { path: path.to_owned() })
        }
        Err(source) => Err(ImportError::Member { name: name.into(), source }),
    }
}

fn docker(bundle: &Bundle, bytes: &[u8]) -> Result<Vec<Found>, ImportError> {
    let images: Vec<DockerImage> =
        serde_json::from_slice(bytes).map_err(|source| ImportError::Document {
            name: "manifest.json".into(),
            source: DocumentError::Json { what: "manifest", source },
        })?;
    let mut found = Vec::new();
    for image in images {
        let config = bundle.read(&image.config, MAX_DOCUMENT);
        let config =
            config.map_err(|source| ImportError::Member { name: image.config.clone(), source })?;
        let mut names = Names::default();
        for tag in image.repo_tags.unwrap_or_default() {
            names.tags.extend(tag.parse::<Reference>().ok().map(|r| r.to_string()));
        }
        let layers = image.layers.into_iter().map(|name| (name, None)).collect();
        found.push(Found { artifact: None, config, layers, names });
    }
    Ok(found)
}

fn layout(bundle: &Bundle, bytes: &[u8]) -> Result<Vec<Found>, ImportError> {
    let wrong = |source| ImportError::Document { name: "index.json".into(), source };
    let Document::Index(index) = manifest::parse(bytes, None).map_err(wrong)? else {
        return Err(wrong(DocumentError::Shape { why: "index.json is no index" }));
    };
    let mut found = Vec::new();
    for descriptor in index.manifests() {
        let text = descriptor.digest().to_string();
        let digest: Digest =
            text.parse().map_err(|_| wrong(DocumentError::Digest { digest: text }))?;
        let annotations = descriptor.annotations().as_ref();
        let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
        let name = keys.iter().find_map(|key| annotations?.get(*key));
        // A bare tag names no image: ref.name may be one.
        let reference = name.filter(|n| n.contains(['/', ':'])).and_then(|n| n.parse().ok());
        let part = Part { digest, size: descriptor.size() };
        found.push(layout_image(bundle, part, reference.as_ref())?);
    }
    Ok(found)
}

fn layout_image(
    bundle: &Bundle,
    part: Part,
    reference: Option<&Reference>,
) -> Result<Found, ImportError> {
    let mut bytes = document(bundle, part.digest)?;
    let parse = |bytes: &[u8]| {
        let wrong = |source| ImportError::Document { name: part.digest.to_string(), source };
        manifest::parse(bytes, None).map_err(wrong)
    };
    let mut parsed = parse(&bytes)?;
    if let Document::Index(index) = &parsed {
        let wrong = |source| ImportError::Document { name: part.digest.to_string(), source };
        bytes = document(bundle, manifest::choose(index).map_err(wrong)?.digest)?;
        parsed = parse(&bytes)?;
    }
    let (artifact, config, layers) = match parsed {
        Document::Manifest(manifest) => {
            let layers = manifest.layers.iter().map(|l| (member_of(l.digest), Some(l.digest)));
            (None, document(bundle, manifest.config.digest)?, layers.collect())
        }
        Document::Artifact(artifact) => (Some(artifact), bytes, Vec::new()),
        Document::Index(_) => {
            let source = DocumentError::Shape { why: "an index within an index" };
            return Err(ImportError::Document { name: part.digest.to_string(), source });
        }
    };
    let mut names = Names::default();
    if let Some(reference) = reference {
        if matches!(reference.target(), Target::Tag(_)) {
            names.tags.insert(reference.to_string());
        }
        names.digests.insert(format!("{}@{}", reference.name(), part.digest));
    }
    Ok(Found { artifact, config, layers, names })
}

fn document(bundle: &Bundle, digest: Digest) -> Result<Vec<u8>, ImportError> {
    let name = member_of(digest);
    let bytes = bundle.read(&name, MAX_DOCUMENT);
    let bytes = bytes.map_err(|source| ImportError::Member { name: name.clone(), source })?;
    let found = Digest::of(&bytes);
    if found != digest {
        let source = io::Error::other(format!("it has digest {found}"));
        return Err(ImportError::Member { name, source });
    }
    Ok(bytes)
}

pub(super) fn member_of(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Files that may be archives, in the order of their names.
fn archives(dir: &Path) -> Vec<PathBuf> {
    let known = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"];
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::debug!(dir = %dir.display(), %error, "no archives to load");
            return Vec::new();
        }
    };
    let mut found: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_str().is_some_and(|p| known.iter().any(|end| p.ends_with(end))))
        .collect();
    found.sort();
    found
}

/// A file's path, size and time: another mark is another archive.
fn mark_of(path: &Path) -> Option<String> {
    let data = std::fs::metadata(path).ok()?;
    let modified = data.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    let text = format!("{} {} {}", path.display(), data.len(), modified.as_nanos());
    Some(Digest::of(text.as_bytes()).hex())
}

impl Images {
    /// Whether the images of this archive are still here.
    fn is_loaded(&self, mark: &str) -> bool {
        let Ok(text) = std::fs::read_to_string(self.store().loaded_path(mark)) else {
            return false;
        };
        text.lines().all(|id| self.find(id).is_some())
    }

    fn set_loaded(&self, mark: &str, images: &[Imported]) {
        let ids: Vec<_> = images.iter().map(|image| image.id.as_str()).collect();
        let path = self.store().loaded_path(mark);
        let written = crate::record::replace(&path, ids.join("\n").as_bytes());
        if let Err(error) = written {
            tracing::warn!(%error, "an archive will be loaded again at the next start");
        }
    }
}
