//! What images and layers there are: records on disk, counts in memory, an immutable view for readers.
//!
//! ```text
//! <root>/images/records/<id>.json   one per image
//!               quarantine/         records that cannot be read
//!               layers/<number>     overlay lowers
//!               tmp/                layers being unpacked; emptied at start
//!               loaded/<mark>       ids of the images that a watched archive brought
//! ```
//! Changes are made under one lock, `writer`: first on disk, then in memory, then in the view. A layer stays while an image,
//! a pull or a pinned image names it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use names::{ImageId, Kind};
use thiserror::Error;

use crate::digest::Digest;
use crate::layer::Stats;
use crate::options::Options;
use crate::record::{self, LayerRecord, Record, RecordError};
use crate::sweep::Sweeper;
use crate::view::{Image, View};

/// The images directory could not be used.
#[derive(Debug, Error)]
#[error("{step} {}", path.display())]
pub struct OpenError {
    step: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Why an image cannot be pinned, or its layers not be named.
#[derive(Debug, Error)]
pub enum PinError {
    /// There is no such image.
    #[error("no image {0}")]
    NotFound(ImageId),
}

#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    pinned: Vec<String>,
    writer: Mutex<()>,
    state: Mutex<State>,
    pub(crate) view: ArcSwap<View>,
    pub(crate) sweeper: Sweeper,
}

#[derive(Debug, Default)]
struct State {
    images: HashMap<ImageId, (Record, Arc<Image>)>,
    layers: HashMap<Digest, Layer>,
    pins: HashMap<String, HashSet<ImageId>>,
    next: u64,
    written: u64,
    /// Before recovery has repeated its pins, nothing that is hidden may go.
    recovered: bool,
}

#[derive(Debug, Clone, Copy)]
struct Layer {
    record: LayerRecord,
    holds: usize,
}

/// A layer that a pull relies on.
#[derive(Debug)]
pub(crate) struct Held {
    store: Arc<Store>,
    pub(crate) record: LayerRecord,
}

/// A directory that vanishes unless it becomes a layer.
#[derive(Debug)]
pub(crate) struct Temporary {
    store: Arc<Store>,
    number: u64,
    kept: bool,
}

/// What an image's id is the digest of.
#[derive(Debug)]
pub(crate) enum Text {
    /// An image's configuration.
    Config(String),
    /// An artifact's manifest.
    Artifact(String),
}

/// The names under which an image was asked for.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) tags: BTreeSet<String>,
    pub(crate) digests: BTreeSet<String>,
}

impl OpenError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        Kind::Internal
    }
}

impl PinError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
        }
    }
}

