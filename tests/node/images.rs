//! Pulling and removing.

use serde_json::Value;

use crate::node::{BUSYBOX, Node};

const LATEST: &str = "gcr.io/k8s-staging-cri-tools/test-image-latest";

#[test]
fn an_image_is_pulled_by_tag_by_digest_and_without_a_tag() {
    let node = Node::start();
    node.crictl(&["pull", BUSYBOX]);
    node.crictl(&["pull", LATEST]);
    let latest = image(&node, &format!("{LATEST}:latest"));
    let digest = latest["repoDigests"][0].as_str().expect("a digest").to_owned();
    assert!(digest.starts_with(&format!("{LATEST}@sha256:")), "{digest}");
    assert_eq!(list(&node).len(), 2);

    node.crictl(&["rmi", LATEST]);
    assert_eq!(list(&node).len(), 1);
    node.crictl(&["pull", &digest]);
    let again = list(&node).into_iter().find(|image| image["id"] == latest["id"]);
    let again = again.expect("the image of the digest");
    assert_eq!(again["repoDigests"][0], digest.as_str());
    assert_eq!(again["repoTags"], serde_json::json!([]));
    node.end_clean();
}

#[test]
fn a_pull_of_what_is_there_gives_the_same_image() {
    let node = Node::with_busybox();
    let before = list(&node);
    node.crictl(&["pull", BUSYBOX]);
    assert_eq!(list(&node), before);
}

#[test]
fn an_image_that_the_registry_lacks_is_named() {
    let node = Node::start();
    let said = node.refused(&["pull", "registry.k8s.io/e2e-test-images/none:1"]);
    assert!(said.contains("e2e-test-images/none"), "{said}");
    assert!(list(&node).is_empty());
}

#[test]
fn all_images_can_be_removed_at_once() {
    let node = Node::with_busybox();
    node.crictl(&["pull", LATEST]);
    node.crictl(&["rmi", "--all"]);
    assert_eq!(list(&node), Vec::<Value>::new());
}

#[test]
fn the_file_system_of_images_grows_with_a_pull() {
    let node = Node::start();
    let empty = used(&node);
    node.crictl(&["pull", BUSYBOX]);
    let full = used(&node);
    assert!(full > empty + 500_000, "{empty} bytes before the pull, {full} after it");
}

fn used(node: &Node) -> u64 {
    let info = node.json(&["imagefsinfo"]);
    let used = info["status"]["imageFilesystems"][0]["usedBytes"]["value"].as_str();
    used.expect("bytes").parse().expect("a number")
}

fn list(node: &Node) -> Vec<Value> {
    node.json(&["images"])["images"].as_array().expect("images").clone()
}

fn image(node: &Node, tag: &str) -> Value {
    let has =
        |image: &Value| image["repoTags"].as_array().is_some_and(|tags| tags.contains(&tag.into()));
    list(node).into_iter().find(has).expect("an image of that tag")
}
