//! Images in files: OCI layouts (directory or tar) and docker archives, in and out.

mod bundle;
pub(crate) mod export;
pub(crate) mod import;
mod pack;
