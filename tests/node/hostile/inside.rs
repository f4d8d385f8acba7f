//! What a container finds, and what it may do: descriptors, programs of the host, capabilities, /proc, cgroups, calls.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::scene::{SLEEP, Scene, as_a_kubelet, compiled, secured, with};
use crate::forge::{self, Layer};
use crate::machine;
use crate::node::{text, told, tool};

const PROGRAMS: [&str; 4] = ["ferropod", "ferropod-shim", "ferropod-launch", "ferropod-enter"];
/// The program of the host stays open as 3. While it runs a write is "busy", afterwards nothing but its mount protects it.
const ATTACK: &str = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        if (echo overwritten >/proc/self/fd/3) 2>/tmp-said; then echo OVERWRITTEN; exit; fi
        if ! grep -q 'busy' /tmp-said; then break; fi
        sleep 0.1
    done
    readlink /proc/self/fd/3; cat /tmp-said";

/// Guard: host/src/seal.rs: `in_tmpfs`, the mount is read-only.
#[test]
fn the_programs_of_the_host_that_run_inside_cannot_be_written() {
    let scene = Scene::new();
    let loader = ["-nostdlib", "-static-pie", "-fPIE", "-fno-stack-protector"];
    let loader = compiled(&scene.node, include_str!("loader.c"), &loader);
    let layer = Layer::new().dir("lib64").file("lib64/ld-linux-x86-64.so.2", 0o755, &loader);
    let layer = layer.file("attack", 0o644, ATTACK.as_bytes());
    let image = scene.image("loader", layer);
    let programs =
        PROGRAMS.map(|name| std::fs::read(format!("{}/{name}", told("FERROPOD_BIN"))).expect("it"));

    let id = scene.run(SLEEP, &image);
    let by_exec = scene.node.try_crictl(&["exec", "-s", &id, "/proc/self/exe"]).stdout;
    let by_exec = String::from_utf8_lossy(&by_exec).into_owned();
    let by_start = scene.output("", &with(image, &json!({"command": ["/proc/self/exe"]})));
    // Linked statically, as the scripts link it, it asks for no loader: then nothing of the attacker's has run, and whether it could
    // have been written is held by the next test, whose program is in the same mount.
    for said in [by_exec, by_start] {
        let kept = said.contains("/ferropod-launch") && said.contains("Read-only file system");
        assert!(kept || said.is_empty(), "{said}");
    }
    assert_eq!(scene.exec(&id, "echo launched"), "launched");
    let after =
        PROGRAMS.map(|name| std::fs::read(format!("{}/{name}", told("FERROPOD_BIN"))).expect("it"));
    assert!(programs == after, "a program of the host was changed");
    scene.end();
}

/// Guards: shim/src/raw/null.rs: `null`; for a container's main process also libcontainer, which opens the container's.
#[test]
fn the_null_device_of_the_node_cannot_be_closed_to_others() {
    let scene = Scene::new();
    let attack = "for n in 0 1 2; do chmod 600 /proc/self/fd/$n; done 2>/dev/null; stat -L -c %t:%T /proc/self/fd/0";
    let id = scene.run(SLEEP, &Value::Null);
    let said = [
        scene.output(attack, &Value::Null),
        scene.node.crictl(&["exec", "-s", &id, "sh", "-c", attack]),
        scene.node.crictl(&["exec", &id, "sh", "-c", attack]),
    ];
    let mode = || std::fs::metadata("/dev/null").expect("it").permissions().mode() & 0o777;
    let after = mode();
    // Whoever runs this goes on needing it.
    std::fs::set_permissions("/dev/null", PermissionsExt::from_mode(0o666)).expect("a mode");
    assert_eq!((said.each_ref().map(|said| said.trim()), after), (["1:3"; 3], 0o666));
    scene.end();
}

/// Guard: the same as for programs: the read-only mount. The init of a shared PID namespace is a program of the host that never ends.
#[test]
fn the_init_that_a_pod_shares_cannot_be_written_even_with_every_privilege() {
    let privileged = json!({"privileged": true, "namespace_options": {"pid": 0}});
    let privileged = json!({"linux": {"security_context": privileged}});
    let scene = Scene::with_pod(&privileged);
    let id = scene.run(SLEEP, &privileged);
    let said = scene.exec(&id, "readlink /proc/1/exe; (echo overwritten >/proc/1/exe) 2>&1; true");
    assert!(said.contains("/ferropod-shim"), "not the program of the host: {said}");
    assert!(said.contains("Read-only file system"), "{said}");
    scene.end();
}

