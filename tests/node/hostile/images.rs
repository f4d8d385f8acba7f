//! Images that lie: links and devices where directories belong, accounts, users, labels, digests.

use std::time::Instant;

use serde_json::{Value, json};
use tar::EntryType;

use super::canary::Canary;
use super::scene::{SLEEP, Scene, compiled, named, secured, with};
use crate::forge::{Forged, Layer, import};
use crate::node::{Node, at_most, text, write};

/// Guard: launch/src/rootfs.rs: `refuse_links`.
#[test]
fn an_image_whose_dev_proc_or_sys_is_no_directory_is_refused() {
    let scene = Scene::new();
    for name in ["dev", "proc", "sys"] {
        let links = [scene.canary.path(), "/b", "../../../../proc", "/nowhere"];
        let layers = links.map(|to| Layer::new().symlink(name, to));
        let other = [Layer::new().file(name, 0o644, b""), Layer::new().fifo(name)];
        for (index, layer) in layers.into_iter().chain(other).enumerate() {
            let said = scene.refused(&scene.image(&format!("{name}{index}"), layer));
            assert!(said.contains(&format!("the image's /{name} is not a directory")), "{said}");
        }
    }
    assert_eq!(scene.node.crictl(&["ps", "-aq"]), "");
    scene.end();
}

/// Guards: launch/src/rootfs.rs: `Parts::pivot`, launch/src/point.rs: `open` (below the root).
#[test]
fn files_of_the_pod_do_not_follow_the_images_etc_out_of_it() {
    let scene = Scene::new();
    let host = scene.canary.path().to_owned();
    let links = [
        Layer::new().symlink("etc", &host),
        Layer::new().symlink("etc", "../../../../../b"),
        Layer::new().dir("etc").symlink("etc/hosts", &format!("{host}/secret")),
        Layer::new().dir("etc").symlink("etc/hostname", "/proc/sys/kernel/hostname"),
        Layer::new().dir("etc").symlink("etc/mtab", &format!("{host}/mtab")),
    ];
    for (index, layer) in links.into_iter().enumerate() {
        let image = scene.image(&format!("etc{index}"), layer);
        // Whether it runs is not the point.
        if let Ok(id) = scene.attempt(SLEEP, &image) {
            assert_eq!(
                scene.exec(&id, &format!("cat {host}/secret 2>&1 || true")).find("of the"),
                None
            );
        }
        scene.canary.sings();
    }
    scene.end();
}

/// Guard: launch/src/user.rs: `read_bounded`.
#[test]
fn accounts_are_read_from_plain_files_of_the_image_within_a_bound() {
    let scene = Scene::new();
    let host = scene.canary.path().to_owned();
    let large = vec![b'x'; 2 << 20];
    for (file, user) in [("passwd", "canary"), ("group", "0:canary")] {
        let at = format!("etc/{file}");
        let etc = || Layer::new().dir("etc");
        for (index, (layer, reason)) in [
            (etc().symlink(&at, &format!("{host}/{file}")), "canary"),
            (etc().symlink(&at, &format!("../../../../../..{host}/{file}")), "canary"),
            (etc().symlink(&at, "/proc/self/root/etc/passwd"), "canary"),
            (etc().symlink(&at, file), "symbolic links"),
            (etc().fifo(&at), "not a regular file"),
            (etc().dir(&at), "not a regular file"),
            (etc().device(EntryType::Char, &at, (1, 5)), "not a regular file"),
            (etc().file(&at, 0o644, &large), "larger than"),
        ]
        .into_iter()
        .enumerate()
        {
            let image = Forged::with_shell().layer(layer).says("User", json!(user));
            let image = image.import(&scene.node, &format!("{file}{index}"));
            let begun = Instant::now();
            let said = scene.refused(&named(&image));
            assert!(said.contains(reason), "{reason} is not in: {said}");
            assert!(begun.elapsed() < at_most(5), "it took {:?}", begun.elapsed());
        }
    }
    scene.end();
}

