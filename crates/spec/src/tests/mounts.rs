//! What is mounted, and how.

use super::*;

#[test]
fn mounts_have_the_defaults_and_the_pods_files() {
    let built = Case::with(|_| {});
    for at in ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"] {
        assert!(mount_at(&built, at).is_some(), "{at}");
    }
    for (at, source) in [
        ("/etc/hosts", "/pod/hosts"),
        ("/etc/hostname", "/pod/hostname"),
        ("/etc/resolv.conf", "/pod/resolv.conf"),
        ("/dev/shm", "/pod/shm"),
    ] {
        assert_eq!(mount_at(&built, at).unwrap().source().as_ref().unwrap().as_os_str(), source);
        assert_eq!(options(&built, at), ["rbind", "rprivate", "rw"]);
    }
    assert!(options(&built, "/sys").contains(&"ro".into()));
    assert!(options(&built, "/sys/fs/cgroup").contains(&"ro".into()));
    let privileged = Case::with(|c| c.container.security.privileged = true);
    assert!(options(&privileged, "/sys").contains(&"rw".into()));
    assert!(options(&privileged, "/sys/fs/cgroup").contains(&"rw".into()));
    let readonly = Case::with(|c| c.container.security.readonly_rootfs = true);
    assert_eq!(options(&readonly, "/etc/hosts")[2], "ro");
    assert_eq!(options(&readonly, "/dev/shm")[2], "rw");
    assert_eq!(readonly.spec.root().as_ref().unwrap().readonly(), Some(true));
}

#[test]
fn volumes_override_defaults_and_come_parents_first() {
    let built = Case::with(|c| {
        c.container.mounts = vec![
            volume("/data/a/b", "/h/b"),
            volume("/etc/hosts", "/h/hosts"),
            volume("/data", "/h/data"),
            volume("/etc", "/h/etc"),
        ];
    });
    let places: Vec<_> = built
        .spec
        .mounts()
        .as_ref()
        .unwrap()
        .iter()
        .map(|m| m.destination().display().to_string())
        .collect();
    let index = |at: &str| places.iter().position(|p| p == at).unwrap();
    assert!(index("/data") < index("/data/a/b"));
    assert!(index("/etc") < index("/etc/hosts"));
    assert_eq!(places.iter().filter(|p| *p == "/etc/hosts").count(), 1);
    assert_eq!(
        mount_at(&built, "/etc/hosts").unwrap().source().as_ref().unwrap().as_os_str(),
        "/h/hosts"
    );
    let dev = Case::with(|c| c.container.mounts = vec![volume("/dev", "/dev")]);
    assert!(mount_at(&dev, "/dev/pts").is_none() && mount_at(&dev, "/dev/mqueue").is_none());
    assert_eq!(mount_at(&dev, "/dev").unwrap().typ().as_deref(), Some("bind"));
}

#[test]
fn access_and_propagation_of_a_volume_are_its_options() {
    for (readonly, rro, propagation, want) in [
        (false, false, Propagation::Private, ["rbind", "rprivate", "rw"]),
        (true, false, Propagation::HostToContainer, ["rbind", "rslave", "ro"]),
        (false, false, Propagation::Bidirectional, ["rbind", "rshared", "rw"]),
        (true, true, Propagation::Private, ["rbind", "rprivate", "rro"]),
    ] {
        let built = Case::with(|c| {
            c.container.mounts = vec![Mount {
                readonly,
                recursive_read_only: rro,
                propagation,
                ..volume("/v", "/h")
            }];
        });
        assert_eq!(options(&built, "/v"), want);
        let root = if propagation == Propagation::Bidirectional { "shared" } else { "slave" };
        assert_eq!(linux(&built).rootfs_propagation().as_deref(), Some(root));
    }
}

#[test]
fn an_image_volume_is_read_only_without_rights_or_devices_and_launch_finds_its_source() {
    let built = Case::with(|c| {
        c.container.mounts = vec![
            volume("/plain", "/h"),
            Mount { image: Some(ImageVolume::default()), ..volume("/v/./x/..", "") },
            Mount {
                image: Some(ImageVolume::default()),
                options: vec![MountOption::NoDev, MountOption::NoExec],
                ..volume("/w", "")
            },
        ];
    });
    assert_eq!(options(&built, "/v"), ["rbind", "rprivate", "ro", "nosuid", "nodev"]);
    assert_eq!(options(&built, "/w"), ["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"]);
    for (at, source) in [("/plain", "/h"), ("/v", "image:1"), ("/w", "image:2")] {
        assert_eq!(mount_at(&built, at).unwrap().source().as_ref().unwrap().as_os_str(), source);
    }
    assert_eq!(image_source(2), "image:2");
}

#[test]
fn what_is_denied_in_a_volume_is_an_option() {
    let built = Case::with(|c| {
        let denied = vec![MountOption::NoExec, MountOption::NoSuid];
        c.container.mounts = vec![Mount { options: denied, ..volume("/v", "/h") }];
    });
    assert_eq!(options(&built, "/v"), ["rbind", "rprivate", "rw", "noexec", "nosuid"]);
}

#[test]
fn recursive_read_only_is_refused_where_it_cannot_be() {
    let rro = |readonly, propagation| {
        Case::refused(|c| {
            c.container.mounts = vec![Mount {
                readonly,
                recursive_read_only: true,
                propagation,
                ..volume("/v", "/h")
            }];
            c.node.recursive_read_only = false;
        })
    };
    assert!(rro(false, Propagation::Private).to_string().contains("needs readonly"));
    assert!(rro(true, Propagation::HostToContainer).to_string().contains("needs private"));
    let unable = rro(true, Propagation::Private);
    assert!(unable.to_string().starts_with("RROUnsupported"));
    assert_eq!(unable.kind(), Kind::Unsupported);
}

#[test]
fn a_mount_over_the_root_or_with_a_relative_path_is_refused() {
    for (at, host) in [("/", "/h"), ("/a/..", "/h"), ("rel", "/h"), ("/a", "rel"), ("/a", "")] {
        let error = Case::refused(|c| c.container.mounts = vec![volume(at, host)]);
        assert!(error.to_string().contains("config.mounts["), "{error}");
    }
}
