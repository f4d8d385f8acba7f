//! Pods of a runtime handler: an outside OCI runtime makes their containers, and all else is as it is. Most of these are the
//! tests of other modules with such pods; `FERROPOD_HANDLER=runc hack/blackbox` runs them all so.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::node::{Node, text, write};
use crate::{bounds, kills, machine, stops, streams, users};

const WAITS: &str = "while :; do sleep 0.1; done";
const SECCOMP: &str = "grep ^Seccomp: /proc/self/status";

#[test]
fn a_pod_of_a_handler_lives_as_any_other() {
    let node = Node::with_runc();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "echo one; sleep 0.1; echo two; exit 7", &Value::Null);
    assert_eq!(node.exit(&id), (7, "Error".to_owned()));
    node.logs_show(&id, "one");
    node.logs_show(&id, "two");
    let brief = node.run(&pod, "true", &Value::Null);
    assert_eq!(node.exit(&brief), (0, "Completed".to_owned()));
    let id = node.run(&pod, WAITS, &Value::Null);
    assert_eq!(node.crictl(&["exec", "-s", &id, "echo", "inside"]), "inside");
    let said = node.refused(&["exec", "-s", &id, "/no/such/program"]);
    assert!(said.contains("/no/such/program"), "{said}");
    assert_eq!(node.json(&["inspectp", &pod.id])["status"]["runtimeHandler"], "runc");
    node.end_clean();
}

#[test]
fn its_features_are_told_and_a_handler_that_is_not_configured_is_refused() {
    let node = Node::with_runc();
    let handlers = node.json(&["info"])["runtimeHandlers"].take();
    let of = |name: &str| {
        let mut all = handlers.as_array().expect("handlers").iter();
        let found = all.find(|handler| handler["name"].as_str().unwrap_or_default() == name);
        found.unwrap_or_else(|| panic!("no {name:?} in {handlers}"))["features"].clone()
    };
    assert_eq!(of("runc"), of(""));
    assert_eq!(of("runc")["recursive_read_only_mounts"], true);
    let request = node.pod_request(&Value::Null);
    let said = node.refused(&["runp", "--runtime", "other", text(&request)]);
    assert!(said.contains("InvalidArgument") && said.contains("runtime_handler"), "{said}");
    assert!(said.contains("other") && said.contains("runc"), "{said}");
    node.end_clean();
}

#[test]
fn its_processes_are_as_confined_as_others() {
    let node = Node::with_runc();
    let pod = node.run_pod(&Value::Null);
    let default = json!({"linux": {"security_context": {
        "seccomp": {"profile_type": 0}, "no_new_privs": true, "run_as_user": {"value": 1000},
        "supplemental_groups": [2000], "readonly_rootfs": true,
        "capabilities": {"drop_capabilities": ["ALL"]},
    }}});
    let script = format!(
        "{SECCOMP}; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; id -u; id -G; touch /x || echo no; {WAITS}"
    );
    let id = node.run(&pod, &script, &default);
    node.logs_show(&id, "no");
    let told = words(&node.crictl(&["logs", &id]));
    let wanted =
        "Seccomp: 2 CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1 1000 0 2000 no";
    assert_eq!(told, wanted);
    let status = format!("{SECCOMP}; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; id -G");
    let told = words(&node.crictl(&["exec", "-s", &id, "sh", "-c", &status]));
    assert_eq!(told, "Seccomp: 2 CapEff: 0000000000000000 NoNewPrivs: 1 0 2000");
    node.end_clean();
}

#[test]
fn a_privileged_container_has_the_nodes_devices_and_may_mount() {
    let node = Node::with_runc();
    let privileged = json!({"linux": {"security_context": {"privileged": true}}});
    let pod = node.run_pod(&privileged);
    let id = node.run(&pod, WAITS, &privileged);
    let script = "echo x > /dev/kmsg && mount -t tmpfs x /mnt 2>&1 && echo mounted; grep ^Seccomp: /proc/self/status";
    let script = format!("mkdir -p /mnt; {script}");
    let told = words(&node.crictl(&["exec", "-s", &id, "sh", "-c", &script]));
    assert_eq!(told, "mounted Seccomp: 0");
    node.end_clean();
}

