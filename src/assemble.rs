//! Builds the rooms and hands them to each other: here the engine's traits meet the node.
//!
//! | module | answers for |
//! |---|---|
//! | [`place`] | where everything lies below the root and state directories |
//! | [`host`] | [`engine::world::Host`]: files, cgroups, mounts |
//! | [`network`] | [`engine::world::Network`] |
//! | [`images`] | [`engine::world::Images`] |
//! | [`shims`], [`exec`], [`session`] | [`engine::world::Shims`]: processes, and clients at their ends |
//! | [`meter`] | [`crate::cri::usage::Meter`]: what pods use |
//! | [`cdi`] | what vendors' files say of devices |
//! | [`facts`] | what the node is |
//! | [`handlers`] | outside OCI runtimes, and what each can do |
//! | [`poststop`] | hooks of containers that are gone |
//! | [`apparmor`], [`selinux`] | profiles and labels of containers |
//!
//! Blocking work goes to the blocking threads; nothing here decides.

pub(crate) mod apparmor;
pub(crate) mod cdi;
pub(crate) mod exec;
pub(crate) mod facts;
pub(crate) mod handlers;
pub(crate) mod host;
pub(crate) mod images;
pub(crate) mod meter;
pub(crate) mod network;
pub(crate) mod place;
mod poststop;
mod selinux;
mod session;
pub(crate) mod shims;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::host::cgroup::{Cgroups, DetectError, Driver};
use ::host::netns::Pins;
use anyhow::Context;
use engine::Engine;
use names::Kind;
use pod::step::Fault;
use tracing::{info, warn};

use crate::config::{CgroupDriver, Config, NetworkMode};
use place::Places;
use shims::Programs;

/// Where systemd is the node's init: `sd_booted(3)`.
pub(crate) const SYSTEMD_RUNS: &str = "/run/systemd/system";

/// The node, as the engine's world. Cheap to clone: every shim's connection holds it.
#[derive(Debug, Clone)]
pub(crate) struct Node(Arc<Rooms>);

/// The rooms that act, and what they are told.
#[derive(Debug)]
pub(crate) struct Rooms {
    pub(crate) places: Places,
    pub(crate) cgroups: Cgroups,
    pub(crate) pins: Pins,
    pub(crate) images: image::Images,
    pub(crate) network: ::network::Network,
    pub(crate) facts: spec::NodeFacts,
    pub(crate) shm_size: u64,
    pub(crate) cdi_dirs: Vec<PathBuf>,
    pub(crate) programs: Programs,
    pub(crate) handlers: handlers::Handlers,
    pub(crate) shims: shims::Held,
    pub(crate) kept: meter::Kept,
    pub(crate) apparmor: apparmor::Apparmor,
    pub(crate) spared: host::Spared,
}

impl std::ops::Deref for Node {
    type Target = Rooms;
    fn deref(&self) -> &Rooms {
        &self.0
    }
}

/// The daemon's engine.
pub(crate) type Ferropod = Engine<Node>;

/// Opens everything and brings back what was promised. Nothing listens before this is done.
pub(crate) async fn assemble(config: &Config) -> anyhow::Result<Ferropod> {
    let places = Places::new(&config.root, &config.state);
    places.make().context("make the daemon's directories")?;
    let cgroups = cgroups(config.cgroup_driver).context("cgroups")?;
    let facts = facts::gather(config, &cgroups).context("facts of this node")?;
    let handlers = handlers::Handlers::learn(config, cgroups.layout()).await?;
    let images = image::Images::open(image_options(config)).context("images")?;
    let network = ::network::Network::start(network_config(config)?).await.context("network")?;
    let programs = Programs::seal(config).context("runtime.programs")?;
    let node = Node(Arc::new(Rooms {
        places,
        cgroups,
        pins: Pins::at("/run/netns"),
        images,
        network,
        facts,
        shm_size: config.runtime.shm_size.bytes(),
        cdi_dirs: config.runtime.cdi_spec_dirs.clone(),
        programs,
        handlers,
        shims: shims::Held::default(),
        kept: meter::Kept::default(),
        apparmor: apparmor::Apparmor::new(&config.runtime.apparmor_profile),
        spared: host::Spared::default(),
    }));
    tokio::spawn(apparmor::prepare(node.clone()));
    recover(config, node).await
}

