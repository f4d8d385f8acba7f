//! Artifacts, files without a root filesystem, as volumes.

use super::*;
use crate::forge::{self, Registry};
use crate::node::GUARDED;

fn list(node: &Node) -> Vec<Value> {
    node.json(&["images"])["images"].as_array().expect("images").clone()
}

#[test]
fn a_pulled_artifact_is_a_volume_of_files_and_can_be_removed() {
    let node = Node::with_busybox();
    let registry = Registry::start(&node);
    let files: [(&str, &[u8]); 2] = [("model.bin", b"weights\n"), ("docs/read-me", b"words\n")];
    registry.push("models", "1", &forge::artifact(&files));
    let name = format!("{GUARDED}/models:1");
    node.crictl(&["pull", &name]);
    let listed = list(&node).into_iter().find(|image| image["repoTags"][0] == name.as_str());
    let listed = listed.expect("it is listed");
    assert_eq!(
        listed["repoDigests"][0],
        format!("{GUARDED}/models@{}", listed["id"].as_str().expect("an id"))
    );
    assert!(listed["size"].as_str().expect("a size").parse::<u64>().expect("a number") > 14);
    assert_eq!(node.json(&["inspecti", &name])["status"]["id"], listed["id"]);

    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, SLEEP, &image(&name, &Value::Null));
    let script = "cat /v/model.bin /v/docs/read-me; touch /v/new 2>/dev/null || echo no";
    assert_eq!(says(&node, &id, script), "weights\nwords\nno");
    assert!(has(&options(&node, &id, AT), &["ro", "nosuid", "nodev"]));
    let sub = node.run(&pod, SLEEP, &image(&name, &json!({"image_sub_path": "docs"})));
    assert_eq!(says(&node, &sub, "ls /v"), "read-me");
    let user = user_namespace(&Value::Null);
    let mut asked = image(&name, &Value::Null);
    asked["linux"] = user["linux"].clone();
    let mapped = node.run(&node.run_pod(&user), SLEEP, &asked);
    assert_eq!(says(&node, &mapped, "stat -c %u:%g:%a /v /v/docs/read-me"), "0:0:755\n0:0:644");

    let said = node.create_refused(&pod, &json!({"image": {"image": name}}));
    assert!(said.contains("InvalidArgument") && said.contains("is an artifact"), "{said}");
    node.crictl(&["rmi", &name]);
    assert_eq!(list(&node).len(), 1);
    assert_eq!(says(&node, &id, "cat /v/model.bin"), "weights", "it is in use");
    node.end_clean();
}

#[test]
fn an_artifact_whose_files_would_lie_elsewhere_is_not_pulled() {
    let node = Node::start();
    let registry = Registry::start(&node);
    for (tag, title) in [("up", "../../escaped"), ("root", "/escaped"), ("twice", "a")] {
        let files: [(&str, &[u8]); 2] = [("a", b"one\n"), (title, b"two\n")];
        registry.push("wicked", tag, &forge::artifact(&files));
        let said = node.refused(&["pull", &format!("{GUARDED}/wicked:{tag}")]);
        assert!(said.contains("the title") && said.contains(title), "{said}");
    }
    assert_eq!(list(&node), Vec::<Value>::new());
    let layers = std::fs::read_dir(node.root().join("images/layers")).expect("the layers");
    assert_eq!(layers.count(), 0);
    node.end_clean();
}
