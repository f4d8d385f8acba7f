//! What a user namespace with idmapped volumes costs, and what a host with many mounts does to a pod's start.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cri_proto::cri::{
    ContainerConfig, IdMapping, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig,
    UserNamespace,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Bench, timed};

const VOLUMES: usize = 5;
const MOUNTS: usize = 1000;
/// What a kubelet gives a pod.
const IDS: u32 = 65_536;
const FIRST_ID: u32 = 8 * IDS;

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    let volumes = Volumes::make(&bench.template.logs)?;
    both(bench, &volumes, ["volumes", "mapped"]).await?;
    let _mounts = Mounts::make(&volumes.dir.join("mounts"))?;
    both(bench, &volumes, ["volumes_mounts", "mapped_mounts"]).await
}

/// In turn.
async fn both(bench: &mut Bench, volumes: &Volumes, ids: [&'static str; 2]) -> Result<()> {
    for n in 0..=bench.times(42) {
        for (id, mapped) in ids.into_iter().zip([false, true]) {
            let took = life(bench, volumes, &format!("{id}-{n}"), mapped).await?;
            // The first ones make what all that follow share.
            if n > 0 {
                bench.figures.time(id, took);
            }
        }
    }
    Ok(())
}

async fn life(
    bench: &Bench,
    volumes: &Volumes,
    name: &str,
    mapped: bool,
) -> Result<std::time::Duration> {
    let client = &bench.client;
    let mut sandbox = bench.template.sandbox(name, 0);
    let mut config = bench.template.waiting(name, "app");
    config.mounts = volumes.mounts(mapped);
    if mapped {
        own_ids(&mut sandbox, &mut config);
    }
    let start = async {
        let pod = client.run_pod(&sandbox).await?;
        let container = client.create(&pod, &config, &sandbox).await?;
        client.start(&container).await?;
        Ok(pod)
    };
    let (pod, took) = timed(start).await?;
    client.stop_pod(&pod).await?;
    client.remove_pod(&pod).await?;
    Ok(took)
}

fn own_ids(sandbox: &mut PodSandboxConfig, config: &mut ContainerConfig) {
    let ids = UserNamespace { mode: NamespaceMode::Pod.into(), uids: range(), gids: range() };
    let own = |options: &mut Option<NamespaceOption>| {
        options.get_or_insert_default().userns_options = Some(ids.clone());
    };
    let pod = sandbox.linux.get_or_insert_default().security_context.get_or_insert_default();
    own(&mut pod.namespace_options);
    let container = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    own(&mut container.namespace_options);
}

fn range() -> Vec<IdMapping> {
    vec![IdMapping { host_id: FIRST_ID, container_id: 0, length: IDS }]
}

/// Directories, as of emptyDir volumes.
struct Volumes {
    dir: PathBuf,
}

impl Volumes {
    fn make(logs: &Path) -> Result<Self> {
        let dir = logs.join("volumes");
        for n in 0..VOLUMES {
            let volume = dir.join(n.to_string());
            std::fs::create_dir_all(&volume).with_context(|| volume.display().to_string())?;
        }
        Ok(Self { dir })
    }

    fn mounts(&self, mapped: bool) -> Vec<Mount> {
        let ids = || if mapped { range() } else { Vec::new() };
        let one = |n: usize| Mount {
            container_path: format!("/volumes/{n}"),
            host_path: self.dir.join(n.to_string()).to_string_lossy().into_owned(),
            uid_mappings: ids(),
            gid_mappings: ids(),
            ..Mount::default()
        };
        (0..VOLUMES).map(one).collect()
    }
}

/// Other pods' mounts, as a daemon sees them; gone with this.
struct Mounts(PathBuf);

impl Mounts {
    fn make(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let tmpfs = |at: &Path| {
            mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))
                .with_context(|| format!("mount {}", at.display()))
        };
        tmpfs(dir)?;
        let made = Self(dir.to_owned());
        for n in 1..MOUNTS {
            let at = dir.join(n.to_string());
            std::fs::create_dir(&at).with_context(|| at.display().to_string())?;
            tmpfs(&at)?;
        }
        Ok(made)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        // With all that is mounted in it.
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}
