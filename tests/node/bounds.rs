//! What containers use, and where they are held.

use std::path::Path;
use std::time::{Duration, Instant};

use cri_proto::cri;
use serde_json::{Value, json};

use crate::channels::call;
use crate::machine;
use crate::node::{Node, eventually};

const SLEEP: &str = "while :; do sleep 0.1; done";

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
fn the_page_sizes_of_which_a_kubelet_speaks_keep_no_container_from_running() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let pages = |size: &str, limit: u64| json!({"page_size": size, "limit": limit});
    let limits = [pages("2MB", 4 << 20), pages("1GB", 0), pages("3MB", 0)];
    let limits = json!({"linux": {"resources": {"hugepage_limits": limits}}});
    let id = node.run(&pod, SLEEP, &limits);
    node.crictl(&["exec", "-s", &id, "true"]);
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers");
    if std::fs::read_to_string(unified).is_ok_and(|all| all.contains("hugetlb")) {
        let pid = node.json(&["inspect", &id])["info"]["pid"].as_i64().expect("a pid");
        let place = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup");
        let place = place.trim().strip_prefix("0::").expect("one hierarchy");
        let limit = std::fs::read_to_string(format!("/sys/fs/cgroup{place}/hugetlb.2MB.max"));
        assert_eq!(limit.expect("a limit"), "4194304\n");
    }
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
fn a_container_that_is_killed_after_a_command_of_its_had_too_much_was_not_out_of_memory() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let limit = json!({"linux": {"resources": {"memory_limit_in_bytes": 33_554_432}}});
    let [stopped, torn_down] = [(); 2].map(|()| {
        let id = node.run(&pod, SLEEP, &limit);
        let killed = node.try_crictl(&["exec", "-s", &id, "tail", "/dev/zero"]);
        assert!(!killed.status.success());
        assert_eq!(node.status(&id)["state"], "CONTAINER_RUNNING");
        id
    });
    node.crictl(&["stop", "--timeout", "0", &stopped]);
    node.crictl(&["stopp", &pod.id]);
    for id in [stopped, torn_down] {
        assert_eq!(node.exit(&id), (137, "Error".to_owned()));
    }
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
fn a_change_of_one_limit_leaves_the_others_and_commands_get_it_too() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let limits =
        json!({"memory_limit_in_bytes": 67_108_864, "cpu_shares": 512, "oom_score_adj": 300});
    let id = node.run(&pod, SLEEP, &json!({"linux": {"resources": limits}}));
    let change = |linux: cri::LinuxContainerResources| {
        let container_id = id.clone();
        let linux = Some(linux);
        let request =
            cri::UpdateContainerResourcesRequest { container_id, linux, ..Default::default() };
        call(&node, async |mut runtime| runtime.update_container_resources(request).await)
            .map(drop)
            .map_err(|error| error.code())
    };
    // As a kubelet that pins containers does it again and again.
    let pin = cri::LinuxContainerResources { cpuset_cpus: "0".to_owned(), ..Default::default() };
    change(pin).expect("a change");
    let score = cri::LinuxContainerResources { oom_score_adj: 700, ..Default::default() };
    change(score).expect("a change");
    let less = cri::LinuxContainerResources {
        memory_limit_in_bytes: 2 << 20,
        memory_swap_limit_in_bytes: 1 << 20,
        ..Default::default()
    };
    assert_eq!(change(less), Err(tonic::Code::InvalidArgument));
    let shown = node.status(&id)["resources"]["linux"].take();
    for (name, value) in [
        ("memoryLimitInBytes", "67108864"),
        ("cpuShares", "512"),
        ("oomScoreAdj", "700"),
        ("cpusetCpus", "0"),
    ] {
        assert_eq!(shown[name], value, "{shown}");
    }
    let scores = node.crictl(&[
        "exec",
        "-s",
        &id,
        "cat",
        "/proc/1/oom_score_adj",
        "/proc/self/oom_score_adj",
    ]);
    assert_eq!(scores, "700\n700");
    let scores = node.crictl(&["exec", &id, "cat", "/proc/self/oom_score_adj"]);
    assert_eq!(scores, "700");
    node.end_clean();
}

#[test]
fn limits_that_the_kernel_does_not_take_are_the_clients_fault() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    for resources in [json!({"cpuset_cpus": "4000"}), json!({"cpuset_mems": "4000"})] {
        let said = node.create_refused(&pod, &json!({"linux": {"resources": resources}}));
        assert!(said.contains("cpuset"), "{said}");
        // On v2, and with an outside runtime, it is another who writes them and words the refusal.
        assert!(unified || node.is_outside() || said.contains("InvalidArgument"), "{said}");
    }
    if !node.is_outside() {
        let little = json!({"linux": {"resources": {"memory_limit_in_bytes": 4096}}});
        let said = node.create_refused(&pod, &little);
        assert!(said.contains("memory_limit_in_bytes 4096"), "{said}");
    }
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
