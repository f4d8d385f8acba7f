//! What on the host must stay as it was.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::node::{Node, text, write};

/// Of the machine as a whole. Each has been the aim of an escape.
const OF_THE_MACHINE: [&str; 7] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/net/ipv4/ip_forward",
    "/etc/passwd",
    "/etc/hosts",
    "/etc/resolv.conf",
];

/// A directory of the host that nothing may change, and the machine's own files.
pub(super) struct Canary {
    dir: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

// === impl Canary ===

impl Canary {
    pub(super) fn planted(node: &Node) -> Self {
        let dir = node.path("canary");
        std::fs::create_dir_all(dir.join("below")).expect("a directory");
        write(&dir.join("secret"), "of the host\n");
        write(&dir.join("passwd"), "canary:x:0:0::/:/bin/sh\n");
        write(&dir.join("group"), "canary:x:0:canary\n");
        let before = seen(&dir);
        Self { dir, before }
    }

    pub(super) fn path(&self) -> &str {
        text(&self.dir)
    }

    pub(super) fn file(&self) -> String {
        format!("{}/secret", self.path())
    }

    pub(super) fn sings(&self) {
        assert_eq!(seen(&self.dir), self.before, "the host was changed");
    }
}

fn seen(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    look(dir, &mut all);
    for path in OF_THE_MACHINE {
        look(Path::new(path), &mut all);
    }
    all
}

fn look(path: &Path, all: &mut BTreeMap<PathBuf, String>) {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return };
    let content = if meta.is_file() {
        std::fs::read_to_string(path).unwrap_or_default()
    } else {
        String::new()
    };
    let kind = format!("{:o} {}:{} {content}", meta.mode(), meta.uid(), meta.gid());
    all.insert(path.to_owned(), kind);
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).expect("a directory").filter_map(Result::ok) {
            look(&entry.path(), all);
        }
    }
}
