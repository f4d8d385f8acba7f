//! AppArmor and SELinux, on a kernel that has them and on one that has not: each test knows both answers. What the default
//! seccomp profile refuses is in `hostile`.

use std::fs;

use serde_json::{Value, json};

use crate::node::{Node, eventually, text, write};

const SLEEP: &str = "while :; do sleep 0.1; done";
const CURRENT: &str = "cat /proc/self/attr/current 2>/dev/null || echo none";
const MINE: &str = "ferropod-test-of-a-named-profile";

fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text == "Y\n")
}

fn has_selinux() -> bool {
    fs::read_to_string("/sys/fs/selinux/enforce").is_ok()
}

fn secured(context: &Value) -> Value {
    let mut context = context.clone();
    context["namespace_options"] = json!({"pid": 1});
    json!({"linux": {"security_context": context}})
}

/// What a container that asks for this runs under, as its first process and as a command see it.
fn profiles(node: &Node, context: &Value) -> (String, String) {
    let pod = node.run_pod(&json!({"linux": {"security_context": {"privileged": true}}}));
    let id = node.run(&pod, &format!("{CURRENT}; {SLEEP}"), &secured(context));
    let exec = node.crictl(&["exec", "-s", &id, "sh", "-c", CURRENT]);
    eventually("it says what holds it", || !node.crictl(&["logs", &id]).is_empty());
    let first = node.crictl(&["logs", &id]);
    node.crictl(&["stop", "-t", "1", &id]);
    (first.trim_end_matches('\0').to_owned(), exec.trim_end_matches('\0').to_owned())
}

#[test]
fn a_named_profile_that_is_not_loaded_is_refused_by_its_name() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    for asked in [
        json!({"apparmor": {"profile_type": 2, "localhost_ref": MINE}}),
        json!({"apparmor_profile": format!("localhost/{MINE}")}),
    ] {
        let said = node.create_refused(&pod, &secured(&asked));
        assert!(said.contains("security_context.apparmor") && said.contains(MINE), "{said}");
        let why = if has_apparmor() { "is not loaded" } else { "this kernel has no AppArmor" };
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(node.crictl(&["ps", "-aq"]), "");
    node.end_clean();
}

#[test]
fn the_default_profile_holds_all_but_those_who_are_to_have_none() {
    if has_selinux() {
        // Then every pod has another label, and no AppArmor.
        return;
    }
    let node = Node::with_busybox();
    let default = profiles(&node, &json!({"apparmor": {"profile_type": 0}}));
    let unset = profiles(&node, &json!({}));
    let unconfined = profiles(&node, &json!({"apparmor": {"profile_type": 1}}));
    let privileged = profiles(&node, &json!({"privileged": true, "apparmor": {"profile_type": 0}}));
    let both = |text: &str| (text.to_owned(), text.to_owned());
    if has_apparmor() {
        assert_eq!(default, both("ferropod-default (enforce)"));
        assert_eq!(unset, default);
        assert_eq!(unconfined, both("unconfined"));
    } else {
        // It asks for what has no effect, and gets no less than others.
        assert_eq!((&default, &unset), (&unconfined, &unconfined));
    }
    assert_eq!(privileged, unconfined);
    node.end_clean();
}

#[test]
fn selinux_options_label_where_there_is_selinux_and_else_nothing() {
    let node = Node::with_busybox();
    let level = json!({"selinux_options": {"level": "s0:c7,c9"}});
    let pod = node.run_pod(&json!({"linux": {"security_context": level}}));
    let volume = node.path("volume");
    fs::create_dir(&volume).expect("a directory");
    write(&volume.join("file"), "");
    let mut request = secured(&level);
    let mount =
        json!({"container_path": "/v", "host_path": text(&volume), "selinux_relabel": true});
    request["mounts"] = json!([mount]);
    let id = node.run(&pod, SLEEP, &request);
    let current = node.crictl(&["exec", "-s", &id, "sh", "-c", CURRENT]);
    assert_eq!(current.contains(":s0:c7,c9"), has_selinux(), "{current}");
    assert_eq!(node.status(&id)["mounts"][0]["selinuxRelabel"], true);
    if has_selinux() {
        let unknown = json!({"selinux_options": {"type": "nobody_knows_t"}});
        let said = node.create_refused(&pod, &secured(&unknown));
        assert!(said.contains("InvalidArgument") && said.contains(":nobody_knows_t:"), "{said}");
    }
    let wrong = json!({"selinux_options": {"type": "a:b"}});
    let said = node.create_refused(&pod, &secured(&wrong));
    assert!(said.contains("InvalidArgument"), "{said}");
    assert!(said.contains("security_context.selinux_options.type"), "{said}");
    node.end_clean();
}
