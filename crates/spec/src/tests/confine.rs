//! What holds a container: namespaces, paths, limits, devices, filters, users.

use super::*;

#[test]
fn namespaces_follow_the_modes_and_the_nodes_are_left_out() {
    use LinuxNamespaceType::{Cgroup, Ipc, Network, Pid, Uts};
    let kinds = |change: &dyn Fn(&mut Case)| -> Vec<(LinuxNamespaceType, Option<String>)> {
        let built = Case::with(change);
        let list = linux(&built).namespaces().clone().unwrap();
        list.iter().map(|n| (n.typ(), n.path().as_ref().map(|p| p.display().to_string()))).collect()
    };
    let path = |text: &str| Some(text.to_owned());
    let pod = kinds(&|_| {});
    for (kind, want) in [
        (Network, path("/proc/self/fd/4")),
        (Ipc, path("/proc/self/fd/5")),
        (Uts, path("/proc/self/fd/6")),
        (Pid, path("/proc/self/fd/7")),
        (Cgroup, None),
    ] {
        assert!(pod.contains(&(kind, want)), "{kind:?}");
    }
    let node = kinds(&|c| {
        c.sandbox.namespaces = Namespaces {
            network: NamespaceMode::Node,
            pid: NamespaceMode::Node,
            ipc: NamespaceMode::Node,
            ..Namespaces::default()
        };
        c.container.security.namespaces = c.sandbox.namespaces.clone();
        c.node.cgroups = CgroupLayout::Hybrid;
    });
    assert_eq!(node.len(), 1, "only the mount namespace is left: {node:?}");
    let own = kinds(&|c| c.container.security.namespaces.pid = NamespaceMode::Container);
    assert!(own.contains(&(Pid, None)));
    let target = kinds(&|c| {
        c.container.security.namespaces.pid = NamespaceMode::Target;
        c.place.target_pid_namespace = path("/proc/77/ns/pid");
    });
    assert!(target.contains(&(Pid, path("/proc/77/ns/pid"))));
    let error = Case::refused(|c| c.container.security.namespaces.pid = NamespaceMode::Target);
    assert!(error.to_string().contains("target_id"));
    let host_ipc = Case::with(|c| c.sandbox.namespaces.ipc = NamespaceMode::Node);
    assert_eq!(
        mount_at(&host_ipc, "/dev/shm").unwrap().source().as_ref().unwrap().as_os_str(),
        "/dev/shm"
    );
}

#[test]
fn masked_and_readonly_paths_are_as_given_and_power_meters_are_always_masked() {
    let built = Case::with(|c| {
        c.container.security.masked_paths = strings(&["/proc/kcore"]);
        c.container.security.readonly_paths = strings(&["/proc/sys"]);
    });
    let powercap = "/sys/devices/virtual/powercap";
    assert_eq!(linux(&built).masked_paths().clone().unwrap(), ["/proc/kcore", powercap]);
    assert_eq!(linux(&built).readonly_paths().clone().unwrap(), ["/proc/sys"]);
    let v1 = Case::with(|c| {
        c.node.cgroups = CgroupLayout::Hybrid;
        c.node.hierarchies = strings(&["cpu", "memory"]);
    });
    let want = ["cpu", "memory", "systemd"].map(|h| format!("/sys/fs/cgroup/{h}"));
    let want = [want.as_slice(), &["/sys/fs/cgroup".to_owned()]].concat();
    assert_eq!(linux(&v1).readonly_paths().clone().unwrap(), want);
    let privileged = Case::with(|c| {
        c.container.security.privileged = true;
        c.container.security.masked_paths = strings(&["/proc/kcore"]);
        c.node.cgroups = CgroupLayout::Hybrid;
        c.node.hierarchies = strings(&["cpu"]);
    });
    assert_eq!(linux(&privileged).masked_paths().clone().unwrap(), Vec::<String>::new());
    assert_eq!(linux(&privileged).readonly_paths().clone().unwrap(), Vec::<String>::new());
}

#[test]
fn memory_and_swap_are_written_together() {
    for (limit, sum, want) in [
        (1 << 20, 0, (Some(1 << 20), Some(1 << 20))),
        (1 << 20, 1 << 21, (Some(1 << 20), Some(1 << 21))),
        (1 << 20, -1, (Some(1 << 20), Some(-1))),
        (-1, 0, (Some(-1), Some(-1))),
    ] {
        let built = Case::with(|c| {
            c.container.resources.memory_limit = limit;
            c.container.resources.memory_swap_limit = sum;
        });
        let memory = linux(&built).resources().as_ref().unwrap().memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), want);
    }
    let built = Case::with(|c| {
        c.container.resources.memory_limit = 1 << 20;
        c.node.swap_limits = false;
    });
    assert_eq!(linux(&built).resources().as_ref().unwrap().memory().unwrap().swap(), None);
    for limit in [0, 2] {
        let error = Case::refused(|c| {
            c.container.resources.memory_limit = limit;
            c.container.resources.memory_swap_limit = 1;
        });
        assert!(error.to_string().contains("memory_swap_limit_in_bytes"));
    }
    assert!(linux(&Case::with(|_| {})).resources().as_ref().unwrap().memory().is_none());
}

