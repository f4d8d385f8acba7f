//! The engine's shims: processes that hold pods, and the connections to them.
//!
//! One task per shim keeps it: it forwards what the shim tells, and when the connection ends it asks the kernel, by the shim's
//! pidfd, whether the shim has ended with it. Only then is the pod told.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::world::{Connected, CreateOrder, ExecOrder, ExecOutput, Held as HeldContainer};
use engine::world::{Ends, OpenOrder, Pinned, Session, Shim, ShimEvent, ShimEvents, Shims};
use hooks::Stage;
use host::seal::{self, Sealed};
use host::shim::{Client, ConnectError, Event, RequestError};
use host::spawn::{ShimProcess, SpawnShim};
use names::{ContainerId, Kind, SandboxId};
use pod::config::NamespaceMode;
use pod::step::Fault;
use pod::{Container, Exit, Sandbox, Time, User, VolumeImage, plan};
use prost::Message;
use tokio::sync::mpsc;
use tracing::{debug, warn};
use wire::v1;

use super::exec::Execs;
use super::host::pod_cgroup;
use super::place::text;
use super::{Node, blocking, fault};
use crate::config::Config;

/// How long a shim may take to answer the first word.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long launch may take to make a container: a dead network mount must not hold it for ever.
const LAUNCH_WITHIN_MS: u32 = 60_000;
const SOCKET: &str = "shim.sock";
/// How a shim speaks of a launch that the kernel may have killed for want of memory.
const KILLED: &str = "killed by signal 9";
/// And libcontainer of a process of its own that ended without a word.
const CHILD_KILLED: &str = "BrokenChannel";

/// The programs beside this one, where no container can write to them.
#[derive(Debug)]
pub(crate) struct Programs {
    sealed: Sealed,
}

impl Programs {
    /// Reads them from the directory that the configuration names, or this program's own.
    pub(crate) fn seal(config: &Config) -> anyhow::Result<Self> {
        let dir = config.programs().ok_or_else(|| anyhow::anyhow!("no directory of programs"))?;
        Ok(Self { sealed: seal::seal(&dir)? })
    }

    /// What shims are given.
    fn for_shims(&self) -> host::shim::Programs<'_> {
        let Sealed { launch, enter, .. } = &self.sealed;
        host::shim::Programs { launch: launch.as_fd(), enter: enter.as_fd() }
    }
}

/// The connections there are.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<HashMap<SandboxId, Arc<LiveShim>>>);

