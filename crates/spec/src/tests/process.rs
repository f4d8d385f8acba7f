//! What runs: command, environment, directory, signal, capabilities.

use super::*;

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
fn the_working_directory_and_the_images_volumes_are_to_be_made() {
    let volumes = |all: &[&str]| all.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    assert!(Case::with(|_| {}).directories.is_empty());
    let built = Case::with(|c| {
        c.container.working_dir = "/w".into();
        c.image.volumes = volumes(&["/../../a/./b/", "c", "/"]);
    });
    assert_eq!(built.directories, ["/w", "/a/b", "/c"]);
    let error = Case::refused(|c| c.image.volumes = volumes(&["/a\0"]));
    assert!(error.to_string().contains("the image's volume"), "{error}");
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
