//! Every rule as a table or a property.

use std::collections::BTreeSet;

use names::{ContainerName, Kind, SandboxName};
use oci_spec::runtime::{Capabilities, LinuxNamespaceType};
use pod::config::*;
use proptest::prelude::*;

use super::*;

struct Case {
    sandbox: SandboxConfig,
    container: ContainerConfig,
    image: ImageConfig,
    node: NodeFacts,
    place: Place,
    localhost: Option<String>,
}

impl Case {
    fn new() -> Self {
        Self {
            sandbox: sandbox(),
            container: container(),
            image: ImageConfig { cmd: vec!["/bin/sh".into()], ..ImageConfig::default() },
            node: NodeFacts::default(),
            place: Place {
                cgroup: "/ferropod/pod/c".into(),
                hostname: "/pod/hostname".into(),
                hosts: "/pod/hosts".into(),
                resolv_conf: "/pod/resolv.conf".into(),
                shm: "/pod/shm".into(),
                ..Place::default()
            },
            localhost: None,
        }
    }

    fn build(&self) -> Result<Built, BuildError> {
        build(&Request {
            sandbox: &self.sandbox,
            sandbox_id: &SandboxId::from_random([1; 32]),
            container_id: &ContainerId::from_random([2; 32]),
            container: &self.container,
            image: &self.image,
            node: &self.node,
            place: &self.place,
            localhost_profile: self.localhost.as_deref(),
        })
    }

    fn with(change: impl FnOnce(&mut Self)) -> Built {
        let mut case = Self::new();
        change(&mut case);
        case.build().unwrap()
    }

    fn refused(change: impl FnOnce(&mut Self)) -> BuildError {
        let mut case = Self::new();
        change(&mut case);
        case.build().unwrap_err()
    }
}

use names::{ContainerId, SandboxId};

fn sandbox() -> SandboxConfig {
    SandboxConfig {
        name: SandboxName { namespace: "n".into(), name: "p".into(), uid: "u".into(), attempt: 0 },
        hostname: "web-0".into(),
        log_directory: String::new(),
        dns: None,
        ports: vec![],
        labels: Labels::new(),
        annotations: Labels::new(),
        runtime_handler: String::new(),
        cgroup_parent: String::new(),
        sysctls: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
        namespaces: Namespaces::default(),
        security: SandboxSecurity::default(),
        overhead: None,
        resources: None,
    }
}

fn container() -> ContainerConfig {
    ContainerConfig {
        name: ContainerName { name: "c".into(), attempt: 0 },
        image: ImageSpec::default(),
        command: vec![],
        args: vec![],
        working_dir: String::new(),
        envs: vec![],
        mounts: vec![],
        devices: vec![],
        labels: Labels::new(),
        annotations: Labels::new(),
        log_path: String::new(),
        stdio: Stdio::default(),
        stop_signal: None,
        stop_signal_enum: 0,
        resources: Resources::default(),
        security: ContainerSecurity::default(),
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn args(built: &Built) -> Vec<String> {
    built.spec.process().as_ref().unwrap().args().clone().unwrap()
}

fn env(built: &Built) -> Vec<String> {
    built.spec.process().as_ref().unwrap().env().clone().unwrap()
}

fn linux(built: &Built) -> &oci_spec::runtime::Linux {
    built.spec.linux().as_ref().unwrap()
}

fn caps(built: &Built) -> oci_spec::runtime::LinuxCapabilities {
    built.spec.process().as_ref().unwrap().capabilities().clone().unwrap()
}

fn set(names: &[&str]) -> Capabilities {
    names.iter().map(|n| n.parse().unwrap()).collect()
}

fn mount_at<'a>(built: &'a Built, at: &str) -> Option<&'a oci_spec::runtime::Mount> {
    built.spec.mounts().as_ref().unwrap().iter().find(|m| m.destination().as_os_str() == at)
}

fn options(built: &Built, at: &str) -> Vec<String> {
    mount_at(built, at).unwrap_or_else(|| panic!("no mount at {at}")).options().clone().unwrap()
}

fn volume(container: &str, host: &str) -> Mount {
    Mount {
        container_path: container.into(),
        host_path: host.into(),
        readonly: false,
        recursive_read_only: false,
        selinux_relabel: false,
        propagation: Propagation::Private,
        mapped: None,
    }
}

