//! The engine's images over the image room.

use engine::world::{Images, Pinned};
use names::{ContainerId, Kind};
use pod::step::Fault;

use super::place::text;
use super::{Node, fault};

impl Images for Node {
    fn pin(&self, name: &str, owner: &ContainerId) -> Result<Pinned, Fault> {
        let absent = || Fault::new(Kind::NotFound, format!("image {name:?} is not here: pull it"));
        // An image that was removed while a container runs it is known by its id alone.
        let id = match self.images.find(name) {
            Some(image) => image.id.clone(),
            None => name.parse().map_err(|_| absent())?,
        };
        let image = self.images.pin(&id, owner.as_str()).map_err(|_| absent())?;
        let layers = self.images.rootfs(&id).map_err(|e| fault(Kind::NotFound, &e))?;
        let config = &image.config;
        Ok(Pinned {
            reference: image.digests.first().cloned().unwrap_or_else(|| id.to_string()),
            config: spec::ImageConfig {
                env: config.env.clone(),
                entrypoint: config.entrypoint.clone(),
                cmd: config.cmd.clone(),
                user: config.user.clone(),
                working_dir: config.working_dir.clone(),
                stop_signal: config.stop_signal.clone(),
                volumes: config.volumes.clone(),
            },
            layers_dir: text(&layers.dir),
            layers: layers.names,
            is_artifact: image.is_artifact,
            id,
        })
    }

    fn unpin(&self, owner: &ContainerId) {
        self.images.unpin(owner.as_str());
    }
}
