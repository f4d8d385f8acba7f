//! The pod's own namespaces and the built-in init.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wire::v1::envelope::Body;
use wire::v1::failure::Kind;
use wire::v1::{IdMap, OpenNamespaces};

use crate::rig::{Rig, exists, wait_until};

fn inode(fd: &OwnedFd) -> u64 {
    nix::sys::stat::fstat(fd.as_raw_fd()).unwrap().st_ino
}

fn sysctls(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Runs in a thread that has joined the namespaces.
fn inside<T: Send>(fds: &[OwnedFd], look: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let joined = || {
            for fd in fds {
                nix::sched::setns(fd, nix::sched::CloneFlags::empty()).unwrap();
            }
            look()
        };
        scope.spawn(joined).join().unwrap()
    })
}

#[test]
fn namespaces_have_their_name_and_sysctls_and_are_made_once() {
    let (_rig, mut daemon) = Rig::committed();
    let request = Body::OpenNamespaces(OpenNamespaces {
        net: true,
        ipc: true,
        uts: true,
        hostname: "my-pod".into(),
        sysctls: sysctls(&[("net.ipv4.ip_forward", "1"), ("kernel.shmmni", "123")]),
        ..OpenNamespaces::default()
    });
    let (answer, fds) = daemon.call(request.clone(), &[]);
    let Body::Namespaces(made) = answer else { panic!("{answer:?}") };
    assert_eq!(
        (made.net, made.ipc, made.uts, made.pid, made.init_pid),
        (true, true, true, false, 0)
    );
    assert_eq!(fds.len(), 3);
    for (fd, kind) in fds.iter().zip(["net", "ipc", "uts"]) {
        let ours = fs::metadata(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(inode(fd), std::os::unix::fs::MetadataExt::ino(&ours));
    }
    let seen = inside(&fds, || {
        let read = |path: &str| fs::read_to_string(path).unwrap().trim().to_owned();
        let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
        (name, read("/proc/sys/net/ipv4/ip_forward"), read("/proc/sys/kernel/shmmni"))
    });
    assert_eq!(seen, ("my-pod".to_owned(), "1".to_owned(), "123".to_owned()));
    let (_, again) = daemon.call(request, &[]);
    assert!(fds.iter().zip(&again).all(|(one, other)| inode(one) == inode(other)));
}

#[test]
fn a_sysctl_that_fails_is_named() {
    let (_rig, mut daemon) = Rig::committed();
    for name in ["net.ipv4.no_such_thing", "net/../../../etc/passwd"] {
        let request = OpenNamespaces {
            net: true,
            sysctls: sysctls(&[("net.ipv4.ip_forward", "1"), (name, "1")]),
            ..OpenNamespaces::default()
        };
        let failure = daemon.refused(Body::OpenNamespaces(request));
        assert_eq!((failure.stage.as_str(), failure.kind()), ("sysctl", Kind::Invalid));
        assert!(failure.message.contains(name), "{}", failure.message);
    }
}

#[test]
fn the_init_shows_nothing_and_reaps_and_ends_on_term() {
    let (rig, mut daemon) = Rig::committed();
    let request = OpenNamespaces { pid: true, ipc: true, ..OpenNamespaces::default() };
    let (answer, fds) = daemon.call(Body::OpenNamespaces(request), &[]);
    let Body::Namespaces(made) = answer else { panic!("{answer:?}") };
    assert_eq!(fds.len(), 2);
    let init = made.init_pid;
    let proc = |name: &str| format!("/proc/{init}/{name}");
    let status = fs::read_to_string(proc("status")).unwrap();
    for line in [
        "Name:\tferropod-init",
        "Uid:\t65535\t65535\t65535\t65535",
        "Groups:\t \n",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "NSpid:",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert!(status.contains("\t1\n"), "{status}");
    assert_eq!(
        fs::read(proc("cmdline")).unwrap().split(|b| *b == 0).next().unwrap(),
        b"ferropod-init"
    );
    assert_eq!(fs::read_dir(proc("root")).unwrap().count(), 0);
    fs::File::create(proc("root/x")).unwrap_err();
    // The last one is that of its report, which it closes after it.
    wait_until("it holds no descriptor", || fs::read_dir(proc("fd")).unwrap().count() == 0);
    assert_eq!(fs::read_to_string(proc("mountinfo")).unwrap().lines().count(), 1);
    // A member of the namespace whose parent has gone becomes the init's.
    assert_eq!(
        inode(&fds[1]),
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(proc("ns/pid")).unwrap())
    );
    kill(Pid::from_raw(init), Signal::SIGUSR1).ok();
    assert!(exists(init));
    kill(Pid::from_raw(init), Signal::SIGTERM).unwrap();
    wait_until("it ends", || !exists(init));
    assert_eq!(rig.connect().1.init_pid, 0);
}

/// The user namespace that owns one.
fn owner(fd: &OwnedFd) -> u64 {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: the request takes nothing, and gives a new descriptor.
    let owner = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_USERNS) };
    assert!(owner >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just given it to us alone.
    inode(&unsafe { std::os::fd::FromRawFd::from_raw_fd(owner) })
}

