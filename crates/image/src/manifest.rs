//! The documents of a registry: indexes, manifests, configurations. What they say is never trusted, only checked.

use std::collections::BTreeMap;

use names::Kind;
use oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest, Os, Platform};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Digest;
use artifact::Artifact;

pub(crate) mod artifact;

/// No honest manifest or configuration is larger.
pub(crate) const MAX_DOCUMENT: usize = 8 << 20;
const MAX_LAYERS: usize = 512;

pub(crate) const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
pub(crate) const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// What a manifest URL answered with.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Box<ImageIndex>),
    Manifest(Manifest),
    Artifact(Artifact),
}

/// A manifest whose parts are known to be usable.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) config: Part,
    pub(crate) layers: Vec<Part>,
}

/// A blob that a manifest names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// What an image says about the processes made from it. Nothing in it is trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `NAME=value`.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// What is executed.
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or what is executed without an entrypoint.
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// A name or number, with a group after a colon.
    #[serde(deserialize_with = "nullable")]
    pub user: String,
    /// Where the process begins.
    #[serde(deserialize_with = "nullable")]
    pub working_dir: String,
    /// By name or number.
    #[serde(deserialize_with = "nullable")]
    pub stop_signal: String,
    /// The image's labels: never a container's.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Paths whose content the image wants kept apart.
    #[serde(deserialize_with = "keys")]
    pub volumes: Vec<String>,
}

/// The whole configuration document.
#[derive(Debug, Deserialize)]
pub(crate) struct ConfigDocument {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) config: ImageConfig,
    pub(crate) rootfs: RootFs,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) architecture: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) diff_ids: Vec<Digest>,
}

/// Why a document cannot be used.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// It is not the JSON that its type asks for.
    #[error("malformed {what}")]
    Json {
        /// Manifest, index or configuration.
        what: &'static str,
        /// What serde says.
        #[source]
        source: serde_json::Error,
    },
    /// It could be read as two things, or is none that we know.
    #[error("ambiguous or unknown manifest: {why}")]
    Shape {
        /// What is wrong.
        why: &'static str,
    },
    /// Its digest is of an unknown kind.
    #[error("unusable digest {digest:?}")]
    Digest {
        /// As written.
        digest: String,
    },
    /// A file of an artifact cannot be called so.
    #[error("the title {title:?} of a file {why}")]
    Title {
        /// As written.
        title: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The index has nothing for this machine.
    #[error("no image for linux/{architecture}; it has {offered}")]
    Platform {
        /// This machine's.
        architecture: &'static str,
        /// What the index has.
        offered: String,
    },
    /// Manifest and configuration disagree.
    #[error("{layers} layers, but {diff_ids} diff ids")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl DocumentError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Platform { .. } => Kind::NotFound,
            Self::Json { .. }
            | Self::Shape { .. }
            | Self::Digest { .. }
            | Self::Title { .. }
            | Self::Layers { .. } => Kind::Invalid,
        }
    }
}

/// Reads what came with this content type. A document that could pass for both kinds, or contradicts its own type, is
/// refused: two readers might see two images in it.
pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, DocumentError> {
    let json = |what| move |source| DocumentError::Json { what, source };
    let shape: Shape = serde_json::from_slice(bytes).map_err(json("manifest"))?;
    let refuse = |why| Err(DocumentError::Shape { why });
    let is_index = shape.manifests.is_some();
    let is_manifest = shape.layers.is_some() || shape.config.is_some();
    if shape.fs_layers.is_some() {
        return refuse("schema 1 is not supported");
    }
    if is_index == is_manifest {
        return refuse("it must have either layers or manifests");
    }
    let (types, others) =
        if is_index { (INDEX_TYPES, MANIFEST_TYPES) } else { (MANIFEST_TYPES, INDEX_TYPES) };
    if shape.media_type.as_deref().is_some_and(|t| !types.contains(&t)) {
        return refuse("its mediaType contradicts its content");
    }
    let content_type = content_type.map(|t| t.split(';').next().unwrap_or(t).trim());
    if content_type.is_some_and(|t| others.contains(&t)) {
        return refuse("its Content-Type contradicts its content");
    }
    if is_index {
        return serde_json::from_slice(bytes)
            .map(|index| Document::Index(Box::new(index)))
            .map_err(json("index"));
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(json("manifest"))?;
    if manifest.layers().len() > MAX_LAYERS {
        return refuse("too many layers");
    }
    if let Some(artifact) = artifact::of(&manifest)? {
        return Ok(Document::Artifact(artifact));
    }
    let config = part(manifest.config())?;
    let layers = manifest.layers().iter().map(part).collect::<Result<_, _>>()?;
    Ok(Document::Manifest(Manifest { config, layers }))
}

/// The manifest in an index that this machine runs best; of equals the first, as with the peers.
pub(crate) fn choose(index: &ImageIndex) -> Result<Part, DocumentError> {
    let fit = |d: &&Descriptor| d.platform().as_ref().map_or(1, score);
    if let Some(best) = index.manifests().iter().rev().filter(|d| fit(d) > 0).max_by_key(fit) {
        return part(best);
    }
    let offered = index.manifests().iter().filter_map(|d| d.platform().as_ref());
    let offered: Vec<_> =
        offered.take(20).map(|p| format!("{}/{}", p.os(), p.architecture())).collect();
    let (architecture, _) = host();
    Err(DocumentError::Platform { architecture, offered: offered.join(", ") })
}

pub(crate) fn parse_config(bytes: &[u8], layers: usize) -> Result<ConfigDocument, DocumentError> {
    let config: ConfigDocument = serde_json::from_slice(bytes)
        .map_err(|source| DocumentError::Json { what: "configuration", source })?;
    let diff_ids = config.rootfs.diff_ids.len();
    if diff_ids != layers {
        return Err(DocumentError::Layers { layers, diff_ids });
    }
    Ok(config)
}

pub(crate) fn part(descriptor: &Descriptor) -> Result<Part, DocumentError> {
    let text = descriptor.digest().to_string();
    match text.parse() {
        Ok(digest) => Ok(Part { digest, size: descriptor.size() }),
        Err(_) => Err(DocumentError::Digest { digest: text }),
    }
}

/// Go's name of this machine's architecture, and the variant that every such machine runs.
pub(crate) fn host() -> (&'static str, Option<&'static str>) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", Some("v1")),
        "aarch64" => ("arm64", Some("v8")),
        "arm" => ("arm", Some("v7")),
        "powerpc64" => ("ppc64le", None),
        other => (other, None),
    }
}

