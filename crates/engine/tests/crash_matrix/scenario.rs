//! What a kubelet does with a pod, what it has been told, and what must therefore be so afterwards.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{Engine, EngineError};
use fault::FakeWorld;
use names::{ContainerId, ContainerName, SandboxId, SandboxName};
use pod::config::{
    ContainerConfig, ContainerSecurity, ImageSpec, ImageVolume, Mount, Namespaces, Resources,
    SandboxConfig, SandboxSecurity, Stdio,
};
use pod::{ContainerPhase, Exit, Pod, SandboxPhase};

use crate::life::{ends, until};

/// How far something has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Nothing,
    /// Created, or ready.
    Made,
    Running,
    /// Exited, or not ready.
    Over,
    Forgotten,
}

/// One thing that was asked for: at least this far, at most that far.
#[derive(Debug, Clone)]
pub(crate) struct Promise<I> {
    pub(crate) id: Option<I>,
    pub(crate) told: Stage,
    pub(crate) asked: Stage,
}

impl<I> Default for Promise<I> {
    fn default() -> Self {
        Self { id: None, told: Stage::Nothing, asked: Stage::Nothing }
    }
}

/// All that the kubelet was told, and all that it asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) sandbox: Promise<SandboxId>,
    pub(crate) containers: [Promise<ContainerId>; 4],
}

pub(crate) type Notes = Arc<Mutex<Told>>;

type Result<T> = std::result::Result<T, EngineError>;

/// How the scenario takes an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    /// There must be none.
    Never,
    /// The call is made again, as a kubelet does.
    Retry,
    /// The scenario ends.
    GiveUp,
}

/// A kubelet with one pod of four containers.
pub(crate) struct Kubelet<'e> {
    pub(crate) engine: &'e Engine<FakeWorld>,
    pub(crate) notes: Notes,
    pub(crate) on_error: OnError,
}

const TRIES: usize = 4;

