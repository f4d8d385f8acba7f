//! Devices of vendors, by CDI files.

mod hooks;

use serde_json::{Value, json};

use crate::node::{Node, Pod, write};

const FILE: &str = r"
cdiVersion: 0.6.0
kind: vendor.com/fake
containerEdits:
  env: [FAKE_COMMON=1]
devices:
- name: found
  containerEdits:
    env: [FAKE_DEVICE=found]
    deviceNodes:
    - {path: /dev/fake/null, hostPath: /dev/null, permissions: r}
    mounts:
    - {hostPath: LIBRARY, containerPath: /usr/lib/fake, options: [ro]}
    additionalGids: [4242]
- name: described
  containerEdits:
    deviceNodes:
    - {path: /dev/fake/zero, type: c, major: 1, minor: 5, fileMode: 0o604, uid: 7}
- name: shut
  containerEdits:
    deviceNodes:
    - {path: /dev/fake/shut, hostPath: /dev/fuse, permissions: none}
    - {path: /dev/fake/pipe, type: p}
- name: networked
  containerEdits:
    netDevices:
    - {hostInterfaceName: eth7, name: fake0}
- name: impatient
  containerEdits:
    hooks:
    - {hookName: createContainer, path: /usr/bin/true, timeout: 0}
- name: missing
  containerEdits:
    mounts:
    - {hostPath: /no/such/library, containerPath: /usr/lib/fake}
";

fn with_vendor() -> (Node, Pod) {
    let mut node = Node::with_busybox();
    let (cdi, library) = (node.path("cdi"), node.path("library"));
    std::fs::create_dir(&cdi).expect("a directory");
    std::fs::create_dir(&library).expect("a directory");
    write(&library.join("libfake.so"), "fake\n");
    write(&cdi.join("vendor.yaml"), &FILE.replace("LIBRARY", &library.display().to_string()));
    node.configure(&format!("[runtime]\ncdi_spec_dirs = [{cdi:?}]\n"));
    let pod = node.run_pod(&Value::Null);
    (node, pod)
}

fn devices(names: &[&str]) -> Value {
    let names: Vec<Value> =
        names.iter().map(|name| json!({"name": format!("vendor.com/fake={name}")})).collect();
    json!({ "CDI_devices": names })
}

#[test]
fn a_container_gets_what_its_devices_files_say() {
    let (node, pod) = with_vendor();
    let script = "echo $FAKE_COMMON $FAKE_DEVICE; cat /usr/lib/fake/libfake.so; \
        touch /usr/lib/fake/x 2>&1 | grep -o 'Read-only file system'; id -G; \
        cat /dev/fake/null; head -c 3 /dev/fake/zero | wc -c; stat -c '%a %u %g' /dev/fake/zero; \
        echo > /dev/fake/null; while :; do sleep 0.1; done";
    let user = json!({"linux": {"security_context": {"run_as_user": {"value": 7}, "run_as_group": {"value": 8}}}});
    let mut asked = devices(&["found", "described"]);
    asked["linux"] = user["linux"].clone();
    let id = node.run(&pod, script, &asked);
    node.logs_show(&id, "604 7 8");
    let said = node.crictl(&["logs", &id]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, ["1 found", "fake", "Read-only file system", "8 4242", "3", "604 7 8"]);
    node.end_clean();
}

#[test]
fn a_node_that_nobody_may_use_and_one_that_is_no_device_are_there() {
    let (node, pod) = with_vendor();
    let script = "test -c /dev/fake/shut && test -p /dev/fake/pipe && echo there; \
        cat /dev/fake/shut 2>&1 | grep -o 'not permitted'; while :; do sleep 0.1; done";
    let id = node.run(&pod, script, &devices(&["shut"]));
    node.logs_show(&id, "not permitted");
    assert_eq!(node.crictl(&["logs", &id]), "there\nnot permitted");
    node.end_clean();
}

#[test]
fn a_device_belongs_to_the_containers_user_where_the_node_says_so() {
    let mut node = Node::with_busybox();
    let device =
        |at: &str| json!({"host_path": "/dev/null", "container_path": at, "permissions": "rw"});
    let user = json!({
        // The second is where a volume may be that is a block device.
        "devices": [device("/dev/mine"), device("/disks/mine")],
        "linux": {"security_context": {"run_as_user": {"value": 7}, "run_as_group": {"value": 8}}},
    });
    let script = "echo $(stat -c '%u %g' /dev/mine /disks/mine); while :; do sleep 0.1; done";
    let pod = node.run_pod(&Value::Null);
    node.logs_show(&node.run(&pod, script, &user), "0 0 0 0");
    node.configure("[runtime]\ndevice_ownership_from_security_context = true\n");
    node.logs_show(&node.run(&pod, script, &user), "7 8 7 8");
    node.end_clean();
}

#[test]
fn a_device_that_cannot_be_given_is_named() {
    let (node, pod) = with_vendor();
    for (name, why) in [
        ("absent", "no CDI file describes vendor.com/fake=absent"),
        ("networked", "netDevices of"),
        ("impatient", "hooks.timeout 0 is not above zero"),
        ("missing", "/no/such/library does not exist on the host"),
        ("bad/name", "not of the form vendor.com/class=name"),
    ] {
        let said = node.create_refused(&pod, &devices(&[name]));
        assert!(said.contains(why), "{said}");
    }
    write(&node.path("cdi/vendor.yaml"), "not: cdi\n");
    let said = node.create_refused(&pod, &devices(&["found"]));
    assert!(said.contains("vendor.yaml"), "{said}");
    node.end_clean();
}
