//! The crate as a whole, against Debian's registry and against servers that misbehave.

mod made;
mod pulls;
mod server;
