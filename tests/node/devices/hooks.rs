//! Programs of vendors, run while a container is made, started and removed.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::devices;
use crate::node::{Node, eventually, text, write};
use crate::users::user_namespace;

const SLEEP: &str = "while :; do sleep 0.1; done";
/// Notes of a hook, named by its stage: the state that it was told, and the namespaces that it is in.
const OBSERVE: &str = r#"
stage=$1
cat > "$OUT/$stage.json"
for kind in mnt pid net ipc user; do readlink /proc/self/ns/$kind; done > "$OUT/$stage.ns"
cat /proc/self/cgroup > "$OUT/$stage.cgroups"
ls /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs > "$OUT/$stage.seen" 2> /dev/null
echo "$stage" >> "$OUT/order"
"#;
/// What vendors' hooks do: find the root by the state, and work in it.
const ADAPT: &str = r#"
set -e
bundle=$(grep -o '"bundle":"[^"]*"' | cut -d'"' -f4)
root=$(grep -o '"root":{"path":"[^"]*"' "$bundle/config.json" | cut -d'"' -f6)
test "$(pwd)" = "$root"
ln -s libfake.so.1 "$root/etc/libfake.so"
echo adapted > "$root/etc/adapted"
mkdir -p "$root/mnt/hook"
mount -t tmpfs hook "$root/mnt/hook"
echo mounted > "$root/mnt/hook/file"
grep -c . "$root/proc/version"
"#;

/// A node with a vendor whose devices have hooks, and what the hooks leave.
struct Vendor {
    node: Node,
    out: tempfile::TempDir,
}

impl Vendor {
    fn new() -> Self {
        let mut node = Node::with_busybox();
        let out = tempfile::tempdir().expect("a directory");
        // For the root of a user namespace.
        let order = out.path().join("order");
        write(&order, "");
        for (path, mode) in [(out.path(), 0o777), (&order, 0o666)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("its mode");
        }
        let cdi = node.path("cdi");
        fs::create_dir(&cdi).expect("a directory");
        node.configure(&format!("[runtime]\ncdi_spec_dirs = [{cdi:?}]\n"));
        let vendor = Self { node, out };
        vendor.script("observe", OBSERVE);
        vendor.script("adapt", ADAPT);
        vendor.script("fail", "echo beside; echo 'no such gpu' >&2; exit 3");
        vendor.script("hang", "sh -c 'sleep 1000; :' \"$OUT\" & wait");
        vendor.script("note", "echo \"$1\" >> \"$OUT/order\"");
        let mut devices = vec![
            device("adapted", &[vendor.hook("createContainer", "adapt")]),
            device("begun", &[vendor.hook("poststart", "note")]),
            device("gone", &[vendor.hook("poststop", "note")]),
            device("named", &[json!({"hookName": "createRuntime", "path": "/no/such/hook"})]),
        ];
        let on_the_node = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
        let mut all: Vec<Value> =
            on_the_node.iter().map(|stage| vendor.hook(stage, "observe")).collect();
        all.push(json!({"hookName": "startContainer", "path": "/bin/sh",
            "args": ["sh", "-c", "id -u > /tmp/who; cat > /tmp/state; echo $IN >> /tmp/state"],
            "env": ["IN=container"]}));
        devices.push(device("observed", &all));
        for stage in on_the_node {
            let poststop = vendor.hook("poststop", "note");
            devices.push(device(&format!("fail-{stage}"), &[vendor.hook(stage, "fail"), poststop]));
            devices.push(device(&format!("stay-{stage}"), &[vendor.hook(stage, "hang")]));
            let mut hang = vendor.hook(stage, "hang");
            hang["timeout"] = json!(1);
            devices.push(device(&format!("hang-{stage}"), &[hang]));
        }
        let inside = json!({"hookName": "startContainer", "path": "/bin/sh",
            "args": ["sh", "-c", "echo inside >&2; exit 4"]});
        devices.push(device("fail-startContainer", &[inside]));
        devices.push(json!({"name": "noded", "containerEdits": {
            "deviceNodes": [{"path": "/dev/fake/null", "hostPath": "/dev/null"}]}}));
        let file = json!({"cdiVersion": "0.6.0", "kind": "vendor.com/fake", "devices": devices});
        write(&vendor.node.path("cdi/vendor.json"), &file.to_string());
        vendor
    }

