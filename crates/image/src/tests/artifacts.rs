//! Files that a registry keeps.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::made::{Layer, Made, Packed, Tar, image, put};
use super::mock::{Mock, Reply};
use super::pulls::{left, lowers, options, request, until};
use super::server::Server;
use crate::digest::Digest;
use crate::manifest::MANIFEST_TYPES;
use crate::{ExportError, Images};

const TITLE: &str = "org.opencontainers.image.title";

/// Files under their titles, with the configuration that most artifacts have.
fn artifact(files: &[(&str, &[u8])]) -> Made {
    let described = |(title, body): &(&str, &[u8])| {
        json!({
            "mediaType": "application/x.model", "digest": Digest::of(body).to_string(),
            "size": body.len(), "annotations": {TITLE: title},
        })
    };
    let config = b"{}".to_vec();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPES[0], "artifactType": "application/x.model",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json", "size": config.len(),
            "digest": Digest::of(&config).to_string(),
        },
        "layers": files.iter().map(described).collect::<Vec<_>>(),
    });
    let blob = |(_, body): &(&str, &[u8])| Layer { blob: body.to_vec(), diff_id: Digest::of(body) };
    let manifest = serde_json::to_vec(&manifest).unwrap();
    Made { layers: files.iter().map(blob).collect(), config, manifest }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_pulled_into_files_and_removed_like_an_image() {
    let server = Server::start().await;
    let (one, two) = (
        artifact(&[("model.bin", b"weights"), ("docs/read/me", b"words"), ("same", b"words")]),
        artifact(&[("other", b"weights")]),
    );
    let digest = server.push("m", "1", &one).await;
    server.push("n", "1", &two).await;
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    let (name, other) = (server.name("m:1"), server.name("n:1"));
    let id = images.pull(request(&name)).await.unwrap();
    assert_ne!(
        images.pull(request(&other)).await.unwrap(),
        id,
        "their configurations are the same"
    );
    assert_eq!(images.pull(request(&name)).await.unwrap(), id);
    drop(images);
    let images = Images::open(options(&root)).unwrap();
    images.recovered();
    let found = images.find(&name).unwrap();
    assert_eq!(found.id.to_string(), digest.to_string());
    assert_eq!(found.digests, [server.name(&format!("m@{digest}"))]);
    assert!(found.is_artifact && found.size > 17, "{found:?}");
    let [dir] = lowers(&images, &name).try_into().unwrap();
    for (file, body) in [("model.bin", "weights"), ("docs/read/me", "words"), ("same", "words")] {
        assert_eq!(fs::read_to_string(dir.join(file)).unwrap(), body);
        let mode = fs::metadata(dir.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
    }
    let mode = fs::metadata(dir.join("docs/read")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    let exported = images.export(vec![name.clone()], Vec::new()).await.unwrap_err();
    assert!(matches!(exported, ExportError::Artifact(_)), "{exported}");
    images.remove(&name).await.unwrap();
    images.remove(&other).await.unwrap();
    images.wait_swept();
    assert_eq!(left(&root), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_brings_artifacts_and_images() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let layer = Tar::new().file("a", b"a").layer(Packed::Plain);
    let all = [artifact(&[("sub/model", b"weights")]), image(&[layer], "")];
    let mut manifests = Vec::new();
    for (made, name) in all.iter().zip(["example.org/model:1", "example.org/image:1"]) {
        let layers = made.layers.iter().map(|layer| &layer.blob);
        for blob in layers.chain([&made.config, &made.manifest]) {
            put(&blobs.join(Digest::of(blob).hex()), blob);
        }
        manifests.push(json!({
            "mediaType": MANIFEST_TYPES[0], "size": made.manifest.len(),
            "digest": Digest::of(&made.manifest).to_string(),
            "annotations": {"io.containerd.image.name": name},
        }));
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    put(&dir.path().join("index.json"), index.to_string().as_bytes());
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    images.import(dir.path().to_owned()).await.unwrap();
    images.import(dir.path().to_owned()).await.unwrap();
    assert_eq!(images.list().iter().filter(|image| image.is_artifact).count(), 1);
    assert_eq!(images.list().len(), 2);
    let [layer] = lowers(&images, "example.org/model:1").try_into().unwrap();
    assert_eq!(fs::read(layer.join("sub/model")).unwrap(), b"weights");
}

fn manifest(made: &Made) -> Reply {
    Reply::new(200, &made.manifest).with("content-type", MANIFEST_TYPES[0])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_is_given_up_leaves_nothing() {
    let good = artifact(&[("dir/a", b"first"), ("b", b"second")]);
    let mock = Mock::start(move |asked| {
        if asked.target.contains("/manifests/") {
            return manifest(&good);
        }
        let mut reply = Reply::new(200, b"first");
        reply.stall = Some(4);
        reply
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    let pull = tokio::spawn({
        let (images, name) = (images.clone(), mock.name("x:1"));
        async move { images.pull(request(&name)).await }
    });
    let tmp = root.path().join("images/tmp");
    let begun =
        || fs::read_dir(&tmp).unwrap().flatten().any(|dir| dir.path().join("dir/a").exists());
    until("a file is being written", begun).await;
    pull.abort();
    pull.await.unwrap_err();
    until("nothing is left", || left(&root) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_lies_is_refused_and_leaves_nothing() {
    let good = artifact(&[("a", b"first"), ("b", b"second")]);
    let (second, wicked) = (Digest::of(b"second").hex(), artifact(&[("../../b", b"second")]));
    let mock = Mock::start(move |asked| {
        let made = if asked.target.contains("/wicked/") { &wicked } else { &good };
        if asked.target.contains("/manifests/") {
            return manifest(made);
        }
        // As long as it should be, and another.
        let body: &[u8] = if asked.target.contains(&second) { b"SECOND" } else { b"first" };
        Reply::new(200, body)
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    for (name, why) in [("x:1", "have digest"), ("wicked:1", "is not a plain relative path")] {
        let error = images.pull(request(&mock.name(name))).await.unwrap_err();
        let chain = format!("{:?}", error.step());
        let source = std::error::Error::source(error.step()).unwrap().to_string();
        assert!(source.contains(why), "{chain}");
        assert_eq!(error.kind(), names::Kind::Invalid);
    }
    images.wait_swept();
    assert_eq!(left(&root), 0);
}
