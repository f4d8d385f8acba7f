//! Requests that cannot be met are refused with the name of what is wrong.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::node::{Node, text};

#[test]
fn a_pod_that_cannot_be_is_refused_by_the_name_of_the_field() {
    let node = Node::start();
    for (extra, named) in [
        (json!({"linux": {"sysctls": {"vm.swappiness": "1"}}}), "vm.swappiness"),
        (json!({"linux": {"sysctls": {"../../etc/passwd": "1"}}}), "linux.sysctls"),
        (json!({"linux": {"security_context": {"run_as_group": {"value": 1}}}}), "run_as_group"),
        (json!({"linux": {"cgroup_parent": "../.."}}), "cgroup_parent"),
        (json!({"port_mappings": [{"container_port": 80, "host_port": 99_999}]}), "host_port"),
    ] {
        let said = node.refused(&["runp", text(&node.pod_request(&extra))]);
        assert!(said.contains("InvalidArgument") && said.contains(named), "{said}");
    }
    let said = node.refused(&["runp", "--runtime", "other", text(&node.pod_request(&Value::Null))]);
    assert!(said.contains("runtime_handler") && said.contains("other"), "{said}");
    assert_eq!(node.crictl(&["pods", "-q"]), "");
    node.end_clean();
}

#[test]
fn a_container_that_cannot_be_is_refused_by_the_name_of_the_field() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let group = json!({"linux": {"security_context": {"run_as_group": {"value": 1}}}});
    let said = node.create_refused(&pod, &group);
    assert!(said.contains("InvalidArgument") && said.contains("run_as_group"), "{said}");
    let image = json!({"image": {"image": "registry.k8s.io/none:1"}});
    let said = node.create_refused(&pod, &image);
    assert!(said.contains("NotFound") && said.contains("registry.k8s.io/none:1"), "{said}");
    assert_eq!(node.crictl(&["ps", "-aq"]), "");
    node.end_clean();
}

#[test]
fn a_program_that_is_not_in_the_image_is_named_and_leaves_nothing() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    if node.is_outside() {
        // Outside runtimes look it up before they wait for the start.
        let said = node.create_refused(&pod, &json!({"command": ["/no/such/program"]}));
        assert!(said.contains("/no/such/program"), "{said}");
        return node.end_clean();
    }
    let id = node.create(&pod, "", &json!({"command": ["/no/such/program"]}));
    let said = node.refused(&["start", &id]);
    assert!(said.contains("/no/such/program"), "{said}");
    assert_eq!(node.exit(&id).1, "StartError");
    node.end_clean();
}

#[test]
fn a_second_daemon_on_the_same_root_ends_and_names_it() {
    let node = Node::start();
    let second = node.serving().stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let second = second.expect("the daemon starts");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success());
    assert!(said.contains(text(&node.path("state"))) || said.contains("/root"), "{said}");
    node.crictl(&["version"]);
}

#[test]
fn what_cannot_be_streamed_is_refused_before_there_is_a_url() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.create(&pod, "true", &Value::Null);
    for args in [&["exec", &id, "ls"][..], &["attach", &id]] {
        let said = node.refused(args);
        assert!(said.contains("FailedPrecondition") && said.contains(&id), "{said}");
    }
    let unknown = "0".repeat(64);
    for args in
        [&["exec", &unknown, "ls"][..], &["attach", &unknown], &["port-forward", &unknown, "80"]]
    {
        let said = node.refused(args);
        assert!(said.contains("NotFound"), "{said}");
    }
    node.crictl(&["stopp", &pod.id]);
    let said = node.refused(&["port-forward", &pod.id, "80"]);
    assert!(said.contains("FailedPrecondition"), "{said}");
    node.end_clean();
}

#[test]
fn what_does_not_exist_is_not_found_or_already_gone() {
    let node = Node::start();
    let id = "0".repeat(64);
    for args in [["inspect", &id], ["inspectp", &id], ["start", &id]] {
        let said = node.refused(&args);
        assert!(said.contains("NotFound") || said.contains("not found"), "{said}");
    }
}