#[test]
fn unified_keys_need_cgroup_v2() {
    let unified = |c: &mut Case| {
        c.container.resources.unified.insert("memory.high".into(), "1".into());
    };
    assert!(linux(&Case::with(unified)).resources().as_ref().unwrap().unified().is_some());
    let error = Case::refused(|c| {
        unified(c);
        c.node.cgroups = CgroupLayout::Hybrid;
    });
    assert!(error.to_string().contains("cgroup v2"));
}

#[test]
fn the_oom_score_is_clamped_to_what_the_daemon_may_set() {
    let adj = |asked, lowest| {
        let built = Case::with(|c| {
            c.container.resources.oom_score_adj = asked;
            c.node.lowest_oom_score_adj = lowest;
        });
        built.spec.process().as_ref().unwrap().oom_score_adj()
    };
    assert_eq!(adj(-997, -1000), Some(-997));
    assert_eq!(adj(-997, 0), Some(0));
    assert_eq!(adj(0, -1000), Some(0), "always written: a shim's own must not be inherited");
    assert!(
        Case::refused(|c| c.container.resources.oom_score_adj = 1001).to_string().contains("1001")
    );
}

#[test]
fn devices_are_denied_unless_privileged_and_asked_of_launch() {
    let first = |built: &Built| {
        linux(built).resources().as_ref().unwrap().devices().clone().unwrap()[0].allow()
    };
    let built = Case::with(|c| {
        c.container.devices = vec![Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/y".into(),
            permissions: String::new(),
        }];
    });
    assert!(!first(&built) && !built.all_devices);
    assert_eq!(built.devices[0].permissions, "rwm");
    let built = Case::with(|c| c.container.security.privileged = true);
    assert!(first(&built) && built.all_devices);
}

#[test]
fn seccomp_is_the_profile_asked_for_and_none_for_privileged() {
    let profile = |security: Option<SecurityProfile>, privileged| {
        let built = Case::with(|c| {
            c.container.security.seccomp = security;
            c.container.security.privileged = privileged;
        });
        linux(&built).seccomp().clone()
    };
    assert!(profile(None, false).is_none());
    assert!(profile(Some(SecurityProfile::Unconfined), false).is_none());
    assert!(profile(Some(SecurityProfile::RuntimeDefault), true).is_none());
    let default = profile(Some(SecurityProfile::RuntimeDefault), false).unwrap();
    let allowed: BTreeSet<&str> = default
        .syscalls()
        .iter()
        .flatten()
        .filter(|s| s.args().is_none() && s.errno_ret().is_none())
        .flat_map(|s| s.names().iter().map(String::as_str))
        .collect();
    for name in ["read", "chroot", "ptrace", "process_vm_readv"] {
        assert!(allowed.contains(name), "{name}");
    }
    for name in [
        "io_uring_setup",
        "userfaultfd",
        "keyctl",
        "bpf",
        "mount",
        "unshare",
        "socket",
        "clone",
        "socketcall",
    ] {
        assert!(!allowed.contains(name), "{name}");
    }
}

#[test]
fn a_capability_brings_the_calls_it_guards() {
    let built = Case::with(|c| {
        c.container.security.seccomp = Some(SecurityProfile::RuntimeDefault);
        c.container.security.add_capabilities = strings(&["SYS_ADMIN"]);
    });
    let seccomp = linux(&built).seccomp().clone().unwrap();
    let mount =
        seccomp.syscalls().iter().flatten().any(|s| s.names().contains(&"mount".to_owned()));
    assert!(mount);
}

