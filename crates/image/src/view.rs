//! What readers see: images as they were at the last change, without a lock.

use std::collections::HashMap;
use std::sync::Arc;

use names::ImageId;

use crate::manifest::{ConfigDocument, ImageConfig};
use crate::record::Record;
use crate::reference::Reference;

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration; an artifact's, of its manifest.
    pub id: ImageId,
    /// Full references with a tag.
    pub tags: Vec<String>,
    /// Full names with a digest.
    pub digests: Vec<String>,
    /// Bytes on disk of its layers, shared ones included.
    pub size: u64,
    /// What it says about its processes.
    pub config: ImageConfig,
    /// Go's name of its architecture.
    pub architecture: String,
    /// Not for the kubelet to collect.
    pub pinned: bool,
    /// It has files to be mounted, and no root filesystem to be run.
    pub is_artifact: bool,
}

#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) images: Vec<Arc<Image>>,
    names: HashMap<String, Arc<Image>>,
}

impl Image {
    pub(crate) fn new(record: &Record, pinned: &[String]) -> Self {
        let text = Some(&record.config).filter(|_| !record.artifact);
        let document = text.and_then(|text| serde_json::from_str::<ConfigDocument>(text).ok());
        let (config, architecture) =
            document.map(|d| (d.config, d.architecture)).unwrap_or_default();
        let names = || record.tags.iter().chain(&record.digests);
        let layers: u64 = record.layers.iter().map(|layer| layer.bytes).sum();
        Self {
            id: record.id.clone(),
            tags: record.tags.iter().cloned().collect(),
            digests: record.digests.iter().cloned().collect(),
            size: layers + record.config.len() as u64,
            config,
            architecture,
            pinned: pinned.iter().any(|glob| names().any(|name| matches(glob, name))),
            is_artifact: record.artifact,
        }
    }
}

impl View {
    pub(crate) fn new(mut images: Vec<Arc<Image>>) -> Self {
        images.sort_by(|a, b| (&a.tags, &a.id).cmp(&(&b.tags, &b.id)));
        let mut names = HashMap::new();
        for image in &images {
            for name in image.tags.iter().chain(&image.digests) {
                names.insert(name.clone(), Arc::clone(image));
            }
        }
        Self { images, names }
    }

    /// By reference, else by id, with or without its algorithm, whole or as far as it is unique.
    pub(crate) fn find(&self, text: &str) -> Option<Arc<Image>> {
        let full = text.parse::<Reference>().ok().map(|reference| reference.to_string());
        if let Some(found) = full.and_then(|full| self.names.get(&full)) {
            return Some(Arc::clone(found));
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut fits = self.images.iter().filter(|image| image.id.hex().starts_with(digits));
        let found = fits.next()?;
        fits.next().is_none().then(|| Arc::clone(found))
    }
}

/// A glob with `*` for any run of characters and `?` for one.
pub(crate) fn matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(c) if *c == '?' || Some(c) == text.get(t) => {
                g += 1;
                t += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                g = at + 1;
                t = from + 1;
            }
        }
    }
    glob.get(g..).is_none_or(|rest| rest.iter().all(|c| *c == '*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digit: &str, tags: &[&str]) -> Arc<Image> {
        Arc::new(Image {
            id: format!("sha256:{}{}", digit, "0".repeat(62)).parse().unwrap(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            digests: vec![format!("docker.io/library/x@sha256:{}", digit.repeat(32))],
            size: 1,
            config: ImageConfig::default(),
            architecture: String::new(),
            pinned: false,
            is_artifact: false,
        })
    }

    #[test]
    fn an_image_is_found_by_every_name_it_has() {
        let view = View::new(vec![image("ab", &["docker.io/library/x:latest"]), image("ac", &[])]);
        let is = |text: &str, digit: &str| {
            assert_eq!(view.find(text).unwrap().id.hex().get(..2), Some(digit), "{text}");
        };
        is("x", "ab");
        is("docker.io/library/x:latest", "ab");
        is(&format!("x:other@sha256:{}", "ac".repeat(32)), "ac");
        is(&format!("sha256:ac{}", "0".repeat(62)), "ac");
        is(&format!("ab{}", "0".repeat(62)), "ab");
        is("ab", "ab");
        assert!(view.find("a").is_none(), "two images begin so");
        assert!(view.find("").is_none());
        assert!(view.find("y").is_none());
    }

    #[test]
    fn a_glob_matches_whole_references() {
        assert!(matches("docker.io/library/*", "docker.io/library/x:1"));
        assert!(matches("*/pause:?.10", "registry.k8s.io/pause:3.10"));
        assert!(!matches("pause", "registry.k8s.io/pause:3.10"));
        assert!(!matches("a*b", "a1c"));
    }
}
