//! Pods on the network of CNI plugins.

use std::path::Path;

use serde_json::{Value, json};

use crate::node::{BUSYBOX, Node, eventually, told, tool, write};
use crate::pods::{SERVE, get};
use crate::users::user_namespace;

const BRIDGE: &str = "fptest0";

#[test]
fn a_pod_on_a_bridge_of_the_plugins_has_its_address_and_its_host_port() {
    let mut node = Node::with_network(|dir| {
        let (config, plugins) = (dir.join("net.d"), told("CNI_BIN"));
        format!("mode = \"cni\"\n[network.cni]\nconfig_dir = {config:?}\nbin_dirs = [{plugins:?}]")
    });
    node.crictl(&["pull", BUSYBOX]);
    let ready = |node: &Node| {
        let conditions = node.json(&["info"])["status"]["conditions"].take();
        let conditions = conditions.as_array().expect("conditions").clone();
        conditions.iter().any(|found| found["type"] == "NetworkReady" && found["status"] == true)
    };
    assert!(!ready(&node), "ready without a configuration");
    configure(&node.path("net.d"), &node.path("leases"));
    eventually("the configuration is noticed", || ready(&node));
    // The bridge stays when its last pod goes.
    node.run_pod(&Value::Null);
    node.crictl(&["rmp", "--all", "--force"]);
    node.compare_with_now();

    let port = json!({"port_mappings": [{"container_port": 8080, "host_port": 18081}]});
    let pod = node.run_pod(&port);
    node.run(&pod, SERVE, &Value::Null);
    let address = node.json(&["inspectp", &pod.id])["status"]["network"]["ip"].take();
    let address = address.as_str().expect("an address");
    assert!(address.starts_with("10.77.0."), "{address}");
    let page = || get(&format!("{address}:8080"));
    eventually("the pod answers", || page().is_some_and(|page| page.ends_with("served\n")));
    let page = || get("10.99.255.1:18081");
    eventually("its host port answers", || page().is_some_and(|page| page.ends_with("served\n")));

    // A network namespace that belongs to a user namespace is as good to the plugins.
    let mapped = node.run_pod(&user_namespace(&Value::Null));
    node.run(&mapped, SERVE, &user_namespace(&Value::Null));
    let ip = node.json(&["inspectp", &mapped.id])["status"]["network"]["ip"].take();
    let page = || get(&format!("{}:8080", ip.as_str().expect("an address")));
    eventually("the mapped pod answers", || page().is_some_and(|page| page.ends_with("served\n")));

    node.kill_daemon();
    node.serve();
    assert_eq!(node.json(&["inspectp", &pod.id])["status"]["network"]["ip"], address);
    node.end_clean();
    tool("ip").args(["link", "delete", BRIDGE]).status().expect("ip runs");
}

fn configure(dir: &Path, leases: &Path) {
    let ranges = json!([[{"subnet": "10.77.0.0/24"}]]);
    let ipam = json!({"type": "host-local", "dataDir": leases, "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}]});
    let bridge = json!({"type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipam": ipam});
    let ports =
        json!({"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}});
    let list = json!({"cniVersion": "1.0.0", "name": "tests", "plugins": [bridge, ports]});
    std::fs::create_dir_all(dir).expect("a directory");
    write(&dir.join("10-tests.conflist"), &list.to_string());
}
