//! Everything that acts, as the engine sees it. The daemon's `assemble` implements these over the real rooms, `fault` over
//! fakes that die at the n-th effect.
//!
//! Every method may be repeated: establishing what holds and releasing what is gone are both fine.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use names::{ContainerId, ImageId, SandboxId};
use pod::config::Resources;
use pod::step::Fault;
use pod::{Claim, Container, Exit, Sandbox, Time, User};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// A future that may cross threads.
pub trait Doing<T>: Future<Output = Result<T, Fault>> + Send {}
impl<T, F: Future<Output = Result<T, Fault>> + Send> Doing<T> for F {}

/// All of it together.
pub trait World: Host + Network + Images + Shims {}
impl<W: Host + Network + Images + Shims> World for W {}

/// The node: clock, files, cgroups, mounts.
pub trait Host: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Time;
    /// Random bytes for an id.
    fn random(&self) -> [u8; 32];
    /// Where the sandbox's cgroup will be, below the hierarchies' roots.
    fn pod_cgroup(&self, parent: &str, id: &SandboxId) -> Result<String, Fault>;
    /// Facts of this node that a container's specification depends on.
    fn facts(&self) -> &spec::NodeFacts;
    /// The paths of a container that will be made: computed, not made.
    fn place(&self, sandbox: &Sandbox, id: &ContainerId) -> spec::Place;
    /// What a container gets with CDI devices of these names.
    fn cdi_edits(&self, names: &[String]) -> impl Doing<spec::Edits>;
    /// The JSON of a `Localhost` seccomp profile.
    fn seccomp_profile(&self, path: &str) -> impl Doing<String>;
    /// The name of an AppArmor profile that is loaded now; `None`: it cannot be had, and nobody insists on it.
    fn apparmor(&self, wanted: spec::apparmor::Wanted) -> impl Doing<Option<String>>;
    /// Makes one of `Files`, `Cgroup`, `Shm` hold.
    fn establish(&self, sandbox: &Sandbox, claim: &Claim) -> impl Doing<()>;
    /// Writes the files that tell a sandbox's addresses.
    fn tell_addresses(&self, sandbox: &Sandbox, addresses: &[IpAddr]) -> impl Doing<()>;
    /// Lets any claim but `Network` go. For `Shim`: ends it when it still runs.
    fn release(&self, sandbox: &Sandbox, claim: &Claim) -> impl Doing<()>;
    /// Makes the container's directories.
    fn establish_container(&self, sandbox: &Sandbox, id: &ContainerId) -> impl Doing<()>;
    /// Removes the container's cgroup and directories.
    fn release_container(&self, sandbox: &Sandbox, id: &ContainerId) -> impl Doing<()>;
    /// Kills everything in the container's cgroup; returns when it is empty.
    fn kill_container(&self, sandbox: &Sandbox, id: &ContainerId) -> impl Doing<()>;
    /// Told before a container is killed: what the kernel killed of it until now was not this process, if that goes on. Needs no
    /// record: after a restart in between, the verdict is the coarser one.
    fn before_kill(
        &self,
        _sandbox: &Sandbox,
        _id: &ContainerId,
        _pid: i32,
    ) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// Whether the kernel killed a process of the container's own cgroup for want of memory, which may be the main one.
    fn oom_killed(&self, sandbox: &Sandbox, id: &ContainerId) -> impl Future<Output = bool> + Send;
    /// Changes the limits of a container, all or none.
    fn update_container(
        &self,
        sandbox: &Sandbox,
        id: &ContainerId,
        resources: &Resources,
    ) -> impl Doing<()>;
    /// Releases everything under our names that belongs to none of these.
    fn sweep(&self, sandboxes: &[Arc<Sandbox>], containers: &[Arc<Container>]) -> impl Doing<u64>;
}