/// 0 is unusable; a platform with the host's own variant, or none, is best.
fn score(platform: &Platform) -> u32 {
    let (architecture, variant) = host();
    if *platform.os() != Os::Linux || *platform.architecture() != Arch::from(architecture) {
        return 0;
    }
    match (platform.variant().as_deref(), variant) {
        (None, _) => 3,
        (Some(theirs), Some(ours)) if theirs == ours => 4,
        // arm runs what older variants run; amd64 above v1 may not run here.
        (Some(theirs), Some(ours)) if architecture == "arm" && theirs < ours => 2,
        _ => 0,
    }
}

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn keys<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Keys {
        Set(BTreeMap<String, serde_json::Value>),
        List(Vec<String>),
    }
    Ok(match Option::<Keys>::deserialize(deserializer)? {
        Some(Keys::Set(set)) => set.into_keys().collect(),
        Some(Keys::List(list)) => list,
        None => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#""schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"layers":[]"#;

    #[test]
    fn a_document_that_could_be_two_things_is_refused() {
        let plain = format!("{{{MANIFEST}}}");
        assert!(matches!(parse(plain.as_bytes(), None), Ok(Document::Manifest(_))));
        let both = format!(r#"{{{MANIFEST},"manifests":[]}}"#);
        assert!(matches!(parse(both.as_bytes(), None), Err(DocumentError::Shape { .. })));
        let lying = format!(r#"{{{MANIFEST},"mediaType":"{}"}}"#, INDEX_TYPES[0]);
        assert!(matches!(parse(lying.as_bytes(), None), Err(DocumentError::Shape { .. })));
        parse(plain.as_bytes(), Some(INDEX_TYPES[1])).unwrap_err();
        parse(plain.as_bytes(), Some("application/json; charset=utf-8")).unwrap();
        assert!(matches!(parse(b"{}", None), Err(DocumentError::Shape { .. })));
    }

    #[test]
    fn a_configuration_may_hold_nulls() {
        let text = r#"{"architecture":"amd64","config":{"Env":null,"Cmd":["a"],"Volumes":{"/v":{}},"Labels":null},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = parse_config(text.as_bytes(), 0).unwrap().config;
        assert_eq!((config.cmd, config.volumes), (vec!["a".to_owned()], vec!["/v".to_owned()]));
        parse_config(text.as_bytes(), 1).unwrap_err();
    }

    #[test]
    fn the_index_entry_of_this_machine_is_chosen() {
        let one = |arch: &str, digit: &str| {
            format!(
                r#"{{"mediaType":"{}","size":1,"digest":"sha256:{}","platform":{{"os":"linux","architecture":"{arch}"}}}}"#,
                MANIFEST_TYPES[0],
                digit.repeat(64)
            )
        };
        let index = |entries: &str| {
            let text = format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
            match parse(text.as_bytes(), None).unwrap() {
                Document::Index(index) => choose(&index),
                Document::Manifest(_) | Document::Artifact(_) => panic!("an index"),
            }
        };
        let two = format!("{},{}", one("s390x", "1"), one(host().0, "2"));
        assert_eq!(index(&two).unwrap().digest.hex(), "2".repeat(64));
        assert!(index(&one("s390x", "1")).unwrap_err().to_string().contains("linux/s390x"));
    }
}
