use std::os::unix::fs::{MetadataExt, symlink};

use super::*;
use crate::Released;

#[test]
fn a_replaced_file_is_whole_and_nothing_lies_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    replace(&path, b"old", 0o600).unwrap();
    replace_with(&path, b"new", 0o666, Durability::Synced).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o666);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let missing = dir.path().join("missing/f");
    assert_eq!(replace(&missing, b"", 0o600).unwrap_err().kind(), names::Kind::NotFound);
}

#[test]
fn removal_follows_no_link_and_leaves_a_mount_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, gone) = (dir.path().join("kept"), dir.path().join("gone"));
    fs::create_dir_all(gone.join("a/b")).unwrap();
    fs::create_dir_all(gone.join("bound")).unwrap();
    fs::create_dir(&kept).unwrap();
    replace(&kept.join("file"), b"", 0o600).unwrap();
    replace(&gone.join("a/b/file"), b"", 0o600).unwrap();
    symlink(&kept, gone.join("link")).unwrap();
    symlink("../..", gone.join("a/up")).unwrap();
    let bind = nix::mount::MsFlags::MS_BIND;
    let none: Option<&str> = None;
    nix::mount::mount(Some(&kept), &gone.join("bound"), none, bind, none).unwrap();
    let error = remove_all(&gone).unwrap_err();
    assert!(error.to_string().contains("bound"), "{error}");
    assert!(kept.join("file").exists() && !gone.join("a").exists() && !gone.join("link").exists());
    nix::mount::umount(&gone.join("bound")).unwrap();
    assert_eq!(remove_all(&gone).unwrap(), Released::Now);
    assert_eq!(remove_all(&gone).unwrap(), Released::AlreadyGone);
    assert_eq!(remove_all(&gone.join("x/y")).unwrap(), Released::AlreadyGone);
    assert!(kept.join("file").exists());
    symlink(&kept, &gone).unwrap();
    assert_eq!(remove_all(&gone).unwrap(), Released::Now);
    assert!(kept.join("file").exists());
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let top = dir.path().join("top");
    fs::create_dir(&top).unwrap();
    let name = "d".repeat(200);
    let open = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY;
    let mut at = crate::raw::open_at(None, &top, open).unwrap();
    for _ in 0..1000 {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o700);
        let number = Some(std::os::fd::AsRawFd::as_raw_fd(&at));
        nix::sys::stat::mkdirat(number, name.as_str(), mode).unwrap();
        at = crate::raw::open_at(Some(std::os::fd::AsFd::as_fd(&at)), name.as_str(), open).unwrap();
    }
    drop(at);
    assert_eq!(remove_all(&top).unwrap(), Released::Now);
    assert!(!top.exists());
}

#[test]
fn a_pod_knows_its_name_at_its_addresses_and_the_servers_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let dns = ::pod::config::Dns {
        servers: vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()],
        searches: vec!["a.b".to_owned(), "b".to_owned()],
        options: vec!["ndots:5".to_owned()],
    };
    let ips = ["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    let files = write_pod_files(&dir.path().join("pod"), "web", &ips, Some(&dns)).unwrap();
    assert_eq!(fs::read_to_string(&files.hostname).unwrap(), "web\n");
    let hosts = fs::read_to_string(&files.hosts).unwrap();
    assert!(hosts.contains("\n10.1.0.2\tweb\nfd00::2\tweb\n"), "{hosts}");
    let expected = "search a.b b\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n";
    assert_eq!(fs::read_to_string(&files.resolv_conf).unwrap(), expected);
    let empty = ::pod::config::Dns::default();
    write_pod_files(&dir.path().join("pod"), "web", &ips, Some(&empty)).unwrap();
    assert_eq!(fs::read_to_string(&files.resolv_conf).unwrap(), "");
    write_pod_files(&dir.path().join("pod"), "web", &[], None).unwrap();
    assert_eq!(fs::read(&files.hosts).unwrap(), fs::read("/etc/hosts").unwrap());
}