/// Addresses, links, ports.
pub trait Network: Send + Sync + 'static {
    /// What will be done for the sandbox: leased, not made. `None` with the node's own network.
    fn plan(&self, sandbox: &Sandbox) -> Result<Option<String>, Fault>;
    /// Whether the intent must be on disk before it is carried out, because its effects survive a reboot.
    fn outlives_boot(&self, intent: &str) -> bool;
    /// Carries it out in the pinned namespace; gives the addresses, and the intent as it turned out.
    fn attach(&self, sandbox: &Sandbox, intent: &str) -> impl Doing<(Vec<IpAddr>, String)>;
    /// Undoes it, whatever of it was done.
    fn detach(&self, sandbox: &Sandbox, intent: &str) -> impl Doing<()>;
    /// After a restart: the intent still holds.
    fn adopt(&self, intent: &str);
    /// Connects to a port of the sandbox's own loopback, IPv4 before IPv6.
    fn dial(&self, sandbox: &Sandbox, port: u16) -> impl Doing<TcpStream>;
    /// Releases what no intent holds.
    fn sweep_network(&self, intents: &[String]) -> impl Doing<()>;
}

/// An image as a container needs it.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// Its id.
    pub id: ImageId,
    /// A repository digest, or the id.
    pub reference: String,
    /// What its configuration says of processes.
    pub config: spec::ImageConfig,
    /// The directory that holds the layers.
    pub layers_dir: String,
    /// Their names in it, topmost first.
    pub layers: Vec<String>,
    /// It holds files and nothing that could be run.
    pub is_artifact: bool,
}

/// The image store.
pub trait Images: Send + Sync + 'static {
    /// Finds an image by reference or id and holds its layers for the container.
    fn pin(&self, text: &str, owner: &ContainerId) -> Result<Pinned, Fault>;
    /// Lets the container's images go.
    fn unpin(&self, owner: &ContainerId);
}

/// What a shim tells unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShimEvent {
    /// A container's main process has ended.
    Exited(ContainerId, Exit, Time),
    /// The shim itself has ended.
    Gone,
}

/// Where shims tell their events: the pod's mailbox.
pub type ShimEvents = mpsc::UnboundedSender<Box<ShimEvent>>;

/// How a connection to an existing shim came out.
#[derive(Debug)]
pub enum Connected<S> {
    /// It answers.
    Yes(Arc<S>),
    /// It lives and does not answer in time.
    Silent,
    /// It is gone.
    Gone,
}

/// Spawns and finds shims.
pub trait Shims: Send + Sync + 'static {
    /// A connection to one.
    type Shim: Shim;
    /// Spawns the sandbox's shim.
    fn spawn(&self, sandbox: &Sandbox, events: ShimEvents) -> impl Doing<Arc<Self::Shim>>;
    /// Connects to the shim of a sandbox that was ready before a restart.
    fn connect(
        &self,
        sandbox: &Sandbox,
        events: ShimEvents,
    ) -> impl Future<Output = Connected<Self::Shim>> + Send;
    /// The connection to a sandbox's shim, while there is one.
    fn held(&self, id: &SandboxId) -> Option<Arc<Self::Shim>>;
    /// The exits that the sandbox's shim wrote down, whether it lives or not.
    fn exits(
        &self,
        sandbox: &Sandbox,
    ) -> impl Future<Output = Vec<(ContainerId, Exit, Time)>> + Send;
}

/// A container to be made.
#[derive(Debug, Clone)]
pub struct CreateOrder {
    /// The container's record.
    pub container: Arc<Container>,
    /// Its specification and user.
    pub built: Arc<spec::Built>,
    /// Its image.
    pub pinned: Pinned,
    /// The images of its volumes, in the order of the record's `volumes`.
    pub volumes: Vec<Pinned>,
}

/// A command to be run in a container, its output collected.
#[derive(Debug, Clone)]
pub struct ExecOrder {
    /// In which container.
    pub container: Arc<Container>,
    /// Its main process.
    pub pid: i32,
    /// The command.
    pub command: Vec<String>,
    /// `None` is for ever.
    pub timeout: Option<Duration>,
}

/// What a command gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Bounded.
    pub stdout: Vec<u8>,
    /// Bounded.
    pub stderr: Vec<u8>,
    /// 128 + signal when a signal ended it.
    pub code: i32,
}

