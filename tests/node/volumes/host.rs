//! Volumes of the host: their options, their kinds, and where they go.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags};

use super::*;
use crate::node::{text, write};

fn bind(host: &Path, at: &str) -> cri::Mount {
    cri::Mount {
        container_path: at.to_owned(),
        host_path: text(host).to_owned(),
        ..Default::default()
    }
}

fn volume(host: &Path, at: &str) -> Value {
    json!({"mounts": [{"host_path": host, "container_path": at}]})
}

fn denying(host: &Path, options: &[&str]) -> cri::Mount {
    let mount_options = options.iter().map(|&option| option.to_owned()).collect();
    cri::Mount { mount_options, ..bind(host, AT) }
}

fn dir(node: &Node, name: &str) -> PathBuf {
    let dir = node.path(name);
    std::fs::create_dir(&dir).expect("a directory");
    dir
}

/// A mount that ends with the test.
struct Mounted {
    at: PathBuf,
    _server: Option<File>,
}

// === impl Mounted ===

impl Mounted {
    fn new(at: PathBuf, kind: &str, data: &str, server: Option<File>) -> Self {
        let done = nix::mount::mount(Some("x"), &at, Some(kind), MsFlags::empty(), Some(data));
        done.expect("a mount");
        Self { at, _server: server }
    }

    fn tmpfs(at: PathBuf) -> Self {
        Self::new(at, "tmpfs", "size=1m", None)
    }

    /// As a network file system whose server is gone: whoever looks waits.
    fn dead(at: PathBuf) -> Self {
        let server = File::options().read(true).write(true).open("/dev/fuse");
        let server = server.expect("the kernel has fuse");
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        Self::new(at, "fuse", &data, Some(server))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        nix::mount::umount2(&self.at, MntFlags::MNT_DETACH).expect("it is mounted");
    }
}

#[test]
fn options_deny_what_they_say_also_in_what_is_mounted_below() {
    let node = Node::with_busybox();
    let host = dir(&node, "volume");
    std::fs::create_dir(host.join("sub")).expect("a directory");
    let below = Mounted::tmpfs(host.join("sub"));
    for place in ["", "sub"] {
        let script = host.join(place).join("run");
        write(&script, "#!/bin/sh\necho ran\n");
        std::fs::set_permissions(script, PermissionsExt::from_mode(0o755)).expect("a mode");
    }
    let pod = node.run_pod(&Value::Null);
    let refused = create(&node, &pod, denying(&host, &["noexec", "exec"])).expect_err("an option");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(
        refused.message().starts_with("config.mounts[0].mount_options[1]: \"exec\""),
        "{refused}"
    );
    for (asked, ran) in [(&[][..], "ran\nran"), (&["noexec", "nosuid", "nodev"], "denied\ndenied")]
    {
        let id = create(&node, &pod, denying(&host, asked)).expect("a container");
        node.crictl(&["start", &id]);
        let script =
            "for f in /v/run /v/sub/run; do $f 2>/dev/null || echo denied; done; touch /v/new";
        assert_eq!(says(&node, &id, script), ran);
        for at in [AT, "/v/sub"] {
            let options = options(&node, &id, at);
            assert!(has(&options, asked) && has(&options, &["rw"]), "{options:?}");
        }
        assert_eq!(mounts(&node, &id)[0].mount_options, asked);
        node.crictl(&["rm", "--force", &id]);
    }
    drop(below);
    let request = cri::StatusRequest { verbose: false };
    let status = call(&node, async |mut runtime| runtime.status(request).await);
    let features = status.expect("a status").into_inner().features.expect("features");
    assert!(features.mount_options);
    node.end_clean();
}