/// Guard: launch/src/privileges.rs: `keep_capabilities`.
#[test]
fn no_capability_is_inheritable_neither_at_start_nor_in_a_command() {
    let scene = Scene::new();
    for user in [0, 1000] {
        let add = json!({"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"]});
        let context = json!({"run_as_user": {"value": user}, "capabilities": add});
        let id = scene.run(SLEEP, &secured(context));
        let sets = "sed -n 's/^\\(Cap[IA].*\\):.0*$/\\1 none/p; s/^CapBnd/&/p' /proc/$$/status";
        let of_init = scene.exec(&id, &sets.replace("$$", "1"));
        let of_command = scene.exec(&id, &sets.replace("$$", "self"));
        assert_eq!(of_init, of_command);
        assert!(of_init.contains("CapInh none") && of_init.contains("CapAmb none"), "{of_init}");
        let bounding = of_init.lines().find_map(|line| line.strip_prefix("CapBnd:\t"));
        let bounding = u64::from_str_radix(bounding.expect("a set"), 16).expect("a number");
        assert_eq!(bounding & 1, 0, "CHOWN is in the bounding set: {bounding:x}");
        assert_eq!(bounding >> 12 & 1, 1, "NET_ADMIN is not in the bounding set: {bounding:x}");
    }
    scene.end();
}

/// Guards: launch/src/raw.rs: `close_all_on_exec`; every descriptor is opened CLOEXEC.
#[test]
fn a_process_has_its_three_descriptors_and_no_other() {
    let scene = Scene::new();
    let id = scene.run(SLEEP, &Value::Null);
    let terminal = scene.run(SLEEP, &json!({"tty": true}));
    for id in [&id, &terminal] {
        assert_eq!(scene.exec(id, "ls /proc/1/fd | sort -n | tr '\\n' ' '"), "0 1 2");
        assert_eq!(scene.exec(id, "ls /proc/$$/fd; :"), "0\n1\n2");
    }
    scene.end();
}

/// Guards: spec/src/confine.rs: `readonly`, `masked`.
#[test]
fn the_kernels_switches_and_the_cgroups_cannot_be_written() {
    let scene = Scene::new();
    let id = scene.run(SLEEP, &as_a_kubelet());
    let write = "for file in $(find /sys/fs/cgroup -maxdepth 3 -name release_agent -o -maxdepth 3 -name cgroup.procs \\
                -o -maxdepth 3 -name devices.allow -o -maxdepth 3 -name memory.limit_in_bytes) \\
            /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/net/ipv4/ip_forward /proc/sysrq-trigger \\
            /sys/kernel/uevent_helper /sys/power/state /sys/fs/cgroup/made; do
            (echo \"|/bin/sh\" >$file) 2>/dev/null && echo $file was written
        done
        for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $dir/made 2>/dev/null && echo $dir/made was made; done
        mount -t cgroup -o memory none /bin 2>/dev/null && echo cgroups were mounted
        mount -o remount,rw /proc/sys 2>/dev/null && echo sys was remounted
        cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null
        ls /sys/firmware; ls /sys/devices/virtual/powercap 2>/dev/null
        echo done";
    assert_eq!(scene.exec(&id, write), "done");
    assert_eq!(scene.exec(&id, "ls /sys/fs/cgroup | head -n 1 | wc -l"), "1");
    scene.end();
}

