//! Pods of a runtime handler: an outside OCI runtime makes their containers, and all else is as it is.

use serde_json::Value;

use crate::node::Node;

const WAITS: &str = "while :; do sleep 0.1; done";

#[test]
fn a_pod_of_a_handler_lives_as_any_other() {
    let node = Node::with_runc();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "echo one; sleep 0.1; echo two; exit 7", &Value::Null);
    assert_eq!(node.exit(&id), (7, "Error".to_owned()));
    node.logs_show(&id, "one");
    node.logs_show(&id, "two");
    let id = node.run(&pod, WAITS, &Value::Null);
    assert_eq!(node.crictl(&["exec", "-s", &id, "echo", "inside"]), "inside");
    assert_eq!(node.json(&["inspectp", &pod.id])["status"]["runtimeHandler"], "runc");
    node.end_clean();
}