#[test]
fn options_hold_in_a_pod_with_a_user_namespace_and_on_a_read_only_mount() {
    let node = Node::with_busybox();
    let host = node.on_disk("volume");
    std::fs::create_dir(&host).expect("a directory");
    let request = user_namespace(&Value::Null);
    let pod = node.run_pod(&request);
    let ids = vec![cri::IdMapping { host_id: 655_360, container_id: 0, length: 65_536 }];
    let mount = cri::Mount {
        readonly: true,
        uid_mappings: ids.clone(),
        gid_mappings: ids.clone(),
        ..denying(&host, &["noexec", "nodev"])
    };
    let namespace =
        cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids };
    let id = create_in(&node, &pod, mount, Some(namespace)).expect("a container");
    node.crictl(&["start", &id]);
    let options = options(&node, &id, AT);
    assert!(
        has(&options, &["ro", "noexec", "nodev"]) && !has(&options, &["nosuid"]),
        "{options:?}"
    );
    node.end_clean();
}

#[test]
fn a_file_and_a_socket_are_volumes_and_a_missing_path_is_made() {
    let node = Node::with_busybox();
    let (file, socket, missing) =
        (node.path("file"), node.path("a-socket"), node.path("missing/deep"));
    write(&file, "of the host\n");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let mounts = json!({"mounts": [
        {"host_path": file, "container_path": "/made/here/file"},
        {"host_path": socket, "container_path": "/run/a.sock"},
        {"host_path": missing, "container_path": "/missing"},
    ]});
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, SLEEP, &mounts);
    let script = "cat /made/here/file; test -S /run/a.sock && echo socket; touch /missing/new";
    assert_eq!(says(&node, &id, script), "of the host\nsocket");
    assert!(missing.join("new").exists());
    for made in [missing.as_path(), missing.parent().expect("above")] {
        let mode = std::fs::metadata(made).expect("it was made").permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{}", made.display());
    }
    drop(listener);
    std::fs::remove_file(socket).expect("the socket");
    node.end_clean();
}

#[test]
fn a_volume_covers_what_the_pod_or_the_kernel_has_there() {
    let node = Node::with_busybox();
    let (file, devices) = (node.path("file"), dir(&node, "devices"));
    write(&file, "of the host\n");
    write(&devices.join("mine"), "");
    let mounts = json!({"mounts": [
        {"host_path": file, "container_path": "/etc/hosts"},
        {"host_path": file, "container_path": "/proc/uptime"},
    ]});
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, SLEEP, &mounts);
    assert_eq!(says(&node, &id, "cat /etc/hosts /proc/uptime"), "of the host\nof the host");
    if node.is_outside() {
        // runc needs the container's /dev/null for what it masks.
        return node.end_clean();
    }
    let id = node.run(&pod, SLEEP, &volume(&devices, "/dev"));
    assert_eq!(says(&node, &id, "ls /dev"), "mine\nshm");
    node.end_clean();
}

#[test]
fn recursive_read_only_needs_read_only_and_no_propagation() {
    let node = Node::with_busybox();
    let host = dir(&node, "volume");
    let pod = node.run_pod(&Value::Null);
    for (readonly, propagation) in [(false, 0), (true, 1), (true, 2)] {
        let mut asked = volume(&host, AT);
        asked["mounts"][0]["recursive_read_only"] = json!(true);
        asked["mounts"][0]["readonly"] = json!(readonly);
        asked["mounts"][0]["propagation"] = json!(propagation);
        let said = node.create_refused(&pod, &asked);
        let named =
            said.contains("InvalidArgument") && said.contains("mounts[0].recursive_read_only");
        assert!(named, "{said}");
    }
    let mut asked = volume(&host, AT);
    asked["mounts"][0]["recursive_read_only"] = json!(true);
    asked["mounts"][0]["readonly"] = json!(true);
    let id = node.run(&pod, SLEEP, &asked);
    assert!(has(&options(&node, &id, AT), &["ro"]));
    node.end_clean();
}