/// Left to itself, the driver is systemd's where systemd runs the node and there is but one hierarchy.
fn cgroups(driver: CgroupDriver) -> Result<Cgroups, DetectError> {
    match driver {
        CgroupDriver::Systemd => Cgroups::detect(Driver::Systemd),
        CgroupDriver::Cgroupfs => Cgroups::detect(Driver::Cgroupfs),
        CgroupDriver::Auto if !Path::new(SYSTEMD_RUNS).exists() => {
            Cgroups::detect(Driver::Cgroupfs)
        }
        CgroupDriver::Auto => match Cgroups::detect(Driver::Systemd) {
            Err(DetectError::SystemdNeedsV2(_)) => Cgroups::detect(Driver::Cgroupfs),
            detected => detected,
        },
    }
}

async fn recover(config: &Config, node: Node) -> anyhow::Result<Ferropod> {
    let options = ledger::Options {
        run: config.state.join("ledger.redb"),
        disk: config.root.join("ledger.redb"),
        boot_id: ::host::proc::boot_id().context("boot id")?,
    };
    let (ledger, loaded) = ledger::Ledger::open(options).context("ledger")?;
    for quarantined in &loaded.quarantined {
        warn!(path = %quarantined.path.display(), "moved aside: {}", quarantined.reason);
    }
    let (engine, recovered) =
        Engine::recover(Arc::new(node.clone()), ledger, loaded).await.context("recovery")?;
    node.images.recovered();
    tokio::spawn(load_archives(node.images.clone()));
    for record in &recovered.unreadable {
        warn!("unreadable record left alone, nothing swept: {record}");
    }
    info!(
        pods = recovered.pods,
        undone = recovered.undone,
        swept = recovered.swept,
        debts = recovered.debts,
        "recovered"
    );
    Ok(engine)
}

/// Archives in the watched directory, beside the first calls: a node without a registry starts as fast as another.
async fn load_archives(images: image::Images) {
    for (path, loaded) in images.load_archives().await {
        match loaded {
            Ok(images) => info!(path = %path.display(), images = images.len(), "archive loaded"),
            Err(error) => {
                let error = engine::record::chain(&error);
                warn!(path = %path.display(), error, "archive not loaded");
            }
        }
    }
}

fn image_options(config: &Config) -> image::Options {
    let path = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
    let from = &config.image;
    image::Options {
        root: config.root.clone(),
        hosts_dir: from.hosts_dirs.clone(),
        registries_conf: path(&from.registries_conf),
        insecure_registries: from.insecure_registries.clone(),
        pinned: from.pinned.clone(),
        archives_dir: path(&from.archives_dir),
        stall_timeout: from.stall_timeout.duration(),
        stall_bytes: from.stall_size.bytes(),
        attempts: from.attempts,
        backoff: from.backoff.duration(),
        layers_at_once: from.layers_at_once,
        limits: image::TarLimits {
            entries: from.max_layer_entries,
            bytes: from.max_layer_size.bytes(),
            depth: from.max_layer_depth,
            ratio: from.max_layer_ratio,
            ..image::TarLimits::default()
        },
    }
}

pub(crate) fn network_config(config: &Config) -> anyhow::Result<::network::Config> {
    let from = &config.network;
    let cidrs = |texts: &[String]| -> anyhow::Result<Vec<::network::Cidr>> {
        texts.iter().map(|text| text.parse().context("network")).collect()
    };
    Ok(::network::Config {
        mode: match from.mode {
            NetworkMode::Native => ::network::Mode::Native,
            NetworkMode::Cni => ::network::Mode::Cni,
            NetworkMode::Auto => ::network::Mode::Auto,
        },
        native: ::network::NativeConfig {
            pod_cidrs: cidrs(&from.pod_cidrs)?,
            non_masquerade_cidrs: cidrs(&from.non_masquerade_cidrs)?,
            table: from.table.clone(),
            mtu: from.mtu,
            interface_prefix: from.interface_prefix.clone(),
        },
        cni: ::network::CniConfig {
            config_dir: from.cni.config_dir.clone(),
            bin_dirs: from.cni.bin_dirs.clone(),
            timeout: from.cni.timeout.duration(),
        },
    })
}

/// An error of a room as the engine knows it: its kind, and its whole chain on one line.
pub(crate) fn fault(kind: Kind, error: &dyn std::error::Error) -> Fault {
    Fault::new(kind, engine::record::chain(error))
}

/// Runs blocking work on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Fault::new(Kind::Internal, "a blocking thread panicked")))
}
