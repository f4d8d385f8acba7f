//! Requests of a client that passes on what strangers wrote: sysctls, annotations, names, log paths.

use std::process::Stdio;

use serde_json::{Value, json};

use super::canary::Canary;
use super::scene::{SLEEP, Scene};
use crate::machine;
use crate::node::{Node, text};

/// Guards: src/cri/parse/sandbox.rs: `sysctl_name`, `plain`.
#[test]
fn sysctls_reach_no_more_than_the_pods_own_namespaces() {
    let node = Node::with_busybox();
    let canary = Canary::planted(&node);
    let somaxconn = || std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("a number");
    let shmmax = || std::fs::read_to_string("/proc/sys/kernel/shmmax").expect("a number");
    let before = (somaxconn(), shmmax());
    for sysctls in [
        json!({"kernel.core_pattern": "|/bin/sh"}),
        json!({"kernel/core_pattern": "|/bin/sh"}),
        json!({"net.ipv4.ip_forward": "1+kernel.core_pattern=|/bin/sh #"}),
        json!({"net.core.somaxconn": "1\n2"}),
        json!({"net.core.somaxconn\nkernel.core_pattern": "1"}),
        json!({"net.core.somaxconn=1+kernel.core_pattern": "|/bin/sh"}),
        json!({"net.core../../kernel/core_pattern": "|/bin/sh"}),
        json!({"net/../kernel/core_pattern": "|/bin/sh"}),
        json!({"net./../kernel/core_pattern": "|/bin/sh"}),
        json!({"net..core_pattern": "1"}),
        json!({"/proc/sys/kernel/core_pattern": "1"}),
        json!({"fs.mqueue.../../kernel/core_pattern": "1"}),
        json!({"fs/mqueue/../../kernel/core_pattern": "1"}),
        json!({"kernel.shmmax/../core_pattern": "1"}),
        json!({"kernel.shmmax\u{0}": "1"}),
    ] {
        let said = node
            .refused(&["runp", text(&node.pod_request(&json!({"linux": {"sysctls": sysctls}})))]);
        assert!(said.contains("sysctl"), "{sysctls}: {said}");
        canary.sings();
    }
    for (namespace, sysctls) in [
        ("network", json!({"net.core.somaxconn": "77"})),
        ("ipc", json!({"kernel.shmmax": "77"})),
        ("ipc", json!({"fs.mqueue.msg_max": "11"})),
    ] {
        let context = json!({"namespace_options": {namespace: 2}});
        let linux = json!({"linux": {"sysctls": sysctls, "security_context": context}});
        let said = node.refused(&["runp", text(&node.pod_request(&linux))]);
        assert!(said.contains("would change the node"), "{said}");
    }
    assert_eq!((somaxconn(), shmmax()), before);
    assert_eq!(node.crictl(&["pods", "-q"]), "");
    canary.sings();
    node.end_clean();
}

/// Guard: spec/src/lib.rs: `annotations`.
#[test]
fn annotations_are_kept_as_they_are_and_obeyed_by_nobody() {
    let orders = |touched: &str| {
        json!({
            "org.systemd.property.ExecStop": format!("[('/bin/touch', ['touch', '{touched}'], false)]"),
            "io.kubernetes.cri-o.Devices": "/dev/kmsg:/dev/kmsg:rwm",
            "io.kubernetes.cri-o.Link": "/etc", "io.kubernetes.cri-o.UnifiedCgroup": "memory.max=max",
            "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel": "true", "io.kubernetes.cri-o.umask": "0",
            "io.kubernetes.cri-o.userns-mode": "auto", "io.kubernetes.cri-o.PodLinuxOverhead": "{}",
            "cpu-load-balancing.crio.io": "disable", "irq-load-balancing.crio.io": "disable",
            "io.kubernetes.cri.untrusted-workload": "true", "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": "0", "cdi.k8s.io/x": "vendor.com/device=all",
            "run.oci.handler": "krun", "run.oci.mount_context_type": "context", "run.oci.seccomp.receiver": touched,
            "run.oci.hooks.stderr": touched, "module.wasm.image/variant": "compat",
            "io.katacontainers.config.hypervisor.path": "/bin/sh", "io.containerd.runc.v2.group": "../../x",
        })
    };
    let scene = Scene::new();
    let wicked = orders(&format!("{}/touched", scene.canary.path()));
    let request = scene.node.pod_request(&json!({"annotations": wicked}));
    let pod = scene.node.crictl(&["runp", text(&request)]);
    let limit = json!({"resources": {"memory_limit_in_bytes": 33_554_432}, "security_context": {"namespace_options": {"pid": 1}}});
    let plain =
        scene.node.container_request(SLEEP, &json!({"annotations": wicked, "linux": limit}));
    let id = scene.node.crictl(&["create", &pod, text(&plain), text(&request)]);
    scene.node.crictl(&["start", &id]);
    assert_eq!(scene.node.status(&id)["annotations"], wicked);
    assert_eq!(scene.node.json(&["inspectp", &pod])["status"]["annotations"], wicked);
    assert_eq!(machine::memory_limit(&id), 32 << 20);
    let of_init = machine::processes(&id).next().expect("its process");
    let cgroups = std::fs::read_to_string(format!("/proc/{of_init}/cgroup")).expect("its cgroups");
    let memory = cgroups.lines().find(|line| line.contains("memory") || line.starts_with("0::"));
    assert!(memory.is_some_and(|line| line.contains(&scene.node.cgroup())), "{cgroups}");
    let bundle = scene.node.path(&format!("state/c/{id}/config.json"));
    let bundle: Value =
        serde_json::from_str(&std::fs::read_to_string(bundle).expect("it")).expect("JSON");
    let given = bundle["annotations"].as_object().expect("annotations");
    assert_eq!(given["io.kubernetes.cri.container-type"], "container");
    assert_eq!(given["io.kubernetes.cri.sandbox-id"], pod.as_str());
    assert!(given.keys().all(|key| key.starts_with("io.kubernetes.cri.")), "{given:?}");
    assert_eq!(scene.exec(&id, "ls /dev/kmsg 2>/dev/null; umask"), "0022");
    scene.node.crictl(&["stop", "--timeout", "0", &id]);
    scene.node.crictl(&["rmp", "--force", &pod]);
    scene.end();
}

