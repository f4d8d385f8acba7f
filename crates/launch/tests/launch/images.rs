//! Image volumes: layers as read-only volumes.

use std::fs;

use nix::sys::stat::{Mode, SFlag, mknod};
use pod::config::{ImageVolume, Mount, MountOption};
use wire::v1;

use crate::shim::{Case, put, volume};

/// Names of the case's own layers, beside that of its root.
fn layers(case: &Case) -> [String; 2] {
    let [lower, upper] = ["low", "up"].map(|part| format!("{}-{part}", case.id.as_str()));
    let dir = |name: &str| case.layers.join(name);
    fs::create_dir_all(dir(&lower).join("d/sub")).unwrap();
    fs::create_dir_all(dir(&upper).join("d")).unwrap();
    put(&dir(&lower).join("d/a"), "low\n");
    put(&dir(&lower).join("d/gone"), "");
    put(&dir(&upper).join("d/b"), "high\n");
    std::os::unix::fs::symlink("/d", dir(&upper).join("link")).unwrap();
    mknod(&dir(&upper).join("d/gone"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    [upper, lower]
}

/// Removes them when it goes.
struct Layers(Vec<std::path::PathBuf>);

impl Drop for Layers {
    fn drop(&mut self) {
        for dir in &self.0 {
            fs::remove_dir_all(dir).unwrap();
        }
    }
}

/// A container with an image of so many of the two layers, the lower one first, at /v.
fn with_image(script: &str, count: usize, sub_path: &str) -> (Case, Layers) {
    let mut case = Case::new(script);
    let names = layers(&case);
    let guard = Layers(names.iter().map(|name| case.layers.join(name)).collect());
    let lower = names.into_iter().skip(2 - count).collect();
    let (source, sub_path) = (spec::image_source(0), sub_path.to_owned());
    let image = "models:1".to_owned();
    case.image_volumes = vec![v1::ImageVolume { source, lower, sub_path, image }];
    case.container.mounts =
        vec![Mount { image: Some(ImageVolume::default()), readonly: true, ..volume("/v", "") }];
    (case, guard)
}

#[test]
fn layers_are_a_volume_that_even_a_remount_does_not_make_writable() {
    let script = "ls /v/d; (touch /v/new) 2>/dev/null || echo refused; \
                  mount -o remount,bind,rw /v; (touch /v/new) 2>/dev/null || echo refused";
    for (count, files) in [(1, "a\ngone\nsub\n"), (2, "a\nb\nsub\n")] {
        let (mut case, layers) = with_image(script, count, "");
        case.container.security.privileged = true;
        assert_eq!(case.run().out, format!("{files}refused\nrefused\n"), "{count}");
        assert!(layers.0.iter().all(|layer| !layer.join("new").exists()));
    }
}

#[test]
fn a_directory_of_an_image_is_a_volume_and_nothing_else_of_it() {
    let (case, _layers) = with_image("ls /v; cat /proc/self/mountinfo", 2, "link");
    let out = case.run().out;
    assert!(out.starts_with("a\nb\nsub\n"), "{out}");
    let line = out.lines().find(|line| line.split(' ').nth(4) == Some("/v")).unwrap();
    assert!(line.contains(" ro,nosuid,nodev"), "{line}");
    for (path, kind) in [("none", 2), ("d/a", 1), ("d/gone", 2), ("../../etc/none", 2)] {
        let (case, _layers) = with_image("true", 2, path);
        let failure = case.refused();
        assert_eq!((failure.stage.as_str(), failure.kind), ("ImageVolumeMountFailed", kind));
        assert!(failure.message.contains(path) && failure.message.contains("models:1"));
    }
    let (case, _layers) = with_image("true", 0, "");
    assert!(case.refused().message.contains("no layers"));
}

#[test]
fn more_can_be_denied_in_an_image() {
    let (mut case, _layers) = with_image("cat /proc/self/mountinfo", 2, "");
    case.container.mounts[0].options = vec![MountOption::NoExec];
    let out = case.run().out;
    let line = out.lines().find(|line| line.split(' ').nth(4) == Some("/v")).unwrap();
    assert!(line.contains(" ro,nosuid,nodev,noexec"), "{line}");
}

#[test]
fn an_image_in_a_dev_that_is_a_volume_is_refused() {
    let (mut case, _layers) = with_image("true", 2, "");
    let dev = case.path("hostdev");
    fs::create_dir(&dev).unwrap();
    case.container.mounts[0].container_path = "/dev/x".into();
    case.container.mounts.push(volume("/dev", &dev));
    let failure = case.refused();
    assert_eq!(failure.stage, "ImageVolumeMountFailed");
    assert!(failure.message.contains("an image cannot be mounted at /dev/x"), "{failure:?}");
}
