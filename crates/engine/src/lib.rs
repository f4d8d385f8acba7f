//! ORDER: decide, write, do, write. The only room where an effect and a record meet, so the only one where crash safety can be
//! got wrong.
//!
//! | module | holds |
//! |---|---|
//! | [`engine`] | what the edge calls: one method per verb |
//! | `reception` | one task that decides who a sandbox's name belongs to |
//! | `task` | one task per pod: owns its state, awaits only its mailbox and the ledger |
//! | `message`, `parts`, [`error`] | what comes to a mailbox; what all tasks share; why a call came to nothing |
//! | `effect` | what runs beside the task and comes back as an event |
//! | `record` | records in the ledger, and the proof that one is written ([`record::Pending`]) |
//! | [`view`] | the published immutable state: lists and statuses read it, and wait for nobody |
//! | [`bell`] | events for watchers, with times that never repeat |
//! | `debt` | what could not be released, tried again with backoff |
//! | [`recover`] | the way back after a restart |
//! | [`world`] | the traits of everything that acts: hosts, networks, images, shims |
//!
//! An RPC's future never performs anything: it hands a command to the pod's task and waits. When the client goes away the work goes
//! on, is recorded, and the retry joins it. The one exception is deliberate: the grace of a `StopContainer` lives in the
//! calls that wait for it, so when none waits any more nothing is killed.
//!
//! It may not see nix, tonic, libcontainer or any concrete resource.
#![forbid(unsafe_code)]

pub mod bell;
pub mod debt;
mod effect;
pub mod engine;
pub mod error;
mod message;
mod parts;
mod reception;
pub mod record;
pub mod recover;
mod task;
pub mod view;
mod volume;
pub mod world;

pub use bell::{Occurrence, Told};
pub use engine::Engine;
pub use error::EngineError;
pub use recover::{RecoverError, Recovered};
pub use view::{PodView, Views};
