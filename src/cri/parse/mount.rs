//! A container's volumes: of the host, or of an image.

use cri_proto::cri;
use pod::config::{ImageVolume, Mount, MountOption, Propagation};

use super::{At, Invalid, absolute, image, known, no_way_up, security};

pub(super) fn mounts(at: &At<'_>, wire: &[cri::Mount]) -> Result<Vec<Mount>, Invalid> {
    wire.iter().enumerate().map(|(index, wire)| mount(&at.item(index), wire)).collect()
}

fn mount(at: &At<'_>, wire: &cri::Mount) -> Result<Mount, Invalid> {
    absolute(&at.field("container_path"), &wire.container_path)?;
    if wire.container_path.split('/').all(|part| part.is_empty() || part == ".") {
        return Err(at.field("container_path").invalid("is the root"));
    }
    let propagation = match known(&at.field("propagation"), wire.propagation)? {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    let alone = wire.readonly && propagation == Propagation::Private;
    if wire.recursive_read_only && !alone {
        let wrong = "needs readonly and PROPAGATION_PRIVATE";
        return Err(at.field("recursive_read_only").invalid(wrong));
    }
    let image = wire.image.as_ref().map(|spec| image_volume(at, wire, spec)).transpose()?;
    match &image {
        None => absolute(&at.field("host_path"), &wire.host_path)?,
        Some(_) if propagation == Propagation::Private => {}
        Some(_) => {
            let wrong = "an image has nothing to propagate: it must be PROPAGATION_PRIVATE";
            return Err(at.field("propagation").invalid(wrong));
        }
    }
    Ok(Mount {
        container_path: wire.container_path.clone(),
        host_path: wire.host_path.clone(),
        readonly: wire.readonly,
        recursive_read_only: wire.recursive_read_only,
        selinux_relabel: wire.selinux_relabel,
        propagation,
        mapped: security::mapped(at, wire)?,
        image,
        options: options(&at.field("mount_options"), &wire.mount_options)?,
    })
}

/// A kubelet sends `image_sub_path` with every volume that has a sub-path: without `image` it means nothing.
fn image_volume(
    at: &At<'_>,
    wire: &cri::Mount,
    spec: &cri::ImageSpec,
) -> Result<ImageVolume, Invalid> {
    let sub_path = at.field("image_sub_path");
    if !wire.host_path.is_empty() {
        return Err(at.field("host_path").invalid("does not go with image"));
    }
    if !wire.readonly {
        return Err(at.field("readonly").invalid("is false, and an image cannot be written to"));
    }
    if wire.image_sub_path.starts_with('/') {
        let wrong = format!("{:?} is not relative to the image's root", wire.image_sub_path);
        return Err(sub_path.invalid(wrong));
    }
    no_way_up(&sub_path, &wire.image_sub_path)?;
    let image = image(&at.field("image"), Some(spec))?;
    Ok(ImageVolume { image, sub_path: wire.image_sub_path.clone() })
}

/// Only what takes something away: the opposites could give back what the host's own mount denies.
fn options(at: &At<'_>, wire: &[String]) -> Result<Vec<MountOption>, Invalid> {
    let option = |(index, text): (usize, &String)| {
        let known = MountOption::ALL.into_iter().find(|option| option.as_str() == text);
        let wrong = || at.item(index).invalid(format!("{text:?} is not noexec, nosuid or nodev"));
        known.ok_or_else(wrong)
    };
    wire.iter().enumerate().map(option).collect()
}
