//! What the edge calls: one method per verb. Each hands a command to a pod's task and waits for the end of it.

use std::sync::Arc;
use std::time::Duration;

use names::{ContainerId, ImageId, Kind, SandboxId};
use pod::config::{ContainerConfig, Resources, SandboxConfig};
use pod::step::{Fault, phase_name};
use pod::{Command, Container, ContainerPhase, Refusal, Sandbox, SandboxPhase};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, oneshot};

use crate::bell::Occurrence;
use crate::error::EngineError;
use crate::message::{Answer, Message};
use crate::parts::Parts;
use crate::reception::Reception;
use crate::record::chain;
use crate::view::{Entry, Views};
use crate::volume;
use crate::world::{
    CreateOrder, Ends, ExecOrder, ExecOutput, OpenOrder, Session, Shim, Shims, World,
};

/// The engine. Cheap to clone.
pub struct Engine<W: World> {
    pub(crate) parts: Arc<Parts<W>>,
    pub(crate) reception: Reception,
}

impl<W: World> std::fmt::Debug for Engine<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl<W: World> Clone for Engine<W> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone(), reception: self.reception.clone() }
    }
}

impl<W: World> Engine<W> {
    /// The published state.
    pub fn views(&self) -> &Views {
        &self.parts.views
    }

    /// Everything that acts.
    pub fn world(&self) -> &Arc<W> {
        &self.parts.world
    }

