use super::*;
use cri_proto::cri;
use pod::config::{MountOption, NamespaceMode, RunAs, SecurityProfile};

fn sandbox() -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".into(),
            uid: "u".into(),
            namespace: "default".into(),
            attempt: 1,
        }),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption::default()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: "busybox".into(), ..Default::default() }),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext::default()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The error after one change to a sandbox that is fine.
fn refused(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> String {
    let mut wire = sandbox();
    change(&mut wire);
    sandbox_config(&At::root("config"), Some(&wire), "").unwrap_err().to_string()
}

fn refused_container(change: impl FnOnce(&mut cri::ContainerConfig)) -> Invalid {
    let mut wire = container();
    change(&mut wire);
    container_config(&At::root("config"), Some(&wire)).unwrap_err()
}

fn context(wire: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    wire.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

fn of(wire: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    wire.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

fn options(wire: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    context(wire).namespace_options.as_mut().unwrap()
}

#[test]
fn a_plain_sandbox_and_a_plain_container_are_understood() {
    let parsed = sandbox_config(&At::root("config"), Some(&sandbox()), "").unwrap();
    assert_eq!(parsed.name.to_string(), "default/web (uid u, attempt 1)");
    assert_eq!(parsed.namespaces.pid, NamespaceMode::Pod);
    assert_eq!(parsed.dns, None);
    let parsed = container_config(&At::root("config"), Some(&container())).unwrap();
    assert_eq!((parsed.security.user, parsed.stop_signal), (None, None));
}

#[test]
fn a_sandboxs_error_names_the_path_of_its_field() {
    let cases: [(&str, String); 13] = [
        ("config.metadata: is missing", refused(|c| c.metadata = None)),
        ("config.metadata.uid: is empty", refused(|c| c.metadata.as_mut().unwrap().uid.clear())),
        ("config.hostname: ", refused(|c| c.hostname = "a b".into())),
        ("config.log_directory: ", refused(|c| c.log_directory = "logs".into())),
        (
            "config.dns_config.servers[1]: ",
            refused(|c| {
                let servers = vec!["10.0.0.1".into(), "a\nsearch b".into()];
                c.dns_config = Some(cri::DnsConfig { servers, ..Default::default() });
            }),
        ),
        (
            "config.port_mappings[0].host_port: ",
            refused(|c| {
                let port = cri::PortMapping { host_port: 65_536, ..Default::default() };
                c.port_mappings = vec![port];
            }),
        ),
        (
            "config.linux.cgroup_parent: ",
            refused(|c| c.linux.as_mut().unwrap().cgroup_parent = "/a/../../b".into()),
        ),
        (
            "config.linux.sysctls.kernel.core_pattern: ",
            refused(|c| {
                let key = "kernel.core_pattern".to_owned();
                c.linux.as_mut().unwrap().sysctls.insert(key, "x".into());
            }),
        ),
        (
            "config.linux.sysctls.net.core.somaxconn: ",
            refused(|c| {
                options(c).network = cri::NamespaceMode::Node.into();
                let key = "net.core.somaxconn".to_owned();
                c.linux.as_mut().unwrap().sysctls.insert(key, "1".into());
            }),
        ),
        (
            "config.linux.security_context.namespace_options.network: ",
            refused(|c| options(c).network = cri::NamespaceMode::Container.into()),
        ),
        (
            "config.linux.security_context.namespace_options.pid: 9 ",
            refused(|c| options(c).pid = 9),
        ),
        (
            "config.linux.security_context.run_as_group: ",
            refused(|c| context(c).run_as_group = Some(cri::Int64Value { value: 1 })),
        ),
        (
            "config.linux.security_context.seccomp.localhost_ref: ",
            refused(|c| {
                let localhost_ref = "relative".to_owned();
                context(c).seccomp = Some(cri::SecurityProfile { profile_type: 2, localhost_ref });
            }),
        ),
    ];
    for (start, error) in cases {
        assert!(error.starts_with(start), "{error:?} does not start with {start:?}");
    }
}

#[test]
fn a_containers_error_names_the_path_of_its_field() {
    let mount = |change: fn(&mut cri::Mount)| {
        let mut mount = cri::Mount {
            container_path: "/c".into(),
            host_path: "/h".into(),
            ..Default::default()
        };
        change(&mut mount);
        refused_container(|c| c.mounts = vec![mount]).to_string()
    };
    let cases: [(&str, String); 9] = [
        ("config.image.image: is empty", {
            refused_container(|c| c.image.as_mut().unwrap().image.clear()).to_string()
        }),
        ("config.log_path: ", refused_container(|c| c.log_path = "../x".into()).to_string()),
        (
            "config.mounts[0].container_path: is the root",
            mount(|m| m.container_path = "/./".into()),
        ),
        ("config.mounts[0].recursive_read_only: ", mount(|m| m.recursive_read_only = true)),
        ("config.mounts[0].propagation: ", mount(|m| m.propagation = 3)),
        ("config.envs[0].key: ", {
            let env = cri::KeyValue { key: "A=B".into(), value: Vec::new() };
            refused_container(|c| c.envs = vec![env]).to_string()
        }),
        ("config.linux.security_context.run_as_username: ", {
            refused_container(|c| {
                of(c).run_as_user = Some(cri::Int64Value { value: 0 });
                of(c).run_as_username = "root".into();
            })
            .to_string()
        }),
        ("config.linux.security_context.run_as_user: 4294967295 ", {
            let none = Some(cri::Int64Value { value: i64::from(u32::MAX) });
            refused_container(|c| of(c).run_as_user = none).to_string()
        }),
        ("config.linux.security_context.capabilities.drop_capabilities[0]: ", {
            let drop_capabilities = vec!["cap_nonsense".into()];
            let set = cri::Capability { drop_capabilities, ..Default::default() };
            refused_container(|c| of(c).capabilities = Some(set)).to_string()
        }),
    ];
    for (start, error) in cases {
        assert!(error.starts_with(start), "{error:?} does not start with {start:?}");
    }
}

#[test]
fn a_cdi_device_has_a_qualified_name() {
    let error = refused_container(|c| c.cdi_devices = vec![cri::CdiDevice { name: "a/b".into() }]);
    assert_eq!((error.kind(), error.path.as_str()), (Kind::Invalid, "config.CDI_devices[0].name"));
}

fn ids(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
    cri::IdMapping { host_id, container_id, length }
}

#[test]
fn a_user_namespace_is_one_range_each_from_0_on() {
    use cri::NamespaceMode::{Container, Node, Pod, Target};
    let parse = |mode: cri::NamespaceMode, uids: &[cri::IdMapping], gids: &[cri::IdMapping]| {
        let mut wire = sandbox();
        let (uids, gids) = (uids.to_vec(), gids.to_vec());
        options(&mut wire).userns_options =
            Some(cri::UserNamespace { mode: mode.into(), uids, gids });
        let parsed = sandbox_config(&At::root("config"), Some(&wire), "");
        parsed.map(|config| config.namespaces.user).map_err(|error| error.to_string())
    };
    let (one, other) = (ids(0, 65_536, 65_536), ids(0, 7, u32::MAX - 7));
    let user = parse(Pod, &[one], &[other]).unwrap().unwrap();
    assert_eq!((user.uids.first, user.uids.length), (65_536, 65_536));
    assert_eq!((user.gids.first, user.gids.length), (7, u32::MAX - 7));
    assert_eq!(parse(Node, &[], &[]), Ok(None));
    let at = "config.linux.security_context.namespace_options.userns_options";
    for (mode, uids, gids, field) in [
        (Pod, vec![one, one], vec![one], ".uids: "),
        (Pod, vec![one], vec![], ".gids: "),
        (Pod, vec![ids(1, 7, 7)], vec![one], ".uids: "),
        (Pod, vec![one], vec![ids(0, 7, 0)], ".gids: "),
        (Pod, vec![ids(0, 7, u32::MAX - 6)], vec![one], ".uids: "),
        (Node, vec![one], vec![one], ": "),
        (Container, vec![], vec![], ".mode: "),
        (Target, vec![one], vec![one], ".mode: "),
    ] {
        let error = parse(mode, &uids, &gids).unwrap_err();
        assert!(error.starts_with(&format!("{at}{field}")), "{error}");
    }
}

#[test]
fn a_user_namespace_does_not_go_with_the_nodes_pid_or_ipc() {
    let with = |change: fn(&mut cri::NamespaceOption)| {
        let mut wire = sandbox();
        let (uids, gids) = (vec![ids(0, 65_536, 65_536)], vec![ids(0, 65_536, 65_536)]);
        let options = options(&mut wire);
        options.userns_options = Some(cri::UserNamespace { mode: 0, uids, gids });
        change(options);
        sandbox_config(&At::root("config"), Some(&wire), "").map_err(|error| error.kind())
    };
    with(|o| o.network = cri::NamespaceMode::Node.into()).unwrap();
    assert_eq!(with(|o| o.pid = cri::NamespaceMode::Node.into()).unwrap_err(), Kind::Invalid);
    assert_eq!(with(|o| o.ipc = cri::NamespaceMode::Node.into()).unwrap_err(), Kind::Invalid);
}

type Change = fn(&mut cri::Mount);

#[test]
fn an_image_volume_is_read_only_and_stays_in_its_image() {
    let parse = |change: Change| {
        let mut mount = cri::Mount {
            container_path: "/v".into(),
            readonly: true,
            image: Some(cri::ImageSpec { image: "models:1".into(), ..Default::default() }),
            image_sub_path: "sub/dir".into(),
            ..Default::default()
        };
        change(&mut mount);
        let mut wire = container();
        wire.mounts = vec![mount];
        let parsed = container_config(&At::root("config"), Some(&wire));
        parsed.map(|mut config| config.mounts.remove(0)).map_err(|error| error.to_string())
    };
    let volume = parse(|m| m.recursive_read_only = true).unwrap().image.unwrap();
    assert_eq!((volume.image.image.as_str(), volume.sub_path.as_str()), ("models:1", "sub/dir"));
    let cases: [(&str, Change); 8] = [
        ("host_path", |m| m.host_path = "/h".into()),
        ("readonly", |m| m.readonly = false),
        ("propagation", |m| m.propagation = 1),
        ("propagation", |m| m.propagation = 2),
        ("image_sub_path", |m| m.image_sub_path = "/sub".into()),
        ("image_sub_path", |m| m.image_sub_path = "a/../b".into()),
        ("image_sub_path", |m| m.image_sub_path = "a\0b".into()),
        ("image.image", |m| m.image.as_mut().unwrap().image.clear()),
    ];
    for (field, change) in cases {
        let error = parse(change).unwrap_err();
        assert!(error.starts_with(&format!("config.mounts[0].{field}: ")), "{error}");
    }
    // A kubelet sends it with any volume that has a sub-path.
    let plain = parse(|m| (m.image, m.host_path) = (None, "/h".into())).unwrap();
    assert_eq!(plain.image, None);
}

#[test]
fn an_option_of_a_mount_takes_something_away() {
    let parse = |options: &[&str]| {
        let mut wire = container();
        wire.mounts = vec![cri::Mount {
            container_path: "/v".into(),
            host_path: "/h".into(),
            mount_options: options.iter().map(|&option| option.to_owned()).collect(),
            ..Default::default()
        }];
        let parsed = container_config(&At::root("config"), Some(&wire));
        parsed.map(|mut config| config.mounts.remove(0).options).map_err(|e| e.to_string())
    };
    let denied = [MountOption::NoExec, MountOption::NoDev, MountOption::NoSuid];
    assert_eq!(parse(&["noexec", "nodev", "nosuid"]), Ok(denied.to_vec()));
    for option in ["exec", "suid", "dev", "rw", "NOEXEC", "", "noexec,nodev"] {
        let error = parse(&["nodev", option]).unwrap_err();
        assert!(error.starts_with("config.mounts[0].mount_options[1]: "), "{error}");
    }
}

#[test]
fn a_volume_is_mapped_for_users_and_groups_or_not_at_all() {
    let parse = |uids: Vec<cri::IdMapping>, gids: Vec<cri::IdMapping>| {
        let mut wire = container();
        let (container_path, host_path) = ("/v".into(), "/h".into());
        wire.mounts = vec![cri::Mount {
            container_path,
            host_path,
            uid_mappings: uids,
            gid_mappings: gids,
            ..Default::default()
        }];
        let parsed = container_config(&At::root("config"), Some(&wire));
        parsed.map(|config| config.mounts[0].mapped).map_err(|error| error.to_string())
    };
    let one = || vec![ids(0, 65_536, 65_536)];
    assert_eq!(parse(vec![], vec![]), Ok(None));
    assert!(parse(one(), one()).unwrap().is_some());
    let error = parse(one(), vec![]).unwrap_err();
    assert!(error.starts_with("config.mounts[0].gidMappings: "), "{error}");
}

#[test]
fn a_user_by_name_and_capabilities_in_any_spelling_are_understood() {
    let mut wire = container();
    of(&mut wire).run_as_username = "nobody".into();
    let add_capabilities = vec!["CAP_net_admin".into(), "all".into()];
    of(&mut wire).capabilities = Some(cri::Capability { add_capabilities, ..Default::default() });
    let parsed = container_config(&At::root("config"), Some(&wire)).unwrap().security;
    assert_eq!(parsed.user, Some(RunAs::Name("nobody".into())));
    assert_eq!(parsed.add_capabilities, ["NET_ADMIN", "ALL"]);
}

#[test]
fn a_port_without_host_port_maps_nothing() {
    let mut wire = sandbox();
    wire.port_mappings =
        vec![cri::PortMapping { container_port: 80, host_port: 0, ..Default::default() }];
    let parsed = sandbox_config(&At::root("config"), Some(&wire), "").unwrap();
    assert!(parsed.ports.is_empty());
}

#[test]
fn limits_out_of_the_kernels_range_are_refused_by_name() {
    let at = At::root("linux");
    let limits = |change: fn(&mut cri::LinuxContainerResources)| {
        let mut wire = cri::LinuxContainerResources::default();
        change(&mut wire);
        resources(&at, &wire).map(drop).map_err(|error| error.path)
    };
    let path = |field: &str| Err(format!("linux.{field}"));
    assert_eq!(limits(|r| r.cpu_quota = -1), Ok(()));
    assert_eq!(limits(|r| r.cpuset_cpus = "0-3,5".into()), Ok(()));
    assert_eq!(limits(|r| r.cpu_quota = 10), path("cpu_quota"));
    assert_eq!(limits(|r| r.cpu_period = 10), path("cpu_period"));
    assert_eq!(limits(|r| r.cpuset_cpus = "3-1".into()), path("cpuset_cpus"));
    assert_eq!(limits(|r| r.oom_score_adj = 1001), path("oom_score_adj"));
    assert_eq!(limits(|r| r.memory_limit_in_bytes = -2), path("memory_limit_in_bytes"));
    let sneaky = |r: &mut cri::LinuxContainerResources| {
        r.unified.insert("../memory.max".into(), "1".into());
    };
    assert_eq!(limits(sneaky), path("unified"));
}

#[test]
fn apparmor_is_asked_for_by_the_field_or_by_the_old_string() {
    let parse = |change: fn(&mut cri::LinuxContainerSecurityContext)| {
        let mut wire = container();
        change(of(&mut wire));
        let parsed = container_config(&At::root("config"), Some(&wire));
        parsed.map(|config| config.security.apparmor).map_err(|error| error.to_string())
    };
    let local = |name: &str| Ok(Some(SecurityProfile::Localhost(name.to_owned())));
    assert_eq!(parse(|_| {}), Ok(None));
    assert_eq!(
        parse(|c| c.apparmor = Some(profile(0, ""))),
        Ok(Some(SecurityProfile::RuntimeDefault))
    );
    assert_eq!(parse(|c| c.apparmor = Some(profile(1, ""))), Ok(Some(SecurityProfile::Unconfined)));
    assert_eq!(parse(|c| c.apparmor = Some(profile(2, "mine"))), local("mine"));
    assert_eq!(parse(|c| c.apparmor = Some(profile(2, "localhost/mine"))), local("mine"));
    assert_eq!(parse(|c| old(c, "localhost/mine")), local("mine"));
    assert_eq!(parse(|c| old(c, "runtime/default")), Ok(Some(SecurityProfile::RuntimeDefault)));
    for change in [
        (|c| c.apparmor = Some(profile(2, "localhost/")))
            as fn(&mut cri::LinuxContainerSecurityContext),
        |c| c.apparmor = Some(profile(2, "a\nb")),
        |c| c.apparmor = Some(profile(7, "")),
        |c| old(c, "mine"),
    ] {
        let error = parse(change).unwrap_err();
        assert!(error.starts_with("config.linux.security_context.apparmor"), "{error}");
    }
}

fn profile(kind: i32, name: &str) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: kind, localhost_ref: name.to_owned() }
}

#[expect(deprecated, reason = "old clients send it")]
fn old(wire: &mut cri::LinuxContainerSecurityContext, text: &str) {
    wire.apparmor_profile = text.to_owned();
}

#[test]
fn parts_of_a_selinux_label_are_words() {
    let asked = |user: &str, level: &str| cri::SeLinuxOption {
        user: user.to_owned(),
        level: level.to_owned(),
        ..Default::default()
    };
    let parse = |options: cri::SeLinuxOption| {
        let mut wire = container();
        of(&mut wire).selinux_options = Some(options);
        let parsed = container_config(&At::root("config"), Some(&wire));
        parsed.map(|config| config.security.selinux).map_err(|error| error.to_string())
    };
    assert_eq!(parse(asked("", "")), Ok(None));
    let level = "s0-s0:c0.c1023,c7";
    assert_eq!(parse(asked("user_u", level)).unwrap().unwrap().level, level);
    for (options, field) in [(asked("a:b", ""), "user"), (asked("", "s0 x"), "level")] {
        let error = parse(options).unwrap_err();
        let start = format!("config.linux.security_context.selinux_options.{field}: ");
        assert!(error.starts_with(&start), "{error}");
    }
}