#[test]
fn a_user_namespace_has_its_ids_and_owns_all_others() {
    let (_rig, mut daemon) = Rig::committed();
    let request = Body::OpenNamespaces(OpenNamespaces {
        net: true,
        ipc: true,
        uts: true,
        pid: true,
        hostname: "mapped".into(),
        sysctls: sysctls(&[
            ("net.ipv4.ip_unprivileged_port_start", "80"),
            ("kernel.shmmni", "123"),
            ("fs.mqueue.msg_max", "5"),
        ]),
        user: Some(IdMap { first_uid: 70_000, uids: 1000, first_gid: 90_000, gids: 65_536 }),
        label: String::new(),
    });
    let (answer, fds) = daemon.call(request.clone(), &[]);
    let Body::Namespaces(made) = answer else { panic!("{answer:?}") };
    assert!(made.user && made.init_pid > 0, "{made:?}");
    let [net, ipc, uts, pid, user] = fds.as_slice() else { panic!("{fds:?}") };
    for other in [net, ipc, uts, pid] {
        assert_eq!(owner(other), inode(user));
    }
    let read = |path: String| fs::read_to_string(path).unwrap();
    let map = |name| read(format!("/proc/{}/{name}", made.init_pid));
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(map("uid_map")), "0 70000 1000");
    assert_eq!(words(map("gid_map")), "0 90000 65536");
    assert_eq!(map("setgroups"), "allow\n");
    // The init is the last user that there is.
    let status = map("status");
    assert!(status.contains("Uid:\t70999\t70999\t70999\t70999"), "{status}");
    assert!(status.contains("Gid:\t155535\t"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    let seen = inside(&fds[..3], || {
        ["net/ipv4/ip_unprivileged_port_start", "kernel/shmmni", "fs/mqueue/msg_max"]
            .map(|name| read(format!("/proc/sys/{name}")).trim().to_owned())
    });
    assert_eq!(seen, ["80", "123", "5"].map(str::to_owned));
    let (_, again) = daemon.call(request, &[]);
    assert!(fds.iter().zip(&again).all(|(one, other)| inode(one) == inode(other)));
}

#[test]
fn a_sysctl_that_fails_in_a_user_namespace_is_named_and_leaves_no_init() {
    let (rig, mut daemon) = Rig::committed();
    let request = OpenNamespaces {
        net: true,
        pid: true,
        sysctls: sysctls(&[("net.ipv4.no_such_thing", "1")]),
        user: Some(IdMap { first_uid: 70_000, uids: 65_536, first_gid: 70_000, gids: 65_536 }),
        ..OpenNamespaces::default()
    };
    let failure = daemon.refused(Body::OpenNamespaces(request));
    assert_eq!((failure.stage.as_str(), failure.kind()), ("sysctl", Kind::Invalid));
    assert!(failure.message.contains("net.ipv4.no_such_thing"), "{}", failure.message);
    let shim = rig.shim.id();
    let children = || fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    wait_until("its children are gone", || children().trim().is_empty());
}