#[test]
fn command_and_args_go_by_the_rule_of_the_field() {
    // (entrypoint, cmd, command, args) -> what runs
    type List = &'static [&'static str];
    let table: [(List, List, List, List, List); 7] = [
        (&["e"], &["c"], &[], &[], &["e", "c"]),
        (&["e"], &["c"], &["x"], &[], &["x"]),
        (&["e"], &["c"], &[], &["a"], &["e", "a"]),
        (&["e"], &["c"], &["x"], &["a"], &["x", "a"]),
        (&[], &["c"], &[], &[], &["c"]),
        (&[], &[], &[], &["a"], &["a"]),
        (&["e"], &[], &[], &[], &["e"]),
    ];
    for (entrypoint, cmd, command, args_, want) in table {
        let built = Case::with(|c| {
            c.image.entrypoint = strings(entrypoint);
            c.image.cmd = strings(cmd);
            c.container.command = strings(command);
            c.container.args = strings(args_);
        });
        assert_eq!(args(&built), strings(want));
    }
    let error = Case::refused(|c| c.image.cmd.clear());
    assert!(error.to_string().starts_with("no command specified"));
    assert_eq!(error.kind(), Kind::Invalid);
}

#[test]
fn the_environment_has_defaults_and_the_later_wins() {
    let built = Case::with(|c| {
        c.image.env = strings(&["PATH=/image", "A=image", "B=image"]);
        c.container.envs = vec![("A".into(), b"client".to_vec()), ("E".into(), b"x=y".to_vec())];
    });
    assert_eq!(
        env(&built),
        strings(&["PATH=/image", "HOSTNAME=web-0", "A=client", "B=image", "E=x=y"])
    );
    let built = Case::with(|c| {
        c.container.stdio.tty = true;
        c.sandbox.hostname.clear();
        c.node.hostname = "node1".into();
    });
    let env = env(&built);
    assert!(env.contains(&"TERM=xterm".into()) && env.contains(&"HOSTNAME=node1".into()));
    assert!(env[0].starts_with("PATH=/usr/local/sbin:"));
    assert_eq!(built.spec.process().as_ref().unwrap().terminal(), Some(true));
}

