//! Volumes and the paths they go to, when the image, the volume or a neighbour is hostile.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::scene::{SLEEP, Scene, as_a_kubelet, secured, with};
use crate::forge::Layer;
use crate::node::{text, write};

fn volume(host: &str, container: &str) -> Value {
    json!({"mounts": [{"host_path": host, "container_path": container}]})
}

/// Guards: launch/src/rootfs.rs: `Parts::pivot` (no path of the host is left), launch/src/point.rs: `open` (below the root).
#[test]
fn a_volume_goes_where_its_path_is_inside_the_image() {
    let scene = Scene::new();
    let host = scene.canary.path().to_owned();
    let source = scene.node.path("volume");
    std::fs::create_dir_all(source.join("sub")).expect("a directory");
    write(&source.join("mark"), "of the volume\n");
    let inside = host.trim_start_matches('/');
    let parents: Vec<_> = inside.match_indices('/').map(|(end, _)| inside.get(..end)).collect();
    let layer = parents.into_iter().flatten().fold(Layer::new(), Layer::dir);
    let layer = layer
        .dir(inside)
        .dir("b")
        .symlink("absolute", &host)
        .symlink("up", &format!("../../../../../../..{host}"))
        .symlink("staged", "/b")
        .symlink("proc1", "/proc/1/root");
    let image = scene.image("targets", layer);
    for (link, inside) in [("absolute", &*host), ("up", &host), ("staged", "/b")] {
        for below in ["", "/below", "/made/deep"] {
            let extra = with(image.clone(), &volume(text(&source), &format!("/{link}{below}")));
            let id = scene.run(SLEEP, &extra);
            assert_eq!(scene.exec(&id, &format!("cat {inside}{below}/mark")), "of the volume");
            scene.canary.sings();
        }
    }
    for at in ["/proc1/made", "/absolute/../../made", "/../../../made"] {
        // Whether it can be is not the point.
        drop(scene.attempt(SLEEP, &with(image.clone(), &volume(text(&source), at))));
        scene.canary.sings();
    }
    let files = with(image, &volume(&scene.canary.file(), "/up/below/file"));
    let id = scene.run(SLEEP, &files);
    assert_eq!(scene.exec(&id, "cat /up/below/file"), "of the host");
    assert!(!source.join("made").exists());
    scene.end();
}

/// Guards: launch/src/carrier.rs: `is_late` (libcontainer makes nothing in a volume over /dev), launch/src/terminal.rs.
#[test]
fn a_hostile_volume_over_dev_moves_no_device_terminal_or_mask() {
    let scene = Scene::new();
    let dev = scene.node.path("dev");
    std::fs::create_dir_all(&dev).expect("a directory");
    for name in
        ["null", "zero", "console", "ptmx", "pts", "tty", "fd", "stdin", "shm", "mqueue", "core"]
    {
        symlink(scene.canary.file(), dev.join(name)).expect("a link");
    }
    let before = std::fs::read_dir(&dev).expect("the volume").count();
    for tty in [false, true] {
        for at in ["/dev", "/dev/null", "/dev/pts"] {
            let volume = with(volume(text(&dev), at), &json!({"tty": tty}));
            let masks = as_a_kubelet();
            match scene.attempt(
                "cat /proc/keys /proc/timer_list; (echo x >/proc/keys) 2>/dev/null; sleep 1000",
                &with(volume, &masks),
            ) {
                // Devices of the host are no volume: what matters is what became of the host.
                Err(_) | Ok(_) => scene.canary.sings(),
            }
            assert_eq!(std::fs::read_dir(&dev).expect("the volume").count(), before, "{at}");
        }
    }
    let empty = scene.node.path("empty");
    std::fs::create_dir_all(&empty).expect("a directory");
    let id = scene.run(SLEEP, &volume(text(&empty), "/dev"));
    assert_eq!(scene.exec(&id, "echo runs"), "runs");
    // A place for the pod's shared memory is all that is made in it.
    assert_eq!(listing(&empty), " d 755\nshm d 755");
    scene.end();
}

/// Guard: libcontainer takes a procfs of its own; launch/src/exec.rs: `enter` reads the host's.
#[test]
fn a_volume_over_proc_redirects_no_write() {
    let scene = Scene::new();
    let fake = scene.node.path("fakeproc");
    for dir in ["self/attr", "self/fd", "sys/kernel", "1/attr", "thread-self/attr"] {
        std::fs::create_dir_all(fake.join(dir)).expect("a directory");
    }
    for file in [
        "self/attr/exec",
        "self/oom_score_adj",
        "self/uid_map",
        "self/loginuid",
        "sys/kernel/core_pattern",
        "thread-self/attr/exec",
        "keys",
        "kcore",
        "sysrq-trigger",
    ] {
        symlink("/proc/sys/kernel/core_pattern", fake.join(file)).expect("a link");
    }
    write(&fake.join("mounts"), "");
    let before = listing(&fake);
    for at in ["/proc", "/proc/self", "/proc/sys", "/proc/self/attr", "/proc/1"] {
        let extra = with(volume(text(&fake), at), &as_a_kubelet());
        match scene.attempt(SLEEP, &extra) {
            Ok(id) => drop(scene.node.try_crictl(&["exec", "-s", &id, "true"])),
            Err(said) => assert!(said.contains("/proc"), "{said}"),
        }
        scene.canary.sings();
        assert_eq!(listing(&fake), before, "{at}");
    }
    scene.end();
}

