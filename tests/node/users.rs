//! Pods with a user namespace of their own (a kubelet's `hostUsers: false`).

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use serde_json::{Value, json};

use crate::machine;
use crate::node::{Node, Pod, eventually, text, write};
use crate::pods::{SERVE, get};
use crate::streams::{SPDY, forward, serves};

const FIRST: u32 = 655_360;
const COUNT: u32 = 65_536;
const SLEEP: &str = "while :; do sleep 0.1; done";

fn mapping() -> Value {
    json!([{"container_id": 0, "host_id": FIRST, "length": COUNT}])
}

/// What a pod and its containers ask for; `pid` is the container's mode of the PID namespace.
pub(crate) fn user_namespace(extra: &Value) -> Value {
    let ids = json!({"mode": 0, "uids": mapping(), "gids": mapping()});
    let mut options = json!({"pid": 1, "userns_options": ids});
    for (key, value) in extra.as_object().into_iter().flatten() {
        options[key] = value.clone();
    }
    json!({"linux": {"security_context": {"namespace_options": options}}})
}

fn run_pod(node: &Node) -> Pod {
    node.run_pod(&user_namespace(&Value::Null))
}

fn pid(node: &Node, container: &str) -> i64 {
    node.json(&["inspect", container])["info"]["pid"].as_i64().expect("a pid")
}

fn uid_on_the_node(pid: i64) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("Uid:")).expect("a line");
    line.split_whitespace().nth(1).expect("a number").to_owned()
}