#[test]
fn volumes_are_mounted_with_their_access_and_devices_come_in_under_other_names() {
    let node = Node::with_runc();
    let pod = node.run_pod(&Value::Null);
    let dir = node.path("volume");
    std::fs::create_dir(&dir).expect("a directory");
    write(&dir.join("file"), "content");
    let request = json!({
        "mounts": [
            {"container_path": "/rw", "host_path": dir},
            {"container_path": "/ro", "host_path": dir, "readonly": true},
            {"container_path": "/deep/er/file", "host_path": dir.join("file"), "readonly": true},
        ],
        "devices": [
            {"container_path": "/dev/mine", "host_path": "/dev/kmsg", "permissions": "w"},
            {"container_path": "/rw/disk", "host_path": "/dev/kmsg", "permissions": "w"},
        ],
    });
    let id = node.run(&pod, WAITS, &request);
    let script = "cat /deep/er/file; echo; touch /rw/made; touch /ro/no 2>/dev/null || echo kept;
        for at in /dev/mine /rw/disk; do \
        echo x > $at && echo written; (head -c 1 $at) 2>/dev/null || echo denied; done";
    let told = words(&node.crictl(&["exec", "-s", &id, "sh", "-c", script]));
    assert_eq!(told, "content kept written denied written denied");
    assert!(dir.join("made").exists());
    node.end_clean();
}

#[test]
fn a_user_namespace_holds_also_after_the_daemon_was_killed() {
    users::root_is_somebody_else(Node::with_runc());
}

#[test]
fn volumes_of_a_user_namespace_have_the_owners_of_the_disk() {
    users::volumes_have_the_owners_of_the_disk(Node::with_runc());
}

#[test]
fn a_device_of_a_user_namespace_is_the_one_that_was_asked_for() {
    let node = Node::with_runc();
    let mut request = users::user_namespace(&Value::Null);
    let pod = node.run_pod(&request);
    request["devices"] =
        json!([{"container_path": "/dev/null0", "host_path": "/dev/zero", "permissions": "rw"}]);
    let id = node.run(&pod, WAITS, &request);
    let told = node.crictl(&["exec", "-s", &id, "sh", "-c", "head -c 3 /dev/null0 | wc -c"]);
    assert_eq!(told, "3");
    node.end_clean();
}

#[test]
fn too_much_memory_is_told() {
    bounds::too_much_memory_is_told(Node::with_runc());
}

#[test]
fn a_changed_limit_holds() {
    bounds::a_changed_limit_holds(Node::with_runc());
}

#[test]
fn a_killed_daemon_finds_its_pod() {
    kills::a_killed_daemon_finds_its_pod(Node::with_runc());
}

#[test]
fn a_pod_dies_with_its_shim() {
    kills::a_pod_dies_with_its_shim(&Node::with_runc());
}

#[test]
fn a_terminal_is_passed_on() {
    streams::a_terminal_is_passed_on(Node::with_runc());
}

#[test]
fn a_container_may_have_a_terminal_of_its_own() {
    let node = Node::with_runc();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "test -t 0 && test -t 1 && echo terminal", &json!({"tty": true}));
    assert_eq!(node.exit(&id), (0, "Completed".to_owned()));
    node.logs_show(&id, "terminal");
    node.end_clean();
}

#[test]
fn a_runtime_that_gives_the_null_device_away_has_not_the_nodes() {
    // crun changes the owner of the standard streams; this one only notes which they are.
    let mut node = Node::with_runc();
    // Not on the way to the bundle, where runtimes see nothing of Ferropod's.
    let (program, streams) = (node.root().join("runtime"), node.root().join("streams"));
    let runtime = std::env::var("RUNC").expect("hack/blackbox sets it");
    let remark = format!("stat -L -c '%d:%i %t:%T %a' /dev/fd/0 >>{}", streams.display());
    write(&program, &format!("#!/bin/sh\n{remark}\nexec {runtime} \"$@\"\n"));
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("a mode");
    let config = node.path("config.toml");
    let other = read(&config).replace(&runtime, text(&program));
    write(&config, &other);
    node.configure("");
    let before = read(&streams);
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "cat; echo over", &Value::Null);
    assert_eq!(node.exit(&id), (0, "Completed".to_owned()));
    node.logs_show(&id, "over");
    let noted = read(&streams);
    let created = noted.strip_prefix(&before).and_then(|more| more.lines().next());
    let (place, kind) = created.and_then(|line| line.split_once(' ')).expect("a stream");
    let nodes = std::fs::metadata("/dev/null").expect("a null device");
    assert_ne!(place, format!("{}:{}", nodes.dev(), nodes.ino()));
    assert_eq!(kind, "1:3 666");
    node.end_clean();
}

