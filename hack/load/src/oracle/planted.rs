//! The oracle's own test: one leak of each kind, in a network namespace that ends with its thread.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::kernel::hierarchies;
use super::{Kind, Scope, Snapshot};
use crate::shell::run;

const KINDS: [Kind; 11] = [
    Kind::Mount,
    Kind::Netns,
    Kind::Link,
    Kind::Address,
    Kind::Route,
    Kind::Rule,
    Kind::Nft,
    Kind::Cgroup,
    Kind::Process,
    Kind::Socket,
    Kind::File,
];

/// What lies there until it is dropped. Whatever network state is planted ends with the namespace.
#[derive(Debug)]
enum Planted {
    Nothing,
    Mount(PathBuf),
    Netns(String),
    Cgroups(Vec<PathBuf>),
    Process(Child),
    Socket { _listener: UnixListener },
}

/// The kinds of which a planted leak was not found.
pub(crate) fn missed() -> Result<Vec<Kind>> {
    let name = format!("ferropod-oracle-{}", std::process::id());
    let dir = std::env::temp_dir().join(&name);
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let scope = Scope { under: vec![dir.clone()], cgroups: vec![format!("/{name}")] };
    let parents: Vec<PathBuf> = hierarchies()?.iter().map(|h| h.join(&name)).collect();
    let found = in_own_netns(move || look_for_all(&scope, &name));
    for parent in parents {
        std::fs::remove_dir(parent).unwrap_or_default();
    }
    std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    found
}

fn in_own_netns<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let inside = move || {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        run("ip", &["link", "set", "lo", "up"])?;
        run("nft", &["add table inet oracle; add set inet oracle s { type ipv4_addr; }"])?;
        work()
    };
    thread::spawn(inside).join().map_err(|_| anyhow!("the thread of the oracle's test panicked"))?
}

fn look_for_all(scope: &Scope, name: &str) -> Result<Vec<Kind>> {
    let mut missed = Vec::new();
    for kind in KINDS {
        let before = Snapshot::take(scope)?;
        let planted = plant(kind, scope, name).with_context(|| format!("plant a {kind:?}"))?;
        let leak = format!("leaked {kind:?}: ");
        let differences = before.differences(&Snapshot::take(scope)?);
        let wanted = if kind == Kind::Cgroup { hierarchies()?.len() } else { 1 };
        let found = differences.iter().filter(|line| line.starts_with(&leak)).count();
        if found < wanted {
            missed.push(kind);
        }
        drop(planted);
    }
    Ok(missed)
}

fn plant(kind: Kind, scope: &Scope, name: &str) -> Result<Planted> {
    let dir = scope.under.first().context("no directory")?;
    match kind {
        Kind::Mount => return plant_mount(&dir.join("mount")),
        Kind::Netns => {
            run("ip", &["netns", "add", name])?;
            return Ok(Planted::Netns(name.to_owned()));
        }
        Kind::Link => run("ip", &["link", "add", "leak0", "type", "veth", "peer", "leak1"])?,
        Kind::Address => run("ip", &["address", "add", "192.0.2.1/32", "dev", "lo"])?,
        Kind::Route => run("ip", &["route", "add", "192.0.2.9/32", "dev", "lo"])?,
        Kind::Rule => run("ip", &["rule", "add", "from", "192.0.2.9", "table", "77"])?,
        Kind::Nft => run("nft", &["add element inet oracle s { 192.0.2.9 }"])?,
        Kind::Cgroup => return plant_cgroups(name),
        Kind::Process => return plant_process(),
        Kind::Socket => {
            let listener = UnixListener::bind(dir.join("socket"))?;
            return Ok(Planted::Socket { _listener: listener });
        }
        Kind::File => File::create(dir.join("file")).map(|_| String::new())?,
    };
    Ok(Planted::Nothing)
}

fn plant_mount(at: &Path) -> Result<Planted> {
    std::fs::create_dir(at)?;
    mount(Some("leak"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    Ok(Planted::Mount(at.to_owned()))
}

fn plant_cgroups(name: &str) -> Result<Planted> {
    let leaks: Vec<_> = hierarchies()?.iter().map(|h| h.join(name).join("leak")).collect();
    for leak in &leaks {
        std::fs::create_dir_all(leak).with_context(|| leak.display().to_string())?;
    }
    Ok(Planted::Cgroups(leaks))
}

#[expect(clippy::disallowed_methods, reason = "the planted process is to be a child of ours")]
fn plant_process() -> Result<Planted> {
    Ok(Planted::Process(Command::new("sleep").arg("60").stdout(Stdio::null()).spawn()?))
}

impl Drop for Planted {
    fn drop(&mut self) {
        match self {
            Self::Nothing | Self::Socket { .. } => {}
            Self::Mount(at) => umount2(&*at, MntFlags::MNT_DETACH).unwrap_or_default(),
            Self::Netns(name) => drop(run("ip", &["netns", "del", name])),
            Self::Cgroups(leaks) => {
                for leak in leaks.iter() {
                    std::fs::remove_dir(leak).unwrap_or_default();
                }
            }
            Self::Process(child) => {
                child.kill().unwrap_or_default();
                drop(child.wait());
            }
        }
    }
}
