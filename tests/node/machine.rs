//! What the kernel says, beside what Ferropod says of itself.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::node::tool;

const CGROUPS: &str = "/sys/fs/cgroup";

/// What pods could leave: one line for each thing. The cgroup that is the pods' parent is the client's.
pub(crate) fn traces(dir: &Path, root: &Path, parent: &str) -> BTreeSet<String> {
    let ours = [dir.to_string_lossy(), root.to_string_lossy()];
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let mount =
        |line: &str| ours.iter().any(|dir| line.contains(&**dir)).then(|| format!("mount {line}"));
    let mut traces: BTreeSet<String> = mounts.lines().filter_map(mount).collect();
    for what in ["link", "route", "-6 route", "rule"] {
        let args: Vec<&str> =
            std::iter::once("-o").chain(what.split(' ')).chain(["show"]).collect();
        traces.extend(lines("ip", &args).map(|line| format!("{what}: {}", without_index(&line))));
    }
    traces.extend(nft_elements().map(|line| format!("nft {line}")));
    traces.extend(cgroups(parent).map(|path| format!("cgroup {}", path.display())));
    traces.extend(processes(parent).map(|pid| format!("process {pid}")));
    traces.extend(sockets(dir).map(|path| format!("socket {}", path.display())));
    traces.extend(layers(root).map(|path| format!("layer {}", path.display())));
    traces
}

/// The name that `ip netns` has for a pod.
pub(crate) fn pin(pod: &str) -> Option<String> {
    let path = format!("/run/netns/ferropod-{pod}");
    Path::new(&path).exists().then(|| format!("netns {path}"))
}

/// Processor time of a container by the kernel's own file, in nanoseconds: that of v1 where it is mounted.
pub(crate) fn cpu_nanos(container: &str) -> u64 {
    let dirs: Vec<_> = tree(Path::new(CGROUPS)).filter(|path| path.ends_with(container)).collect();
    let read =
        |file: &str| dirs.iter().find_map(|dir| std::fs::read_to_string(dir.join(file)).ok());
    if let Some(nanos) = read("cpuacct.usage") {
        return nanos.trim().parse().expect("a number");
    }
    let stat = read("cpu.stat").expect("a cgroup that counts processor time");
    let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    micros.expect("a line of usage").parse::<u64>().expect("a number") * 1000
}

/// The living processes in a cgroup of this name or below one: to reap what a dead shim leaves is init's part.
pub(crate) fn processes(name: &str) -> impl Iterator<Item = String> {
    let name = name.trim_start_matches('/').to_owned();
    let entries = std::fs::read_dir("/proc").expect("the processes").filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| pid.parse::<u32>().is_ok()).filter(move |pid| {
        let read =
            |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("cgroup").contains(&name) && !read("status").contains("State:\tZ")
    })
}

pub(crate) fn drop_cgroups(parent: &str) {
    for dir in hierarchies().map(|top| top.join(parent.trim_start_matches('/'))) {
        // It is there only where a pod was made.
        drop(std::fs::remove_dir(dir));
    }
}

fn cgroups(parent: &str) -> impl Iterator<Item = PathBuf> {
    let parent = parent.trim_start_matches('/').to_owned();
    hierarchies().flat_map(move |top| tree(&top.join(&parent)).skip(1).collect::<Vec<_>>())
}

/// That of v2 alone, and those of v1.
fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let top = PathBuf::from(CGROUPS);
    let below = children(&top);
    std::iter::once(top).chain(below)
}

/// The directory and all below it, where it exists.
fn tree(dir: &Path) -> Box<dyn Iterator<Item = PathBuf>> {
    let below = children(dir);
    Box::new(std::iter::once(dir.to_owned()).chain(below.into_iter().flat_map(|dir| tree(&dir))))
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn sockets(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let state: Vec<PathBuf> = tree(&dir.join("state")).collect();
    let entries = state.into_iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| entry.path())
}

/// What containers wrote.
fn layers(root: &Path) -> impl Iterator<Item = PathBuf> {
    let deep = |path: &PathBuf| path.ends_with("upper") || path.ends_with("work");
    tree(&root.join("root")).filter(deep)
}

/// The elements of all sets and maps: static rules may stay.
fn nft_elements() -> impl Iterator<Item = String> {
    let mut inside = false;
    lines("nft", &["list", "ruleset"]).filter(move |line| {
        let begins = line.trim_start().starts_with("elements = {");
        let was = inside;
        inside = (inside || begins) && !line.contains('}');
        was || begins
    })
}

/// Indices of links grow, and a link's state has nothing to do with pods.
fn without_index(line: &str) -> String {
    let line = line.split_once(": ").map_or(line, |(_, rest)| rest);
    line.split(" state ").next().unwrap_or(line).trim().to_owned()
}

fn lines(program: &str, args: &[&str]) -> impl Iterator<Item = String> {
    let output = tool(program).args(args).output().expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}