#[test]
fn stubborn_containers_are_gone_after_their_grace() {
    stops::stubborn(Node::with_runc(), 1);
    stops::stubborn(Node::with_runc(), 0);
}

#[test]
fn a_program_that_is_not_in_the_image_is_named_and_leaves_nothing() {
    let node = Node::with_runc();
    let pod = node.run_pod(&Value::Null);
    let said = node.create_refused(&pod, &json!({"command": ["/no/such/program"]}));
    assert!(said.contains("/no/such/program") && said.contains("no such file"), "{said}");
    assert_eq!(node.crictl(&["ps", "-aq"]), "");
    // Found, but of no format that is known: told when it is to run.
    let script = "printf garbage > /shared/program; chmod +x /shared/program";
    let shared =
        json!({"mounts": [{"host_path": node.path("shared"), "container_path": "/shared"}]});
    let id = node.run(&pod, script, &shared);
    node.exit(&id);
    let mut request = shared.clone();
    request["command"] = json!(["/shared/program"]);
    let id = node.run(&pod, "", &request);
    assert_ne!(node.exit(&id).0, 0);
    node.end_clean();
}

#[test]
fn a_container_that_is_removed_before_its_start_is_gone() {
    let node = Node::with_runc();
    let pod = node.run_pod(&Value::Null);
    let id = node.create(&pod, "true", &Value::Null);
    assert!(machine::processes(&id).count() > 0);
    node.crictl(&["rm", "--force", &id]);
    assert_eq!(machine::processes(&id).count(), 0);
    node.end_clean();
}

#[test]
fn a_container_in_the_making_when_the_daemon_is_killed_is_whole_or_gone() {
    let mut node = Node::with_runc();
    for millis in [10, 25, 40, 55, 70, 90] {
        let pod = node.run_pod(&Value::Null);
        let mut client = node.creating(&pod, WAITS);
        // Where it hits is chance: all that may come of it is asserted.
        std::thread::sleep(Duration::from_millis(millis));
        node.kill_daemon();
        client.wait().expect("its end");
        node.serve();
        for id in node.crictl(&["ps", "-aq", "--no-trunc"]).lines() {
            assert_eq!(node.status(id)["state"], "CONTAINER_CREATED");
            node.crictl(&["start", id]);
            assert_eq!(node.crictl(&["exec", "-s", id, "echo", "whole"]), "whole");
        }
        node.crictl(&["rmp", "--all", "--force"]);
        node.left_nothing();
    }
}

#[test]
fn a_handler_that_cannot_be_keeps_the_daemon_from_starting_and_check_names_it() {
    let mut node = Node::start();
    node.kill_daemon();
    let config = std::fs::read_to_string(node.path("config.toml")).expect("the configuration");
    for (section, words) in [
        ("runtime_type = \"io.containerd.kata.v2\"", &["runtime.handlers.kata", "shim v2"][..]),
        ("path = \"/opt/kata/bin/containerd-shim-kata-v2\"", &["runtime.handlers.kata", "shim v2"]),
        ("path = \"runc\"", &["runtime.handlers.kata.path", "not an absolute path"]),
        ("path = \"/no/such/runc\"", &["runtime.handlers.kata", "/no/such/runc", "No such file"]),
        ("path = \"/bin/true\"", &["runtime.handlers.kata", "/bin/true", "features"]),
    ] {
        write(&node.path("config.toml"), &format!("{config}[runtime.handlers.kata]\n{section}\n"));
        for verb in ["serve", "check"] {
            let output = node.command(verb).output().expect("it runs");
            assert!(!output.status.success(), "{verb} with {section}");
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            let mut missing = words.iter().filter(|word| !said.contains(**word));
            assert_eq!(missing.next(), None, "{verb} with {section}: {said}");
        }
    }
    write(&node.path("config.toml"), &config);
    node.serve();
    node.end_clean();
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file")
}
