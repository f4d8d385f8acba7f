//! Overlays, made but not attached.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use crate::raw;

/// Layer by layer, as kernels from 6.7 on take it. Without directories of its own it is read-only;
/// with a label it has that one throughout.
pub(crate) fn overlay(
    lower: &[String],
    own: &[(&CStr, &str)],
    label: &str,
) -> std::io::Result<OwnedFd> {
    let text = |s: &str| CString::new(s).map_err(std::io::Error::other);
    let context = raw::fs_open(c"overlay")?;
    for layer in lower {
        raw::fs_set(context.as_fd(), c"lowerdir+", &text(layer)?)?;
    }
    for (key, dir) in own {
        raw::fs_set(context.as_fd(), key, &text(dir)?)?;
    }
    if !label.is_empty() {
        raw::fs_set(context.as_fd(), c"context", &text(label)?)?;
    }
    raw::fs_mount(context.as_fd(), 0)
}

/// A label as a mount option: in quotes, for the commas of its categories.
pub(crate) fn context(label: &str) -> String {
    if label.is_empty() { String::new() } else { format!(",context=\"{label}\"") }
}
