//! A pod with a user namespace of its own: who is who inside and on the node, and whose files are whose.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use pod::config::{Device, IdRange, Mount, NamespaceMode, Namespaces, RunAs, UserNamespace};
use wire::inherited::{IPC_FD, NET_FD, USER_FD, UTS_FD};
use wire::v1::failure::Kind;

use crate::raw;
use crate::shim::{Case, put, reap_failed, volume};

const UIDS: u32 = 70_000;
const GIDS: u32 = 200_000;
const COUNT: u32 = 65_536;

fn user() -> UserNamespace {
    let range = |first| IdRange { first, length: COUNT };
    UserNamespace { uids: range(UIDS), gids: range(GIDS) }
}

/// A user namespace with these ids, and a network, an ipc and a uts namespace of its.
#[expect(clippy::disallowed_methods, reason = "the test is the shim")]
fn namespaces() -> Vec<(OwnedFd, i32)> {
    let mut child =
        Command::new("unshare").args(["-U", "-n", "-i", "-u", "sleep", "60"]).spawn().unwrap();
    let file = |name: &str| format!("/proc/{}/{name}", child.id());
    let (ours, end) = (fs::read_link("/proc/self/ns/uts").unwrap(), Instant::now());
    while fs::read_link(file("ns/uts")).unwrap() == ours {
        assert!(end.elapsed() < Duration::from_secs(10), "it makes no namespaces");
        std::thread::sleep(Duration::from_millis(1));
    }
    put(Path::new(&file("uid_map")), &format!("0 {UIDS} {COUNT}"));
    put(Path::new(&file("gid_map")), &format!("0 {GIDS} {COUNT}"));
    let kinds = [("user", USER_FD), ("net", NET_FD), ("ipc", IPC_FD), ("uts", UTS_FD)];
    let open = |kind: &str| fs::File::open(file(&format!("ns/{kind}"))).unwrap().into();
    let fds = kinds.map(|(kind, number)| (open(kind), number)).into();
    child.kill().unwrap();
    child.wait().unwrap();
    fds
}

/// A container of such a pod.
fn mapped(script: &str) -> Case {
    Case::new(script).with(|c| {
        c.sandbox.namespaces = Namespaces { user: Some(user()), ..Namespaces::default() };
        c.container.security.namespaces =
            Namespaces { pid: NamespaceMode::Container, ..c.sandbox.namespaces.clone() };
        c.namespaces = namespaces();
    })
}

fn mapped_volume(at: &str, host: &str) -> Mount {
    Mount { mapped: Some(user()), ..volume(at, host) }
}

#[test]
fn root_inside_is_nobody_on_the_node_and_owns_its_own_files() {
    let case = mapped(
        "cat /proc/self/uid_map; id -u; id -g; stat -c %u:%g / /etc/passwd /dev/null /proc/self/; \
         touch /etc/passwd /tmp/new; echo again > /dev/stdout; stat -c %u:%g /etc/hosts; \
         (echo x >> /etc/hosts) 2>/dev/null || echo refused; \
         ls /sys/class/net; echo up; sleep 100",
    );
    let mut made = case.create().unwrap();
    case.start();
    let words = made.line().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words, ["0", "70000", "65536"]);
    let lines: Vec<_> = (0..11).map(|_| made.line()).collect();
    let want =
        ["0", "0", "0:0", "0:0", "0:0", "0:0", "again", "65534:65534", "refused", "lo", "up"];
    assert_eq!(lines, want);
    assert_eq!(made.status("Uid").split('\t').next(), Some("70000"));
    assert_eq!(made.status("Gid").split('\t').next(), Some("200000"));
    assert_eq!((made.born.uid, made.born.gid), (0, 0), "told as they are inside");
    for file in ["upper", "upper/tmp/new", "upper/etc/passwd"] {
        let meta = fs::metadata(case.path(file)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (UIDS, GIDS), "{file}");
    }
    made.end();
}