impl Held {
    // The lock guards a look-up or an insertion, never an await or I/O; a panic cannot leave the map half-changed.
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<SandboxId, Arc<LiveShim>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One shim and the connection to it.
#[derive(Debug)]
pub(crate) struct LiveShim {
    pub(super) node: Node,
    pub(super) client: Client,
    pub(super) sandbox: SandboxId,
    process: (i32, u64),
    /// Closed without a commit, it ends the shim.
    birth: Mutex<Option<OwnedFd>>,
    pub(super) execs: Execs,
}

impl LiveShim {
    fn tell(&self, event: Event, events: &ShimEvents) -> Ended {
        match event {
            Event::Exited(exited) => {
                if let Some((id, how, at)) = exit(&exited) {
                    // The pod's task is gone only when the sandbox is forgotten.
                    drop(events.send(Box::new(ShimEvent::Exited(id, how, at))));
                }
                Ended::No
            }
            Event::ExecExited(exited) => {
                self.execs.tell(exited);
                Ended::No
            }
            Event::Gone(why) => {
                debug!(sandbox = %self.sandbox.short(), why, "connection to the shim ended");
                Ended::Yes
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Yes,
    No,
}

impl Shims for Node {
    type Shim = LiveShim;

    async fn spawn(&self, sandbox: &Sandbox, events: ShimEvents) -> Result<Arc<LiveShim>, Fault> {
        let (node, id) = (self.clone(), sandbox.id.clone());
        let cgroup = pod_cgroup(sandbox)?;
        let pod = cgroup.clone();
        let (process, birth) = blocking(move || spawn(&node, &id, &cgroup)).await?;
        self.cgroups.adopt(&pod, process.pid()).await.map_err(|e| fault(e.kind(), &e))?;
        let (client, _, told) =
            connect(self, &sandbox.id).await.map_err(|e| fault(e.kind(), &e))?;
        Ok(keep(self, sandbox, client, process, Some(birth), (told, events)))
    }

    async fn connect(&self, sandbox: &Sandbox, events: ShimEvents) -> Connected<LiveShim> {
        let Some((pid, started)) = recorded(self, &sandbox.id) else { return Connected::Gone };
        let process = match ShimProcess::adopt(pid, Some(started)) {
            Ok(Some(process)) => process,
            Ok(None) => return Connected::Gone,
            Err(error) => {
                warn!(sandbox = %sandbox.id, "shim's process: {error}");
                return Connected::Silent;
            }
        };
        match connect(self, &sandbox.id).await {
            Ok((client, _, told)) => {
                Connected::Yes(keep(self, sandbox, client, process, None, (told, events)))
            }
            Err(ConnectError::Gone { .. }) => Connected::Gone,
            Err(error) => {
                warn!(sandbox = %sandbox.id, "{}", engine::record::chain(&error));
                Connected::Silent
            }
        }
    }

    fn held(&self, id: &SandboxId) -> Option<Arc<LiveShim>> {
        self.shims.with(|shims| shims.get(id).cloned())
    }

    async fn exits(&self, sandbox: &Sandbox) -> Vec<(ContainerId, Exit, Time)> {
        let path = self.places.exits(&sandbox.id);
        let bytes = tokio::fs::read(&path).await.unwrap_or_default();
        wire::exits::read_exits(&bytes).iter().filter_map(exit).collect()
    }
}

/// Binds the socket, then spawns: recovery always finds one. Blocks.
fn spawn(
    node: &Node,
    id: &SandboxId,
    cgroup: &host::cgroup::PodCgroup,
) -> Result<(ShimProcess, OwnedFd), Fault> {
    let dir = node.places.pod(id);
    let io = |what: &'static str| {
        let dir = text(&dir);
        move |error: std::io::Error| Fault::new(Kind::Internal, format!("{what} {dir}: {error}"))
    };
    let handle = std::fs::File::open(&dir).map_err(io("open"))?;
    let listener =
        host::shim::bind_socket(handle.as_fd(), SOCKET).map_err(io("bind the shim's socket in"))?;
    let (ours, theirs) = host::shim::birth_pair().map_err(io("make a socket pair for"))?;
    let exits = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(node.places.exits(id))
        .map_err(io("make the exit file in"))?;
    let place = node.cgroups.shim_place(cgroup).map_err(|e| fault(e.kind(), &e))?;
    let process = host::spawn::spawn_shim(&SpawnShim {
        program: node.programs.sealed.shim.as_fd(),
        sandbox: id,
        listener: listener.as_fd(),
        birth: theirs.as_fd(),
        exits: exits.as_fd(),
        cgroup: place.as_ref().map(AsFd::as_fd),
    })
    .map_err(|e| fault(e.kind(), &e))?;
    let told = format!("{} {}", process.pid(), process.started());
    host::files::replace(&node.places.shim(id), told.as_bytes(), 0o600)
        .map_err(|e| fault(e.kind(), &e))?;
    Ok((process, ours))
}

/// The process id and start time of a sandbox's shim, written when it was spawned: good in every phase.
fn recorded(node: &Node, id: &SandboxId) -> Option<(i32, u64)> {
    let text = std::fs::read_to_string(node.places.shim(id)).ok()?;
    let (pid, started) = text.split_once(' ')?;
    Some((pid.parse().ok()?, started.parse().ok()?))
}

type Told = mpsc::UnboundedReceiver<Box<Event>>;

async fn connect(node: &Node, id: &SandboxId) -> Result<(Client, v1::State, Told), ConnectError> {
    let (sender, told) = mpsc::unbounded_channel();
    let dir = std::fs::File::open(node.places.pod(id))
        .map_err(|source| ConnectError::Gone { name: SOCKET.to_owned(), source })?;
    let programs = node.programs.for_shims();
    let (client, state) = Client::connect(dir.as_fd(), SOCKET, PATIENCE, programs, sender).await?;
    Ok((client, state, told))
}

/// Holds the connection, and watches over it.
fn keep(
    node: &Node,
    sandbox: &Sandbox,
    client: Client,
    process: ShimProcess,
    birth: Option<OwnedFd>,
    (told, events): (Told, ShimEvents),
) -> Arc<LiveShim> {
    let shim = Arc::new(LiveShim {
        node: node.clone(),
        client,
        sandbox: sandbox.id.clone(),
        process: (process.pid(), process.started()),
        birth: Mutex::new(birth),
        execs: Execs::default(),
    });
    node.shims.with(|shims| shims.insert(sandbox.id.clone(), shim.clone()));
    tokio::spawn(watch(shim.clone(), process, told, events));
    shim
}

/// Forwards until the connection ends; then waits for the process, or connects again.
async fn watch(shim: Arc<LiveShim>, process: ShimProcess, mut told: Told, events: ShimEvents) {
    while let Some(event) = told.recv().await {
        if shim.tell(*event, &events) == Ended::Yes {
            break;
        }
    }
    shim.execs.clear();
    let (node, sandbox) = (shim.node.clone(), shim.sandbox.clone());
    node.shims.with(|shims| {
        if shims.get(&sandbox).is_some_and(|held| Arc::ptr_eq(held, &shim)) {
            shims.remove(&sandbox);
        }
    });
    drop(shim);
    if tokio::time::timeout(PATIENCE, process.ended()).await.is_ok() {
        if let Err(error) = process.reap() {
            debug!(sandbox = %sandbox.short(), %error, "shim not reaped");
        }
        // As above: the task is gone only when the sandbox is forgotten.
        drop(events.send(Box::new(ShimEvent::Gone)));
        return;
    }
    warn!(%sandbox, "the shim runs, and its connection has ended: killing the pod's shim");
    // A shim that hangs up and runs on serves nobody: the pod must not outlive it.
    drop(process.signal(9));
    drop(process.ended().await);
    drop(process.reap());
    drop(events.send(Box::new(ShimEvent::Gone)));
}

impl Shim for LiveShim {
    fn process(&self) -> (i32, u64) {
        self.process
    }

    async fn open_namespaces(&self, sandbox: &Sandbox) -> Result<i32, Fault> {
        let own = |mode| mode == NamespaceMode::Pod;
        let wanted = &sandbox.config.namespaces;
        let label = spec::selinux::shared(sandbox, &self.node.facts);
        let request = v1::OpenNamespaces {
            label: label.map_err(|e| fault(e.kind(), &e))?.unwrap_or_default(),
            net: own(wanted.network),
            ipc: own(wanted.ipc),
            uts: own(wanted.network),
            pid: own(wanted.pid),
            hostname: self.node.hostname(&sandbox.config),
            sysctls: sandbox.config.sysctls.clone(),
            user: wanted.user.map(|user| v1::IdMap {
                first_uid: user.uids.first,
                uids: user.uids.length,
                first_gid: user.gids.first,
                gids: user.gids.length,
            }),
        };
        let opened = self.client.open_namespaces(request).await.map_err(|e| asked(&e))?;
        if let Some(net) = opened.net {
            let (pins, name) = (self.node.pins.clone(), plan::netns_pin(&sandbox.id));
            blocking(move || {
                pins.pin(net.as_fd(), &name).map(drop).map_err(|e| fault(e.kind(), &e))
            })
            .await?;
        }
        Ok(opened.init.unwrap_or_default())
    }

    async fn commit(&self) -> Result<(), Fault> {
        self.client.commit().await.map_err(|e| asked(&e))?;
        drop(self.birth.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(())
    }

    async fn state(&self) -> Result<Vec<HeldContainer>, Fault> {
        let state =
            self.client.hello(self.node.programs.for_shims()).await.map_err(|e| asked(&e))?;
        Ok(state.containers.iter().filter_map(held).collect())
    }

    async fn create(&self, sandbox: &Sandbox, order: &CreateOrder) -> Result<(i32, User), Fault> {
        let container = &order.container;
        let runtime = self.node.handlers.program(&sandbox.config.runtime_handler)?;
        let (job, hooks_ms) = create_job(&self.node, order, runtime)?;
        let pod = pod_cgroup(sandbox)?;
        let path = self.node.cgroups.container_path(&pod, &container.id);
        let place = self.node.cgroups.launch_place(&path).map_err(|e| fault(e.kind(), &e))?;
        let stdio = container.config.stdio;
        let target = container.config.security.namespaces.target.as_ref();
        let request = v1::Create {
            container_id: container.id.to_string(),
            job: job.encode_to_vec(),
            log_path: text(&container.log_path),
            stdin: stdio.stdin,
            stdin_once: stdio.stdin_once,
            tty: stdio.tty,
            deadline_ms: LAUNCH_WITHIN_MS.saturating_add(hooks_ms),
            no_cgroup_fd: false,
            target_container_id: target.map(ToString::to_string).unwrap_or_default(),
        };
        let created = self.client.create(request, place).await;
        let created = created.map_err(|e| suspicion(asked(&e), container))?;
        let user = User { uid: created.uid, gid: created.gid, groups: created.groups };
        Ok((created.pid, user))
    }

    async fn start(&self, id: &ContainerId) -> Result<Time, Fault> {
        self.client.start(id).await.map(Time).map_err(|e| asked(&e))
    }

    async fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), Fault> {
        self.client.signal(id, signal).await.map_err(|e| asked(&e))
    }

    async fn exec(&self, sandbox: &Sandbox, order: ExecOrder) -> Result<ExecOutput, Fault> {
        super::exec::run(self, sandbox, order).await
    }

    async fn open(&self, sandbox: &Sandbox, order: OpenOrder) -> Result<Session, Fault> {
        super::session::open(self, sandbox, order).await
    }

    async fn attach(&self, container: &Container, ends: Ends) -> Result<Session, Fault> {
        super::session::attach(self, container, ends).await
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), Fault> {
        self.client.reopen_log(id).await.map_err(|e| asked(&e))
    }

    async fn forget(&self, id: &ContainerId) -> Result<(), Fault> {
        self.client.forget(id).await.map_err(|e| asked(&e))
    }

    async fn shutdown(&self) -> Result<(), Fault> {
        match tokio::time::timeout(PATIENCE, self.client.shutdown()).await {
            // It may end before its answer is read.
            Ok(Ok(()) | Err(RequestError::Gone)) => Ok(()),
            Ok(Err(error)) => Err(asked(&error)),
            Err(_) => Err(Fault::new(Kind::TimedOut, "the shim does not answer")),
        }
    }
}

/// The job, and what hooks may take on top of what launch may.
fn create_job(
    node: &Node,
    order: &CreateOrder,
    runtime: String,
) -> Result<(v1::CreateJob, u32), Fault> {
    let id = &order.container.id;
    let json = order.built.json().map_err(|e| fault(e.kind(), &e))?;
    let (hooks_ms, poststart_ms) = hooks_within(order, &json)?;
    let user = order.built.user.clone();
    let devices = order.built.devices.iter().cloned().map(|device| v1::Device {
        container_path: device.container_path,
        host_path: device.host_path,
        permissions: device.permissions,
        own: device.own.map(own_node),
    });
    let job = v1::CreateJob {
        container_id: id.to_string(),
        bundle: text(&node.places.bundle(id)),
        spec: json,
        rootfs: Some(v1::Rootfs {
            dir: order.pinned.layers_dir.clone(),
            lower: order.pinned.layers.clone(),
            upper: text(&node.places.upper(id)),
            work: text(&node.places.work(id)),
            label: order.built.mount_label.clone().unwrap_or_default(),
        }),
        user: Some(v1::User {
            image_user: user.image_user,
            uid: user.uid,
            name: user.name,
            gid: user.gid,
            groups: user.groups,
            strict_groups: user.strict_groups,
        }),
        seccomp_cache: node.places.seccomp(),
        // A pod's own file that is gone is not to be made as a directory.
        deny_missing: [vec![text(node.places.pods())], order.built.must_exist.clone()].concat(),
        set_home: true,
        devices: devices.collect(),
        all_devices: order.built.all_devices,
        directories: order.built.directories.clone(),
        image_volumes: image_volumes(order),
        poststart_ms: if runtime.is_empty() { poststart_ms } else { 0 },
        runtime,
        relabel: order.built.relabel.clone(),
    };
    Ok((job, hooks_ms))
}

/// What hooks may take while the container is made, and after its start.
fn hooks_within(order: &CreateOrder, json: &[u8]) -> Result<(u32, u32), Fault> {
    if order.built.spec.hooks().is_none() {
        return Ok((0, 0));
    }
    let config = hooks::Config::parse(json)
        .map_err(|e| Fault::new(Kind::Internal, format!("read the hooks: {e}")))?;
    let ms = |stages: &[Stage]| {
        let all = stages.iter().map(|stage| config.within(*stage).as_millis());
        u32::try_from(all.sum::<u128>()).unwrap_or(u32::MAX)
    };
    let making = [Stage::Prestart, Stage::CreateRuntime, Stage::CreateContainer];
    Ok((ms(&making), ms(&[Stage::Poststart])))
}

fn own_node(own: spec::OwnNode) -> v1::OwnNode {
    let (kind, major, minor) = own
        .number
        .map_or_else(Default::default, |(kind, major, minor)| (kind.to_string(), major, minor));
    v1::OwnNode { kind, major, minor, mode: own.mode, uid: own.uid, gid: own.gid }
}

/// A launch that hung cannot tell at which path: most likely it was a volume whose server is gone. One that was killed cannot tell
/// by whom: what it does last counts as the container's memory.
fn suspicion(fault: Fault, container: &Container) -> Fault {
    let limit = container.config.resources.memory_limit;
    let killed = fault.message.ends_with(KILLED) || fault.message.contains(CHILD_KILLED);
    if limit > 0 && killed {
        let message = format!("{}; is memory_limit_in_bytes {limit} enough?", fault.message);
        return Fault::new(fault.kind, message);
    }
    let mounts = container.config.mounts.iter().filter(|mount| mount.image.is_none());
    let paths: Vec<_> = mounts.take(10).map(|mount| mount.host_path.as_str()).collect();
    if fault.kind != Kind::TimedOut || paths.is_empty() {
        return fault;
    }
    let message = format!("{}; does each of these answer? {}", fault.message, paths.join(", "));
    Fault::new(fault.kind, message)
}

fn image_volumes(order: &CreateOrder) -> Vec<v1::ImageVolume> {
    let config = &order.container.config;
    let one = |(found, pinned): (&VolumeImage, &Pinned)| {
        let asked = config.mounts.get(found.mount)?.image.as_ref()?;
        Some(v1::ImageVolume {
            source: spec::image_source(found.mount),
            lower: pinned.layers.clone(),
            sub_path: asked.sub_path.clone(),
            image: asked.image.image.clone(),
        })
    };
    order.container.volumes.iter().zip(&order.volumes).filter_map(one).collect()
}

/// A shim's refusal, as it says it.
pub(super) fn asked(error: &RequestError) -> Fault {
    fault(error.kind(), error)
}

fn held(state: &v1::ContainerState) -> Option<HeldContainer> {
    Some(HeldContainer {
        id: state.container_id.parse().ok()?,
        pid: state.pid,
        started_at: state.started.then_some(Time(state.started_at)),
        exited: state.exited.as_ref().and_then(exit).map(|(_, how, at)| (how, at)),
    })
}

/// An exit record in the engine's words.
fn exit(exited: &v1::Exited) -> Option<(ContainerId, Exit, Time)> {
    let how = if !exited.start_error.is_empty() {
        Exit::StartFailed { message: exited.start_error.clone() }
    } else if exited.signal != 0 {
        Exit::Signal(exited.signal)
    } else {
        Exit::Code(exited.code)
    };
    Some((exited.container_id.parse().ok()?, how, Time(exited.at)))
}