impl Kubelet<'_> {
    /// Runs a pod; one container ends by itself, one is stopped, one is killed, one is never started; removes the pod.
    pub(crate) async fn whole_life(&self) -> Result<()> {
        self.run().await?;
        for nth in [0, 1] {
            self.create(nth).await?;
            self.start(nth).await?;
        }
        self.exits_by_itself(0).await;
        self.stop_container(1, Duration::from_millis(500)).await?;
        self.remove_container(0).await?;
        self.create(2).await?;
        self.stop_container(2, Duration::ZERO).await?;
        self.create(3).await?;
        self.stop_sandbox().await?;
        self.remove_sandbox().await
    }

    /// What a kubelet does that got no answer: it asks again, at once.
    pub(crate) async fn asks_again(&self) -> Result<()> {
        let told = self.notes.lock().unwrap().clone();
        if told.sandbox.asked > Stage::Running {
            self.engine.stop_sandbox(told.sandbox.id.unwrap().as_str()).await?;
            return Ok(());
        }
        self.run().await?;
        for (nth, promise) in told.containers.iter().enumerate() {
            match (promise.told, promise.asked) {
                (Stage::Nothing, Stage::Made) => self.create(nth).await?,
                (_, Stage::Over) => self.stop_container(nth, Duration::ZERO).await?,
                (_, Stage::Forgotten) => self.remove_container(nth).await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn again<T>(&self, call: impl AsyncFn() -> Result<T>) -> Result<T> {
        let mut last = None;
        for _ in 0..TRIES {
            match (ends(call()).await, self.on_error) {
                (Ok(done), _) => return Ok(done),
                (Err(error), OnError::Retry) => last = Some(error),
                (Err(error), OnError::GiveUp) => return Err(error),
                (Err(error), OnError::Never) => panic!("{error}"),
            }
        }
        panic!("still after {TRIES} tries: {last:?}")
    }

    async fn run(&self) -> Result<()> {
        self.notes.lock().unwrap().sandbox.asked = Stage::Running;
        let id = self.again(async || self.engine.run_sandbox(sandbox()).await).await?;
        let mut notes = self.notes.lock().unwrap();
        notes.sandbox = Promise { id: Some(id), told: Stage::Running, asked: Stage::Running };
        Ok(())
    }

    async fn create(&self, nth: usize) -> Result<()> {
        let sandbox = self.sandbox();
        self.notes.lock().unwrap().containers[nth].asked = Stage::Made;
        let call = async || self.engine.create_container(sandbox.as_str(), container(nth)).await;
        let id = self.again(call).await?;
        let mut notes = self.notes.lock().unwrap();
        notes.containers[nth] = Promise { id: Some(id), told: Stage::Made, asked: Stage::Made };
        Ok(())
    }

    async fn start(&self, nth: usize) -> Result<()> {
        let id = self.asks(nth, Stage::Running);
        match ends(self.engine.start_container(id.as_str())).await {
            Ok(()) => self.is_told(nth, Stage::Running),
            Err(error) if self.on_error == OnError::Never => panic!("{error}"),
            Err(error) if self.on_error == OnError::GiveUp => return Err(error),
            // A container that could not be started is over: it is not started again.
            Err(_) => drop(self.asks(nth, Stage::Over)),
        }
        Ok(())
    }

    async fn exits_by_itself(&self, nth: usize) {
        let id = self.asks(nth, Stage::Over);
        self.engine.world().node().exit(&id, &Exit::Code(3));
        until(|| {
            let found = self.engine.views().container(id.as_str());
            found.is_ok_and(|(_, container)| container.phase.is_over())
        })
        .await;
        self.is_told(nth, Stage::Over);
    }

    async fn stop_container(&self, nth: usize, grace: Duration) -> Result<()> {
        let id = self.asks(nth, Stage::Over);
        self.again(async || self.engine.stop_container(id.as_str(), grace).await).await?;
        self.is_told(nth, Stage::Over);
        Ok(())
    }

    async fn remove_container(&self, nth: usize) -> Result<()> {
        let id = self.asks(nth, Stage::Forgotten);
        self.again(async || self.engine.remove_container(id.as_str()).await).await?;
        self.is_told(nth, Stage::Forgotten);
        Ok(())
    }

    async fn stop_sandbox(&self) -> Result<()> {
        let id = self.sandbox();
        self.asks_all(Stage::Over);
        self.again(async || self.engine.stop_sandbox(id.as_str()).await).await?;
        self.is_told_all(Stage::Over);
        Ok(())
    }

    async fn remove_sandbox(&self) -> Result<()> {
        let id = self.sandbox();
        self.asks_all(Stage::Forgotten);
        self.again(async || self.engine.remove_sandbox(id.as_str()).await).await?;
        self.is_told_all(Stage::Forgotten);
        Ok(())
    }

    fn sandbox(&self) -> SandboxId {
        self.notes.lock().unwrap().sandbox.id.clone().unwrap()
    }

    fn asks(&self, nth: usize, stage: Stage) -> ContainerId {
        let mut notes = self.notes.lock().unwrap();
        notes.containers[nth].asked = stage;
        notes.containers[nth].id.clone().unwrap()
    }

    fn is_told(&self, nth: usize, stage: Stage) {
        self.notes.lock().unwrap().containers[nth].told = stage;
    }

    fn asks_all(&self, stage: Stage) {
        let mut notes = self.notes.lock().unwrap();
        notes.sandbox.asked = stage;
        notes.containers.iter_mut().for_each(|c| c.asked = c.asked.max(stage));
    }

    fn is_told_all(&self, stage: Stage) {
        let mut notes = self.notes.lock().unwrap();
        notes.sandbox.told = stage;
        notes.containers.iter_mut().for_each(|c| c.told = c.told.max(stage));
    }
}

/// What was told is so, what was not asked for is not, and the node holds what the records say.
pub(crate) fn holds(engine: &Engine<FakeWorld>, told: &Told) {
    let pods = engine.views().pods();
    assert!(pods.len() <= 1, "one sandbox was asked for");
    let pod = pods.first();
    within(&told.sandbox, pod.map(|p| &p.sandbox.id), sandbox_stage(pod.map(|p| &**p)));
    for (nth, promise) in told.containers.iter().enumerate() {
        let name = container(nth).name;
        let held = pod.and_then(|p| p.visible().find(|c| c.config.name == name));
        within(promise, held.map(|c| &c.id), container_stage(held.map(|c| &c.phase)));
    }
    if let Some(pod) = pod {
        as_recorded(engine, pod);
    }
}

fn within<I: PartialEq + std::fmt::Debug>(promise: &Promise<I>, id: Option<&I>, stage: Stage) {
    // What is not there was forgotten, or never made: the promise says which of the two may be.
    let absent_is_fine = promise.told == Stage::Nothing || promise.asked == Stage::Forgotten;
    if stage == Stage::Nothing {
        assert!(absent_is_fine, "lost: {promise:?}");
        return;
    }
    assert!(stage >= promise.told && stage <= promise.asked, "{stage:?}, and not {promise:?}");
    if promise.id.is_some() {
        assert_eq!(promise.id.as_ref(), id, "another id than was told");
    }
}

fn sandbox_stage(pod: Option<&Pod>) -> Stage {
    match pod.map(|pod| &pod.sandbox.phase) {
        None => Stage::Nothing,
        Some(SandboxPhase::Ready(_)) => Stage::Running,
        Some(SandboxPhase::NotReady) => Stage::Over,
        Some(phase) => panic!("half-way: {phase:?}"),
    }
}

fn container_stage(phase: Option<&ContainerPhase>) -> Stage {
    match phase {
        None => Stage::Nothing,
        Some(ContainerPhase::Created { .. }) => Stage::Made,
        Some(ContainerPhase::Running { .. } | ContainerPhase::Stopping { .. }) => Stage::Running,
        Some(ContainerPhase::Exited { .. }) => Stage::Over,
        Some(phase) => panic!("half-way: {phase:?}"),
    }
}

fn as_recorded(engine: &Engine<FakeWorld>, pod: &Pod) {
    let node = engine.world().node();
    let id = &pod.sandbox.id;
    let up = pod.sandbox.ready().is_some();
    assert!(node.files.contains_key(id), "its files stay until it is removed");
    assert_eq!(node.shims.contains_key(id), up, "shim");
    assert_eq!(node.shm.contains(id), up, "shm");
    assert_eq!(node.cgroups.values().any(|of| of == id), up, "cgroup");
    assert_eq!(node.pins.values().any(|of| of == id), up, "namespace");
    assert_eq!(node.network.len(), usize::from(up), "network");
    for container in pod.containers.values() {
        let lives = container.phase.pid();
        assert_eq!(node.processes.get(&container.id).copied(), lives, "{:?}", container.phase);
        assert!(node.dirs.contains_key(&container.id), "its directories stay until it is removed");
        let lost = container.phase.exit().is_some_and(|(exit, _)| *exit == Exit::Lost);
        assert!(!lost, "its shim outlived the daemon and knows how {} ended", container.id);
    }
    assert_eq!(node.dirs.len(), pod.containers.len(), "directories of no container");
}

pub(crate) fn sandbox() -> SandboxConfig {
    let text = str::to_owned;
    SandboxConfig {
        name: SandboxName { namespace: text("ns"), name: text("pod"), uid: text("u"), attempt: 0 },
        hostname: text("pod"),
        log_directory: String::new(),
        dns: None,
        ports: Vec::new(),
        labels: [].into(),
        annotations: [].into(),
        runtime_handler: String::new(),
        cgroup_parent: text("/kubepods"),
        sysctls: [].into(),
        namespaces: Namespaces::default(),
        security: SandboxSecurity::default(),
        overhead: None,
        resources: None,
    }
}

pub(crate) fn container(nth: usize) -> ContainerConfig {
    ContainerConfig {
        name: ContainerName { name: format!("container-{nth}"), attempt: 0 },
        image: ImageSpec { image: "image".to_owned(), ..ImageSpec::default() },
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: vec![volume()],
        devices: Vec::new(),
        cdi_devices: vec![],
        labels: [].into(),
        annotations: [].into(),
        log_path: String::new(),
        stdio: Stdio::default(),
        stop_signal: None,
        stop_signal_enum: 0,
        resources: Resources::default(),
        security: ContainerSecurity::default(),
    }
}

/// An image other than the container's own.
fn volume() -> Mount {
    let image = ImageSpec { image: "volume".to_owned(), ..ImageSpec::default() };
    Mount {
        container_path: "/v".to_owned(),
        readonly: true,
        image: Some(ImageVolume { image, sub_path: String::new() }),
        ..Mount::default()
    }
}
