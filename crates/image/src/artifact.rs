//! Artifacts on this node: all files of one are a single directory, kept as a layer is.
//!
//! Its digest in the place of the diff id is the manifest's, which is also the artifact's id, because many artifacts have the same
//! configuration (`{}`).

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::layer::inflate::Hashed;
use crate::layer::{LayerError, Stats};
use crate::manifest::artifact::{Artifact, Named, parents};
use crate::progress::Counters;
use crate::pull::{Got, PullStep, Puller, gather};
use crate::registry::{FetchError, Registry, blob};
use crate::store::Temporary;

const BUFFER: usize = 256 << 10;

impl Artifact {
    /// Makes the directories, in an empty one.
    pub(crate) fn directories(&self, into: &Path) -> io::Result<Stats> {
        let dirs: BTreeSet<&str> = self.files.iter().flat_map(|file| parents(&file.name)).collect();
        for dir in &dirs {
            let path = into.join(dir);
            DirBuilder::new().mode(0o755).create(&path)?;
            fs::set_permissions(path, Permissions::from_mode(0o755))?;
        }
        Ok(Stats { bytes: self.size(), inodes: 1 + (dirs.len() + self.files.len()) as u64 })
    }
}

impl Named {
    /// Writes the file, which must turn out to be what the manifest says.
    pub(crate) fn write<R: BufRead>(&self, source: R, into: &Path) -> Result<(), LayerError> {
        let step = |step| move |source| LayerError::Directory { step, source };
        let mut options = OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o644).open(into.join(&self.name));
        let file = opened.map_err(step("make a file in"))?;
        file.set_permissions(Permissions::from_mode(0o644)).map_err(step("make a file in"))?;
        let mut out = BufWriter::with_capacity(BUFFER, file);
        let mut hashed = Hashed::new(source);
        copy(&mut hashed, &mut out)?;
        out.flush().map_err(step("write to"))?;
        let found = hashed.finish().map_err(LayerError::Read)?;
        if found != self.part.digest {
            return Err(LayerError::Digest { expected: self.part.digest, found });
        }
        Ok(())
    }
}

/// Reading may fail and writing may, and they mean different things.
fn copy(from: &mut impl BufRead, into: &mut impl Write) -> Result<(), LayerError> {
    loop {
        let filled = from.fill_buf().map_err(LayerError::Read)?;
        let length = filled.len();
        if length == 0 {
            return Ok(());
        }
        let written = into.write_all(filled);
        written.map_err(|source| LayerError::Directory { step: "write to", source })?;
        from.consume(length);
    }
}

/// Everything that was written is on the disk.
pub(crate) fn sync(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

impl Puller {
    /// Brings the files of an artifact here; `id` is its manifest's digest.
    pub(crate) async fn artifact(
        &self,
        registry: &Registry,
        id: Digest,
        artifact: &Artifact,
        counters: &Arc<Counters>,
    ) -> Result<Got, PullStep> {
        let document = |source| PullStep::Document { what: "manifest", source };
        artifact.check(&self.options.limits).map_err(document)?;
        counters.begin(artifact.files.len() as u64, artifact.size());
        let lock = self.layer_lock(id);
        let _alone = lock.lock().await;
        if let Some(held) = self.store.hold(&id) {
            counters.bytes(artifact.size());
            return Ok((held, Vec::new()));
        }
        let place = |what| move |source| PullStep::Place { what, source };
        let temporary =
            self.store.temporary().map_err(place("make a directory for an artifact"))?;
        let stats = artifact.directories(&temporary.path());
        let stats = stats.map_err(place("make the directories of an artifact"))?;
        // Whoever still writes when the pull is given up holds it: it goes with the last of them.
        let shared = Arc::new(temporary);
        let stop = CancellationToken::new();
        let files = artifact.files.iter();
        let fetches =
            files.map(|file| fetch(registry, file, shared.clone(), counters, stop.clone()));
        gather(fetches.collect(), self.options.layers_at_once, &stop).await?;
        let temporary = Arc::into_inner(shared).ok_or(PullStep::GivenUp)?;
        let dir = temporary.path();
        let synced = tokio::task::spawn_blocking(move || sync(&dir)).await;
        synced.map_err(|_| PullStep::GivenUp)?.map_err(place("sync the files of an artifact"))?;
        let held = temporary.keep(id, stats).map_err(place("move an artifact to its place"))?;
        Ok((held, Vec::new()))
    }
}

async fn fetch(
    registry: &Registry,
    file: &Named,
    into: Arc<Temporary>,
    counters: &Arc<Counters>,
    stop: CancellationToken,
) -> Result<(), PullStep> {
    let digest = file.part.digest;
    let (sink, chunks) = blob::stream(Arc::clone(counters));
    let named = file.clone();
    let write = tokio::task::spawn_blocking(move || named.write(chunks, &into.path()));
    // Cancel-safe: the stream ends without its proper end, and the writing side gives up.
    let fetch = stop.run_until_cancelled(registry.blob(file.part, sink));
    let (fetched, written) = tokio::join!(fetch, write);
    let fetched = fetched.ok_or(PullStep::GivenUp)?;
    let written = written.map_err(|_| PullStep::GivenUp)?;
    // When both sides failed, the one that began it knows more.
    match (fetched, written) {
        (Ok(()) | Err(FetchError::Unwanted), Err(source)) => {
            Err(PullStep::Layer { digest, source })
        }
        (Err(source), _) => Err(PullStep::FetchLayer { digest, source }),
        (Ok(()), Ok(())) => {
            counters.layer();
            Ok(())
        }
    }
}
