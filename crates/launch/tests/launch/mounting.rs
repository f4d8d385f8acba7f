//! Volumes: access, propagation, what is missing; covered paths; devices.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use pod::config::{Device, Mount, NamespaceMode, Propagation};

use crate::shim::{Case, put, volume};

fn tmpfs(at: &str, propagation: MsFlags) {
    fs::create_dir_all(at).unwrap();
    mount(Some("x"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    mount(None::<&str>, at, None::<&str>, propagation, None::<&str>).unwrap();
}

#[test]
fn volumes_are_writable_read_only_or_read_only_all_the_way() {
    let script = "for d in rw ro rro; do touch /$d/f 2>/dev/null && echo $d; \
                  touch /$d/sub/f 2>/dev/null && echo $d/sub; done; true";
    let case = Case::new(script).with(|c| {
        for name in ["rw", "ro", "rro"] {
            let host = c.path(&format!("v-{name}"));
            fs::create_dir(&host).unwrap();
            tmpfs(&format!("{host}/sub"), MsFlags::MS_PRIVATE);
            let mut mount = volume(&format!("/{name}"), &host);
            mount.readonly = name != "rw";
            mount.recursive_read_only = name == "rro";
            c.container.mounts.push(mount);
        }
    });
    // A plain read-only mount leaves what is below it as it is, as the interface says.
    assert_eq!(case.run().out, "rw\nrw/sub\nro/sub\n");
    assert!(Path::new(&case.path("v-rw/f")).exists());
}

#[test]
fn files_links_and_sockets_are_volumes_too() {
    let case = Case::new("cat /file /deep/new/link; stat -c %F /sock").with(|c| {
        put(Path::new(&c.path("file")), "a file\n");
        std::os::unix::fs::symlink(c.path("file"), c.path("link")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(c.path("sock")).unwrap());
        c.container.mounts = vec![
            volume("/file", &c.path("file")),
            volume("/deep/new/link", &c.path("link")),
            volume("/sock", &c.path("sock")),
        ];
    });
    assert_eq!(case.run().out, "a file\na file\nsocket\n");
}

#[test]
fn a_missing_source_is_made_unless_denied() {
    let case = Case::new("touch /v/f")
        .with(|c| c.container.mounts = vec![volume("/v", &c.path("made/deep"))]);
    assert_eq!(case.run().code(), 0);
    assert!(Path::new(&case.path("made/deep/f")).exists());
    let denied = Case::new("true").with(|c| {
        c.container.mounts = vec![volume("/v", &c.path("made/deep"))];
        c.deny_missing = vec![c.path("made")];
    });
    let failure = denied.refused();
    assert_eq!((failure.stage.as_str(), failure.kind), ("mount", 2));
    assert!(!Path::new(&denied.path("made")).exists());
}

#[test]
fn later_mounts_travel_as_asked() {
    for (propagation, into, out) in [
        (Propagation::Private, false, false),
        (Propagation::HostToContainer, true, false),
        (Propagation::Bidirectional, true, true),
    ] {
        let script = "mkdir /v/out; mount -t tmpfs x /v/out; echo up; \
                      while ! test -e /tmp/go; do sleep 0.01; done; ls /v/in";
        let case = Case::new(script).with(|c| {
            let host = c.path("v");
            tmpfs(&host, MsFlags::MS_SHARED);
            fs::create_dir(format!("{host}/in")).unwrap();
            let mut mount = volume("/v", &host);
            mount.propagation = propagation;
            c.container.mounts = vec![mount];
            c.container.security.privileged = true;
        });
        let mut made = case.create().unwrap_or_else(|f| panic!("{f:?}"));
        case.start();
        assert_eq!(made.line(), "up");
        let host = case.path("v");
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert_eq!(table.contains(&format!("{host}/out ")), out, "{propagation:?} out");
        mount(
            Some("x"),
            format!("{host}/in").as_str(),
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        put(Path::new(&format!("{host}/in/seen")), "");
        put(Path::new(&format!("/proc/{}/root/tmp/go", made.born.pid)), "");
        assert_eq!(made.finish().out.contains("seen"), into, "{propagation:?} in");
    }
}

#[test]
fn what_is_mounted_in_a_bidirectional_volume_for_a_container_alone_stays_off_the_host() {
    let script = "cat /etc/hosts /v/own/f /v/deep/own/f; \
                  while read -r _ _ _ _ at _; do test $at = /dev/shm && echo shm; done </proc/self/mountinfo; \
                  for d in /v/out /v/deep/out; do mkdir $d; mount -t tmpfs x $d; done";
    let case = Case::new(script).with(|c| {
        let host = c.path("h");
        tmpfs(&host, MsFlags::MS_SHARED);
        for dir in ["etc", "dev", "v/own", "v/deep", "own"] {
            fs::create_dir_all(format!("{host}/{dir}")).unwrap();
        }
        tmpfs(&format!("{host}/v/deep"), MsFlags::MS_SHARED);
        fs::create_dir(format!("{host}/v/deep/own")).unwrap();
        put(Path::new(&format!("{host}/own/f")), "own\n");
        let travels = |at: &str, dir: &str| Mount {
            propagation: Propagation::Bidirectional,
            ..volume(at, &format!("{host}/{dir}"))
        };
        let own = format!("{host}/own");
        c.container.mounts = vec![
            travels("/etc", "etc"),
            travels("/dev", "dev"),
            travels("/v", "v"),
            volume("/v/own", &own),
            volume("/v/deep/own", &own),
        ];
        c.container.security.privileged = true;
    });
    assert_eq!(case.run().out, "from the pod\nown\nown\nshm\n");
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let host = format!("{}/", case.path("h"));
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)?.strip_prefix(&host));
    let mut points: Vec<_> = points.collect();
    points.sort_unstable();
    assert_eq!(points, ["v/deep", "v/deep/out", "v/out"]);
}

#[test]
fn propagation_from_a_private_source_is_refused() {
    for (propagation, says) in [
        (Propagation::HostToContainer, "neither a shared nor a slave"),
        (Propagation::Bidirectional, "not a shared mount"),
    ] {
        let case = Case::new("true").with(|c| {
            let host = c.path("v");
            tmpfs(&host, MsFlags::MS_PRIVATE);
            let mut mount = volume("/v", &host);
            mount.propagation = propagation;
            c.container.mounts = vec![mount];
        });
        let failure = case.refused();
        assert!(failure.message.contains(says), "{failure:?}");
        assert_eq!(failure.kind, 1);
    }
}

#[test]
fn paths_are_masked_and_read_only_as_given() {
    let script = "cat /proc/keys | { read x; echo \"[$x]\"; }; ls /masked; \
                  { echo x > /ro/f; } 2>/dev/null || echo refused; echo x > /rw && echo written";
    let case = Case::new(script).with(|c| {
        for dir in ["upper/masked", "upper/ro"] {
            fs::create_dir(c.path(dir)).unwrap();
        }
        put(Path::new(&c.path("upper/masked/secret")), "");
        c.container.security.masked_paths =
            vec!["/proc/keys".into(), "/masked".into(), "/nothere".into()];
        c.container.security.readonly_paths = vec!["/ro".into()];
    });
    assert_eq!(case.run().out, "[]\nrefused\nwritten\n");
}

#[test]
fn a_read_only_root_leaves_volumes_and_dev_writable() {
    let script = "{ echo x > /f; } 2>/dev/null || echo refused; \
                  touch /v/f /dev/shm/f && echo x > /dev/null && echo written";
    let case = Case::new(script).with(|c| {
        c.container.security.readonly_rootfs = true;
        c.container.mounts = vec![volume("/v", &c.path("v")), volume("/dev/shm", &c.path("shm"))];
    });
    assert_eq!(case.run().out, "refused\nwritten\n");
}

#[test]
fn cgroups_are_visible_and_not_writable() {
    let script = "for f in /sys/fs/cgroup/*/tasks /sys/fs/cgroup/cgroup.procs; do \
                  test -e $f && { echo 0 > $f; } 2>/dev/null && echo $f; done; \
                  mkdir /sys/fs/cgroup/x 2>/dev/null && echo made; ls /sys/fs/cgroup >/dev/null && echo seen";
    assert_eq!(Case::new(script).run().out, "seen\n");
}

#[test]
fn a_devices_directory_of_the_host_is_not_touched() {
    let case = Case::new("ls /dev; cat /dev/mine").with(|c| {
        let dev = c.path("hostdev");
        fs::create_dir(&dev).unwrap();
        for name in ["mine", "ptmx", "null"] {
            put(Path::new(&format!("{dev}/{name}")), "still here\n");
        }
        c.sandbox.namespaces.ipc = NamespaceMode::Node;
        c.container.mounts = vec![volume("/dev", &dev)];
    });
    assert_eq!(case.run().out, "mine\nnull\nptmx\nshm\nstill here\n");
    let names = fs::read_dir(case.path("hostdev"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut left: Vec<_> = names.collect();
    left.sort();
    assert_eq!(left, ["mine", "null", "ptmx", "shm"], "only the place of /dev/shm is made");
    assert!(fs::symlink_metadata(case.path("hostdev/ptmx")).unwrap().is_file());
}

#[test]
fn a_device_of_the_host_is_given() {
    let device = |host: &str| Device {
        container_path: "/dev/mine".into(),
        host_path: host.into(),
        permissions: "r".into(),
    };
    let script = "stat -c %t,%T /dev/mine; { echo x > /dev/mine; } 2>/dev/null || echo refused; test -r /dev/mine && echo read";
    // Of all devices only this one is not among those that every container has.
    let case = Case::new(script).with(|c| c.container.devices = vec![device("/dev/kmsg")]);
    assert_eq!(case.run().out, "1,b\nrefused\nread\n");
    let missing = Case::new("true").with(|c| c.container.devices = vec![device("/dev/nothere")]);
    assert!(missing.refused().message.contains("/dev/nothere"));
}

fn writable(host: &str, at: &str) -> Device {
    Device { container_path: at.into(), host_path: host.into(), permissions: "w".into() }
}

#[test]
fn a_device_asked_for_twice_or_beside_all_others_is_the_last_that_was_asked_for() {
    for privileged in [false, true] {
        let case = Case::new("stat -c %t,%T /dev/fuse /dev/mine").with(|c| {
            c.container.security.privileged = privileged;
            c.container.devices = vec![
                writable("/dev/zero", "/dev/mine"),
                writable("/dev/fuse", "/dev/fuse"),
                writable("/dev/fuse", "/dev/fuse"),
                writable("/dev/kmsg", "/dev//mine"),
            ];
        });
        assert_eq!(case.run().out, "a,e5\n1,b\n", "privileged: {privileged}");
    }
}

#[test]
fn a_device_may_be_used_by_the_node_that_a_volume_over_dev_has() {
    let writes = |devices: Vec<Device>| {
        let case = Case::new("{ echo x > /dev/kmsg; } 2>/dev/null && echo written").with(|c| {
            c.sandbox.namespaces.ipc = NamespaceMode::Node;
            c.container.mounts = vec![volume("/dev", "/dev")];
            c.container.devices = devices;
        });
        case.run().out
    };
    assert_eq!(writes(vec![]), "");
    assert_eq!(writes(vec![writable("/dev/kmsg", "/dev/kmsg")]), "written\n");
}

#[test]
fn a_device_may_have_its_place_anywhere_and_the_hosts_node_stays_as_it_is() {
    let before = fs::metadata("/dev/zero").unwrap();
    let script = "stat -c %F,%t,%T,%a /disks/mine /v/mine; echo x > /disks/mine && echo written; \
        { echo x > /v/mine; } 2>/dev/null || echo refused; \
        chmod 600 /disks/mine && stat -c %a /disks/mine; echo /v/*";
    let case = Case::new(script).with(|c| {
        c.container.security.readonly_rootfs = true;
        fs::create_dir(c.path("v")).unwrap();
        c.container.mounts = vec![volume("/v", &c.path("v"))];
        c.container.devices = vec![
            Device { permissions: "rwm".into(), ..writable("/dev/zero", "/disks/mine") },
            Device { permissions: "r".into(), ..writable("/dev/kmsg", "/v/mine") },
        ];
    });
    let mode = fs::metadata("/dev/kmsg").unwrap().mode() & 0o777;
    let kind = "character special file";
    let want = format!("{kind},1,5,666\n{kind},1,b,{mode:o}\nwritten\nrefused\n600\n/v/mine\n");
    assert_eq!(case.run().out, want);
    let after = fs::metadata("/dev/zero").unwrap();
    assert_eq!((after.mode(), after.uid()), (before.mode(), before.uid()));
}

#[test]
fn a_device_has_a_place_without_steps_back() {
    for at in ["/dev/../tmp/mine", "/../mine", "mine"] {
        let case =
            Case::new("true").with(|c| c.container.devices = vec![writable("/dev/zero", at)]);
        let failure = case.refused();
        assert_eq!((failure.stage.as_str(), failure.kind), ("device", 1), "{failure:?}");
        assert!(failure.message.contains("is no place for a device"), "{failure:?}");
    }
}
