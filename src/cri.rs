//! The CRI's two services, and the command line's. Each call is parse, one call on the engine or on the images, reply.
//!
//! | module | holds |
//! |---|---|
//! | `service` | the tables of RPCs, each with the function that answers it |
//! | `sandbox`, `container`, `exec`, `events`, `runtime`, `image`, `stats`, `metrics` | those functions, by what they are about |
//! | `command_line` | what `ferropod image …` asks |
//! | [`usage`] | what is measured, and by whom |
//! | [`parse`] | the wire's words as our own; every field checked, errors with its path |
//! | `reply` | our own words as the wire's |
//! | `batch` | lists that outgrow a message |
//! | [`status`] | kinds of error as gRPC codes |
//!
//! It may not see nix, files or libcontainer.
#![expect(
    clippy::unused_async,
    reason = "one table awaits them all, those that wait and those that do not"
)]

use std::sync::Arc;

use engine::Engine;
use engine::world::World;
use tokio::sync::watch;
use tonic::Status;
use tonic::service::Routes;
use tracing::Span;

use crate::assemble::handlers::Abilities;
use cri_proto::cli::images_server::ImagesServer;
use cri_proto::cri::image_service_server::ImageServiceServer;
use cri_proto::cri::runtime_service_server::RuntimeServiceServer;

mod batch;
mod command_line;
mod container;
mod events;
mod exec;
mod image;
mod metrics;
pub(crate) mod parse;
mod reply;
mod runtime;
mod sandbox;
mod service;
mod stats;
pub(crate) mod status;
pub(crate) mod usage;

/// What a message may hold, both ways; the kubelet's client has the same bound.
pub(crate) const MESSAGE_MAX: usize = 16 << 20;

type Answer<T> = Result<T, Status>;
type Wire<T> = Result<tonic::Response<T>, Status>;

/// What all services share. Cheap to clone.
#[derive(Debug)]
pub(crate) struct Services<W: World> {
    pub(crate) engine: Engine<W>,
    pub(crate) images: ::image::Images,
    pub(crate) network: network::Network,
    pub(crate) node: Arc<Node>,
    /// What CPU usage was when it was last asked for.
    pub(crate) rates: Arc<usage::Rates>,
    /// What clients that stream are given.
    pub(crate) urls: Arc<crate::stream::Urls>,
    /// True from the moment when the daemon is told to stop.
    pub(crate) stop: watch::Receiver<bool>,
}

/// What does not change while the daemon runs.
#[derive(Debug)]
pub(crate) struct Node {
    /// systemd makes cgroups, not we.
    pub(crate) systemd_cgroups: bool,
    /// The kernel can make a mount and all below it read-only.
    pub(crate) recursive_read_only: bool,
    /// Why a pod cannot have a user namespace of its own, if it cannot.
    pub(crate) no_user_namespaces: Option<String>,
    /// Outside runtimes that pods may ask for, by name.
    pub(crate) handlers: std::collections::BTreeMap<String, Abilities>,
    /// The configuration in use, for people.
    pub(crate) config: serde_json::Value,
}

impl<W: World> Clone for Services<W> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            images: self.images.clone(),
            network: self.network.clone(),
            node: Arc::clone(&self.node),
            rates: Arc::clone(&self.rates),
            urls: Arc::clone(&self.urls),
            stop: self.stop.clone(),
        }
    }
}

impl<W: World + usage::Meter> Services<W> {
    /// All of it, ready to be served.
    pub(crate) fn routes(&self) -> Routes {
        let runtime = RuntimeServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let image = ImageServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let command_line = ImagesServer::new(self.clone());
        Routes::new(runtime).add_service(image).add_service(command_line)
    }
}

/// Puts an id into the span of the call.
fn note(field: &'static str, id: impl std::fmt::Display) {
    Span::current().record(field, tracing::field::display(id));
}

impl From<parse::Invalid> for Status {
    fn from(error: parse::Invalid) -> Self {
        status::invalid(&error)
    }
}

/// Not `From`: the orphan rule has it that both types are strangers here.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: engine::EngineError) -> Status {
    status::of(error.kind(), &error)
}