    /// All events from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Occurrence>> {
        self.parts.bell.listen()
    }

    /// A time for a reply that is compared with events' times.
    pub fn stamp(&self) -> pod::Time {
        self.parts.bell.stamp(self.parts.world.now())
    }

    // --- sandboxes -------------------------------------------------------------------------------------------------

    /// Runs a sandbox, or joins the one of that name that is being made.
    ///
    /// # Errors
    /// The name is held by another configuration or by a sandbox that has ended; or a claim could not be established, and all are released.
    pub async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxId, EngineError> {
        let (id, answer) = self.reception.run(config).await?;
        wait_for(answer, || format!("sandbox {id}")).await?;
        Ok(id)
    }

    /// Stops a sandbox: all its containers are killed at once, then its claims go. An absent one is stopped.
    ///
    /// # Errors
    /// Processes that do not end, or an ambiguous id.
    pub async fn stop_sandbox(&self, prefix: &str) -> Result<(), EngineError> {
        match self.parts.views.entry(prefix) {
            Ok(entry) => self.command(&entry, Command::StopSandbox, None).await.map(drop),
            Err(EngineError::NotFound(..)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a sandbox and its containers, stopping it first. An absent one is removed.
    ///
    /// # Errors
    /// As for stopping; or files that cannot be removed.
    pub async fn remove_sandbox(&self, prefix: &str) -> Result<(), EngineError> {
        let entry = match self.parts.views.entry(prefix) {
            Ok(entry) => entry,
            Err(EngineError::NotFound(..)) => return Ok(()),
            Err(error) => return Err(error),
        };
        gone_is_fine(self.command(&entry, Command::StopSandbox, None).await)?;
        gone_is_fine(self.command(&entry, Command::RemoveSandbox, None).await)
    }

    /// Takes a sandbox's updated resources into its record; the pod's cgroup is the kubelet's own to change.
    ///
    /// # Errors
    /// No such sandbox.
    pub async fn update_sandbox(
        &self,
        prefix: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), EngineError> {
        let entry = self.parts.views.entry(prefix)?;
        let command = Command::UpdateSandbox {
            overhead: overhead.map(Box::new),
            resources: resources.map(Box::new),
        };
        self.command(&entry, command, None).await.map(drop)
    }

    // --- containers ------------------------------------------------------------------------------------------------

    /// Makes a container in a ready sandbox from an image that is here.
    ///
    /// # Errors
    /// A field that cannot be, an image that is not here, or a stage of its making; then nothing of it is left.
    pub async fn create_container(
        &self,
        prefix: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId, EngineError> {
        let entry = self.parts.views.entry(prefix)?;
        let engine = self.clone();
        // The work goes on when the caller goes away, and the image is let go when it comes to nothing.
        let work = tokio::spawn(async move { engine.create(entry, config).await });
        work.await.map_err(|_| EngineError::Vanished("the creation".to_owned()))?
    }

    async fn create(
        &self,
        entry: Entry,
        config: ContainerConfig,
    ) -> Result<ContainerId, EngineError> {
        let id = ContainerId::from_random(self.parts.world.random());
        let created = match self.order(&entry, &id, config).await {
            Ok(order) => {
                let command = Command::Create(Box::new(Container::clone(&order.container)));
                self.command(&entry, command, Some(Box::new(order))).await
            }
            Err(error) => Err(error),
        };
        match created {
            Ok(Some(given)) if given == id => Ok(id),
            other => {
                self.parts.world.unpin(&id);
                other?.ok_or_else(|| EngineError::Vanished(format!("container {id}")))
            }
        }
    }

    /// Pins the image and settles the specification: nothing is made yet.
    async fn order(
        &self,
        entry: &Entry,
        id: &ContainerId,
        config: ContainerConfig,
    ) -> Result<CreateOrder, EngineError> {
        let world = &self.parts.world;
        let sandbox = &entry.pod.sandbox;
        let pinned = volume::pin_own(world.as_ref(), id, &config)?;
        let (volumes, volume_images) = volume::pin(world.as_ref(), id, &config)?;
        let localhost_profile = match &config.security.seccomp {
            Some(pod::config::SecurityProfile::Localhost(path)) => {
                Some(world.seccomp_profile(path).await?)
            }
            _ => None,
        };
        let injected = match config.cdi_devices.as_slice() {
            [] => spec::Edits::default(),
            names => world.cdi_edits(names).await?,
        };
        let wanted = spec::apparmor::wanted(&config.security, world.facts())
            .map_err(|error| Fault::new(error.kind(), chain(&error)))?;
        let apparmor = match wanted {
            Some(wanted) => world.apparmor(wanted).await?,
            None => None,
        };
        let place = world.place(sandbox, id);
        let built = spec::build(&spec::Request {
            sandbox: &sandbox.config,
            sandbox_id: &sandbox.id,
            container_id: id,
            container: &config,
            image: &pinned.config,
            node: world.facts(),
            place: &place,
            localhost_profile: localhost_profile.as_deref(),
            injected: &injected,
            apparmor: apparmor.as_deref(),
            level: sandbox.level.as_deref(),
        })
        .map_err(|error| EngineError::Failed(Fault::new(error.kind(), chain(&error))))?;
        let container = Container {
            id: id.clone(),
            sandbox: sandbox.id.clone(),
            log_path: log_path(&sandbox.config.log_directory, &config.log_path),
            config,
            image: ImageId::clone(&pinned.id),
            image_ref: pinned.reference.clone(),
            volumes,
            stop_signal: built.stop_signal,
            created_at: world.now(),
            phase: ContainerPhase::Creating,
            user: None,
        };
        let (container, built) = (Arc::new(container), Arc::new(built));
        Ok(CreateOrder { container, built, pinned, volumes: volume_images })
    }

    /// Lets a created container's program run.
    ///
    /// # Errors
    /// It is not in that phase, or its program could not be executed: then it is `Exited` with code 128.
    pub async fn start_container(&self, prefix: &str) -> Result<(), EngineError> {
        let (entry, container) = self.parts.views.container_entry(prefix)?;
        self.command(&entry, Command::Start(container.id.clone()), None).await.map(drop)
    }

    /// Asks a container to end, and makes it when the grace is over. The grace is this call's own: when the caller goes away
    /// before its end, nothing is killed. An absent or finished container is stopped.
    ///
    /// # Errors
    /// Processes that do not end even when killed.
    pub async fn stop_container(&self, prefix: &str, grace: Duration) -> Result<(), EngineError> {
        let (entry, container) = match self.parts.views.container_entry(prefix) {
            Ok(found) => found,
            Err(EngineError::NotFound(..)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let id = container.id.clone();
        if !grace.is_zero() {
            let asked = self.command(&entry, Command::Stop(id.clone()), None);
            if let Ok(done) = tokio::time::timeout(grace, asked).await {
                return gone_is_fine(done);
            }
        }
        gone_is_fine(self.command(&entry, Command::Kill(id), None).await)
    }

    /// Removes a container, killing it first. An absent one is removed.
    ///
    /// # Errors
    /// Processes that do not end, or files that cannot be removed.
    pub async fn remove_container(&self, prefix: &str) -> Result<(), EngineError> {
        let (entry, container) = match self.parts.views.container_entry(prefix) {
            Ok(found) => found,
            Err(EngineError::NotFound(..)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let id = container.id.clone();
        if !container.phase.is_over() {
            gone_is_fine(self.command(&entry, Command::Kill(id.clone()), None).await)?;
        }
        gone_is_fine(self.command(&entry, Command::Remove(id), None).await)
    }

    /// Changes a container's limits: all of them, or none.
    ///
    /// # Errors
    /// It is not created or running, or the kernel refuses a value.
    pub async fn update_container(
        &self,
        prefix: &str,
        resources: Resources,
    ) -> Result<(), EngineError> {
        let (entry, container) = self.parts.views.container_entry(prefix)?;
        let command = Command::Update(container.id.clone(), Box::new(resources));
        self.command(&entry, command, None).await.map(drop)
    }

    /// Opens a running container's log again, after it has been renamed.
    ///
    /// # Errors
    /// It is not running; then no file is made.
    pub async fn reopen_log(&self, prefix: &str) -> Result<(), EngineError> {
        let (entry, container) = self.parts.views.container_entry(prefix)?;
        running(&container)?;
        let shim = self.shim(&entry)?;
        Ok(shim.reopen_log(&container.id).await?)
    }

    /// Runs a command in a running container and collects its output. Needs no record and no mailbox turn beyond finding the shim.
    ///
    /// # Errors
    /// It is not running, the command could not be executed, or its time was over.
    pub async fn exec_sync(
        &self,
        prefix: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, EngineError> {
        let (entry, container) = self.parts.views.container_entry(prefix)?;
        let pid = running(&container)?;
        let shim = self.shim(&entry)?;
        let order = ExecOrder { container, pid, command, timeout };
        Ok(shim.exec(&entry.pod.sandbox, order).await?)
    }

    /// A running container, to open a session with later.
    ///
    /// # Errors
    /// There is none of that id, or it is not running.
    pub fn streamable(&self, prefix: &str) -> Result<ContainerId, EngineError> {
        let (_, container) = self.parts.views.container_entry(prefix)?;
        running(&container)?;
        Ok(container.id.clone())
    }

    /// Runs a command in a running container, a client at its ends. Needs no record, as [`Engine::exec_sync`].
    ///
    /// # Errors
    /// It is not running, or the command could not be begun.
    pub async fn open_exec(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        ends: Ends,
        window: Option<(u16, u16)>,
    ) -> Result<Session, EngineError> {
        let (entry, container) = self.parts.views.container_entry(id.as_str())?;
        let pid = running(&container)?;
        let shim = self.shim(&entry)?;
        let order = OpenOrder { container, pid, command, ends, window };
        Ok(shim.open(&entry.pod.sandbox, order).await?)
    }

    /// Puts a client at the ends of a running container's main process. Whether it has a terminal is the container's own
    /// matter.
    ///
    /// # Errors
    /// It is not running.
    pub async fn open_attach(&self, id: &ContainerId, ends: Ends) -> Result<Session, EngineError> {
        let (entry, container) = self.parts.views.container_entry(id.as_str())?;
        running(&container)?;
        let tty = container.config.stdio.tty;
        let ends = Ends { tty, stderr: ends.stderr && !tty, ..ends };
        Ok(self.shim(&entry)?.attach(&container, ends).await?)
    }

    /// A ready sandbox, to forward ports of later.
    ///
    /// # Errors
    /// There is none of that id, or it is not ready.
    pub fn forwardable(&self, prefix: &str) -> Result<SandboxId, EngineError> {
        let entry = self.parts.views.entry(prefix)?;
        ready(&entry.pod.sandbox)?;
        Ok(entry.pod.sandbox.id.clone())
    }

    /// Connects to a port of a ready sandbox's own loopback.
    ///
    /// # Errors
    /// It is not ready, or nothing listens there.
    pub async fn dial(&self, id: &SandboxId, port: u16) -> Result<TcpStream, EngineError> {
        let entry = self.parts.views.entry(id.as_str())?;
        ready(&entry.pod.sandbox)?;
        Ok(self.parts.world.dial(&entry.pod.sandbox, port).await?)
    }

    // --- between ---------------------------------------------------------------------------------------------------

    fn shim(&self, entry: &Entry) -> Result<Arc<<W as Shims>::Shim>, EngineError> {
        let id = &entry.pod.sandbox.id;
        let held = self.parts.world.held(id);
        held.ok_or_else(|| {
            let message = format!("the shim of sandbox {id} does not answer");
            EngineError::Failed(Fault::new(Kind::Unavailable, message))
        })
    }

    async fn command(
        &self,
        entry: &Entry,
        command: Command,
        order: Option<Box<CreateOrder>>,
    ) -> Answer {
        let (reply, answer) = oneshot::channel();
        let gone = || EngineError::Vanished(format!("sandbox {}", entry.pod.sandbox.id));
        let message = Message::Command { command, order, reply };
        entry.mailbox.send(Box::new(message)).map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

async fn wait_for(
    answer: oneshot::Receiver<Answer>,
    what: impl FnOnce() -> String,
) -> Result<(), EngineError> {
    answer.await.unwrap_or_else(|_| Err(EngineError::Vanished(what()))).map(drop)
}

/// What is to be ended or removed and has vanished meanwhile is ended and removed.
fn gone_is_fine(answer: Answer) -> Result<(), EngineError> {
    match answer {
        Ok(_) | Err(EngineError::Vanished(_) | EngineError::Refused(Refusal::NoContainer(_))) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The main process of a container whose program runs.
fn running(container: &Container) -> Result<i32, EngineError> {
    let pid = container.phase.pid().filter(|_| container.phase.is_running());
    pid.ok_or_else(|| {
        let (id, phase) = (container.id.clone(), phase_name(&container.phase));
        EngineError::Refused(Refusal::NotRunning { id, phase })
    })
}

fn ready(sandbox: &Sandbox) -> Result<(), EngineError> {
    match sandbox.phase {
        SandboxPhase::Ready(_) => Ok(()),
        _ => Err(EngineError::Refused(Refusal::NotReady(sandbox.id.clone()))),
    }
}

fn log_path(directory: &str, path: &str) -> std::path::PathBuf {
    if path.is_empty() || directory.is_empty() {
        return std::path::PathBuf::new();
    }
    std::path::Path::new(directory).join(path)
}
