//! The process: user, capabilities, filter, environment, terminal.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use pod::config::{Namespaces, RunAs, SecurityProfile};
use wire::inherited::{IPC_FD, NET_FD, UTS_FD};

use crate::shim::{Case, put};

#[test]
fn a_container_runs_and_its_output_arrives() {
    let case = Case::new("echo hello; pwd; echo $HOME; echo $HOSTNAME; cat /etc/hosts; exit 7");
    let ran = case.run();
    assert_eq!(ran.out, "hello\n/\n/root\nweb-0\nfrom the pod\n");
    assert_eq!((ran.code(), ran.start_error.as_str()), (7, ""));
}

#[test]
fn its_pid_is_one_and_it_sees_no_path_of_the_host() {
    let ran = Case::new("echo $$; ls /proc/1/fd; cat /proc/self/mountinfo").run();
    let lines: Vec<_> = ran.out.lines().collect();
    assert_eq!(lines[..4], ["1", "0", "1", "2"]);
    assert!(!ran.out.contains("/carrier") && !ran.out.contains(" /b "), "{}", ran.out);
}

#[test]
fn users_of_image_and_client_become_ids_and_home() {
    for (image, user, want, home) in [
        ("", None, "uid=0(root) gid=0(root) groups=0(root)", "/root"),
        ("web", None, "uid=33(web) gid=34(www) groups=34(www),50(log)", "/srv"),
        ("33:7", None, "uid=33(web) gid=7 groups=7,50(log)", "/srv"),
        ("web", Some(RunAs::Uid(1234)), "uid=1234 gid=0(root) groups=0(root)", "/"),
        (
            "",
            Some(RunAs::Name("web".into())),
            "uid=33(web) gid=34(www) groups=34(www),50(log)",
            "/srv",
        ),
    ] {
        let case = Case::new("id; echo $HOME; echo again > /dev/stdout").with(|c| {
            c.image.user = image.into();
            c.container.security.user = user;
        });
        let made = case.create().unwrap();
        let uid = made.born.uid;
        case.start();
        assert_eq!(made.finish().out, format!("{want}\n{home}\nagain\n"));
        assert!(want.starts_with(&format!("uid={uid}")));
    }
}

#[test]
fn a_user_that_is_not_in_the_image_is_named() {
    let ghost = Some(RunAs::Name("ghost".into()));
    let failure = Case::new("true").with(|c| c.container.security.user = ghost).refused();
    assert_eq!((failure.stage.as_str(), failure.kind), ("user", 1));
    assert!(failure.message.contains("\"ghost\""), "{failure:?}");
}

#[test]
fn capabilities_are_those_asked_for_and_inheritable_is_empty() {
    let case = Case::new("echo up; sleep 100").with(|c| {
        c.container.security.add_capabilities = vec!["NET_ADMIN".into()];
        c.container.security.drop_capabilities = vec!["ALL".into()];
    });
    let mut made = case.create().unwrap();
    case.start();
    assert_eq!(made.line(), "up");
    let net_admin = "0000000000001000";
    let exec = case.exec(&made, &["sleep", "100"], |_| {}).unwrap();
    for who in [&made, &exec] {
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(who.status(set), net_admin, "{set}");
        }
        assert_eq!(who.status("CapInh"), "0000000000000000");
        assert_eq!(who.status("CapAmb"), "0000000000000000");
        assert_eq!(who.status("NoNewPrivs"), "0");
    }
    exec.end();
    made.end();
}

#[test]
fn a_user_that_is_not_root_keeps_only_ambient_capabilities() {
    let case = Case::new("echo up; sleep 100").with(|c| {
        c.container.security.user = Some(RunAs::Uid(1234));
        c.container.security.add_ambient_capabilities = vec!["NET_ADMIN".into()];
        c.container.security.no_new_privs = true;
    });
    let mut made = case.create().unwrap();
    case.start();
    assert_eq!(made.line(), "up");
    let exec = case.exec(&made, &["sleep", "100"], |_| {}).unwrap();
    for who in [&made, &exec] {
        for set in ["CapPrm", "CapEff", "CapAmb", "CapInh"] {
            assert_eq!(who.status(set), "0000000000001000", "{set}");
        }
        assert_eq!(who.status("NoNewPrivs"), "1");
        assert_eq!(who.status("Uid").split('\t').next(), Some("1234"));
    }
    exec.end();
    made.end();
}

