//! Pulls from a real registry.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::made::{Packed, Tar, image};
use super::server::Server;
use crate::{Images, Options, PullRequest};

pub(super) fn options(root: &TempDir) -> Options {
    Options {
        root: root.path().to_owned(),
        hosts_dir: Vec::new(),
        registries_conf: None,
        backoff: Duration::from_millis(5),
        attempts: 3,
        ..Options::default()
    }
}

pub(super) fn request(reference: &str) -> PullRequest {
    PullRequest { reference: reference.to_owned(), ..PullRequest::default() }
}

pub(super) fn lowers(images: &Images, name: &str) -> Vec<PathBuf> {
    let lowers = images.rootfs(&images.find(name).unwrap().id).unwrap();
    lowers.names.iter().map(|name| lowers.dir.join(name)).collect()
}

/// What is in `images/layers` and `images/tmp`.
pub(super) fn left(root: &TempDir) -> usize {
    let count = |part| std::fs::read_dir(root.path().join("images").join(part)).unwrap().count();
    count("layers") + count("tmp") + count("records")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_listed_found_and_removed() {
    let server = Server::start().await;
    let layers = [
        Tar::new().dir("etc/").file("etc/a", b"lower").layer(Packed::Gzip),
        Tar::new().dir("etc/").file("etc/a", b"upper").layer(Packed::Zstd),
        Tar::new().file("plain", b"p").layer(Packed::Plain),
    ];
    let digest = server.push("x/y", "1", &image(&layers, "A=1")).await;
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    let name = server.name("x/y:1");
    let id = images.pull(request(&name)).await.unwrap();
    let found = images.find(&name).unwrap();
    assert_eq!(found.id, id);
    assert_eq!(found.tags, [name.clone()]);
    assert_eq!(found.digests, [server.name(&format!("x/y@{digest}"))]);
    assert_eq!(found.config.env, ["A=1"]);
    assert!(found.size > 0);
    let lowers = lowers(&images, &name);
    assert_eq!(std::fs::read(lowers[0].join("plain")).unwrap(), b"p");
    assert_eq!(std::fs::read(lowers[1].join("etc/a")).unwrap(), b"upper");
    assert_eq!(std::fs::read(lowers[2].join("etc/a")).unwrap(), b"lower");
    assert!(images.usage().await.bytes > 0);
    drop(images);
    let images = Images::open(options(&root)).unwrap();
    assert_eq!(images.list().len(), 1, "it is there after a restart");
    images.recovered();
    images.remove(&found.digests[0]).await.unwrap();
    assert!(images.list().is_empty());
    images.remove(&name).await.unwrap();
    images.wait_swept();
    assert_eq!(left(&root), 0);
}
