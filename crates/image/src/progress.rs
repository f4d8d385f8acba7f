//! How far the pulls under way have come: counters that the pull writes and anyone reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// A pull under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being pulled.
    pub reference: String,
    /// Layers that are complete, or were here before.
    pub layers_done: u64,
    /// Layers of the image; 0 until its manifest is known.
    pub layers_total: u64,
    /// Compressed bytes that came, or need not come.
    pub bytes_done: u64,
    /// Compressed bytes of the image.
    pub bytes_total: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    layers_done: AtomicU64,
    layers_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
}

impl Counters {
    pub(crate) fn begin(&self, layers: u64, bytes: u64) {
        self.layers_total.store(layers, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self, count: u64) {
        self.bytes_done.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn layer(&self) {
        self.layers_done.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, reference: &str) -> Progress {
        Progress {
            reference: reference.to_owned(),
            layers_done: self.layers_done.load(Ordering::Relaxed),
            layers_total: self.layers_total.load(Ordering::Relaxed),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
        }
    }
}
