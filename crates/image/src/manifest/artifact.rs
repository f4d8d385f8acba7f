//! The manifest of an artifact: files that a registry keeps under an image's name, with no root filesystem in them.
//!
//! A file is called by the title its publisher gave it, which is a stranger's word: a plain relative path, and nothing else. One
//! without a title is called by its digest.

use std::collections::BTreeSet;

use oci_spec::image::{Descriptor, ImageManifest};

use super::{DocumentError, Part, part};
use crate::options::TarLimits;

const TITLE: &str = "org.opencontainers.image.title";
/// Stands where there is nothing: no file, no configuration.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const IMAGE_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const IMAGE_LAYERS: [&str; 2] =
    ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];
const MAX_TITLE: usize = 1024;
const MAX_NAME: usize = 255;

/// What a manifest says that is no image's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Artifact {
    pub(crate) files: Vec<Named>,
}

/// A blob, and the relative path of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) part: Part,
    pub(crate) name: String,
}

/// The artifact that a manifest describes, unless it is an image's. Published configurations of images have had strange types:
/// with layers of images and no type of an artifact it is one.
pub(crate) fn of(manifest: &ImageManifest) -> Result<Option<Artifact>, DocumentError> {
    let config = manifest.config().media_type().to_string();
    let is_layer = |d: &Descriptor| {
        IMAGE_LAYERS.iter().any(|start| d.media_type().to_string().starts_with(start))
    };
    let like_an_image = config != EMPTY
        && manifest.artifact_type().is_none()
        && manifest.layers().iter().all(is_layer);
    if IMAGE_CONFIGS.contains(&config.as_str()) || like_an_image {
        return Ok(None);
    }
    let files = manifest.layers().iter().filter(|d| d.media_type().to_string() != EMPTY);
    let files = files.map(named).collect::<Result<Vec<_>, _>>()?;
    apart(&files)?;
    Ok(Some(Artifact { files }))
}

fn named(descriptor: &Descriptor) -> Result<Named, DocumentError> {
    let part = part(descriptor)?;
    let title = descriptor.annotations().as_ref().and_then(|all| all.get(TITLE));
    let Some(title) = title.filter(|title| !title.is_empty()) else {
        return Ok(Named { part, name: format!("sha256-{}", part.digest.hex()) });
    };
    let wrong = |why| DocumentError::Title { title: title.chars().take(100).collect(), why };
    if title.len() > MAX_TITLE {
        return Err(wrong("is too long"));
    }
    if title.chars().any(char::is_control) {
        return Err(wrong("has control characters"));
    }
    for name in title.split('/') {
        match name {
            "" | "." | ".." => return Err(wrong("is not a plain relative path")),
            name if name.len() > MAX_NAME => return Err(wrong("has a part that is too long")),
            _ => {}
        }
    }
    Ok(Named { part, name: title.clone() })
}

/// No two files have one place, and none is where another needs a directory.
fn apart(files: &[Named]) -> Result<(), DocumentError> {
    let mut names = BTreeSet::new();
    let wrong = |name: &str, why| DocumentError::Title { title: name.to_owned(), why };
    for file in files {
        if !names.insert(file.name.as_str()) {
            return Err(wrong(&file.name, "is there twice"));
        }
    }
    let above = |name: &&str| parents(name).any(|parent| names.contains(parent));
    let inside = names.iter().find(|name| above(name));
    inside.map_or(Ok(()), |name| Err(wrong(name, "lies in a file")))
}

/// The directories above a file, outermost first.
pub(crate) fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').filter_map(|(end, _)| name.get(..end))
}

impl Artifact {
    pub(crate) fn size(&self) -> u64 {
        self.files.iter().fold(0, |all, file| all.saturating_add(file.part.size))
    }

    /// More than a layer may bring is refused before anything comes.
    pub(crate) fn check(&self, limits: &TarLimits) -> Result<(), DocumentError> {
        if self.size() > limits.bytes {
            return Err(DocumentError::Shape { why: "the artifact is larger than a layer may be" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn parsed(config: &str, artifact_type: &str, layers: &[(&str, Option<&str>)]) -> ImageManifest {
        let layers: Vec<_> = layers
            .iter()
            .enumerate()
            .map(|(at, (kind, title))| {
                serde_json::json!({
                    "mediaType": kind, "size": 3, "digest": Digest::of(&at.to_le_bytes()[..1]).to_string(),
                    "annotations": title.map(|title| serde_json::json!({ TITLE: title })),
                })
            })
            .collect();
        let mut manifest = serde_json::json!({
            "schemaVersion": 2, "layers": layers,
            "config": {"mediaType": config, "size": 2, "digest": Digest::of(b"{}").to_string()},
        });
        if !artifact_type.is_empty() {
            manifest["artifactType"] = artifact_type.into();
        }
        serde_json::from_value(manifest).unwrap()
    }

    #[test]
    fn what_is_an_image_is_no_artifact() {
        let tar = ("application/vnd.oci.image.layer.v1.tar", None);
        let file = ("application/x", None);
        let is = |config, kind, layers: &[_]| of(&parsed(config, kind, layers)).unwrap().is_some();
        assert!(!is(IMAGE_CONFIGS[0], "", &[tar]));
        assert!(!is(IMAGE_CONFIGS[1], "application/x", &[file]), "its configuration says so");
        assert!(!is("application/octet-stream", "", &[tar]), "old builders wrote that");
        assert!(is("application/octet-stream", "", &[tar, file]));
        assert!(is("application/octet-stream", "application/x", &[tar]));
        assert!(is(EMPTY, "application/x", &[tar]), "a usual type of any file");
    }

    #[test]
    fn files_are_called_by_their_titles_or_their_digests() {
        let file = |title| ("application/x", Some(title));
        let layers = [file("a"), file("dir/..b/c"), ("application/x", None), (EMPTY, None)];
        let files = of(&parsed(EMPTY, "application/x", &layers)).unwrap().unwrap().files;
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a", "dir/..b/c", &format!("sha256-{}", Digest::of(&[2]).hex())]);
    }

    #[test]
    fn a_title_that_is_not_a_plain_path_is_refused() {
        let long = "x".repeat(MAX_NAME + 1);
        let deep = "x/".repeat(MAX_TITLE);
        for title in
            ["/a", "../a", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\0", "a\n", &long, &deep]
        {
            let wrong = of(&parsed(EMPTY, "", &[("application/x", Some(title))])).unwrap_err();
            assert!(matches!(wrong, DocumentError::Title { .. }), "{title:?}: {wrong}");
        }
        for titles in [["a", "a"], ["a", "a/b"], ["a/b/c", "a/b"]] {
            let layers = titles.map(|title| ("application/x", Some(title)));
            of(&parsed(EMPTY, "", &layers)).unwrap_err();
        }
    }
}