impl Store {
    pub(crate) fn open(options: &Options) -> Result<Arc<Self>, OpenError> {
        let dir = options.root.join("images");
        let step = |step, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError { step, path, source }
        };
        for part in ["records", "quarantine", "loaded", "layers", "tmp"] {
            let path = dir.join(part);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(step("create", &path))?;
        }
        let records = dir.join("records");
        let (loaded, unreadable) = record::load(&records).map_err(step("read", &records))?;
        for (path, why) in unreadable {
            let name = path.file_name().unwrap_or_default();
            tracing::error!(path = %path.display(), why, "an image's record cannot be read: set aside");
            let aside = dir.join("quarantine").join(name);
            fs::rename(&path, &aside).map_err(step("set aside", &path))?;
        }
        let quarantine = dir.join("quarantine");
        let set_aside = fs::read_dir(&quarantine).map_err(step("read", &quarantine))?;
        let quarantined = set_aside.count() > 0;
        let found = numbers(&dir.join("layers")).map_err(step("read", &dir))?;
        let store = Arc::new(Self {
            pinned: options.pinned.clone(),
            writer: Mutex::default(),
            state: Mutex::default(),
            view: ArcSwap::default(),
            sweeper: Sweeper::default(),
            dir,
        });
        store.adopt(loaded, &found, quarantined);
        let tmp = store.dir.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(step("read", &tmp))?.flatten() {
            store.sweeper.remove(entry.path());
        }
        Ok(store)
    }

    /// Takes over what was found. Layers that no record names are leftovers, unless a record was set aside: then
    /// they may be its.
    fn adopt(&self, mut loaded: Vec<Record>, found: &HashSet<u64>, quarantined: bool) {
        loaded.sort_by_key(|record| std::cmp::Reverse(record.written));
        let mut state = self.lock();
        state.next = found.iter().max().map_or(1, |last| last + 1);
        state.written = loaded.first().map_or(0, |record| record.written);
        let mut taken = HashSet::new();
        for mut record in loaded {
            if let Some(lost) = record.layers.iter().find(|layer| !found.contains(&layer.number)) {
                tracing::error!(image = %record.id, layer = lost.number, "an image without its layer: not listed");
                continue;
            }
            record.tags.retain(|tag| taken.insert(tag.clone()));
            state.keep(record, &self.pinned);
        }
        let named: HashSet<u64> = state.layers.values().map(|layer| layer.record.number).collect();
        if !quarantined {
            for number in found.difference(&named) {
                self.sweeper.remove(self.layer_path(*number));
            }
        }
        self.publish(&state);
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.dir.join("layers")
    }

    pub(crate) fn layer_path(&self, number: u64) -> PathBuf {
        self.layers_dir().join(number.to_string())
    }

    pub(crate) fn tmp_dir(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// What tells that an archive was loaded.
    pub(crate) fn loaded_path(&self, mark: &str) -> PathBuf {
        self.dir.join("loaded").join(mark)
    }

    /// The whole record of an image, its configuration included.
    pub(crate) fn record(&self, id: &ImageId) -> Option<Record> {
        self.lock().images.get(id).map(|(record, _)| record.clone())
    }

    /// The layer of that diff id, held, if it is here.
    pub(crate) fn hold(self: &Arc<Self>, diff_id: &Digest) -> Option<Held> {
        let mut state = self.lock();
        let layer = state.layers.get_mut(diff_id)?;
        layer.holds += 1;
        Some(Held { store: Arc::clone(self), record: layer.record })
    }

    /// An empty directory to unpack into.
    pub(crate) fn temporary(self: &Arc<Self>) -> io::Result<Temporary> {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        drop(state);
        let temporary = Temporary { store: Arc::clone(self), number, kept: false };
        // Its mode is the mode of `/` in an image that says nothing about it; `images` above it admits root alone.
        fs::create_dir(temporary.path())?;
        fs::set_permissions(temporary.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(temporary)
    }

    /// Makes an image of layers that are held, under these names. Blocks.
    pub(crate) fn commit(
        &self,
        id: &ImageId,
        text: &Text,
        layers: &[Held],
        names: Names,
    ) -> Result<(), RecordError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        record::sync_dir(&self.layers_dir())
            .map_err(|e| RecordError::sync(&self.layers_dir(), e))?;
        let layers = layers.iter().map(|held| held.record).collect();
        let (config, artifact) = match text {
            Text::Config(config) => (config.clone(), false),
            Text::Artifact(manifest) => (manifest.clone(), true),
        };
        let new = || Record::new(id.clone(), config, layers, artifact);
        let mut record = self.record(id).unwrap_or_else(new);
        if record.hidden {
            record.hidden = false;
        }
        let losing = self.losing(id, &names.tags);
        record.tags.extend(names.tags);
        record.digests.extend(names.digests);
        self.write(record)?;
        for loser in losing {
            self.write(loser)?;
        }
        self.publish(&self.lock());
        Ok(())
    }

    /// The other images that have these tags, without them.
    fn losing(&self, id: &ImageId, tags: &BTreeSet<String>) -> Vec<Record> {
        let state = self.lock();
        let others = state.images.values().map(|(record, _)| record).filter(|r| r.id != *id);
        let losing = others.filter(|record| !record.tags.is_disjoint(tags));
        losing
            .map(|record| {
                let tags = record.tags.difference(tags).cloned().collect();
                Record { tags, ..record.clone() }
            })
            .collect()
    }

    fn write(&self, mut record: Record) -> Result<(), RecordError> {
        let mut state = self.lock();
        state.written += 1;
        record.written = state.written;
        drop(state);
        record::write(&self.dir.join("records"), &record)?;
        self.lock().keep(record, &self.pinned);
        Ok(())
    }

    /// Removes an image with all its names; a container keeps its layers. Blocks.
    pub(crate) fn remove(&self, id: &ImageId) -> Result<(), RecordError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = self.record(id) else { return Ok(()) };
        let keep = {
            let state = self.lock();
            !state.recovered || state.is_pinned(id)
        };
        if keep {
            let (tags, digests) = (BTreeSet::new(), BTreeSet::new());
            self.write(Record { tags, digests, hidden: true, ..record })?;
        } else {
            record::remove(&self.dir.join("records"), id)?;
            self.lock().images.remove(id);
        }
        let mut state = self.lock();
        self.publish(&state);
        self.collect(&mut state);
        Ok(())
    }

    pub(crate) fn pin(&self, id: &ImageId, owner: &str) -> Result<Arc<Image>, PinError> {
        let mut state = self.lock();
        let (_, image) = state.images.get(id).ok_or_else(|| PinError::NotFound(id.clone()))?;
        let image = Arc::clone(image);
        state.pins.entry(owner.to_owned()).or_default().insert(id.clone());
        Ok(image)
    }

    pub(crate) fn unpin(self: &Arc<Self>, owner: &str) {
        let mut state = self.lock();
        let Some(ids) = state.pins.remove(owner) else { return };
        let hidden = |id: &ImageId| state.images.get(id).is_some_and(|(record, _)| record.hidden);
        let gone = ids.iter().any(|id| hidden(id) && !state.is_pinned(id));
        let recovered = state.recovered;
        drop(state);
        if gone && recovered {
            self.drop_hidden_soon();
        }
    }

    /// Every pin that will be repeated has been: what is hidden and not pinned may go.
    pub(crate) fn recovered(self: &Arc<Self>) {
        let mut state = self.lock();
        state.recovered = true;
        let hidden = state.images.values().any(|(record, _)| record.hidden);
        drop(state);
        if hidden {
            self.drop_hidden_soon();
        }
    }

    /// Off this thread: it writes, and unpinning must not wait for a disk.
    fn drop_hidden_soon(self: &Arc<Self>) {
        let store = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("image-unpin".into())
            .spawn(move || store.drop_hidden());
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to remove images: they stay until the next start");
        }
    }

    fn drop_hidden(&self) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.lock();
        let hidden = state.images.values().filter(|(r, _)| r.hidden && !state.is_pinned(&r.id));
        let hidden: Vec<_> = hidden.map(|(record, _)| record.id.clone()).collect();
        drop(state);
        for id in hidden {
            match record::remove(&self.dir.join("records"), &id) {
                Ok(()) => drop(self.lock().images.remove(&id)),
                Err(error) => tracing::warn!(%error, image = %id, "a removed image stays"),
            }
        }
        self.collect(&mut self.lock());
    }

    /// Bytes and inodes of all layers that are here.
    pub(crate) fn used(&self) -> Stats {
        let state = self.lock();
        let layers = state.layers.values();
        layers.fold(Stats::default(), |sum, layer| Stats {
            bytes: sum.bytes + layer.record.bytes,
            inodes: sum.inodes + layer.record.inodes,
        })
    }

    /// Names and numbers of an image's layers.
    pub(crate) fn layers(&self, id: &ImageId) -> Option<Vec<LayerRecord>> {
        self.lock().images.get(id).map(|(record, _)| record.layers.clone())
    }

    fn publish(&self, state: &State) {
        let visible = state.images.values().filter(|(record, _)| !record.hidden);
        self.view.store(Arc::new(View::new(visible.map(|(_, image)| Arc::clone(image)).collect())));
    }

    /// Lets go of the layers that nothing names any more.
    fn collect(&self, state: &mut State) {
        let named: HashSet<Digest> = state
            .images
            .values()
            .flat_map(|(record, _)| record.layers.iter().map(|layer| layer.diff_id))
            .collect();
        state.layers.retain(|diff_id, layer| {
            let needed = layer.holds > 0 || named.contains(diff_id);
            if !needed {
                self.sweeper.remove(self.layer_path(layer.record.number));
            }
            needed
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, record: Record, pinned: &[String]) {
        for layer in &record.layers {
            self.layers.entry(layer.diff_id).or_insert(Layer { record: *layer, holds: 0 });
        }
        let image = Arc::new(Image::new(&record, pinned));
        self.images.insert(record.id.clone(), (record, image));
    }

    fn is_pinned(&self, id: &ImageId) -> bool {
        self.pins.values().any(|ids| ids.contains(id))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        if let Some(layer) = state.layers.get_mut(&self.record.diff_id) {
            layer.holds = layer.holds.saturating_sub(1);
            if layer.holds == 0 {
                self.store.collect(&mut state);
            }
        }
    }
}

impl Temporary {
    pub(crate) fn path(&self) -> PathBuf {
        self.store.tmp_dir().join(self.number.to_string())
    }

    /// Removes the directory before this returns, for one that failed.
    pub(crate) fn discard(mut self) {
        self.kept = true;
        if let Err(error) = crate::sweep::remove(&self.path()) {
            tracing::warn!(%error, "a temporary layer stays until the next start");
        }
    }

    /// The layer this has become, at its place and held.
    pub(crate) fn keep(mut self, diff_id: Digest, stats: Stats) -> io::Result<Held> {
        fs::rename(self.path(), self.store.layer_path(self.number))?;
        self.kept = true;
        let record = LayerRecord::new(diff_id, self.number, stats);
        self.store.lock().layers.insert(diff_id, Layer { record, holds: 1 });
        Ok(Held { store: Arc::clone(&self.store), record })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            self.store.sweeper.remove(self.path());
        }
    }
}

fn numbers(dir: &Path) -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(found)
}
