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
        traces.extend(lines("ip", &args).map(|line| format!("{what}: {}", lasting(&line))));
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

/// Whether a volume in memory can have the ids of a pod: since Linux 6.3.
pub(crate) fn tmpfs_takes_ids() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers =
        release.split(['.', '-']).map_while(|number| number.trim().parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
}

/// Processor time of a container by the kernel's own file, in nanoseconds: that of v1 where it is mounted.
pub(crate) fn cpu_nanos(container: &str) -> u64 {
    if let Some(nanos) = counted(container, "cpuacct.usage") {
        return nanos.trim().parse().expect("a number");
    }
    let stat = counted(container, "cpu.stat").expect("a cgroup that counts processor time");
    let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    micros.expect("a line of usage").parse::<u64>().expect("a number") * 1000
}

/// In bytes, by the kernel's own file.
pub(crate) fn memory_limit(container: &str) -> u64 {
    let v1 = counted(container, "memory.limit_in_bytes");
    let limit =
        v1.or_else(|| counted(container, "memory.max")).expect("a cgroup that limits memory");
    limit.trim().parse().expect("a number")
}

/// The directory of the container's cgroup that has this file.
pub(crate) fn cgroup_with(container: &str, file: &str) -> Option<PathBuf> {
    let mut dirs = tree(Path::new(CGROUPS)).filter(|path| path.ends_with(container));
    dirs.find(|dir| dir.join(file).exists())
}

/// The file in the container's cgroup, in the first hierarchy that has it.
fn counted(container: &str, file: &str) -> Option<String> {
    let mut dirs = tree(Path::new(CGROUPS)).filter(|path| path.ends_with(container));
    dirs.find_map(|dir| std::fs::read_to_string(dir.join(file)).ok())
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

/// Indices of links grow, and whether a bridge has a carrier has nothing to do with leaks.
fn lasting(line: &str) -> String {
    let line = line.split_once(": ").map_or(line, |(_, rest)| rest);
    let line = line.split(": <").next().unwrap_or(line);
    line.replace(" linkdown", "").trim().to_owned()
}

fn lines(program: &str, args: &[&str]) -> impl Iterator<Item = String> {
    let output = tool(program).args(args).output().expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

#[test]
fn a_planted_leak_of_each_kind_is_seen() {
    use crate::node::Node;
    let node = Node::start();
    let before = node.traces();
    let run = |program: &str, args: &str| {
        let status = tool(program).args(args.split(' ')).status();
        assert!(status.expect("it runs").success(), "{program} {args}");
    };
    let dir = node.path("state/planted");
    std::fs::create_dir_all(&dir).expect("a directory");
    let cgroup = hierarchies().find(|top| top.join("cgroup.procs").exists()).expect("a hierarchy");
    let cgroup = cgroup.join(node.cgroup().trim_start_matches('/')).join("planted");
    std::fs::create_dir_all(&cgroup).expect("a cgroup");
    let mut process = tool("sleep").arg("100").spawn().expect("sleep runs");
    crate::node::write(&cgroup.join("cgroup.procs"), &process.id().to_string());
    run("mount", &format!("-t tmpfs planted {}", dir.display()));
    run("ip", "link add planted0 type bridge");
    run("ip", "route add unreachable 10.66.0.0/24");
    run("nft", "add table ip planted");
    run("nft", "add set ip planted s { type ipv4_addr ; elements = { 10.66.0.1 } ; }");
    let socket =
        std::os::unix::net::UnixListener::bind(node.path("state/socket")).expect("a socket");

    let found = node.traces();
    run("umount", &dir.display().to_string());
    run("ip", "link delete planted0");
    run("ip", "route delete unreachable 10.66.0.0/24");
    run("nft", "delete table ip planted");
    process.kill().expect("a signal");
    process.wait().expect("its end");
    drop((socket, std::fs::remove_dir(cgroup)));
    std::fs::remove_file(node.path("state/socket")).expect("the socket");
    let kinds: BTreeSet<&str> =
        found.difference(&before).filter_map(|trace| trace.split([' ', ':']).next()).collect();
    assert_eq!(kinds, ["mount", "link", "route", "nft", "cgroup", "process", "socket"].into());
    assert_eq!(node.traces(), before);
}
