//! Pulls from a real registry.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::made::{Made, Packed, Tar, image, put};
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

/// An image of one file of this name and content.
pub(super) fn one(text: &str) -> Made {
    image(&[Tar::new().file(text, text.as_bytes()).layer(Packed::Gzip)], "")
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
    assert_eq!(found.tags, std::slice::from_ref(&name));
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

#[tokio::test(flavor = "multi_thread")]
async fn the_index_decides_the_digest_and_this_machine_the_image() {
    let server = Server::start().await;
    let layer = Tar::new().file("a", b"a").layer(Packed::Gzip);
    let mine = image(std::slice::from_ref(&layer), "MINE=1");
    let other = image(&[layer], "OTHER=1");
    let here = crate::manifest::host().0;
    let digest = server.push_index("m", "v", &[("s390x", &other), (here, &mine)]).await;
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    let id = images.pull(request(&server.name("m:v"))).await.unwrap();
    let found = images.find(&server.name("m:v")).unwrap();
    assert_eq!(found.config.env, ["MINE=1"]);
    assert_eq!(found.digests, [server.name(&format!("m@{digest}"))]);
    let by_digest = server.name(&format!("m@{digest}"));
    assert_eq!(images.pull(request(&by_digest)).await.unwrap(), id);
    assert_eq!(images.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tags_are_one_image_and_a_moved_tag_leaves_the_old_one() {
    let server = Server::start().await;
    let layer = Tar::new().file("a", b"a").layer(Packed::Gzip);
    let one = image(std::slice::from_ref(&layer), "V=1");
    server.push("t", "a", &one).await;
    server.push("u", "b", &one).await;
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    let (a, b) = (server.name("t:a"), server.name("u:b"));
    let first = images.pull(request(&a)).await.unwrap();
    assert_eq!(images.pull(request(&b)).await.unwrap(), first);
    assert_eq!(images.find(&a).unwrap().tags, [a.clone(), b.clone()]);
    server.push("t", "a", &image(&[layer], "V=2")).await;
    let second = images.pull(request(&a)).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(images.find(&a).unwrap().id, second);
    assert_eq!(images.find(first.as_str()).unwrap().tags, std::slice::from_ref(&b));
    images.recovered();
    images.remove(&b).await.unwrap();
    images.wait_swept();
    assert!(images.find(first.as_str()).is_none());
    assert_eq!(
        std::fs::read(lowers(&images, &a)[0].join("a")).unwrap(),
        b"a",
        "the shared layer stays"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_image_is_gone_for_all_but_its_container() {
    let server = Server::start().await;
    server.push("p", "1", &one("a")).await;
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    images.recovered();
    let name = server.name("p:1");
    let id = images.pull(request(&name)).await.unwrap();
    images.pin(&id, "container").unwrap();
    images.remove(&name).await.unwrap();
    images.wait_swept();
    assert!(images.find(id.as_str()).is_none() && images.list().is_empty());
    let lowers = images.rootfs(&id).unwrap();
    assert_eq!(std::fs::read(lowers.dir.join(&lowers.names[0]).join("a")).unwrap(), b"a");
    drop(images);
    // After a restart the layers wait for recovery to repeat its pins.
    let images = Images::open(options(&root)).unwrap();
    assert!(images.list().is_empty());
    images.pin(&id, "container").unwrap();
    images.recovered();
    images.rootfs(&id).unwrap();
    images.unpin("container");
    until("the layers are gone", || left(&root) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_is_set_aside() {
    let server = Server::start().await;
    server.push("q", "1", &one("a")).await;
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    let id = images.pull(request(&server.name("q:1"))).await.unwrap();
    drop(images);
    let dir = root.path().join("images");
    let record = dir.join("records").join(format!("{}.json", id.hex()));
    put(&record, b"{\"version\":");
    let images = Images::open(options(&root)).unwrap();
    images.wait_swept();
    assert!(images.list().is_empty());
    assert_eq!(std::fs::read_dir(dir.join("quarantine")).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(dir.join("layers")).unwrap().count(), 1, "its layers are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_or_is_not_there_says_so() {
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(options(&root)).unwrap();
    let error = images.pull(request("127.0.0.1:1/x:1")).await.unwrap_err();
    assert_eq!(error.kind(), names::Kind::RegistryUnavailable);
    let server = Server::start().await;
    let error = images.pull(request(&server.name("absent:1"))).await.unwrap_err();
    assert_eq!(error.kind(), names::Kind::NotFound);
    let error = images.pull(request("UPPER/../x")).await.unwrap_err();
    assert_eq!(error.kind(), names::Kind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_image_is_imported_with_all_its_files() {
    let server = Server::start().await;
    let long = format!("{}/{}", "d".repeat(60), "f".repeat(60));
    let layers = [
        Tar::new()
            .dir("d/")
            .file("d/a", b"1")
            .link("d/b", "d/a")
            .symlink("l", "/etc")
            .layer(Packed::Gzip),
        Tar::new()
            .file("d/.wh.a", b"")
            .file(".wh..wh..opq", b"")
            .pax(&[("path", long.as_bytes()), ("SCHILY.xattr.user.k", b"v\n1")])
            .file("x", b"long")
            .layer(Packed::Zstd),
    ];
    server.push("e", "1", &image(&layers, "E=1")).await;
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let images = Images::open(options(&root)).unwrap();
    let name = server.name("e:1");
    images.pull(request(&name)).await.unwrap();
    let archive = other.path().join("archive.tar");
    let file = std::fs::File::create(&archive).unwrap();
    images.export(vec![name.clone()], file).await.unwrap();
    let second = Images::open(options(&other)).unwrap();
    let imported = second.import(archive.clone()).await.unwrap();
    assert_eq!(imported[0].tags, std::slice::from_ref(&name));
    let lowers = lowers(&second, &name);
    assert_eq!(std::fs::read(lowers[0].join(&long)).unwrap(), b"long");
    assert_eq!(std::fs::read(lowers[1].join("d/b")).unwrap(), b"1");
    assert_eq!(std::fs::read_link(lowers[1].join("l")).unwrap(), PathBuf::from("/etc"));
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(lowers[0].join(&long), "user.k", &mut value).unwrap();
    assert_eq!(&value[..length], b"v\n1");
    let hidden = rustix::fs::lstat(lowers[0].join("d/a")).unwrap();
    assert_eq!((hidden.st_rdev, hidden.st_mode & 0o170_000), (0, 0o020_000), "still a whiteout");
    // The same as a layout in a directory, and through a compressed stream.
    let layout = tempfile::tempdir().unwrap();
    tar::Archive::new(std::fs::File::open(&archive).unwrap()).unpack(layout.path()).unwrap();
    std::fs::remove_file(layout.path().join("manifest.json")).unwrap();
    let again = second.import(layout.path().to_owned()).await.unwrap();
    assert_eq!(again[0].id, imported[0].id);
    let packed = zstd::encode_all(std::fs::File::open(&archive).unwrap(), 1).unwrap();
    let streamed = second.import_stream(std::io::Cursor::new(packed)).await.unwrap();
    assert_eq!(streamed, imported);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_in_the_watched_directory_are_loaded_once() {
    let (root, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start().await;
    server.push("w", "1", &one("a")).await;
    let name = server.name("w:1");
    {
        let source = tempfile::tempdir().unwrap();
        let images = Images::open(options(&source)).unwrap();
        images.pull(request(&name)).await.unwrap();
        let file = std::fs::File::create(dir.path().join("w.tar")).unwrap();
        images.export(vec![name.clone()], file).await.unwrap();
    }
    put(&dir.path().join("broken.tar"), b"no archive");
    let watched = Options { archives_dir: Some(dir.path().to_owned()), ..options(&root) };
    let images = Images::open(watched.clone()).unwrap();
    let loaded = images.load_archives().await;
    assert_eq!(loaded.len(), 2);
    assert!(loaded[0].1.is_err() && loaded[1].1.is_ok(), "{loaded:?}");
    assert!(images.find(&name).is_some());
    drop(images);
    let images = Images::open(watched).unwrap();
    assert_eq!(images.load_archives().await.len(), 1, "only the broken one is tried again");
}

/// Waits for a level, ten seconds at most.
pub(super) async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not reached");
}
