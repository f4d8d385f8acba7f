//! The images that a container's volumes show: found here and held as long as the container's own, never pulled.

use names::{ContainerId, Kind};
use pod::VolumeImage;
use pod::config::{ContainerConfig, Mount};
use pod::step::Fault;

use crate::world::{Images, Pinned};

/// How the kubelet tells that it was the volume.
const FAILED: &str = "ImageVolumeMountFailed";

/// The image that a container runs: what can be mounted cannot always be run.
pub(crate) fn pin_own(
    images: &impl Images,
    id: &ContainerId,
    config: &ContainerConfig,
) -> Result<Pinned, Fault> {
    let pinned = images.pin(&config.image.image, id)?;
    if pinned.is_artifact {
        let name = &config.image.image;
        let message = format!(
            "config.image: {name:?} is an artifact, files without a root filesystem: it can be mounted as a volume, not run"
        );
        return Err(Fault::new(Kind::Invalid, message));
    }
    Ok(pinned)
}

/// Those of all volumes, in the order of the mounts, and what the record remembers of them.
pub(crate) fn pin(
    images: &impl Images,
    id: &ContainerId,
    config: &ContainerConfig,
) -> Result<(Vec<VolumeImage>, Vec<Pinned>), Fault> {
    let one = |(mount, volume): (usize, &Mount)| {
        let name = &volume.image.as_ref()?.image.image;
        let pinned = images.pin(name, id).map_err(|fault| {
            let message = format!("{FAILED}: config.mounts[{mount}].image: {}", fault.message);
            Fault::new(fault.kind, message)
        });
        Some(pinned.map(|pinned| (VolumeImage { mount, id: pinned.id.clone() }, pinned)))
    };
    let pinned: Result<Vec<_>, Fault> = config.mounts.iter().enumerate().filter_map(one).collect();
    Ok(pinned?.into_iter().unzip())
}