#[test]
fn an_environment_that_cannot_be_is_named() {
    for (name, value, says) in [
        ("HOME", &b"x\nroot2::0:0"[..], "HOME contains a line break"),
        ("HOME", b"x\r", "HOME contains a line break"),
        ("", b"x", "is not a name"),
        ("A=B", b"x", "is not a name"),
        ("A", b"\xff", "not UTF-8"),
        ("A", b"a\0b", "NUL"),
    ] {
        let error = Case::refused(|c| c.container.envs = vec![(name.into(), value.to_vec())]);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn the_working_directory_is_the_clients_then_the_images_then_the_root() {
    for (client, image, want) in [
        ("", "", "/"),
        ("", "/img", "/img"),
        ("/cli", "/img", "/cli"),
        ("", "app", "/app"),
        ("/a/../../b", "", "/b"),
        ("/a/./b/", "", "/a/b"),
    ] {
        let built = Case::with(|c| {
            c.container.working_dir = client.into();
            c.image.working_dir = image.into();
        });
        assert_eq!(built.spec.process().as_ref().unwrap().cwd().display().to_string(), want);
    }
}

#[test]
fn the_stop_signal_is_the_clients_then_the_images_then_term() {
    assert_eq!(Case::with(|_| {}).stop_signal, 15);
    assert_eq!(Case::with(|c| c.image.stop_signal = "SIGQUIT".into()).stop_signal, 3);
    let both = Case::with(|c| {
        c.image.stop_signal = "SIGQUIT".into();
        c.container.stop_signal = Some(10);
    });
    assert_eq!(both.stop_signal, 10);
    assert!(
        Case::refused(|c| c.image.stop_signal = "nope".into()).to_string().contains("\"nope\"")
    );
}

#[test]
fn the_default_capabilities_are_the_usual_fourteen_and_inheritable_is_empty() {
    let caps = caps(&Case::with(|_| {}));
    let usual = set(&capabilities::USUAL);
    assert_eq!(caps.bounding().as_ref(), Some(&usual));
    assert_eq!(caps.permitted().as_ref(), Some(&usual));
    assert_eq!(caps.effective().as_ref(), Some(&usual));
    assert_eq!(caps.inheritable().as_ref(), Some(&Capabilities::new()));
    assert_eq!(caps.ambient().as_ref(), Some(&Capabilities::new()));
}

#[test]
fn capabilities_are_added_then_dropped_and_all_is_a_word() {
    type List = &'static [&'static str];
    let table: [(List, List, List, List); 6] = [
        (&["NET_ADMIN"], &["KILL"], &["NET_ADMIN"], &["KILL"]),
        (&["NET_ADMIN"], &["ALL"], &["NET_ADMIN"], &["KILL", "CHOWN"]),
        (&["ALL"], &["SYS_ADMIN"], &["SYS_TIME", "BPF"], &["SYS_ADMIN"]),
        (&["NET_ADMIN"], &["NET_ADMIN"], &["CHOWN"], &["NET_ADMIN"]),
        (&["cap_sys_time"], &[], &["SYS_TIME"], &[]),
        (&[], &["all"], &[], &["CHOWN"]),
    ];
    for (add, drop, has, lacks) in table {
        let caps = caps(&Case::with(|c| {
            c.container.security.add_capabilities = strings(add);
            c.container.security.drop_capabilities = strings(drop);
        }));
        let held = caps.permitted().clone().unwrap();
        assert!(held.is_superset(&set(has)), "{add:?} {drop:?}: {held:?}");
        assert!(held.is_disjoint(&set(lacks)), "{add:?} {drop:?}: {held:?}");
    }
    let error = Case::refused(|c| c.container.security.add_capabilities = strings(&["FLY"]));
    assert!(error.to_string().contains("\"FLY\" is no capability"));
}

#[test]
fn what_the_daemon_lacks_is_left_out_even_of_privileged() {
    for privileged in [false, true] {
        let caps = caps(&Case::with(|c| {
            c.node.bounding.remove("SYS_RESOURCE");
            c.container.security.privileged = privileged;
            c.container.security.add_capabilities = strings(&["SYS_RESOURCE", "SYS_TIME"]);
        }));
        assert!(caps.permitted().as_ref().unwrap().is_disjoint(&set(&["SYS_RESOURCE"])));
        assert!(caps.permitted().as_ref().unwrap().is_superset(&set(&["SYS_TIME"])));
    }
}

#[test]
fn ambient_capabilities_are_in_all_five_sets() {
    let caps = caps(&Case::with(|c| {
        c.container.security.add_ambient_capabilities = strings(&["NET_ADMIN"]);
        c.container.security.drop_capabilities = strings(&["ALL"]);
    }));
    let one = set(&["NET_ADMIN"]);
    for set in
        [caps.bounding(), caps.effective(), caps.permitted(), caps.inheritable(), caps.ambient()]
    {
        assert_eq!(set.as_ref(), Some(&one));
    }
}

#[test]
fn no_new_privs_is_only_said_when_true() {
    let nnp = |asked| {
        let built = Case::with(|c| c.container.security.no_new_privs = asked);
        built.spec.process().as_ref().unwrap().no_new_privileges()
    };
    assert_eq!((nnp(true), nnp(false)), (Some(true), None));
    let json = String::from_utf8(Case::with(|_| {}).json().unwrap()).unwrap();
    assert!(!json.contains("noNewPrivileges") && !json.contains("sysctl"));
}

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
    let error = Case::refused(|c| {
        c.container.resources.memory_limit = 2;
        c.container.resources.memory_swap_limit = 1;
    });
    assert!(error.to_string().contains("memory_swap_limit_in_bytes"));
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
    assert!(allowed.contains("read") && allowed.contains("chroot"));
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
    }
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
        let clean = mounts::clean(&path);
        prop_assert!(clean.starts_with('/'));
        prop_assert!(clean.split('/').all(|p| p != ".." && p != "."));
        prop_assert_eq!(mounts::clean(&clean), clean.clone());
    }

    #[test]
    fn no_capability_is_beyond_the_bounding_set(
        add in prop::sample::subsequence(capabilities::ALL.to_vec(), 0..8),
        drop in prop::sample::subsequence(capabilities::ALL.to_vec(), 0..8),
        ambient in prop::sample::subsequence(capabilities::ALL.to_vec(), 0..4),
        bounding in prop::sample::subsequence(capabilities::ALL.to_vec(), 0..41),
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
