//! Hooks that are run when a container is gone. The daemon runs them, because the pod's shim may have ended long before its
//! containers are removed; what to run is in the bundle, whatever daemon made it. That of an outside runtime too, which is
//! never asked to delete anything.

use std::path::Path;

use hooks::{Config, Container, Stage};
use host::{ReleaseError, files};
use names::ContainerId;

/// Runs them. One that fails is a warning, as the runtime specification has it, and no reason to keep the container. They are run
/// once, for a removal that comes again finds no config.json; twice only where the daemon dies before that is gone. Blocks.
pub(super) fn run(id: &ContainerId, bundle: &Path) -> Result<(), ReleaseError> {
    let file = bundle.join("config.json");
    if !file.exists() {
        return Ok(());
    }
    match Config::of(bundle) {
        Ok(config) => {
            let container = Container { id: id.as_str(), bundle, pid: None };
            for error in config.run_all(Stage::Poststop, container, Path::new("/")) {
                tracing::warn!(container = %id, "{}", engine::record::chain(&error));
            }
        }
        Err(error) => tracing::warn!(container = %id, "{}", engine::record::chain(&error)),
    }
    files::remove_all(&file).map(drop)
}
