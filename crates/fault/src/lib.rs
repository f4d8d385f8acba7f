//! A node that can be held against the engine: what a daemon leaves behind when it dies at the n-th effect, and what it makes of
//! an effect that fails. For tests only.
//!
//! | module | holds |
//! |---|---|
//! | [`node`] | the model of a node: what outlives the daemon, and the oracle that finds what is left on it |
//! | [`fuel`] | when something goes wrong: at which effect, before or after it lands, and how |
//! | `world` | one daemon's view of the node: the engine's traits, each call an effect |
//! | `shim` | one daemon's connection to a shim |
//!
//! It may depend on nothing that acts: no nix, no files. The model is strict where the kernel is: a cgroup with processes cannot be
//! removed, a network cannot be made without a namespace, so a wrong order fails here as it would there.
//!
//! # Decisions
//! * "Dead" is a call that never returns: the test drops the daemon's whole runtime, so nothing it still meant to do happens.
//! * A failure comes in two kinds, with and without its effect: whoever undoes must include the step that failed.
//! * Images and leases are the daemon's memory, not the node's: they die with it and are adopted anew, so the oracle asks the last
//!   daemon for them.
#![forbid(unsafe_code)]

pub mod fuel;
pub mod node;
mod shim;
mod world;

pub use fuel::{Fuel, Mishap};
pub use node::{Node, SharedNode};
pub use shim::FakeShim;
pub use world::FakeWorld;