/// Guard: launch/src/user.rs: `number`, `Files::by_text`.
#[test]
fn a_user_that_is_no_number_of_a_user_is_refused_and_never_root() {
    let scene = Scene::new();
    let layer = || {
        Layer::new().dir("etc").file(
            "etc/passwd",
            0o644,
            b"big:x:4294967296:0::/:\nmax:x:-1:0::/:\n",
        )
    };
    for (index, user) in [
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "-1",
        "+0",
        "0x0",
        "0 ",
        " 0",
        "0\n",
        "\u{ff10}",
        "0:4294967296",
        "0:-1",
        "0:0:0",
        "1000:+0",
        "big",
        "max",
        "..",
        "root\0",
    ]
    .iter()
    .enumerate()
    {
        let image = Forged::with_shell().layer(layer()).says("User", json!(user));
        let image = image.import(&scene.node, &format!("user{index}"));
        let said = scene.refused(&named(&image));
        assert!(said.contains("user") || said.contains("group"), "{user:?}: {said}");
    }
    for (value, field) in
        [(-1, "run_as_user"), (4_294_967_295_i64, "run_as_user"), (4_294_967_296, "run_as_user")]
    {
        let said = scene.refused(&secured(json!({field: {"value": value}})));
        assert!(said.contains(field) && said.contains("InvalidArgument"), "{said}");
    }
    scene.end();
}

/// Guard: launch/src/privileges.rs: `become_user`. Without it the groups of the daemon are there.
#[test]
fn a_process_has_the_groups_it_was_given_and_none_of_the_daemons() {
    let scene = Scene::new();
    let accounts = || {
        let etc = Layer::new().dir("etc").file("etc/passwd", 0o644, b"web:x:33:34::/:\n");
        etc.file("etc/group", 0o644, b"disk:x:6:root\nlog:x:50:web\n")
    };
    for (user, shown) in [
        ("1000:2000", "1000 2000 2000"),
        ("web", "33 34 34 50"),
        ("2147483648:7", "2147483648 7 7"),
    ] {
        let image = Forged::with_shell().layer(accounts()).says("User", json!(user));
        let id = scene.run(SLEEP, &named(&image.import(&scene.node, "groups")));
        let who = "sed -n 's/^[UG]id:.*\\t//p; s/^Groups:.//p' /proc/$$/status";
        let said = |which: &str| scene.exec(&id, &who.replace("$$", which)).replace('\n', " ");
        assert_eq!([said("1").trim(), said("self").trim()], [shown, shown]);
    }
    scene.end();
}

/// Guards: spec/src/process.rs: `client_env`; launch/src/create.rs: `settle`.
#[test]
fn a_home_of_more_than_one_line_is_refused() {
    let scene = Scene::new();
    for (index, home) in ["/x\nroot2::0:0::/:/bin/sh", "\n", "/x\r", "/\r\n"].iter().enumerate() {
        let env = json!([format!("HOME={home}"), "PATH=/bin"]);
        let image =
            Forged::with_shell().says("Env", env).import(&scene.node, &format!("home{index}"));
        let said = scene.refused(&named(&image));
        assert!(said.contains("HOME contains a line break"), "{said}");
        let said = scene.refused(&json!({"envs": [{"key": "HOME", "value": home}]}));
        assert!(said.contains("HOME contains a line break"), "{said}");
    }
    // Two letters are no line break, and other variables may have any.
    let env = json!(["HOME=/x\\nroot2::0:0", "OTHER=a\nb", "PATH=/bin"]);
    let image = Forged::with_shell().says("Env", env).import(&scene.node, "letters");
    let said = scene.output("printf '%s|' \"$HOME\" \"$OTHER\"", &named(&image));
    assert_eq!(said, "/x\\nroot2::0:0|a\nb|");
    scene.end();
}

