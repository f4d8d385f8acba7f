//! Images made by strangers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::shim::{Case, put};

/// A case with a layer of its own over the common one.
fn with_layer(case: Case, fill: impl FnOnce(&Path)) -> Case {
    let top = case.dir.path().join("top");
    fs::create_dir(&top).unwrap();
    fill(&top);
    case.with(|c| {
        c.lower = vec![top.display().to_string(), c.layers.join("base").display().to_string()];
        c.layers = PathBuf::from("/");
    })
}

#[test]
fn a_root_whose_dev_proc_or_sys_is_a_link_is_refused() {
    for name in ["dev", "proc", "sys"] {
        let case = Case::new("true");
        let outside = case.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let case = with_layer(case, |top| symlink(&outside, top.join(name)).unwrap());
        let failure = case.refused();
        assert!(failure.message.contains(&format!("/{name} is not a directory")), "{failure:?}");
        assert_eq!((failure.kind, fs::read_dir(&outside).unwrap().count()), (1, 0));
    }
}

#[test]
fn a_huge_passwd_or_group_is_refused() {
    for name in ["passwd", "group"] {
        let case = with_layer(Case::new("true"), |top| {
            fs::create_dir(top.join("etc")).unwrap();
            fs::File::create(top.join("etc").join(name)).unwrap().set_len(4 << 30).unwrap();
        });
        let failure = case.refused();
        assert!(failure.message.contains(&format!("/etc/{name} is larger")), "{failure:?}");
    }
}

#[test]
fn a_passwd_that_is_a_pipe_or_a_link_out_is_not_followed() {
    let case = with_layer(Case::new("true"), |top| {
        fs::create_dir(top.join("etc")).unwrap();
        nix::unistd::mkfifo(&top.join("etc/passwd"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    });
    assert!(case.refused().message.contains("not a regular file"));
    drop(case);
    let case = Case::new("id -u");
    let outside = case.dir.path().join("outside");
    put(&outside, "evil:x:77:77::/:\n");
    let case = with_layer(case, |top| {
        fs::create_dir(top.join("etc")).unwrap();
        symlink(&outside, top.join("etc/passwd")).unwrap();
    })
    .with(|c| c.image.user = "evil".into());
    assert!(case.refused().message.contains("no user \"evil\""));
}

#[test]
fn a_working_directory_through_a_descriptor_is_refused() {
    for fd in 3..20 {
        let case = Case::new("pwd").with(|c| c.image.working_dir = format!("/proc/self/fd/{fd}"));
        let failure = case.refused();
        assert!(failure.message.contains("working directory"), "{failure:?}");
    }
}

#[test]
fn a_working_directory_through_a_link_of_the_image_stays_inside() {
    let case = with_layer(Case::new("readlink /proc/self/cwd"), |top| {
        symlink("/../../tmp", top.join("leads")).unwrap();
    })
    .with(|c| c.image.working_dir = "/leads/made".into());
    assert_eq!(case.run().out, "/tmp/made\n");
    assert!(!Path::new("/tmp/made").exists());
}

#[test]
fn mount_places_that_are_links_stay_inside() {
    let case = Case::new("cat /etc/hosts");
    let outside = case.dir.path().join("outside");
    put(&outside, "of the host\n");
    let case = with_layer(case, |top| {
        fs::create_dir(top.join("etc")).unwrap();
        symlink(&outside, top.join("etc/hosts")).unwrap();
    });
    // Either the link is resolved inside the root, or the creation fails: the host's file stays as it is.
    if let Ok(made) = case.create() {
        case.start();
        assert_eq!(made.finish().out, "from the pod\n");
    }
    assert_eq!(fs::read_to_string(&outside).unwrap(), "of the host\n");
}

#[test]
fn many_layers_are_mounted() {
    let script = "cat /n-0 /n-99; n=0; for f in /n-*; do n=$((n+1)); done; echo $n";
    let case = Case::new(script);
    let dir = case.dir.path().join("many");
    fs::create_dir(&dir).unwrap();
    let mut lower = Vec::new();
    for n in 0..100 {
        let layer = dir.join(n.to_string());
        fs::create_dir(&layer).unwrap();
        put(&layer.join(format!("n-{n}")), &format!("{n}\n"));
        lower.push(n.to_string());
    }
    let case = case.with(|c| {
        symlink(c.layers.join("base"), dir.join("base")).unwrap();
        lower.push("base".into());
        c.lower = lower;
        c.layers = dir;
    });
    assert_eq!(case.run().out, "0\n99\n100\n");
}
