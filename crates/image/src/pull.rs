//! One pull: resolve, then layers several at once, each in one pass, then the record.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::{StreamExt, stream};
use names::{ImageId, Kind};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::layer::{self, Expected, LayerError, Unpacked, node};
use crate::manifest::artifact::Artifact;
use crate::manifest::{self, Document, DocumentError, Manifest, Part};
use crate::options::Options;
use crate::progress::Counters;
use crate::record::RecordError;
use crate::reference::{ParseReferenceError, Reference, Target};
use crate::registry::{Credentials, FetchError, Registry, blob};
use crate::store::{Held, Names, Store, Temporary, Text};

/// What to pull, and with which secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PullRequest {
    /// As the user wrote it.
    pub reference: String,
    /// What the registry may be shown.
    pub credentials: Credentials,
}

/// Why an image was not pulled. Everyone who waited for the same pull gets the same one.
#[derive(Debug, Clone, Error)]
#[error("pull {reference}")]
pub struct PullError {
    reference: String,
    #[source]
    step: Arc<PullStep>,
}

/// The step that failed.
#[derive(Debug, Error)]
pub enum PullStep {
    /// The reference is none.
    #[error("read the reference")]
    Reference(#[from] ParseReferenceError),
    /// A document did not come.
    #[error("fetch the {what}")]
    Fetch {
        /// Which document.
        what: &'static str,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// A document cannot be used.
    #[error("read the {what}")]
    Document {
        /// Which document.
        what: &'static str,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// A layer did not come.
    #[error("fetch layer {digest}")]
    FetchLayer {
        /// The layer.
        digest: Digest,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// A layer came, but cannot be used.
    #[error("layer {digest}")]
    Layer {
        /// The layer.
        digest: Digest,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// The layers could not be put in their place.
    #[error("{what}")]
    Place {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The image could not be recorded.
    #[error("record the image")]
    Record(#[from] RecordError),
    /// Nobody waited for it any more, or the program ends.
    #[error("the pull was given up")]
    GivenUp,
}

impl PullError {
    pub(crate) fn new(reference: &str, step: PullStep) -> Self {
        Self { reference: reference.to_owned(), step: Arc::new(step) }
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.step.kind()
    }

    /// The step that failed.
    pub fn step(&self) -> &PullStep {
        &self.step
    }
}

impl PullStep {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Reference(_) => Kind::Invalid,
            Self::Fetch { source, .. } | Self::FetchLayer { source, .. } => source.kind(),
            Self::Document { source, .. } => source.kind(),
            Self::Layer { source, .. } => source.kind(),
            Self::Place { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull => Kind::Exhausted,
                _ => Kind::Internal,
            },
            Self::Record(source) => source.kind(),
            Self::GivenUp => Kind::Cancelled,
        }
    }
}

/// What pulls share: the store, and a lock per layer so that two never fetch the same one.
#[derive(Debug)]
pub(crate) struct Puller {
    pub(crate) store: Arc<Store>,
    pub(crate) options: Options,
    layers: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// One layer to be had: where it is, and what it must be.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    part: Part,
    diff_id: Digest,
}

/// A layer that is here, and the directories in it that no entry described, if it is new.
pub(crate) type Got = (Held, Vec<Vec<u8>>);

impl Puller {
    pub(crate) fn new(store: Arc<Store>, options: Options) -> Self {
        Self { store, options, layers: Mutex::default() }
    }

    pub(crate) async fn pull(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        counters: &Arc<Counters>,
    ) -> Result<ImageId, PullStep> {
        let fetch = |what| move |source| PullStep::Fetch { what, source };
        let document = |what| move |source| PullStep::Document { what, source };
        let registry =
            Registry::new(reference, credentials, &self.options).map_err(fetch("manifest"))?;
        let (digest, resolved) = resolve(&registry, reference).await?;
        let mut names = Names::default();
        names.digests.insert(format!("{}@{digest}", reference.name()));
        if matches!(reference.target(), Target::Tag(_)) {
            names.tags.insert(reference.to_string());
        }
        let manifest = match resolved {
            Resolved::Image(manifest) => manifest,
            Resolved::Artifact(artifact, text) => {
                let id = Digest::of(text.as_bytes());
                let got = self.artifact(&registry, id, &artifact, counters).await?;
                return commit(&self.store, Text::Artifact(text), vec![got], names).await;
            }
        };
        let config = registry.config(manifest.config).await.map_err(fetch("configuration"))?;
        let parsed = manifest::parse_config(&config.bytes, manifest.layers.len());
        let parsed = parsed.map_err(document("configuration"))?;
        let parts = manifest.layers.iter().copied().zip(parsed.rootfs.diff_ids);
        let wanted: Vec<_> = parts.map(|(part, diff_id)| Wanted { part, diff_id }).collect();
        counters.begin(wanted.len() as u64, wanted.iter().map(|w| w.part.size).sum());
        let layers = self.layers(&registry, &wanted, counters).await?;
        let text = String::from_utf8_lossy(&config.bytes).into_owned();
        commit(&self.store, Text::Config(text), layers, names).await
    }

    /// All layers, lowest first.
    async fn layers(
        &self,
        registry: &Registry,
        wanted: &[Wanted],
        counters: &Arc<Counters>,
    ) -> Result<Vec<Got>, PullStep> {
        let stop = CancellationToken::new();
        let fetches =
            wanted.iter().map(|one| self.layer(registry, *one, counters, stop.clone())).collect();
        gather(fetches, self.options.layers_at_once, &stop).await
    }

    async fn layer(
        &self,
        registry: &Registry,
        wanted: Wanted,
        counters: &Arc<Counters>,
        stop: CancellationToken,
    ) -> Result<Got, PullStep> {
        let lock = self.layer_lock(wanted.diff_id);
        // Cancel-safe: a lock that was not yet had is not missed.
        let _alone = stop.run_until_cancelled(lock.lock()).await.ok_or(PullStep::GivenUp)?;
        if let Some(held) = self.store.hold(&wanted.diff_id) {
            counters.bytes(wanted.part.size);
            counters.layer();
            return Ok((held, Vec::new()));
        }
        let place = |what| move |source| PullStep::Place { what, source };
        let temporary = self.store.temporary().map_err(place("make a directory for a layer"))?;
        let (sink, chunks) = blob::stream(Arc::clone(counters));
        let limits = self.options.limits.clone();
        let expected = Expected { blob: Some(wanted.part.digest), diff_id: wanted.diff_id };
        let unpack = tokio::task::spawn_blocking(move || {
            unpack(temporary, |path| layer::unpack(chunks, expected, path, &limits))
        });
        // Cancel-safe: the stream ends without its proper end, and the unpacking side gives up.
        let fetch = stop.run_until_cancelled(registry.blob(wanted.part, sink));
        let (fetched, unpacked) = tokio::join!(fetch, unpack);
        let fetched = fetched.ok_or(PullStep::GivenUp)?;
        let digest = wanted.part.digest;
        let unpacked = unpacked.map_err(|_| PullStep::GivenUp)?;
        // When both sides failed, the one that began it knows more.
        let (unpacked, temporary) = match (fetched, unpacked) {
            (Ok(()) | Err(FetchError::Unwanted), Err(source)) => {
                return Err(PullStep::Layer { digest, source });
            }
            (Err(source), _) => return Err(PullStep::FetchLayer { digest, source }),
            (Ok(()), Ok(done)) => done,
        };
        let held = temporary.keep(wanted.diff_id, unpacked.stats);
        let held = held.map_err(place("move a layer to its place"))?;
        counters.layer();
        Ok((held, unpacked.implied))
    }

    pub(crate) fn layer_lock(&self, diff_id: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&diff_id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(diff_id, Arc::downgrade(&lock));
        lock
    }
}

/// Does several at once; gives what they give, in their order. After a failure the others are ended and waited for, so that nothing
/// of them is left.
pub(crate) async fn gather<T>(
    fetches: Vec<impl Future<Output = Result<T, PullStep>>>,
    at_once: usize,
    stop: &CancellationToken,
) -> Result<Vec<T>, PullStep> {
    let fetches = fetches.into_iter().enumerate();
    let fetches = fetches.map(|(at, fetch)| async move { fetch.await.map(|got| (at, got)) });
    let mut fetches = stream::iter(fetches).buffer_unordered(at_once.max(1));
    let (mut got, mut failed) = (Vec::new(), None);
    while let Some(fetched) = fetches.next().await {
        match fetched {
            Ok(one) => got.push(one),
            Err(error) => {
                stop.cancel();
                failed.get_or_insert(error);
            }
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    got.sort_by_key(|(at, _)| *at);
    Ok(got.into_iter().map(|(_, got)| got).collect())
}

/// Runs on a thread that may block; a failure leaves no directory when this returns.
pub(crate) fn unpack(
    temporary: Temporary,
    with: impl FnOnce(&std::path::Path) -> Result<Unpacked, LayerError>,
) -> Result<(Unpacked, Temporary), LayerError> {
    match with(&temporary.path()) {
        Ok(unpacked) => Ok((unpacked, temporary)),
        Err(error) => {
            temporary.discard();
            Err(error)
        }
    }
}

/// What a reference leads to: an image's manifest, or an artifact with the text of its own.
#[derive(Debug)]
enum Resolved {
    Image(Manifest),
    Artifact(Artifact, String),
}

impl Resolved {
    fn artifact(artifact: Artifact, manifest: &[u8]) -> Self {
        Self::Artifact(artifact, String::from_utf8_lossy(manifest).into_owned())
    }
}

/// The digest that the reference stands for, an index's if it is one, and the manifest for this machine.
async fn resolve(
    registry: &Registry,
    reference: &Reference,
) -> Result<(Digest, Resolved), PullStep> {
    let fetch = |what| move |source| PullStep::Fetch { what, source };
    let document = |what| move |source| PullStep::Document { what, source };
    let fetched = registry.resolve(reference).await.map_err(fetch("manifest"))?;
    let parsed = manifest::parse(&fetched.bytes, fetched.content_type.as_deref());
    let index = match parsed.map_err(document("manifest"))? {
        Document::Manifest(manifest) => return Ok((fetched.digest, Resolved::Image(manifest))),
        Document::Artifact(artifact) => {
            return Ok((fetched.digest, Resolved::artifact(artifact, &fetched.bytes)));
        }
        Document::Index(index) => index,
    };
    let part = manifest::choose(&index).map_err(document("index"))?;
    let chosen = registry.manifest_of(part).await.map_err(fetch("manifest of this platform"))?;
    let parsed = manifest::parse(&chosen.bytes, chosen.content_type.as_deref());
    match parsed.map_err(document("manifest of this platform"))? {
        Document::Manifest(manifest) => Ok((fetched.digest, Resolved::Image(manifest))),
        Document::Artifact(artifact) => {
            Ok((fetched.digest, Resolved::artifact(artifact, &chosen.bytes)))
        }
        Document::Index(_) => Err(PullStep::Document {
            what: "manifest of this platform",
            source: DocumentError::Shape { why: "an index within an index" },
        }),
    }
}

/// Makes the image of its layers, lowest first.
pub(crate) async fn commit(
    store: &Arc<Store>,
    text: Text,
    layers: Vec<Got>,
    names: Names,
) -> Result<ImageId, PullStep> {
    let (Text::Config(known) | Text::Artifact(known)) = &text;
    let id = Digest::of(known.as_bytes()).to_string();
    let id: ImageId = id.parse().map_err(|_| PullStep::GivenUp)?;
    let (store, image) = (Arc::clone(store), id.clone());
    let committed = tokio::task::spawn_blocking(move || {
        adopt(&store, &layers).map_err(|source| PullStep::Place {
            what: "give directories the owners they have in lower layers",
            source,
        })?;
        let held: Vec<_> = layers.into_iter().map(|(held, _)| held).collect();
        store.commit(&image, &text, &held, names).map_err(PullStep::Record)
    });
    committed.await.map_err(|_| PullStep::GivenUp)??;
    Ok(id)
}

/// Layers are unpacked without their parents; what they only implied is taken from there now.
fn adopt(store: &Store, layers: &[Got]) -> io::Result<()> {
    let open = |held: &Held| node::open_directory(&store.layer_path(held.record.number));
    for (at, (held, implied)) in layers.iter().enumerate() {
        if implied.is_empty() || at == 0 {
            continue;
        }
        let below = layers.iter().take(at).rev().map(|(held, _)| open(held));
        let below = below.collect::<Result<Vec<_>, _>>()?;
        let upper = open(held)?;
        node::adopt(&upper, implied, &below)?;
        rustix::fs::syncfs(&upper)?;
    }
    Ok(())
}
