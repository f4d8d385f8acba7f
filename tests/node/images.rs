//! Pulling and removing.

use std::process::Stdio;

use serde_json::Value;

use crate::node::{BUSYBOX, GUARDED, Node, eventually, text, told, tool, write};

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

/// Of "user" and "secret", as htpasswd writes it.
const USERS: &str = "user:$2b$04$d7Gl37sn19buXRFQhkFLgONs7rne507GJW65/Z25dzuaA53UTl/RC\n";

#[test]
fn a_registry_that_asks_for_a_password_gets_the_kubelets_and_no_other() {
    let node = Node::start();
    let mut registry = guarded(&node);
    let image = format!("{GUARDED}/e2e-test-images/busybox:1.29-2");
    for args in [vec!["pull", &image], vec!["pull", "--creds", "user:wrong", &image]] {
        let said = node.refused(&args);
        assert!(said.contains(&image) && said.contains("401"), "{said}");
    }
    assert!(list(&node).is_empty());
    node.crictl(&["pull", "--creds", "user:secret", &image]);
    assert_eq!(list(&node).len(), 1);
    let kept = tool("grep").args(["-rl", "secret", text(&node.path("state"))]).output();
    assert_eq!(kept.expect("grep runs").stdout, b"", "the password was kept");
    registry.kill().expect("a signal");
    registry.wait().expect("its end");
    node.end_clean();
}

fn guarded(node: &Node) -> std::process::Child {
    write(&node.path("users"), USERS);
    let config = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage:\n  filesystem: {{rootdirectory: {:?}}}\n  maintenance:\n    \
         uploadpurging: {{enabled: false}}\n    readonly: {{enabled: true}}\n\
         auth:\n  htpasswd: {{realm: tests, path: {:?}}}\nhttp: {{addr: {GUARDED:?}}}\n",
        told("IMAGE_STORAGE"),
        node.path("users"),
    );
    write(&node.path("registry.yml"), &config);
    let mut command = tool(&told("REGISTRY"));
    command.arg("serve").arg(node.path("registry.yml")).stderr(Stdio::null());
    let registry = command.spawn().expect("it starts");
    eventually("the registry listens", || std::net::TcpStream::connect(GUARDED).is_ok());
    registry
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