    fn script(&self, name: &str, script: &str) {
        let path = self.out.path().join(name);
        write(&path, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("its mode");
    }

    fn hook(&self, stage: &str, script: &str) -> Value {
        let out = format!("OUT={}", self.out.path().display());
        json!({"hookName": stage, "path": self.out.path().join(script), "args": [script, stage],
            "env": [out, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]})
    }

    fn wrote(&self, name: &str) -> String {
        fs::read_to_string(self.out.path().join(name)).unwrap_or_default()
    }

    fn state(&self, stage: &str) -> Value {
        serde_json::from_str(&self.wrote(&format!("{stage}.json"))).expect("a state")
    }

    /// In the order mnt, pid, net, ipc, user.
    fn namespaces(&self, stage: &str) -> Vec<String> {
        self.wrote(&format!("{stage}.ns")).lines().map(str::to_owned).collect()
    }

    /// Whether there is a process that was told where to leave its notes.
    fn is_at_work(&self) -> bool {
        let own = text(self.out.path());
        let mut all = fs::read_dir("/proc").expect("processes").flatten();
        all.any(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(own)
        })
    }

    fn pid(&self, id: &str) -> i64 {
        self.node.json(&["inspect", id])["info"]["pid"].as_i64().expect("a pid")
    }
}

fn device(name: &str, hooks: &[Value]) -> Value {
    json!({"name": name, "containerEdits": {"hooks": hooks}})
}

fn namespaces(pid: &str) -> Vec<String> {
    let link = |kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
    let all = ["mnt", "pid", "net", "ipc", "user"].map(link);
    all.iter().map(|link| text(link).to_owned()).collect()
}

/// Has made a link and a file in the image, and a mount.
fn is_adapted(node: &Node, id: &str) {
    let said = node.crictl(&["exec", "-s", id, "cat", "/etc/adapted", "/mnt/hook/file"]);
    assert_eq!(said, "adapted\nmounted");
    assert_eq!(node.crictl(&["exec", "-s", id, "readlink", "/etc/libfake.so"]), "libfake.so.1");
}

#[test]
fn a_hook_works_in_the_containers_root() {
    let vendor = Vendor::new();
    let node = &vendor.node;
    let pod = node.run_pod(&Value::Null);
    is_adapted(node, &node.run(&pod, SLEEP, &devices(&["adapted"])));
    let mut asked = devices(&["adapted"]);
    asked["linux"] = json!({"security_context": {"readonly_rootfs": true}});
    let id = node.run(&pod, SLEEP, &asked);
    is_adapted(node, &id);
    let touch = node.crictl(&["exec", "-s", &id, "sh", "-c", "touch /etc/x 2>&1 || true"]);
    assert!(touch.contains("Read-only file system"), "{touch}");
    vendor.node.end_clean();
}

#[test]
fn a_hook_works_in_the_root_of_a_container_with_a_user_namespace() {
    let vendor = Vendor::new();
    let node = &vendor.node;
    let pod = node.run_pod(&user_namespace(&Value::Null));
    let mut asked = user_namespace(&Value::Null);
    asked["CDI_devices"] = devices(&["adapted", "observed", "noded"])["CDI_devices"].take();
    let id = node.run(&pod, SLEEP, &asked);
    is_adapted(node, &id);
    assert_eq!(node.crictl(&["exec", "-s", &id, "stat", "-c", "%u", "/etc/adapted"]), "0");
    let script =
        "echo > /dev/fake/null && echo > /dev/null && stat -c '%u %t %T' /dev/null /dev/fake/null";
    let nodes = node.crictl(&["exec", "-s", &id, "sh", "-c", script]);
    // The one is the pod's own, the other the node's.
    assert_eq!(nodes, if node.is_outside() { "65534 1 3\n65534 1 3" } else { "0 1 3\n65534 1 3" });
    let own = namespaces(&vendor.pid(&id).to_string());
    assert_eq!(vendor.namespaces("createContainer"), own);
    assert_eq!(vendor.namespaces("createRuntime")[4], namespaces("self")[4]);
    vendor.node.end_clean();
}

