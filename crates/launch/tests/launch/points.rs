//! Mount points: what an image or a volume has where something is mounted, and who mounts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use pod::config::{Device, Propagation};

use crate::shim::{Case, put, volume};

/// A volume with a mark, at a path of the container whose root has `fill` on top.
fn at(path: &str, script: &str, fill: impl FnOnce(&Path)) -> Case {
    Case::new(script).with(|c| {
        let host = c.path("v");
        fs::create_dir(&host).unwrap();
        put(&Path::new(&host).join("mark"), "of the volume\n");
        fill(Path::new(&c.path("upper")));
        c.container.mounts = vec![volume(path, &host)];
    })
}

#[test]
fn a_link_of_the_image_leads_to_a_mount_point_inside() {
    for (link, to, path) in [
        ("link", "/real", "/link"),
        ("link", "../../../real", "/link"),
        ("link", "/real", "/link/made/deep"),
        ("link", "nowhere/yet", "/link/below"),
    ] {
        let case = at(path, &format!("cat {path}/mark"), |root| {
            fs::create_dir(root.join("real")).unwrap();
            symlink(to, root.join(link)).unwrap();
        });
        assert_eq!(case.run().out, "of the volume\n", "{link} {to} {path}");
    }
}

#[test]
fn a_link_into_what_is_mounted_later_or_to_the_root_is_refused() {
    for (to, says) in [
        ("/proc", "is in the mount at /proc"),
        ("/proc/none", "is in the mount at /proc"),
        ("/", "is in the mount at /"),
        ("link", "/link"),
    ] {
        let case = at("/link", "true", |root| symlink(to, root.join("link")).unwrap());
        let failure = case.refused();
        assert_eq!(failure.stage, "mount", "{failure:?}");
        assert!(failure.message.contains(says), "{to}: {failure:?}");
    }
    let case = at("/link/x", "cat /dev/new/x/mark", |root| {
        symlink("/dev/new", root.join("link")).unwrap();
    });
    assert_eq!(case.run().out, "of the volume\n");
}

#[test]
fn a_link_to_nowhere_in_a_volume_is_named_and_not_followed() {
    let case = at("/v", "true", |_| {}).with(|c| {
        symlink("made", Path::new(&c.path("v")).join("dangling")).unwrap();
        c.container.mounts.push(volume("/v/dangling", &c.path("other")));
    });
    let failure = case.refused();
    assert!(failure.message.contains("/v/dangling is a link to nowhere"), "{failure:?}");
    assert!(!Path::new(&case.path("v/made")).exists());
}

#[test]
fn what_does_not_fit_is_named_with_its_path() {
    let file = at("/file", "true", |root| put(&root.join("file"), ""));
    assert!(file.refused().message.contains("mounting at /file: "), "{:?}", file.refused());
    let below = at("/file/below", "true", |root| put(&root.join("file"), ""));
    assert!(below.refused().message.contains("/file/below"));
}

#[test]
fn volumes_lie_on_volumes_and_are_made_in_them() {
    let script = "cat /v/in/mark /v/in/new/mark; cat /v/of";
    let case = at("/v", script, |_| {}).with(|c| {
        for (name, path) in [("a", "/v/in"), ("b", "/v/in/new")] {
            let host = c.path(name);
            fs::create_dir(&host).unwrap();
            put(&Path::new(&host).join("mark"), &format!("of {name}\n"));
            c.container.mounts.push(volume(path, &host));
        }
        put(Path::new(&c.path("file")), "a file\n");
        c.container.mounts.push(volume("/v/of", &c.path("file")));
    });
    assert_eq!(case.run().out, "of a\nof b\na file\n");
    // In the volume, as with other runtimes.
    assert!(Path::new(&case.path("v/in")).is_dir() && Path::new(&case.path("v/of")).is_file());
}

#[test]
fn a_volume_that_is_a_read_only_path_is_read_only_however_it_travels() {
    let script = "{ echo x > /v/f; } 2>/dev/null || echo refused; cat /v/mark";
    for propagation in [Propagation::Private, Propagation::HostToContainer] {
        let case = at("/v", script, |_| {}).with(|c| {
            let host = c.path("v");
            let flags = nix::mount::MsFlags::MS_BIND;
            nix::mount::mount(Some(&*host), &*host, None::<&str>, flags, None::<&str>).unwrap();
            let flags = nix::mount::MsFlags::MS_SHARED;
            nix::mount::mount(None::<&str>, &*host, None::<&str>, flags, None::<&str>).unwrap();
            c.container.mounts[0].propagation = propagation;
            c.container.security.readonly_paths = vec!["/v".into()];
        });
        assert_eq!(case.run().out, "refused\nof the volume\n");
        put(&Path::new(&case.path("v")).join("f"), "the host may");
    }
}

#[test]
fn mounts_are_there_once_with_the_options_asked_for() {
    let script = "while read -r _ _ _ _ at options rest; do echo \"$at $options\"; done < /proc/self/mountinfo";
    let out = at("/v", script, |_| {}).run().out;
    let options = |path: &str| -> Vec<String> {
        let line = out.lines().rfind(|line| line.split(' ').next() == Some(path));
        line.unwrap_or_else(|| panic!("{path} in {out}"))
            .split_once(' ')
            .unwrap()
            .1
            .split(',')
            .map(str::to_owned)
            .collect()
    };
    for (path, has, has_not) in [
        ("/dev", &["rw", "nosuid"][..], &["relatime", "noexec"][..]),
        ("/dev/pts", &["nosuid", "noexec"], &["nodev"]),
        ("/dev/mqueue", &["nosuid", "nodev", "noexec"], &[]),
        ("/sys", &["ro", "nosuid", "nodev", "noexec"], &[]),
        ("/v", &["rw"], &["nosuid"]),
    ] {
        let options = options(path);
        assert!(has.iter().all(|o| options.iter().any(|x| x == o)), "{path} {options:?}");
        assert!(has_not.iter().all(|o| options.iter().all(|x| x != o)), "{path} {options:?}");
    }
    for path in out.lines().filter_map(|line| line.split(' ').next()) {
        if path.starts_with("/sys/fs/cgroup") {
            assert!(options(path).contains(&"ro".to_owned()), "{out}");
        }
    }
    let count = |path: &str| out.lines().filter(|l| l.split(' ').next() == Some(path)).count();
    assert_eq!([count("/sys"), count("/dev"), count("/v")], [1; 3], "{out}");
}

/// It cannot remove the directory that it took for a cgroup.
#[test]
fn a_failure_of_libcontainer_tells_of_no_cleanup() {
    let case = Case::new("true").with(|c| {
        let device = Device {
            container_path: "/dev/null".into(),
            host_path: "/dev/zero".into(),
            permissions: "r".into(),
        };
        c.container.devices = vec![device];
    });
    let failure = case.refused();
    assert_eq!(failure.stage, "libcontainer", "{failure:?}");
    assert!(failure.message.contains("/dev/null"), "{failure:?}");
    assert!(!failure.message.contains("clean"), "{failure:?}");
    assert!(!failure.message.contains("cgroup"), "{failure:?}");
}
