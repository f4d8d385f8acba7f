//! Images as volumes.

use super::*;
use crate::node::eventually;

/// Two layers, of which the upper one hides a file of the lower.
fn models(node: &Node) -> String {
    let lower =
        Layer::new().dir("data").file("data/a", 0o644, b"low\n").file("data/gone", 0o644, b"");
    let upper = Layer::new()
        .file("data/b", 0o600, b"high\n")
        .file("data/.wh.gone", 0o644, b"")
        .file("data/run", 0o755, b"#!/bin/sh\necho ran\n")
        .symlink("etc", "/data")
        .symlink("out", "/usr");
    Forged::empty().layer(lower).layer(upper).import(node, "models")
}

fn single(node: &Node) -> String {
    Forged::empty().layer(Layer::new().dir("d").file("d/one", 0o644, b"1\n")).import(node, "single")
}

#[test]
fn an_image_is_a_volume_that_nobody_can_write_to() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    for (name, file) in [(models(&node), "/v/data/a"), (single(&node), "/v/d/one")] {
        let id = node.run(&pod, SLEEP, &image(&name, &Value::Null));
        let list = says(&node, &id, "ls /v/d*");
        assert!(!list.contains("gone") && !list.is_empty(), "{list}");
        let tries = format!(
            "for c in 'touch /v/new' 'chmod 777 {file}' 'rm {file}' 'mount -o remount,rw /v'; do \
             $c 2>/dev/null && echo \"$c: done\"; done; (echo x > {file}) 2>/dev/null || echo refused"
        );
        assert_eq!(says(&node, &id, &tries), "refused");
        let options = options(&node, &id, AT);
        assert!(has(&options, &["ro", "nosuid", "nodev"]), "{options:?}");
        assert!(!has(&options, &["noexec"]), "{options:?}");
    }
    let id = node.run(&pod, SLEEP, &image(&models(&node), &Value::Null));
    assert_eq!(says(&node, &id, "cat /v/data/a /v/data/b; /v/data/run"), "low\nhigh\nran");
    node.end_clean();
}

#[test]
fn what_an_image_itself_calls_a_volume_is_a_directory_of_the_container() {
    let node = Node::with_busybox();
    let image = Forged::with_shell()
        .says("Volumes", json!({"/data/db": {}, "/bin": {}}))
        .says("WorkingDir", json!("/work/dir"))
        .import(&node, "declares");
    let script = "pwd; stat -c %u:%a /data/db; touch /data/db/x 2>/dev/null || echo refused";
    for mut config in [json!({"linux": {"security_context": {}}}), user_namespace(&Value::Null)] {
        let pod = node.run_pod(&config);
        config["image"] = json!({"image": image});
        config["linux"]["security_context"]["readonly_rootfs"] = json!(true);
        let id = node.run(&pod, SLEEP, &config);
        assert_eq!(says(&node, &id, script), "/work/dir\n0:755\nrefused");
    }
    node.end_clean();
}

#[test]
fn a_privileged_container_cannot_write_to_it_either() {
    let node = Node::with_busybox();
    let privileged = json!({"linux": {"security_context": {"privileged": true}}});
    let pod = node.run_pod(&privileged);
    for name in [models(&node), single(&node)] {
        let mut request = image(&name, &Value::Null);
        request["linux"] = privileged["linux"].clone();
        let id = node.run(&pod, SLEEP, &request);
        // Its own mount it may change; the layers below stay as they are.
        let tries = "mount -o remount,rw /v 2>/dev/null; touch /v/new 2>/dev/null; true";
        says(&node, &id, tries);
        let other = node.run(&pod, SLEEP, &image(&name, &Value::Null));
        assert_eq!(says(&node, &other, "ls /v | grep -c new; true"), "0", "{name}");
    }
    node.end_clean();
}

#[test]
fn its_status_tells_the_image_its_id_and_the_sub_path() {
    let node = Node::with_busybox();
    let name = models(&node);
    let pod = node.run_pod(&Value::Null);
    let mount = cri::Mount {
        container_path: AT.to_owned(),
        readonly: true,
        image: Some(cri::ImageSpec {
            image: name.clone(),
            user_specified_image: "models:1".to_owned(),
            ..Default::default()
        }),
        image_sub_path: "data".to_owned(),
        ..Default::default()
    };
    let id = create(&node, &pod, mount.clone()).expect("a container");
    let told = mounts(&node, &id).pop().expect("a mount");
    let pulled = node.crictl(&["images", "--quiet", "--no-trunc", &name]);
    let mut want = mount;
    want.image.as_mut().expect("an image").image_ref = pulled.trim().to_owned();
    assert_eq!(told, want);
    node.crictl(&["start", &id]);
    assert_eq!(says(&node, &id, "ls /v"), "a\nb\nrun");
    node.end_clean();
}

#[test]
fn a_sub_path_is_a_directory_in_the_image_and_nowhere_else() {
    let node = Node::with_busybox();
    let name = models(&node);
    let pod = node.run_pod(&Value::Null);
    let sub = |path: &str| image(&name, &json!({"image_sub_path": path}));
    for path in ["data", "etc", "./data/"] {
        let id = node.run(&pod, SLEEP, &sub(path));
        assert_eq!(says(&node, &id, "cat /v/b; touch /v/new 2>/dev/null || echo no"), "high\nno");
    }
    for (path, why) in
        [("none", "is not there"), ("data/a", "not a directory"), ("out", "is not there")]
    {
        let said = node.create_refused(&pod, &sub(path));
        assert!(said.contains("desc = ImageVolumeMountFailed: image_sub_path"), "{said}");
        assert!(said.contains(path) && said.contains(why), "{said}");
    }
    for path in ["/data", "../data", "data/../data"] {
        let said = node.create_refused(&pod, &sub(path));
        assert!(
            said.contains("InvalidArgument") && said.contains("mounts[0].image_sub_path"),
            "{said}"
        );
    }
    node.end_clean();
}