/// Guards: src/cri/parse/container.rs: `log_path`, `plain`; shim/src/log/file.rs: `open` (never through a link).
#[test]
fn names_and_log_paths_do_not_climb_and_logs_follow_no_link() {
    let scene = Scene::new();
    for path in ["../canary/secret", "/etc/passwd", "a/../../canary/secret", "..", "a\nb", "a\u{0}"]
    {
        let said = scene.refused(&json!({"log_path": path}));
        assert!(said.contains("log_path"), "{said}");
    }
    for (field, part) in [("name", "../../x"), ("namespace", "../../x"), ("uid", "../../../x")] {
        let request = scene.node.pod_request(&json!({"metadata": {field: part}}));
        let ran = scene.node.try_crictl(&["runp", text(&request)]);
        if ran.status.success() {
            let id = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
            scene.node.crictl(&["rmp", "--force", &id]);
        }
        scene.canary.sings();
    }
    let logs = scene.node.path("logs-linked");
    let request = scene.node.pod_request(&json!({"log_directory": text(&logs)}));
    let pod = scene.node.crictl(&["runp", text(&request)]);
    std::fs::create_dir_all(&logs).expect("a directory");
    std::os::unix::fs::symlink(scene.canary.file(), logs.join("0.log")).expect("a link");
    let container = scene.node.container_request("echo written", &json!({"log_path": "0.log"}));
    let args = ["create", &pod, text(&container), text(&request)];
    let made = scene.node.try_crictl(&args);
    if made.status.success() {
        let id = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        if scene.node.try_crictl(&["start", &id]).status.success() {
            scene.node.exit(&id);
        }
    }
    scene.canary.sings();
    scene.node.crictl(&["rmp", "--force", &pod]);
    scene.end();
}

/// Guard: src/cri/parse/sandbox.rs: `hostname`, `one_word`.
#[test]
fn a_host_name_or_a_resolver_brings_no_line_of_its_own() {
    let node = Node::with_busybox();
    for extra in [
        json!({"hostname": "a\n127.0.0.1 registry.k8s.io"}),
        json!({"hostname": "../../x"}),
        json!({"dns_config": {"servers": ["1.1.1.1\nnameserver 6.6.6.6"]}}),
        json!({"dns_config": {"searches": ["a b"]}}),
        json!({"dns_config": {"options": ["x\r"]}}),
        json!({"linux": {"cgroup_parent": "/x/../../.."}}),
        json!({"linux": {"cgroup_parent": "/x\n0"}}),
        json!({"linux": {"security_context": {"seccomp": {"profile_type": 2, "localhost_ref": "../../etc/passwd"}}}}),
    ] {
        let said = node.refused(&["runp", text(&node.pod_request(&extra))]);
        assert!(said.contains("InvalidArgument"), "{extra}: {said}");
    }
    node.end_clean();
}

/// Guard: engine: a container's configuration is its own task's; nothing is shared by image.
#[test]
fn containers_of_one_image_made_at_once_have_their_own_environments() {
    let scene = Scene::new();
    let names: Vec<String> = (0..6).map(|number| format!("SECRET{number}")).collect();
    let one = |name: &String| {
        let env = json!({"envs": [{"key": name, "value": "x"}], "command": ["env"]});
        scene.node.container_request("", &env)
    };
    let requests: Vec<_> = names.iter().map(one).collect();
    let calls = requests.iter().map(|request| {
        let mut call = scene.node.client(&["create", scene.pod(), text(request), scene.request()]);
        call.stdout(Stdio::piped()).spawn().expect("crictl runs")
    });
    let calls: Vec<_> = calls.collect();
    let ids = calls.into_iter().map(|call| {
        let output = call.wait_with_output().expect("its end");
        String::from_utf8(output.stdout).expect("an id").trim().to_owned()
    });
    let made: Vec<_> = names.iter().zip(ids).collect();
    for (name, id) in made {
        scene.node.crictl(&["start", &id]);
        scene.node.exit(&id);
        let log = scene.node.crictl(&["logs", &id]);
        let secrets: Vec<_> = log.lines().filter(|line| line.contains("SECRET")).collect();
        assert_eq!(secrets, [format!("{name}=x")]);
    }
    scene.end();
}