#[test]
fn a_hook_is_run_once_when_a_container_is_gone_whoever_made_it() {
    let vendor = Vendor::new();
    let node = &vendor.node;
    let pod = node.run_pod(&Value::Null);
    let removed = node.run(&pod, "true", &devices(&["gone"]));
    node.exit(&removed);
    assert_eq!(vendor.wrote("order"), "");
    node.crictl(&["rm", &removed]);
    assert_eq!(vendor.wrote("order"), "poststop\n");
    // One that never ran, and goes with its pod.
    node.create(&pod, SLEEP, &devices(&["gone"]));
    node.crictl(&["rmp", "-f", &pod.id]);
    assert_eq!(vendor.wrote("order"), "poststop\npoststop\n");
    vendor.node.end_clean();
}

#[test]
fn a_program_that_ends_at_once_has_begun_for_its_hooks_too() {
    let vendor = Vendor::new();
    let node = &vendor.node;
    let pod = node.run_pod(&Value::Null);
    for turn in 1..=10 {
        let id = node.run(&pod, "exit 5", &devices(&["begun"]));
        assert_eq!(node.exit(&id), (5, "Error".to_owned()));
        assert_eq!(vendor.wrote("order"), "poststart\n".repeat(turn));
        node.crictl(&["rm", &id]);
    }
    vendor.node.end_clean();
}

#[test]
fn a_hook_at_work_ends_with_what_it_was_for_when_the_daemon_is_killed() {
    let mut vendor = Vendor::new();
    let pod = vendor.node.run_pod(&Value::Null);
    for stage in ["createRuntime", "createContainer"] {
        let asked = devices(&[&format!("stay-{stage}")]);
        let request = vendor.node.container_request(SLEEP, &asked);
        let mut create = vendor.node.client(&["create", &pod.id, text(&request), pod.request()]);
        create.stdout(Stdio::null()).stderr(Stdio::null());
        let mut create = create.spawn().expect("crictl runs");
        eventually("the hook is at work", || vendor.is_at_work());
        vendor.node.kill_daemon();
        create.wait().expect("crictl ends");
        vendor.node.serve();
        eventually("it is gone with its children", || !vendor.is_at_work());
        assert_eq!(vendor.node.crictl(&["ps", "-aq"]), "");
    }
    vendor.node.end_clean();
}