#[test]
fn a_localhost_profile_is_taken_as_it_is() {
    let asked = Some(SecurityProfile::Localhost("/p.json".into()));
    let built = Case::with(|c| {
        c.container.security.seccomp = asked.clone();
        c.localhost = Some(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}"#.into());
    });
    assert_eq!(
        linux(&built).seccomp().clone().unwrap().syscalls().clone().unwrap()[0].names(),
        &["chmod".to_owned()]
    );
    for bad in [None, Some("{".to_owned()), Some(r#"{"defaultAction":"NO"}"#.to_owned())] {
        let error = Case::refused(|c| {
            c.container.security.seccomp = asked.clone();
            c.localhost = bad;
        });
        assert_eq!(error.kind(), Kind::Invalid);
        let named = "config.linux.security_context.seccomp.localhost_ref: /p.json ";
        assert!(error.to_string().starts_with(named), "{error}");
    }
    check_site_profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
    check_site_profile("{}").unwrap_err();
}

#[test]
fn the_user_is_handed_on_as_it_was_asked() {
    let built = Case::with(|c| {
        c.image.user = "web".into();
        c.container.security.user = Some(RunAs::Uid(7));
        c.container.security.group = Some(8);
        c.container.security.supplemental_groups = vec![9];
        c.container.security.groups_policy = GroupsPolicy::Strict;
    });
    let want = UserRequest {
        image_user: "web".into(),
        uid: Some(7),
        name: String::new(),
        gid: Some(8),
        groups: vec![9],
        strict_groups: true,
    };
    assert_eq!(built.user, want);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cleaned_path_is_absolute_and_never_climbs(path in "(/|\\.|[a-c]){0,24}") {
        let clean = crate::mounts::clean(&path);
        prop_assert!(clean.starts_with('/'));
        prop_assert!(clean.split('/').all(|p| p != ".." && p != "."));
        prop_assert_eq!(crate::mounts::clean(&clean), clean.clone());
    }

    #[test]
    fn no_capability_is_beyond_the_bounding_set(
        add in prop::sample::subsequence(names::CAPABILITIES.to_vec(), 0..8),
        drop in prop::sample::subsequence(names::CAPABILITIES.to_vec(), 0..8),
        ambient in prop::sample::subsequence(names::CAPABILITIES.to_vec(), 0..4),
        bounding in prop::sample::subsequence(names::CAPABILITIES.to_vec(), 0..41),
        privileged: bool,
    ) {
        let caps = caps(&Case::with(|c| {
            c.container.security.add_capabilities = strings(&add);
            c.container.security.drop_capabilities = strings(&drop);
            c.container.security.add_ambient_capabilities = strings(&ambient);
            c.container.security.privileged = privileged;
            c.node.bounding = bounding.iter().map(|n| (*n).to_owned()).collect();
        }));
        let bounding = set(&bounding);
        for one in [caps.bounding(), caps.effective(), caps.permitted(), caps.inheritable(), caps.ambient()] {
            prop_assert!(one.as_ref().unwrap().is_subset(&bounding));
        }
        prop_assert_eq!(caps.inheritable(), caps.ambient());
    }

    #[test]
    fn whatever_the_environment_each_name_stands_once_and_the_last_wins(
        envs in prop::collection::vec(("[A-D]", "[a-z=]{0,6}"), 0..12),
    ) {
        let built = Case::with(|c| {
            c.container.envs = envs.iter().map(|(k, v)| (k.clone(), v.clone().into_bytes())).collect();
        });
        let all = env(&built);
        let names: Vec<_> = all.iter().map(|e| e.split('=').next().unwrap()).collect();
        prop_assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
        for (name, _) in &envs {
            let last = envs.iter().rfind(|(k, _)| k == name).unwrap();
            let entry = format!("{}={}", last.0, last.1);
            prop_assert!(all.contains(&entry));
        }
    }
}

#[test]
fn a_user_namespace_is_joined_first_and_its_ids_are_told() {
    let range = |first| IdRange { first, length: 65_536 };
    let user = UserNamespace { uids: range(1 << 16), gids: range(2 << 16) };
    let built = Case::with(|c| {
        c.sandbox.namespaces.user = Some(user);
        c.container.mounts =
            vec![Mount { mapped: Some(user), ..volume("/v", "/h") }, volume("/plain", "/h")];
    });
    let namespaces = linux(&built).namespaces().clone().unwrap();
    let own = namespaces.iter().find(|n| n.typ() == LinuxNamespaceType::User).unwrap();
    assert_eq!(own.path().as_deref(), Some(std::path::Path::new("/proc/self/fd/8")));
    let of = |ids: &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| {
        ids.iter().flatten().map(|i| (i.container_id(), i.host_id(), i.size())).collect::<Vec<_>>()
    };
    assert_eq!(of(linux(&built).uid_mappings()), [(0, 1 << 16, 65_536)]);
    assert_eq!(of(linux(&built).gid_mappings()), [(0, 2 << 16, 65_536)]);
    let mounts = built.spec.mounts().clone().unwrap();
    let at = |path: &str| mounts.iter().find(|m| m.destination().as_os_str() == path).unwrap();
    assert_eq!(of(at("/v").uid_mappings()), [(0, 1 << 16, 65_536)]);
    assert_eq!(of(at("/v").gid_mappings()), [(0, 2 << 16, 65_536)]);
    assert_eq!(options(&built, "/v"), ["rbind", "rprivate", "rw", "ridmap"]);
    assert_eq!(at("/plain").uid_mappings(), &None);
    assert_eq!(at("/sys").typ().as_deref(), Some("sysfs"));
}

#[test]
fn a_user_namespace_cannot_mount_for_the_node_nor_a_sysfs_of_its_network() {
    let range = IdRange { first: 1 << 16, length: 3 };
    let user = Some(UserNamespace { uids: range, gids: range });
    let built = Case::with(|c| {
        c.sandbox.namespaces.user = user;
        c.sandbox.namespaces.network = NamespaceMode::Node;
    });
    assert_eq!(options(&built, "/sys"), ["bind", "rprivate", "nosuid", "noexec", "nodev", "ro"]);
    assert!(!options(&built, "/dev/pts").iter().any(|option| option == "gid=5"));
    let refused = Case::refused(|c| {
        c.sandbox.namespaces.user = user;
        let propagation = Propagation::Bidirectional;
        c.container.mounts = vec![Mount { propagation, ..volume("/v", "/h") }];
    });
    assert!(refused.to_string().starts_with("config.mounts[/v].propagation: "), "{refused}");
}