/// Guard: launch/src/directory.rs: `open` (no magic links, resolved in the root), `enter` (the directory is reachable).
#[test]
fn a_working_directory_does_not_lead_out() {
    let scene = Scene::new();
    let host = scene.canary.path().to_owned();
    for number in [0, 3, 4, 5, 6, 7, 8, 9, 10, 12] {
        for dir in
            [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/../../../..{host}")]
        {
            let image = Forged::with_shell().says("WorkingDir", json!(dir));
            let image = image.import(&scene.node, "fd");
            match scene.attempt("cat secret 2>&1", &named(&image)) {
                Err(said) => assert!(said.contains("/proc"), "{said}"),
                Ok(id) => {
                    let said = "cat: can't open 'secret': No such file or directory";
                    scene.node.logs_show(&id, said);
                }
            }
        }
    }
    let layer = Layer::new().symlink("fd", "/proc/self/fd/7").symlink("self", "/proc/1/cwd");
    let layer = layer.symlink("out", &host).symlink("up", "../../../../../../..");
    let image = Forged::with_shell().layer(layer).import(&scene.node, "links");
    for dir in ["/fd", "/self", "/proc/1/cwd"] {
        let said = scene.refused(&with(named(&image), &json!({"working_dir": dir})));
        assert!(said.contains("working directory"), "{said}");
    }
    for dir in ["/out", "/up", "/up/b", "/../../..", "/out/../below"] {
        let extra = with(named(&image), &json!({"working_dir": dir}));
        match scene.attempt("ls; cat secret 2>&1", &extra) {
            Err(said) => assert!(said.contains("working directory"), "{said}"),
            Ok(id) => {
                scene.node.logs_show(&id, "cat: can't open 'secret': No such file or directory");
            }
        }
    }
    scene.end();
}

/// Nothing makes mounts of an image's volumes. Guard: spec/src/mounts.rs takes those of the client alone.
#[test]
fn volumes_that_an_image_names_bring_nothing_of_the_host() {
    let scene = Scene::new();
    let host = scene.canary.path();
    let volumes =
        json!({format!("/../../..{host}"): {}, host: {}, "/../../etc": {}, "/etc/../../root": {}});
    let image = Forged::with_shell().says("Volumes", volumes).import(&scene.node, "volumes");
    let said = scene.output(&format!("ls {host} /root; cat /proc/self/mountinfo"), &named(&image));
    assert!(!said.contains("secret") && !said.contains("canary "), "{said}");
    scene.end();
}

/// Guard: src/cri/reply.rs answers with the client's labels; spec/src/lib.rs: `annotations` writes facts alone.
#[test]
fn labels_of_an_image_are_neither_orders_nor_its_containers_labels() {
    let scene = Scene::new();
    let touch = format!("binary:///bin/touch?{}/touched", scene.canary.path());
    let labels = json!({
        "containerd.io/restart.loguri": touch, "containerd.io/restart.status": "running",
        "io.cri-containerd.kind": "sandbox", "io.kubernetes.pod.name": "other",
        "io.kubernetes.cri-o.Annotations": "{}", "run.oci.handler": "krun",
    });
    let image = Forged::with_shell().says("Labels", labels).import(&scene.node, "labels");
    let own = json!({"labels": {"own": "label"}, "annotations": {"own": "annotation"}});
    let id = scene.run(SLEEP, &with(named(&image), &own));
    let status = scene.node.status(&id);
    assert_eq!(status["labels"], own["labels"]);
    assert_eq!(status["annotations"], own["annotations"]);
    let bundle = scene.node.path(&format!("state/c/{id}/config.json"));
    let bundle = std::fs::read_to_string(bundle).expect("the specification");
    assert!(!bundle.contains("krun") && !bundle.contains("binary:"), "{bundle}");
    scene.end();
}

/// Guard: spec/src/limits.rs: `devices`, the rules of the container's cgroup.
#[test]
fn devices_in_a_layer_and_those_made_inside_open_nothing() {
    let scene = Scene::new();
    let layer = Layer::new()
        .device(EntryType::Char, "memory", (1, 1))
        .device(EntryType::Char, "kmsg", (1, 11))
        .device(EntryType::Block, "loop0", (7, 0))
        .device(EntryType::Block, "disk", (254, 0))
        .device(EntryType::Char, "null", (1, 3));
    let image = scene.image("devices", layer);
    let script = "mknod /made b 254 0; mknod /made2 c 1 1
        for d in memory kmsg loop0 disk made made2 null; do
            head -c 1 /$d >/dev/null 2>/said && echo $d opens; grep -q 'not permitted' /said && echo $d is refused
        done";
    let said = scene.output(script, &image);
    let refused = ["memory", "kmsg", "loop0", "disk", "made", "made2"];
    let expected: Vec<_> = refused.iter().map(|d| format!("{d} is refused")).collect();
    assert_eq!(said, format!("{}\nnull opens", expected.join("\n")));
    scene.end();
}

/// Guard: launch/src/privileges.rs: `assume` (`no_new_privs`).
#[test]
fn a_setuid_file_of_a_layer_gives_nothing_where_new_privileges_are_forbidden() {
    let scene = Scene::new();
    let probe = compiled(&scene.node, include_str!("probe.c"), &["-static"]);
    let image = scene.image("setuid", Layer::new().file("probe", 0o6755, &probe));
    let who = |forbidden: bool| {
        let context = json!({"run_as_user": {"value": 1000}, "no_new_privs": forbidden});
        scene.output("/probe user", &with(image.clone(), &secured(context)))
    };
    assert_eq!(who(true), "1000");
    assert_eq!(who(false), "0", "the file is not setuid");
    scene.end();
}

/// Guard: image/src/digest.rs: parsing; the store's paths are made of parsed digests.
#[test]
fn digests_that_are_paths_name_nothing() {
    let node = Node::with_busybox();
    let canary = Canary::planted(&node);
    let dir = node.path("layout");
    Forged::empty().write(&dir, "registry.test/digest:1");
    let index = std::fs::read_to_string(dir.join("index.json")).expect("the index");
    let index: Value = serde_json::from_str(&index).expect("JSON");
    let digests = [
        format!("sha256:../../../../../../..{}", canary.file()),
        format!("sha256:{}", canary.file()),
        format!("../{:064}", 0),
        "sha256:".to_owned(),
        format!("sha256:{}", "G".repeat(64)),
    ];
    for digest in &digests {
        let mut lying = index.clone();
        lying["manifests"][0]["digest"] = json!(digest);
        write(&dir.join("index.json"), &lying.to_string());
        let done = import(&node, &dir);
        assert!(!done.status.success(), "{digest} was imported");
        let said =
            node.refused(&["pull", &format!("registry.k8s.io/e2e-test-images/busybox@{digest}")]);
        assert!(!said.contains("of the host"), "{said}");
    }
    canary.sings();
    node.end_clean();
}

/// Guard: `image/src/archive/bundle.rs: read`, bounded by `MAX_DOCUMENT`.
#[test]
fn an_archive_with_a_document_of_many_gigabytes_is_refused_at_once() {
    let node = Node::with_busybox();
    let dir = node.path("layout");
    Forged::empty().write(&dir, "registry.test/large:1");
    let index =
        std::fs::File::options().write(true).open(dir.join("index.json")).expect("the index");
    index.set_len(10 << 30).expect("a long file");
    let begun = Instant::now();
    let done = import(&node, &dir);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains("index.json"), "{said}");
    assert!(begun.elapsed() < at_most(5), "it took {:?}", begun.elapsed());
    assert!(super::peak(&node) < 256 << 20, "the daemon used {} bytes", super::peak(&node));
    node.end_clean();
}

/// Guard: src/cri/parse/container.rs: `image`; an image is a name in the store, never a file (checkpoints of other
/// runtimes are).
#[test]
fn a_file_of_the_host_is_no_image_and_no_checkpoint_is_restored() {
    let scene = Scene::new();
    let archive = scene.node.path("checkpoint.tar");
    std::fs::copy(scene.canary.file(), &archive).expect("a file");
    for image in [text(&archive), "/etc/passwd", "../../etc/passwd", "file:///etc/passwd"] {
        let said = scene.refused(&named(image));
        assert!(said.contains("NotFound") || said.contains("InvalidArgument"), "{said}");
    }
    let id = scene.run(SLEEP, &Value::Null);
    let said = scene.node.refused(&["checkpoint", "--export", text(&archive), &id]);
    assert!(said.contains("Unimplemented"), "{said}");
    scene.end();
}
