//! The crate as a whole, against Debian's registry and against servers that misbehave.

mod artifacts;
mod hostile;
mod made;
mod mock;
mod pulls;
mod server;
mod speed;
mod troubles;