#[test]
fn hooks_leave_no_way_to_the_node() {
    let vendor = Vendor::new();
    let node = &vendor.node;
    let pod = node.run_pod(&Value::Null);
    let inside = |asked: &Value| {
        let id = node.run(&pod, SLEEP, asked);
        let see = "ls /proc/1/fd | wc -l; cut -d' ' -f5 /proc/self/mountinfo";
        let said = node.crictl(&["exec", "-s", &id, "sh", "-c", see]);
        said.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let plain = inside(&Value::Null);
    let mut hooked = inside(&devices(&["adapted", "observed"]));
    assert!(hooked.remove("/mnt/hook"), "{hooked:?}");
    assert_eq!(hooked, plain);
    vendor.node.end_clean();
}

#[test]
fn each_hook_is_told_the_state_in_its_turn_and_place() {
    let mut vendor = Vendor::new();
    if vendor.node.is_outside() {
        // An outside runtime has its own ways: runc runs poststart hooks when it creates.
        return vendor.node.end_clean();
    }
    let pod = vendor.node.run_pod(&Value::Null);
    let mut asked = devices(&["observed"]);
    asked["linux"] = json!({"security_context": {"run_as_user": {"value": 7}}});
    asked["linux"]["security_context"]["namespace_options"] = json!({"pid": 1});
    let id = vendor.node.create(&pod, SLEEP, &asked);
    assert_eq!(vendor.wrote("order"), "prestart\ncreateRuntime\ncreateContainer\n");
    vendor.node.crictl(&["start", &id]);
    assert_eq!(vendor.wrote("order"), "prestart\ncreateRuntime\ncreateContainer\npoststart\n");
    let (pid, host) = (vendor.pid(&id), namespaces("self"));
    let own = namespaces(&pid.to_string());
    assert_eq!(vendor.namespaces("createContainer"), own);
    // In a cgroup namespace, as on v2, it is the root of all.
    let joined = vendor.wrote("createContainer.cgroups");
    assert!(joined.contains(&id) || joined.trim() == "0::/", "{joined}");
    for stage in ["prestart", "createRuntime", "poststart"] {
        let joined = vendor.wrote(&format!("{stage}.cgroups"));
        assert!(!joined.contains(&id), "{stage}: {joined}");
        assert_ne!(vendor.wrote(&format!("{stage}.seen")), "", "{stage}");
        assert_eq!(vendor.namespaces(stage)[1..], host[1..], "{stage}");
        assert_eq!(vendor.state(stage)["pid"], pid, "{stage}");
    }
    assert_eq!(vendor.namespaces("poststart"), host);
    assert_eq!(vendor.state("createContainer")["pid"], 1);
    let inside = vendor.node.crictl(&["exec", "-s", &id, "cat", "/tmp/who", "/tmp/state"]);
    let (who, state) = inside.split_once('\n').expect("lines");
    let (state, env) = state.rsplit_once('}').expect("a state");
    assert_eq!((who, env), ("7", "container"));
    let started: Value = serde_json::from_str(&format!("{state}}}")).expect("a state");
    assert_eq!((&started["status"], &started["pid"]), (&json!("created"), &json!(1)));

    vendor.node.kill_daemon();
    vendor.node.serve();
    vendor.node.crictl(&["rm", "-f", &id]);
    assert!(vendor.wrote("order").ends_with("poststart\npoststop\n"), "{}", vendor.wrote("order"));
    assert_eq!(vendor.namespaces("poststop"), host);
    assert_eq!(vendor.state("poststop").get("pid"), None);
    let stages = [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ];
    for (stage, status) in stages {
        let state = vendor.state(stage);
        assert_eq!(state["ociVersion"], started["ociVersion"], "{stage}");
        assert_eq!((&state["id"], &state["status"]), (&json!(id), &json!(status)));
        assert_eq!(state["bundle"], started["bundle"]);
        assert!(Path::new(state["bundle"].as_str().expect("a path")).ends_with(&id));
        assert_eq!(state["annotations"]["io.kubernetes.cri.sandbox-id"], pod.id, "{stage}");
    }
    vendor.node.end_clean();
}

#[test]
fn a_hook_that_fails_is_named_with_its_words_and_nothing_is_left() {
    let vendor = Vendor::new();
    let node = &vendor.node;
    if node.is_outside() {
        // An outside runtime has its own words.
        return vendor.node.end_clean();
    }
    let pod = node.run_pod(&Value::Null);
    let failed = format!(
        "{}/fail ended with exit status: 3: beside; no such gpu",
        vendor.out.path().display()
    );
    for stage in ["prestart", "createRuntime", "createContainer"] {
        let said = node.create_refused(&pod, &devices(&[&format!("fail-{stage}")]));
        assert!(said.contains(&format!("{stage} hook {failed}")), "{said}");
        let hung =
            format!("{stage} hook {}/hang did not end within 1 s", vendor.out.path().display());
        let begun = Instant::now();
        let said = node.create_refused(&pod, &devices(&[&format!("hang-{stage}")]));
        assert!(said.contains(&hung), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(15));
        eventually("it is gone with its children", || !vendor.is_at_work());
    }
    let said = node.create_refused(&pod, &devices(&["named"]));
    assert!(
        said.contains("createRuntime hook /no/such/hook cannot be executed: No such file"),
        "{said}"
    );
    // What was begun is undone with its poststop hooks.
    assert_eq!(vendor.wrote("order"), "poststop\npoststop\npoststop\n");
    assert_eq!(node.crictl(&["ps", "-aq"]), "");

    for (device, why) in [
        ("fail-poststart", format!("poststart hook {failed}")),
        ("hang-poststart", "hang did not end within 1 s".to_owned()),
        (
            "fail-startContainer",
            "startContainer hook /bin/sh ended with exit status: 4: inside".to_owned(),
        ),
    ] {
        let id = node.create(&pod, SLEEP, &devices(&[device]));
        let said = node.refused(&["start", &id]);
        assert!(said.contains(&why), "{said}");
        assert_eq!(node.exit(&id), (128, "StartError".to_owned()), "{device}");
    }
    // One that is to clean up does not keep the container.
    let id = node.run(&pod, "true", &devices(&["fail-poststop", "hang-poststop"]));
    node.exit(&id);
    node.crictl(&["rm", &id]);
    let log = node.daemon_log();
    assert!(log.contains(&format!("poststop hook {failed}")), "{log}");
    assert!(log.contains("poststop hook"), "{log}");
    vendor.node.end_clean();
}