#[test]
fn a_device_elsewhere_keeps_its_owner_of_the_node() {
    let script = "stat -c %F,%u /disks/mine; echo x > /disks/mine && echo written; \
        chmod 600 /disks/mine 2>/dev/null || echo refused";
    let case = mapped(script).with(|c| {
        c.container.devices = vec![Device {
            container_path: "/disks/mine".into(),
            host_path: "/dev/zero".into(),
            permissions: "rwm".into(),
        }];
    });
    assert_eq!(case.run().out, "character special file,65534\nwritten\nrefused\n");
}

#[test]
fn directories_that_are_made_for_it_are_its_roots() {
    let case = mapped("stat -c %u:%g /data /data/deep /work; touch /data/deep/new && echo made");
    let case = case.with(|c| {
        c.container.working_dir = "/work".into();
        c.image.volumes = vec!["/data/deep".into()];
    });
    assert_eq!(case.run().out, "0:0\n0:0\n0:0\nmade\n");
}

#[test]
fn all_its_namespaces_belong_to_its_user_namespace() {
    let case = mapped("echo up; sleep 100");
    let want = fs::metadata(format!("/proc/self/fd/{}", case.namespaces[0].0.as_raw_fd()));
    let want = want.unwrap().ino();
    let mut made = case.create().unwrap();
    case.start();
    assert_eq!(made.line(), "up");
    let exec = case.exec(&made, &["sleep", "100"], |_| {}).unwrap();
    for pid in [made.born.pid, exec.born.pid] {
        assert_eq!(fs::metadata(format!("/proc/{pid}/ns/user")).unwrap().ino(), want);
        for kind in ["mnt", "pid", "net", "ipc", "uts"] {
            let namespace = fs::File::open(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_eq!(raw::owner(&namespace), want, "{kind}");
        }
    }
    exec.end();
    made.end();
}

#[test]
fn owners_in_a_mapped_volume_are_those_on_the_disk_submounts_too() {
    let case = mapped(
        "stat -c %u:%g /v /v/web /v/above /v/sub/web; echo x > /v/mine; echo x > /v/sub/mine; \
         (echo x > /v/above) 2>/dev/null || echo refused; \
         stat -c %u:%g /plain/web; (echo x > /plain/web) 2>/dev/null || echo refused",
    );
    let dir = case.dir.path().join("v");
    fs::create_dir_all(dir.join("sub")).unwrap();
    let none: Option<&str> = None;
    mount(Some("t"), &dir.join("sub"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    for (name, owner) in [("web", 33), ("above", 100_000), ("sub/web", 33)] {
        put(&dir.join(name), "");
        chown(dir.join(name), Some(owner), Some(owner)).unwrap();
    }
    let host = dir.display().to_string();
    let case = case.with(|c| {
        c.container.mounts = vec![mapped_volume("/v", &host), volume("/plain", &host)];
    });
    let ran = case.run();
    let want = "0:0\n33:33\n65534:65534\n33:33\nrefused\n65534:65534\nrefused\n";
    assert_eq!(ran.out, want, "{ran:?}");
    for file in ["mine", "sub/mine"] {
        let meta = fs::metadata(dir.join(file)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (0, 0), "{file}");
    }
}

#[test]
fn a_user_that_is_not_root_writes_as_itself() {
    let case = mapped("id; touch /v/mine; echo again > /dev/stdout; stat -c %u /v/mine");
    let dir = case.dir.path().join("v");
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(33), Some(34)).unwrap();
    let ran = case
        .with(|c| {
            c.container.security.user = Some(RunAs::Name("web".into()));
            c.container.mounts = vec![mapped_volume("/v", &dir.display().to_string())];
            c.container.mounts[0].readonly = false;
        })
        .run();
    assert_eq!(ran.out, "uid=33(web) gid=34(www) groups=34(www),50(log)\nagain\n33\n", "{ran:?}");
}

#[test]
fn a_volume_whose_file_system_takes_no_mapped_ids_is_named() {
    let refused = |at: &str| {
        let host = at.to_owned();
        mapped("true").with(|c| c.container.mounts = vec![mapped_volume("/v", &host)]).refused()
    };
    let failure = refused("/proc/sys");
    assert_eq!((failure.stage.as_str(), failure.kind()), ("mount", Kind::Unsupported));
    assert!(failure.message.contains("the volume /proc/sys "), "{}", failure.message);
    assert!(failure.message.contains("its file system, proc, takes"), "{}", failure.message);
    let case = mapped("true");
    let sub = case.dir.path().join("v/sub");
    fs::create_dir_all(&sub).unwrap();
    let none: Option<&str> = None;
    mount(Some("p"), &sub, Some("proc"), MsFlags::empty(), none).unwrap();
    let host = case.dir.path().join("v").display().to_string();
    let failure = case.with(|c| c.container.mounts = vec![mapped_volume("/v", &host)]).refused();
    let culprit = format!("file system proc that is mounted in it at {}", sub.display());
    assert!(failure.message.contains(&culprit), "{}", failure.message);
}

#[test]
fn a_user_that_the_pod_has_not_is_refused() {
    let failure =
        mapped("true").with(|c| c.container.security.user = Some(RunAs::Uid(COUNT))).refused();
    assert_eq!((failure.stage.as_str(), failure.kind()), ("user", Kind::Invalid));
    let groups = |c: &mut Case| c.container.security.supplemental_groups = vec![COUNT];
    assert_eq!(mapped("true").with(groups).refused().stage, "user");
}

#[test]
fn an_exec_is_inside_with_the_ids_of_inside() {
    let case = mapped("echo up; sleep 100").with(|c| {
        c.container.security.user = Some(RunAs::Name("web".into()));
    });
    let mut made = case.create().unwrap();
    case.start();
    assert_eq!(made.line(), "up");
    let script = "id; cat /proc/self/uid_map; echo again > /dev/stdout";
    let exec = case.exec(&made, &["sh", "-c", script], |_| {}).unwrap();
    let ran = exec.finish();
    let words = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
    let want = "uid=33(web) gid=34(www) groups=34(www),50(log) 0 70000 65536 again";
    assert_eq!(words, want, "{ran:?}");
    let terminal = case.exec(&made, &["sh", "-c", "stat -c %u $(tty)"], |job| job.tty = true);
    assert_eq!(terminal.unwrap().finish().out, "33\n");
    case.exec(&made, &["nothere"], |_| {}).map(drop).unwrap_err();
    reap_failed();
    made.end();
}

#[test]
fn a_terminal_is_the_users_of_inside() {
    let case = mapped("stat -c %u $(tty); test -t 0 && echo up").with(|c| {
        c.container.stdio.tty = true;
        c.container.security.user = Some(RunAs::Uid(33));
    });
    assert_eq!(case.run().out, "33\nup\n");
}

#[test]
fn privileges_hold_inside_and_not_outside() {
    let disk = "test -w /dev/kmsg && echo kmsg";
    let script = format!(
        "mount -t tmpfs x /tmp && echo mounted; \
         (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null || echo no core pattern; \
         (echo 1 > /proc/sys/vm/drop_caches) 2>/dev/null || echo no caches; \
         echo x > /dev/null && echo null; stat -c %u /dev/kmsg; {disk}; \
         mount -o bind,remount,rw /ro 2>/dev/null || echo still read-only; exit 0"
    );
    let case = mapped(&script);
    let dir = case.dir.path().join("v");
    fs::create_dir(&dir).unwrap();
    let host = dir.display().to_string();
    let ran = case
        .with(|c| {
            c.container.security.privileged = true;
            let readonly = true;
            c.container.mounts = vec![Mount { readonly, ..mapped_volume("/ro", &host) }];
        })
        .run();
    let want = "mounted\nno core pattern\nno caches\nnull\n65534\nstill read-only\n";
    assert_eq!(ran.out, want, "{ran:?}");
}

#[test]
fn with_the_nodes_network_it_sees_the_nodes_sys_read_only() {
    let case = mapped(
        "ls -d /sys/class/net; ls /sys/kernel/debug; touch /sys/x 2>/dev/null || echo refused",
    );
    let ran = case
        .with(|c| {
            c.sandbox.namespaces.network = NamespaceMode::Node;
            c.container.security.namespaces.network = NamespaceMode::Node;
        })
        .run();
    assert_eq!(ran.out, "/sys/class/net\nrefused\n", "{ran:?}");
}
