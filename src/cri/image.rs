//! Calls about images.

use std::collections::HashMap;

use ::image::{Credentials, Image, Progress, PullRequest};
use cri_proto::cri;
use engine::world::World;

use super::batch::{Batches, batches};
use super::parse::{self, At};
use super::{Answer, Services, note, status};

impl<W: World> Services<W> {
    pub(super) async fn images(
        &self,
        request: cri::ListImagesRequest,
    ) -> Answer<cri::ListImagesResponse> {
        let images = self.selected_images(request.filter.as_ref());
        Ok(cri::ListImagesResponse { images })
    }

    pub(super) async fn images_in_batches(
        &self,
        request: cri::StreamImagesRequest,
    ) -> Answer<Batches<cri::StreamImagesResponse>> {
        let images = self.selected_images(request.filter.as_ref());
        Ok(batches(images, |images| cri::StreamImagesResponse { images }))
    }

    pub(super) async fn one_image(
        &self,
        request: cri::ImageStatusRequest,
    ) -> Answer<cri::ImageStatusResponse> {
        let spec = parse::image(&At::root("image"), request.image.as_ref())?;
        let image = self.images.find(&spec.image);
        let info = image.as_deref().filter(|_| request.verbose).map(info).unwrap_or_default();
        Ok(cri::ImageStatusResponse { image: image.as_deref().map(reply), info })
    }

    pub(super) async fn pull(
        &self,
        request: cri::PullImageRequest,
    ) -> Answer<cri::PullImageResponse> {
        let at = At::root("image");
        let spec = parse::image(&at, request.image.as_ref())?;
        self.known_handler(&at, &spec)?;
        note("image", &spec.image);
        let auth = At::root("auth");
        let credentials = request.auth.map(|wire| parse::credentials(&auth, wire)).transpose()?;
        let id = self.bring(spec.image, credentials.unwrap_or_default()).await?;
        Ok(cri::PullImageResponse { image_ref: id.into() })
    }

    /// Every handler runs the same images, and one that is not there runs none.
    pub(super) fn known_handler(
        &self,
        image: &At<'_>,
        spec: &pod::config::ImageSpec,
    ) -> Result<(), parse::Invalid> {
        let at = image.field("runtime_handler");
        parse::handler(&at, &spec.runtime_handler, &self.node.handlers).map(drop)
    }

    pub(super) async fn remove_image(
        &self,
        request: cri::RemoveImageRequest,
    ) -> Answer<cri::RemoveImageResponse> {
        let spec = parse::image(&At::root("image"), request.image.as_ref())?;
        note("image", &spec.image);
        let removed = self.images.remove(&spec.image).await;
        removed.map_err(|error| status::of(error.kind(), &error))?;
        Ok(cri::RemoveImageResponse {})
    }

    pub(super) async fn image_usage(
        &self,
        _: cri::ImageFsInfoRequest,
    ) -> Answer<cri::ImageFsInfoResponse> {
        let usage = self.images.usage().await;
        let mountpoint = usage.mountpoint.to_string_lossy().into_owned();
        let images = cri::FilesystemUsage {
            timestamp: self.engine.world().now().0,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint }),
            used_bytes: Some(cri::UInt64Value { value: usage.bytes }),
            inodes_used: Some(cri::UInt64Value { value: usage.inodes }),
        };
        // One file system for both: the kubelet takes an absent second list so.
        let container_filesystems = Vec::new();
        Ok(cri::ImageFsInfoResponse { image_filesystems: vec![images], container_filesystems })
    }

    pub(super) async fn bring(
        &self,
        reference: String,
        credentials: Credentials,
    ) -> Answer<names::ImageId> {
        let pulled = self.images.pull(PullRequest { reference, credentials }).await;
        pulled.map_err(|error| status::of(error.kind(), &error))
    }

    fn selected_images(&self, filter: Option<&cri::ImageFilter>) -> Vec<cri::Image> {
        let named = filter.and_then(|filter| filter.image.as_ref());
        match named.map(|spec| spec.image.as_str()).filter(|name| !name.is_empty()) {
            Some(name) => self.images.find(name).as_deref().map(reply).into_iter().collect(),
            None => self.images.list().iter().map(|image| reply(image)).collect(),
        }
    }
}

fn reply(image: &Image) -> cri::Image {
    let (uid, username) = user(&image.config.user);
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size,
        uid: uid.map(|value| cri::Int64Value { value }),
        username,
        spec: None,
        pinned: image.pinned,
    }
}

/// A number or a name, never both; the group is not asked for.
fn user(text: &str) -> (Option<i64>, String) {
    let user = text.split_once(':').map_or(text, |(user, _)| user);
    match user.parse::<u32>() {
        Ok(uid) => (Some(uid.into()), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

fn info(image: &Image) -> HashMap<String, String> {
    let config = &image.config;
    let info = serde_json::json!({
        "artifact": image.is_artifact,
        "architecture": image.architecture,
        "entrypoint": config.entrypoint,
        "cmd": config.cmd,
        "env": config.env,
        "user": config.user,
        "workingDir": config.working_dir,
        "stopSignal": config.stop_signal,
        "labels": config.labels,
        "volumes": config.volumes,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

pub(super) fn pull_info(progress: &Progress) -> serde_json::Value {
    serde_json::json!({
        "reference": progress.reference,
        "layersDone": progress.layers_done,
        "layersTotal": progress.layers_total,
        "bytesDone": progress.bytes_done,
        "bytesTotal": progress.bytes_total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_user_is_a_number_or_a_name_without_its_group() {
        assert_eq!(user("1000:50"), (Some(1000), String::new()));
        assert_eq!(user("www-data:www"), (None, "www-data".to_owned()));
        assert_eq!(user(""), (None, String::new()));
        assert_eq!(user("4294967296"), (None, "4294967296".to_owned()));
    }
}