#[test]
fn the_filter_is_on_in_container_and_exec_with_and_without_no_new_privs() {
    for no_new_privs in [false, true] {
        let case = Case::new("unshare -m true 2>&1; echo up; sleep 100").with(|c| {
            c.container.security.seccomp = Some(SecurityProfile::RuntimeDefault);
            c.container.security.no_new_privs = no_new_privs;
        });
        let mut made = case.create().unwrap();
        case.start();
        assert!(made.line().contains("Operation not permitted"));
        assert_eq!(made.line(), "up");
        let exec = case.exec(&made, &["sleep", "100"], |_| {}).unwrap();
        assert_eq!((made.status("Seccomp"), exec.status("Seccomp")), ("2".into(), "2".into()));
        assert_eq!(made.status("NoNewPrivs"), if no_new_privs { "1" } else { "0" });
        exec.end();
        made.end();
        let cached = fs::read_dir(case.path("cache")).unwrap().count();
        assert_eq!(cached, 1, "one profile is one program");
    }
}

#[test]
fn an_exec_takes_the_program_that_the_container_was_made_with_else_the_profile() {
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ERRNO","errnoRet":1,"names":
        ["chmod","fchmod","fchmodat","fchmodat2"]}]}"#;
    let case = Case::new("sleep 100").with(|c| {
        c.container.security.seccomp = Some(SecurityProfile::Localhost("/p.json".into()));
        c.localhost = Some(profile.into());
    });
    let made = case.create().unwrap();
    case.start();
    let refused = || {
        let command = ["sh", "-c", "chmod 700 /tmp 2>/dev/null; echo $?; sleep 100"];
        let mut exec = case.exec(&made, &command, |_| {}).unwrap();
        let told = exec.line();
        exec.end();
        told == "1"
    };
    let (kept, cache) = (case.path("bundle/kept"), case.path("cache"));
    fs::remove_dir_all(&cache).unwrap();
    fs::create_dir(&cache).unwrap();
    assert!(refused());
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "the profile was not read");
    fs::remove_file(kept).unwrap();
    assert!(refused());
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1, "the profile was read");
    made.end();
}

#[test]
fn a_strict_profile_of_the_nodes_own_is_obeyed() {
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ERRNO","errnoRet":1,"names":
        ["chmod","fchmod","fchmodat","fchmodat2","setuid","setresuid","setgroups","mount"]}]}"#;
    let case = Case::new("chmod 700 /tmp 2>&1; echo $?").with(|c| {
        c.container.security.seccomp = Some(SecurityProfile::Localhost("/p.json".into()));
        c.localhost = Some(profile.into());
        c.container.security.user = Some(RunAs::Uid(1234));
    });
    let ran = case.run();
    assert!(ran.out.contains("Operation not permitted") && ran.out.ends_with("1\n"), "{ran:?}");
}

/// Neither with AppArmor, where no such profile is loaded, nor without it.
#[test]
fn nothing_is_run_without_the_profile_that_it_is_to_have() {
    let profile = "no-such-profile";
    let ran = Case::new("echo up").with(|c| c.apparmor = Some(profile.into())).run();
    assert!(
        ran.start_error.starts_with("apparmor\0taking the profile no-such-profile: "),
        "{ran:?}"
    );
    assert_eq!(ran.out, "");
}

#[test]
fn a_program_that_cannot_be_executed_is_told_on_start() {
    for (command, says, code) in [
        ("nothere", "start\0exec: \"nothere\": executable file not found in $PATH", 127),
        ("/bin/nothere", "start\0exec: \"/bin/nothere\": no such file or directory", 127),
        ("/bin/noexec", "start\0exec: \"/bin/noexec\": permission denied", 126),
        ("noexec", "start\0exec: \"/bin/noexec\": permission denied", 126),
    ] {
        let ran = Case::new("").with(|c| c.container.command = vec![command.into()]).run();
        assert_eq!((ran.start_error.as_str(), ran.code()), (says, code));
    }
}

#[test]
fn a_terminal_is_the_containers_own_and_its_users() {
    let script =
        "tty; stat -c %u $(tty); echo $TERM; test -t 0 && test -t 1 && test -t 2 && echo three";
    let case = Case::new(script).with(|c| {
        c.container.stdio.tty = true;
        c.container.security.user = Some(RunAs::Uid(33));
    });
    let made = case.create().unwrap();
    assert!(made.terminal.is_some());
    case.start();
    assert_eq!(made.finish().out, "/dev/pts/0\n33\nxterm\nthree\n");
    let left = Path::new(&case.path("bundle")).join(case.id.as_str()).join("console-socket");
    assert!(!left.is_symlink() && !left.exists());
}