/// The cgroup that counts a process's memory.
fn limited_by(pid: i64) -> String {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    let v1 = cgroups.lines().find(|line| line.split(':').nth(1) == Some("memory"));
    v1.or_else(|| cgroups.lines().next()).expect("a line").to_owned()
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn root_in_a_pod_is_somebody_else_on_the_node_also_after_the_daemon_was_killed() {
    root_is_somebody_else(Node::with_busybox());
}

pub(crate) fn root_is_somebody_else(mut node: Node) {
    let pod = run_pod(&node);
    let server = node.run(&pod, SERVE, &user_namespace(&Value::Null));
    let ip = node.json(&["inspectp", &pod.id])["status"]["network"]["ip"].clone();
    let ip = ip.as_str().expect("an address").to_owned();
    serves(&node, &server, "127.0.0.1:8080");
    {
        let _forward = forward(&node, SPDY, &pod.id, "18098:8080");
        let page = || get("127.0.0.1:18098").is_some_and(|page| page.ends_with("served\n"));
        eventually("a page by port-forward", page);
    }
    let lives = |node: &Node| {
        assert!(limited_by(pid(node, &server)).contains(&node.cgroup()), "it has left its pod");
        assert_eq!(uid_on_the_node(pid(node, &server)), FIRST.to_string());
        let map = node.crictl(&["exec", "-s", &server, "cat", "/proc/self/uid_map"]);
        assert_eq!(words(&map), format!("0 {FIRST} {COUNT}"));
        assert_eq!(node.crictl(&["exec", "-s", &server, "id", "-u"]), "0");
        assert_eq!(node.crictl(&["exec", &server, "id", "-u"]), "0");
        eventually("it serves", || {
            get(&format!("{ip}:8080")).is_some_and(|page| page.ends_with("served\n"))
        });
        let status = node.json(&["inspectp", &pod.id])["status"].take();
        let options = &status["linux"]["namespaces"]["options"]["usernsOptions"];
        assert_eq!(options["uids"][0]["hostId"], FIRST, "{status}");
        assert_eq!(options["gids"][0]["length"], COUNT, "{status}");
    };
    lives(&node);
    node.kill_daemon();
    node.serve();
    lives(&node);
    let later = node.run(&pod, SLEEP, &user_namespace(&Value::Null));
    assert_eq!(uid_on_the_node(pid(&node, &later)), FIRST.to_string());
    let files = "stat -c %u:%g /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm /etc/passwd";
    let owners = node.crictl(&["exec", "-s", &later, "sh", "-c", files]);
    assert_eq!(words(&owners), "0:0 0:0 0:0 0:0 0:0");
    let write = "echo 10.0.0.1 x >> /etc/hosts && echo x > /dev/shm/x && echo written";
    assert_eq!(node.crictl(&["exec", "-s", &later, "sh", "-c", write]), "written");
    node.end_clean();
}

#[test]
fn a_volume_with_the_pods_ids_has_the_owners_of_the_disk() {
    volumes_have_the_owners_of_the_disk(Node::with_busybox());
}

pub(crate) fn volumes_have_the_owners_of_the_disk(node: Node) {
    let pod = run_pod(&node);
    let (disk, memory) = (node.on_disk("volume"), node.path("volume"));
    owners_are_those_of(&node, &pod, &disk);
    if machine::tmpfs_takes_ids() {
        owners_are_those_of(&node, &pod, &memory);
    } else {
        fs::create_dir(&memory).expect("a directory");
        let said = node.create_refused(&pod, &with_volume(&memory, &mapping()));
        assert!(said.contains(text(&memory)) && said.contains("tmpfs"), "{said}");
    }
    let other = json!([{"container_id": 0, "host_id": 1, "length": COUNT}]);
    let said = node.create_refused(&pod, &with_volume(&disk, &other));
    assert!(said.contains("InvalidArgument") && said.contains("mounts[0].uidMappings"), "{said}");
    let said = node.create_refused(&pod, &with_volume(Path::new("/proc/sys"), &mapping()));
    assert!(said.contains("volume /proc/sys ") && said.contains("proc"), "{said}");
    node.end_clean();
}

fn with_volume(host: &Path, uids: &Value) -> Value {
    let mut request = user_namespace(&Value::Null);
    let mount = json!({
        "container_path": "/v", "host_path": host, "uidMappings": uids, "gidMappings": mapping()
    });
    request["mounts"] = json!([mount]);
    request
}

fn owners_are_those_of(node: &Node, pod: &Pod, dir: &Path) {
    fs::create_dir(dir).expect("a directory");
    write(&dir.join("web"), "");
    chown(dir.join("web"), Some(33), Some(33)).expect("an owner");
    write(&dir.join("far"), "");
    chown(dir.join("far"), Some(COUNT), Some(COUNT)).expect("an owner");
    let id = node.run(pod, SLEEP, &with_volume(dir, &mapping()));
    let script =
        "stat -c %u /v/web /v/far; touch /v/mine; (echo x > /v/far) 2>/dev/null || echo no";
    let said = node.crictl(&["exec", "-s", &id, "sh", "-c", script]);
    assert_eq!(words(&said), "33 65534 no");
    assert_eq!(fs::metadata(dir.join("mine")).expect("the file").uid(), 0);
    let mounts = node.status(&id)["mounts"].take();
    assert_eq!(mounts[0]["uidMappings"][0]["hostId"], FIRST, "{mounts}");
}

#[test]
fn a_shared_pid_namespace_and_the_nodes_network_go_with_it() {
    let node = Node::with_busybox();
    for extra in [json!({"pid": 0}), json!({"network": 2})] {
        let request = user_namespace(&extra);
        let pod = node.run_pod(&request);
        let id = node.run(&pod, SLEEP, &request);
        let said = node.crictl(&["exec", "-s", &id, "sh", "-c", "id -u; ls -d /sys/class/net"]);
        assert_eq!(words(&said), "0 /sys/class/net");
        assert_eq!(uid_on_the_node(pid(&node, &id)), FIRST.to_string());
    }
    node.end_clean();
}

#[test]
fn a_user_namespace_that_cannot_be_is_refused_by_the_name_of_the_field() {
    let node = Node::with_busybox();
    for extra in [
        json!({"pid": 2}),
        json!({"ipc": 2}),
        json!({"userns_options": {"mode": 1}}),
        json!({"userns_options": {"mode": 0, "uids": mapping()}}),
    ] {
        let request = node.pod_request(&user_namespace(&extra));
        let said = node.refused(&["runp", text(&request)]);
        assert!(said.contains("InvalidArgument") && said.contains("userns_options"), "{said}");
    }
    let pod = run_pod(&node);
    let said = node.create_refused(&pod, &Value::Null);
    assert!(said.contains("InvalidArgument") && said.contains("userns_options"), "{said}");
    let mut far = user_namespace(&Value::Null);
    far["linux"]["security_context"]["run_as_user"] = json!({"value": COUNT});
    let said = node.create_refused(&pod, &far);
    assert!(said.contains("InvalidArgument") && said.contains("user 65536"), "{said}");
    node.end_clean();
}