#[test]
fn a_link_to_nowhere_is_followed_inside_the_image() {
    let node = Node::with_busybox();
    let layer =
        Layer::new().dir("d").symlink("link", "/made/far").symlink("d/up", "../../../also/made");
    let name = Forged::with_shell().layer(layer).import(&node, "links");
    let (host, file) = (dir(&node, "volume"), node.path("file"));
    write(&host.join("mark"), "of the volume\n");
    write(&file, "a file\n");
    symlink("nowhere", host.join("dangling")).expect("a link");
    let mut asked = json!({"mounts": [
        {"host_path": host, "container_path": "/link"},
        {"host_path": host, "container_path": "/d/up/below"},
        {"host_path": file, "container_path": "/d/up/file"},
    ]});
    asked["image"] = json!({"image": name});
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, SLEEP, &asked);
    let script = "cat /made/far/mark /link/mark /also/made/below/mark /also/made/file";
    let marks = "of the volume\nof the volume\nof the volume\na file";
    assert_eq!(says(&node, &id, script), marks);
    if node.is_outside() {
        // runc makes what a link in a volume names, in the volume.
        return node.end_clean();
    }
    // A link in a volume is not the image's to tell.
    let mounts = asked["mounts"].as_array_mut().expect("mounts");
    mounts.push(json!({"host_path": file, "container_path": "/link/dangling"}));
    let said = node.create_refused(&pod, &asked);
    assert!(said.contains("/made/far/dangling"), "{said}");
    assert!(!host.join("nowhere").exists());
    node.end_clean();
}

#[test]
fn only_what_a_container_mounts_itself_travels_to_the_host() {
    let node = Node::with_busybox();
    let shared = Mounted::tmpfs(dir(&node, "shared"));
    let unsaid = None::<&str>;
    nix::mount::mount(unsaid, &shared.at, unsaid, MsFlags::MS_SHARED, unsaid)
        .expect("a shared mount");
    let own = dir(&node, "own");
    write(&own.join("mark"), "own\n");
    let privileged = json!({"linux": {"security_context": {"privileged": true}}});
    let pod = node.run_pod(&privileged);
    let mut asked = privileged;
    asked["mounts"] = json!([
        {"host_path": shared.at, "container_path": "/v", "propagation": 2},
        {"host_path": own, "container_path": "/v/own"},
    ]);
    let id = node.run(&pod, SLEEP, &asked);
    let script = "cat /v/own/mark; mkdir /v/out; mount -t tmpfs x /v/out";
    assert_eq!(says(&node, &id, script), "own");
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let points = table
        .lines()
        .filter_map(|line| Path::new(line.split(' ').nth(4)?).strip_prefix(&shared.at).ok());
    let points: Vec<_> = points.collect();
    // An outside runtime mounts in what travels already.
    let all = if node.is_outside() { &["", "own", "out"][..] } else { &["", "out"] };
    assert_eq!(points, all.iter().map(Path::new).collect::<Vec<_>>());
    for point in points.iter().skip(1) {
        nix::mount::umount2(&shared.at.join(point), MntFlags::MNT_DETACH).expect("it is mounted");
    }
    drop(shared);
    node.end_clean();
}

/// Takes as long as launch is given, a minute: a kubelet waits two.
#[test]
fn a_path_that_nobody_answers_for_is_given_up_and_holds_up_nobody() {
    let node = Node::with_busybox();
    let dead = Mounted::dead(dir(&node, "dead"));
    let pod = node.run_pod(&Value::Null);
    let request = node.container_request(SLEEP, &volume(&dead.at.join("volume"), AT));
    let asked = ["--timeout", "100s", "create", &pod.id, text(&request), pod.request()];
    let began = Instant::now();
    let mut client = node.client(&asked).stderr(Stdio::piped()).spawn().expect("crictl starts");
    std::thread::sleep(Duration::from_millis(300));
    let id = node.run(&pod, SLEEP, &Value::Null);
    assert_eq!(says(&node, &id, "echo lives"), "lives");
    assert!(client.try_wait().expect("its state").is_none(), "nothing was waited for");
    let refused = client.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("DeadlineExceeded") && said.contains("/dead/volume"), "{said}");
    assert!(began.elapsed().as_secs() < 90, "{:?}", began.elapsed());
    drop(dead);
    node.end_clean();
}
