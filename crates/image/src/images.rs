//! The crate's face.

use std::path::PathBuf;
use std::sync::Arc;

use names::{ImageId, Kind};
use thiserror::Error;

use crate::flight::Flights;
use crate::options::Options;
use crate::progress::Progress;
use crate::pull::{PullError, PullRequest, PullStep, Puller};
use crate::record::RecordError;
use crate::reference::Reference;
use crate::store::{OpenError, PinError, Store};
use crate::view::Image;

/// All images of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    puller: Arc<Puller>,
    flights: Arc<Flights>,
}

/// An image's layers, as overlayfs wants them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowers {
    /// Where they lie.
    pub dir: PathBuf,
    /// Their names in it, topmost first.
    pub names: Vec<String>,
}

/// What images take on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes of all layers.
    pub bytes: u64,
    /// Inodes of all layers.
    pub inodes: u64,
    /// A directory of the file system they lie on.
    pub mountpoint: PathBuf,
}

/// Why an image was not removed.
#[derive(Debug, Error)]
#[error("remove image {image}")]
pub struct RemoveError {
    image: ImageId,
    #[source]
    source: Option<RecordError>,
}

impl RemoveError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.source.as_ref().map_or(Kind::Internal, RecordError::kind)
    }
}

impl Images {
    /// Reads what there is. Blocks.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let store = Store::open(&options)?;
        let puller = Arc::new(Puller::new(store, options));
        Ok(Self { puller, flights: Arc::default() })
    }

    /// Brings an image here, or finds that it is. Dropping the future cancels nothing while another waits for the same.
    pub async fn pull(&self, request: PullRequest) -> Result<ImageId, PullError> {
        let reference: Result<Reference, _> = request.reference.parse();
        let reference = reference
            .map_err(|error| PullError::new(&request.reference, PullStep::Reference(error)))?;
        self.flights.join(&self.puller, (reference, request.credentials)).await
    }

    /// All images, as they were at the last change.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.store().view.load().images.clone()
    }

    /// By reference, digest, id, or the beginning of an id that no other image shares.
    pub fn find(&self, text: &str) -> Option<Arc<Image>> {
        self.store().view.load().find(text)
    }

    /// Removes an image with all its names, by any of them. Its layers go later; with none of that name there is nothing to do.
    pub async fn remove(&self, text: &str) -> Result<(), RemoveError> {
        let Some(image) = self.find(text) else { return Ok(()) };
        let (store, id) = (Arc::clone(self.store()), image.id.clone());
        let removed = tokio::task::spawn_blocking(move || store.remove(&id)).await;
        let image = image.id.clone();
        match removed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(RemoveError { image, source: Some(source) }),
            Err(_) => Err(RemoveError { image, source: None }),
        }
    }

    /// Keeps the image's layers for this owner, until it unpins. Not remembered over a restart: recovery repeats it, also for an
    /// image that was removed meanwhile.
    pub fn pin(&self, id: &ImageId, owner: &str) -> Result<Arc<Image>, PinError> {
        self.store().pin(id, owner)
    }

    /// Lets go of all that this owner pinned.
    pub fn unpin(&self, owner: &str) {
        self.store().unpin(owner);
    }

    /// To be called once recovery has repeated its pins: until then the layers of removed images stay.
    pub fn recovered(&self) {
        self.store().recovered();
    }

    /// The image's layers, for a root file system.
    pub fn rootfs(&self, id: &ImageId) -> Result<Lowers, PinError> {
        let layers = self.store().layers(id).ok_or_else(|| PinError::NotFound(id.clone()))?;
        let mut names: Vec<_> = layers.iter().rev().map(|layer| layer.number.to_string()).collect();
        // The same layer twice would be refused by overlayfs; only its topmost place shows.
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        Ok(Lowers { dir: self.store().layers_dir(), names })
    }

    /// What all layers take, from counters.
    #[expect(
        clippy::unused_async,
        reason = "where a layer is a blob, asking the file system may wait"
    )]
    pub async fn usage(&self) -> FsUsage {
        let used = self.store().used();
        let mountpoint = self.store().layers_dir();
        FsUsage { bytes: used.bytes, inodes: used.inodes, mountpoint }
    }

    /// How far the pulls under way have come.
    pub fn progress(&self) -> Vec<Progress> {
        self.flights.progress()
    }

    /// Blocks until all that was removed is gone from the disk.
    pub fn wait_swept(&self) {
        self.store().sweeper.wait();
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.puller.store
    }

    pub(crate) fn puller(&self) -> &Puller {
        &self.puller
    }

    pub(crate) fn options(&self) -> &Options {
        &self.puller.options
    }
}