#[test]
fn the_working_directory_is_made_inside() {
    let case =
        Case::new("pwd; stat -c %a .").with(|c| c.container.working_dir = "/new/deep/dir".into());
    assert_eq!(case.run().out, "/new/deep/dir\n755\n");
    assert!(Path::new(&case.path("upper/new/deep/dir")).is_dir());
}

#[test]
fn what_the_image_calls_volumes_is_there_and_so_is_the_directory_of_a_root_that_is_read_only() {
    let script = "pwd; stat -c %a /data /real/deep; cat /etc/file; ls /proc/none; touch /data/new";
    let case = Case::new(&format!("({script}) 2>&1")).with(|c| {
        c.container.working_dir = "/work/dir".into();
        c.container.security.readonly_rootfs = true;
        c.image.volumes =
            ["/data", "/link/deep", "/etc/file", "/etc/file/below", "/proc/none", "/../data", "/"]
                .map(str::to_owned)
                .into();
        let upper = c.path("upper");
        fs::create_dir_all(format!("{upper}/etc")).unwrap();
        put(Path::new(&format!("{upper}/etc/file")), "of the image\n");
        symlink("/real", format!("{upper}/link")).unwrap();
    });
    let out = case.run().out;
    let (made, refused) = out.split_once("ls: ").expect(&out);
    assert_eq!(made, "/work/dir\n755\n755\nof the image\n");
    assert!(refused.contains("/proc/none") && refused.contains("Read-only file system"), "{out}");
    assert!(!Path::new(&case.path("upper/proc/none")).exists(), "what a mount covers");
}

#[test]
fn limits_and_rank_are_set() {
    let case = Case::new("ulimit -n; cat /proc/self/oom_score_adj").with(|c| {
        c.container.resources.oom_score_adj = 500;
        c.node.rlimits = vec![spec::Rlimit { name: "RLIMIT_NOFILE".into(), soft: 77, hard: 1024 }];
    });
    assert_eq!(case.run().out, "77\n500\n");
}

#[test]
fn the_cgroup_limits_memory() {
    let case =
        Case::new("echo up; sleep 100").with(|c| c.container.resources.memory_limit = 64 << 20);
    let mut made = case.create().unwrap();
    case.start();
    assert_eq!(made.line(), "up");
    if let Some(dir) = case.cgroups().into_iter().find(|d| d.contains("/memory/")) {
        let read = |file: &str| fs::read_to_string(format!("{dir}/{file}")).unwrap();
        assert_eq!(read("memory.limit_in_bytes").trim(), (64 << 20).to_string());
        assert!(read("cgroup.procs").contains(&made.born.pid.to_string()));
    }
    made.end();
}

#[test]
fn a_privileged_container_has_the_hosts_devices_and_may_mount() {
    let case = Case::new(
        "ls /dev; mount -t tmpfs x /tmp && echo mounted; echo x > /dev/kmsg && echo written",
    )
    .with(|c| c.container.security.privileged = true);
    let out = case.run().out;
    assert!(out.contains("mounted") && out.contains("kmsg") && out.contains("written"), "{out}");
}

#[test]
fn the_pods_namespaces_are_joined_by_descriptor() {
    let kinds = [("net", NET_FD), ("ipc", IPC_FD), ("uts", UTS_FD)];
    let open = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)
            .unwrap();
        kinds.map(|(kind, fd)| {
            (OwnedFd::from(fs::File::open(format!("/proc/thread-self/ns/{kind}")).unwrap()), fd)
        })
    };
    let fds = std::thread::spawn(open).join().unwrap();
    let link = |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    let want: Vec<_> = fds.iter().map(|(fd, _)| link(fd).display().to_string()).collect();
    let case =
        Case::new("for n in net ipc uts; do readlink /proc/self/ns/$n; done; ls /proc/self/fd")
            .with(|c| {
                c.sandbox.namespaces = Namespaces::default();
                c.namespaces = fds.into();
            });
    assert_eq!(case.run().out, format!("{}\n0\n1\n2\n3\n", want.join("\n")));
}
