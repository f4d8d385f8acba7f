//! What containers use, and where they are held.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::machine;
use crate::node::{Node, eventually};

#[test]
fn a_burners_processor_time_is_what_the_kernel_counts() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "while :; do :; done", &Value::Null);
    let low = machine::cpu_nanos(&id);
    let told = number(&stats(&node, &id)["cpu"]["usageCoreNanoSeconds"]);
    let high = machine::cpu_nanos(&id);
    assert!((low..=high).contains(&told), "{told} is not between {low} and {high}");

    let (begun, first) = (Instant::now(), machine::cpu_nanos(&id));
    stats(&node, &id);
    std::thread::sleep(Duration::from_secs(3));
    let rate = number(&stats(&node, &id)["cpu"]["usageNanoCores"]);
    let nanos = u128::from(machine::cpu_nanos(&id) - first);
    let kernel = u64::try_from(nanos * 1_000_000_000 / begun.elapsed().as_nanos()).unwrap();
    let error = rate.abs_diff(kernel);
    assert!(error < kernel * 15 / 100, "{rate} nano cores, the kernel counts {kernel}");
    node.end_clean();
}

#[test]
fn what_a_container_writes_is_in_its_writable_layer() {
    const MIB: u64 = 1 << 20;
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let script = "dd if=/dev/zero of=/big bs=1M count=20 2>/dev/null; echo written; while :; do sleep 0.1; done";
    let id = node.run(&pod, script, &Value::Null);
    node.logs_show(&id, "written");
    let used = || number(&stats(&node, &id)["writableLayer"]["usedBytes"]);
    eventually("20 MiB are used", || (20 * MIB..21 * MIB).contains(&used()));
    node.crictl(&["exec", "-s", &id, "rm", "/big"]);
    eventually("they are free again", || used() < MIB);
    node.end_clean();
}

#[test]
fn a_container_that_needs_too_much_memory_says_so() {
    too_much_memory_is_told(Node::with_busybox());
}

pub(crate) fn too_much_memory_is_told(node: Node) {
    let pod = node.run_pod(&Value::Null);
    let limit = json!({"linux": {"resources": {"memory_limit_in_bytes": 33_554_432}}});
    let id = node.run(&pod, "exec tail /dev/zero", &limit);
    assert_eq!(node.exit(&id), (137, "OOMKilled".to_owned()));
    node.end_clean();
}

#[test]
fn a_limit_that_is_changed_holds_and_shows() {
    a_changed_limit_holds(Node::with_busybox());
}

pub(crate) fn a_changed_limit_holds(node: Node) {
    let pod = node.run_pod(&Value::Null);
    let limit = json!({"linux": {"resources": {"memory_limit_in_bytes": 33_554_432}}});
    let id = node.run(&pod, "while :; do sleep 0.1; done", &limit);
    assert_eq!(machine::memory_limit(&id), 32 << 20);
    node.crictl(&["update", "--memory", "67108864", &id]);
    assert_eq!(machine::memory_limit(&id), 64 << 20);
    let shown = node.status(&id)["resources"]["linux"]["memoryLimitInBytes"].take();
    assert_eq!(shown, "67108864");
    node.end_clean();
}

#[test]
fn the_metrics_of_a_pod_name_its_containers() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "while :; do sleep 0.1; done", &Value::Null);
    let metrics = node.crictl(&["metricsp"]);
    assert!(metrics.contains(&pod.id) && metrics.contains(&id), "{metrics}");
    assert!(metrics.contains("container_cpu_usage_seconds_total"), "{metrics}");
    node.end_clean();
}

fn stats(node: &Node, id: &str) -> Value {
    node.json(&["stats", "--id", id])["stats"][0].take()
}

fn number(value: &Value) -> u64 {
    value["value"].as_str().and_then(|text| text.parse().ok()).expect("a number")
}