fn listing(dir: &std::path::Path) -> String {
    let listed = crate::node::tool("find").arg(dir).args(["-printf", "%P %y %m\n"]).output();
    let mut lines: Vec<_> = String::from_utf8(listed.expect("find runs").stdout)
        .expect("text")
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines.join("\n")
}

/// Guard: libcontainer masks what a path is in the container, with a /dev/null that it has looked at.
#[test]
fn masked_paths_that_are_links_in_the_image_mask_nothing_outside() {
    let scene = Scene::new();
    let host = scene.canary.path().to_owned();
    let layer = Layer::new()
        .symlink("mask", &scene.canary.file())
        .symlink("dir", &host)
        .symlink("pattern", "/proc/sys/kernel/core_pattern")
        .file("plain", 0o644, b"shown");
    let image = scene.image("masks", layer);
    let paths = json!([
        "/mask",
        "/dir/secret",
        "/dir",
        "/pattern",
        "/plain",
        "/../../..//plain",
        "/none/such"
    ]);
    let extra = secured(json!({"masked_paths": paths, "readonly_paths": paths}));
    if let Ok(id) = scene.attempt(SLEEP, &with(image, &extra)) {
        assert_eq!(scene.exec(&id, "cat /plain /pattern"), "");
    }
    scene.canary.sings();
    scene.end();
}

/// Guards: launch/src/point.rs: `Root` (holds the target by descriptor), launch/src/rootfs.rs: `Parts::pivot`.
#[test]
fn a_target_that_becomes_a_link_while_it_is_mounted_leads_nowhere() {
    let scene = Scene::new();
    let shared = scene.node.path("shared");
    let payload = scene.node.path("payload");
    std::fs::create_dir_all(shared.join("way/in/deep")).expect("a directory");
    std::fs::create_dir_all(&payload).expect("a directory");
    write(&payload.join("mark"), "of the payload\n");
    symlink(scene.canary.path(), shared.join("absolute")).expect("a link");
    symlink("../../../../../proc", shared.join("relative")).expect("a link");
    let (over, swaps) = (AtomicBool::new(false), std::sync::atomic::AtomicUsize::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for link in ["absolute", "relative"] {
                    let exchange = || {
                        let flags = rustix::fs::RenameFlags::EXCHANGE;
                        let (a, b) = (shared.join("way"), shared.join(link));
                        rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, flags)
                    };
                    exchange().and_then(|()| exchange()).expect("an exchange");
                    swaps.fetch_add(2, Ordering::Relaxed);
                }
            }
        });
        let mounts = json!({"mounts": [
            {"host_path": text(&shared), "container_path": "/shared"},
            {"host_path": text(&payload), "container_path": "/shared/way/in/deep"},
            {"host_path": text(&payload), "container_path": "/shared/way/in/made"},
        ]});
        let script =
            "while read -r _ _ _ _ at rest; do echo $at; done </proc/self/mountinfo; echo done";
        for _ in 0..12 {
            let Ok(id) = scene.attempt(script, &mounts) else { continue };
            scene.node.logs_show(&id, "done");
            let log = scene.node.crictl(&["logs", &id]);
            let odd: Vec<_> = log
                .lines()
                .filter(|at| at.contains("deep") || at.contains("made"))
                .filter(|at| !at.starts_with("/shared") && !at.starts_with(scene.canary.path()))
                .collect();
            assert!(odd.is_empty(), "{log}");
            scene.canary.sings();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(swaps.load(Ordering::Relaxed) > 100, "nothing was exchanged");
    scene.end();
}

/// Guard: launch/src/source.rs: `make_missing`, launch/src/device.rs: `add`.
#[test]
fn devices_go_below_dev_of_the_container_and_nowhere_else() {
    let scene = Scene::new();
    let image = scene
        .image("dev-links", Layer::new().symlink("out", scene.canary.path()).symlink("b", "/b"));
    for at in ["/dev/../out/null", "/out/null", "/dev/../../../../b/null", "/dev/x/../../out/null"]
    {
        let device = json!({"devices": [{"host_path": "/dev/null", "container_path": at, "permissions": "rwm"}]});
        drop(scene.attempt(SLEEP, &with(image.clone(), &device)));
        scene.canary.sings();
    }
    scene.end();
}