/// Guard: spec/src/profile.rs; loaded by launch/src/privileges.rs: `keep_capabilities`, for commands too.
#[test]
fn the_default_profile_refuses_what_hosts_were_broken_with() {
    let scene = Scene::new();
    let probe = compiled(&scene.node, include_str!("probe.c"), &["-static"]);
    let image = scene.image("probe", Layer::new().file("probe", 0o755, &probe));
    let id = scene.run(SLEEP, &with(image.clone(), &as_a_kubelet()));
    let started = with(with(image, &as_a_kubelet()), &json!({"command": ["/probe"]}));
    let by_exec = scene.node.crictl(&["exec", "-s", &id, "/probe"]);
    assert_eq!(by_exec, scene.output("", &started));
    let refused = |line: &&str| {
        line.ends_with("Operation not permitted") || line.ends_with("not supported by protocol")
    };
    let (refused, other): (Vec<_>, Vec<_>) = by_exec.lines().partition(refused);
    assert_eq!(refused.len() + other.len(), 10, "{by_exec}");
    assert_eq!(other, ["AF_INET: granted", "unknown: Function not implemented"], "{by_exec}");
    assert_eq!(
        scene.exec(&id, "sed -n 's/^Seccomp:.//p' /proc/1/status /proc/self/status"),
        "2\n2"
    );
    scene.end();
}

/// Guard: launch/src/privileges.rs: `assume` takes a new one. Without it all have the host's.
#[test]
fn every_process_has_a_session_keyring_of_its_own() {
    let scene = Scene::new();
    let probe = compiled(&scene.node, include_str!("probe.c"), &["-static"]);
    let image = scene.image("keyring", Layer::new().file("probe", 0o755, &probe));
    let id = scene.run(SLEEP, &image);
    let host = tool(text(&scene.node.path("program"))).arg("keyring").output();
    let mut rings =
        BTreeSet::from([String::from_utf8(host.expect("it runs").stdout).expect("text")]);
    for _ in 0..2 {
        rings.insert(scene.node.crictl(&["exec", "-s", &id, "/probe", "keyring"]));
        rings.insert(scene.output("/probe keyring", &image));
    }
    assert_eq!(rings.len(), 5, "{rings:?}");
    scene.end();
}

/// Guard: the daemon, the shims and launch have no abstract socket.
#[test]
fn nothing_of_the_runtime_listens_where_a_pod_of_the_hosts_network_can_reach_it() {
    let abstracts = || {
        let table = std::fs::read_to_string("/proc/net/unix").expect("the sockets");
        let names = table.lines().filter_map(|line| line.split_whitespace().nth(7));
        names.filter(|name| name.starts_with('@')).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = abstracts();
    let network = json!({"linux": {"security_context": {"namespace_options": {"network": 2}}}});
    let scene = Scene::with_pod(&network);
    let context =
        json!({"linux": {"security_context": {"namespace_options": {"network": 2, "pid": 1}}}});
    let id = scene.run(SLEEP, &with(context, &json!({"tty": true})));
    assert_eq!(abstracts(), before);
    let inside = scene.exec(&id, "sed -n '/ @/p' /proc/net/unix | wc -l");
    assert_eq!(inside, before.len().to_string());
    scene.end();
}

/// Guard: src/assemble/place.rs: `Places::make`, src/main.rs: the modes of root and state.
#[test]
fn no_other_user_of_the_host_reaches_what_containers_have() {
    let scene = Scene::new();
    let secret = json!({"envs": [{"key": "SECRET", "value": "of the pod"}]});
    let id = scene.run("touch /written; chmod 6777 /bin/busybox; sleep 1000", &secret);
    let layers = forge::busybox();
    let root = layers.ancestors().find(|path| path.ends_with("root")).expect("the root").to_owned();
    let mut reached = Vec::new();
    for dir in [&scene.node.path("state"), &root] {
        reachable(dir, &mut reached);
    }
    assert_eq!(reached, Vec::<String>::new(), "other users can read these");
    let socket = std::fs::metadata(scene.node.path("ferropod.sock")).expect("the socket");
    assert_eq!(socket.permissions().mode() & 0o007, 0);
    assert!(machine::processes(&id).count() > 0);
    scene.end();
}

/// What somebody who is neither owner nor in the group can list or read below a directory.
fn reachable(path: &Path, all: &mut Vec<String>) {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return };
    let mode = meta.permissions().mode();
    if mode & 0o004 != 0 && !meta.is_symlink() {
        all.push(format!("{} {mode:o}", path.display()));
    }
    if meta.is_dir() && mode & 0o001 != 0 {
        let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        entries.for_each(|entry| reachable(&entry.path(), all));
    }
}