#[test]
fn what_an_image_volume_cannot_be_is_refused_by_the_name_of_the_field() {
    let node = Node::with_busybox();
    let name = single(&node);
    let pod = node.run_pod(&Value::Null);
    for (extra, field) in [
        (json!({"readonly": false}), "readonly"),
        (json!({"host_path": "/tmp"}), "host_path"),
        (json!({"propagation": 1}), "propagation"),
        (json!({"image": {"image": name, "runtime_handler": "none"}}), "image.runtime_handler"),
        (json!({"image": {"image": ""}}), "image.image"),
    ] {
        let said = node.create_refused(&pod, &image(&name, &extra));
        let named = format!("mounts[0].{field}");
        assert!(said.contains("InvalidArgument") && said.contains(&named), "{said}");
    }
    let said = node.create_refused(&pod, &image("registry.test/none:1", &Value::Null));
    let message = "NotFound desc = ImageVolumeMountFailed: config.mounts[0].image: ";
    assert!(said.contains(message) && said.contains("registry.test/none:1"), "{said}");
    node.end_clean();
}

/// Kubelets send the sub-path of every volume in `image_sub_path`, also where there is no image.
#[test]
fn a_sub_path_without_an_image_means_nothing() {
    let node = Node::with_busybox();
    let dir = node.path("volume");
    std::fs::create_dir(&dir).expect("a directory");
    let pod = node.run_pod(&Value::Null);
    let mount = json!({"container_path": AT, "host_path": dir, "image_sub_path": "sub/path"});
    let id = node.run(&pod, SLEEP, &json!({"mounts": [mount]}));
    assert_eq!(says(&node, &id, "touch /v/new && ls /v"), "new");
    node.end_clean();
}

#[test]
fn an_image_stays_while_a_volume_shows_it_also_when_the_daemon_is_killed() {
    let mut node = Node::with_busybox();
    let name = models(&node);
    let pod = node.run_pod(&Value::Null);
    let one = node.run(&pod, SLEEP, &image(&name, &Value::Null));
    let two = node.run(&pod, SLEEP, &image(&name, &json!({"image_sub_path": "data"})));
    node.crictl(&["rmi", &name]);
    let told = mounts(&node, &one);
    node.kill_daemon();
    node.serve();
    assert_eq!(mounts(&node, &one), told);
    let read = |id: &str, path: &str| says(&node, id, &format!("cat {path}"));
    assert_eq!(read(&one, "/v/data/a"), "low");
    assert_eq!(read(&two, "/v/b"), "high");
    let said = node.create_refused(&pod, &image(&name, &Value::Null));
    assert!(said.contains("ImageVolumeMountFailed"), "{said}");
    node.crictl(&["rm", "--force", &one]);
    assert_eq!(read(&two, "/v/a"), "low");
    assert_eq!(records(&node), 2);
    node.crictl(&["rm", "--force", &two]);
    eventually("the image is gone", || records(&node) == 1);
    node.end_clean();
}

/// Images that are remembered, seen or not.
fn records(node: &Node) -> usize {
    std::fs::read_dir(node.root().join("images/records")).expect("the records").count()
}

#[test]
fn in_a_pod_with_a_user_namespace_owners_are_those_of_the_image() {
    let node = Node::with_busybox();
    let request = user_namespace(&Value::Null);
    let pod = node.run_pod(&request);
    for (name, file) in [(models(&node), "data/b"), (single(&node), "d/one")] {
        for sub in ["", "."] {
            let mut asked = image(&name, &json!({"image_sub_path": sub}));
            asked["linux"] = request["linux"].clone();
            let id = node.run(&pod, SLEEP, &asked);
            let script = format!(
                "cat /v/{file} >/dev/null && stat -c %u:%g /v /v/{file}; touch /v/new 2>/dev/null || echo no"
            );
            assert_eq!(says(&node, &id, &script), "0:0\n0:0\nno");
            let options = options(&node, &id, AT);
            assert!(has(&options, &["ro", "nosuid", "nodev"]), "{options:?}");
        }
    }
    node.end_clean();
}

#[test]
fn an_option_denies_more_in_an_image() {
    let node = Node::with_busybox();
    let name = models(&node);
    let pod = node.run_pod(&Value::Null);
    let mount = cri::Mount {
        container_path: AT.to_owned(),
        readonly: true,
        recursive_read_only: true,
        image: Some(cri::ImageSpec { image: name, ..Default::default() }),
        mount_options: vec!["noexec".to_owned()],
        ..Default::default()
    };
    let id = create(&node, &pod, mount).expect("a container");
    node.crictl(&["start", &id]);
    assert!(has(&options(&node, &id, AT), &["ro", "nosuid", "nodev", "noexec"]));
    assert_eq!(says(&node, &id, "/v/data/run 2>/dev/null || echo denied"), "denied");
    node.end_clean();
}
