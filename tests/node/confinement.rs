//! AppArmor and SELinux, on a kernel that has them and on one that has not: each test knows both answers. What the default
//! seccomp profile refuses is in `hostile`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::node::{Node, eventually, text, tool, write};

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
fn a_seccomp_profile_that_is_none_is_named_with_what_is_wrong() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let file = node.path("profile.json");
    let argument = r#"{"index": 9, "value": 1, "op": "SCMP_CMP_EQ"}"#;
    let rule =
        format!(r#"{{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": [{argument}]}}"#);
    for (profile, wrong) in [
        ("{".to_owned(), "profile.json is no seccomp profile: EOF"),
        (r#"{"defaultAction": "SCMP_ACT_NONE"}"#.to_owned(), "SCMP_ACT_NONE"),
        (format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#), "seccomp"),
    ] {
        write(&file, &profile);
        let asked = json!({"seccomp": {"profile_type": 2, "localhost_ref": file}});
        let said = node.create_refused(&pod, &secured(&asked));
        assert!(node.is_outside() || said.contains("InvalidArgument"), "{said}");
        assert!(said.contains(wrong), "{said}");
    }
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
fn a_profile_holds_whoever_has_the_capability_for_what_it_denies() {
    if !has_apparmor() || has_selinux() {
        return;
    }
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let mounts = |apparmor: &Value| {
        let context = json!({"apparmor": apparmor, "seccomp": {"profile_type": 1},
            "capabilities": {"add_capabilities": ["SYS_ADMIN"]}});
        let id = node.run(&pod, SLEEP, &secured(&context));
        node.try_crictl(&["exec", "-s", &id, "mount", "-t", "tmpfs", "x", "/home"]).status.success()
    };
    assert!(mounts(&json!({"profile_type": 1})), "what is tested is denied by something else");
    assert!(!mounts(&json!({"profile_type": 0})), "the default profile denies no mount");
    node.end_clean();
}

/// A profile of the node's own, loaded until the test ends.
struct Loaded {
    file: PathBuf,
}

impl Loaded {
    fn new(node: &Node, rules: &str) -> Self {
        let file = node.path("profile");
        let flags = "attach_disconnected,mediate_deleted";
        write(&file, &format!("profile {MINE} flags=({flags}) {{\n{rules}\n}}\n"));
        parse(&file, "--replace");
        Self { file }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        parse(&self.file, "--remove");
    }
}

fn parse(file: &Path, what: &str) {
    let status = tool("apparmor_parser").args(["--skip-cache", what]).arg(file).status();
    assert!(status.expect("apparmor_parser runs").success(), "{what}");
}

#[test]
fn a_profile_of_the_nodes_own_holds_the_process_and_its_commands_also_later() {
    if !has_apparmor() || has_selinux() {
        return;
    }
    let mut node = Node::with_busybox();
    let loaded = Loaded::new(&node, "file, signal, network, capability, deny /tmp/denied w,");
    let held = format!("{MINE} (enforce)");
    let asked = json!({"apparmor": {"profile_type": 2, "localhost_ref": MINE}});
    assert_eq!(profiles(&node, &asked), (held.clone(), held.clone()));
    let pod = node.run_pod(&Value::Null);
    let old = json!({"apparmor_profile": format!("localhost/{MINE}")});
    let id = node.run(&pod, SLEEP, &secured(&old));
    node.kill_daemon();
    node.serve();
    let script = format!("touch /tmp/allowed; touch /tmp/denied 2>/dev/null; ls /tmp; {CURRENT}");
    let said = node.crictl(&["exec", "-s", &id, "sh", "-c", &script]);
    assert_eq!(said.trim_end_matches('\0'), format!("allowed\n{held}"));
    node.crictl(&["rmp", "--all", "--force"]);
    drop(loaded);
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