/// Which ends of a process a client holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the interface asks these four questions")]
pub struct Ends {
    /// It writes to the process.
    pub stdin: bool,
    /// It reads what the process writes.
    pub stdout: bool,
    /// It reads what the process complains of; never with a terminal.
    pub stderr: bool,
    /// The process has a terminal.
    pub tty: bool,
}

/// A command to be run in a container, a client at its ends.
#[derive(Debug, Clone)]
pub struct OpenOrder {
    /// In which container.
    pub container: Arc<Container>,
    /// Its main process.
    pub pid: i32,
    /// The command.
    pub command: Vec<String>,
    /// What the client holds of it.
    pub ends: Ends,
    /// Width and height of its terminal, in characters, where the client has said them.
    pub window: Option<(u16, u16)>,
}

/// Sizes a terminal, in characters.
pub trait Terminal: Send + Sync {
    /// Tells the process that its window has this size now.
    fn resize(&self, width: u16, height: u16) -> Result<(), Fault>;
}

/// A client's ends of a command, or of a container's main process.
///
/// Dropped before [`Session::ended`] is ready, the client is gone: a command is killed with all that it started (with a
/// terminal it hangs up first); a container that was attached to goes on.
pub struct Session {
    /// Shutting it down ends the input. Dropped without that, a command has no end of its input before it is killed.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its end is the end of the output.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its end is the end of the output.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// With a terminal.
    pub terminal: Option<Box<dyn Terminal>>,
    /// The client leaves when it has nothing more to say: the container's input stays open for others.
    pub leaves_with_input: bool,
    /// Ready when it is over, all outputs aside: they are to be read to their ends afterwards, within a bound.
    pub ended: Pin<Box<dyn Future<Output = Ended> + Send>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("terminal", &self.terminal.is_some())
            .finish_non_exhaustive()
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The command's code; 128 + signal when a signal ended it.
    Exited(i32),
    /// The command could not be executed; why.
    NotStarted(String),
    /// The container that was attached to writes no more.
    Detached,
    /// The client read too slowly for too long: its session was cut, the container goes on.
    Behind,
    /// Something between them has gone; what.
    Lost(String),
}

/// A container as its shim holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub id: ContainerId,
    /// Its main process; 0 when it has ended or is not there yet.
    pub pid: i32,
    /// Since when its program runs.
    pub started_at: Option<Time>,
    /// How and when it ended.
    pub exited: Option<(Exit, Time)>,
}

/// One shim.
pub trait Shim: Send + Sync + 'static {
    /// Its process id and start time.
    fn process(&self) -> (i32, u64);
    /// Makes the pod's namespaces and pins the network's; gives the built-in init's pid, or 0.
    fn open_namespaces(&self, sandbox: &Sandbox) -> impl Doing<i32>;
    /// From now on it outlives the daemon.
    fn commit(&self) -> impl Doing<()>;
    /// What it holds.
    fn state(&self) -> impl Doing<Vec<Held>>;
    /// Makes a container's init.
    fn create(&self, sandbox: &Sandbox, order: &CreateOrder) -> impl Doing<(i32, User)>;
    /// Lets it run.
    fn start(&self, id: &ContainerId) -> impl Doing<Time>;
    /// Sends a signal to its main process.
    fn signal(&self, id: &ContainerId, signal: i32) -> impl Doing<()>;
    /// Runs a command in it.
    fn exec(&self, sandbox: &Sandbox, order: ExecOrder) -> impl Doing<ExecOutput>;
    /// Runs a command in it, a client at its ends.
    fn open(&self, sandbox: &Sandbox, order: OpenOrder) -> impl Doing<Session>;
    /// Puts a client at the ends of its main process.
    fn attach(&self, container: &Container, ends: Ends) -> impl Doing<Session>;
    /// Opens its log again.
    fn reopen_log(&self, id: &ContainerId) -> impl Doing<()>;
    /// Forgets it; a launch that is still at work is killed first.
    fn forget(&self, id: &ContainerId) -> impl Doing<()>;
    /// Ends it and all it holds.
    fn shutdown(&self) -> impl Doing<()>;
}
