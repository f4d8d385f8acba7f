//! The systemd driver: a pod's cgroup as a scope, which systemd makes around the pod's shim when it is asked over D-Bus.
//!
//! A scope cannot be empty, so it is made when the shim runs, not before. It is delegated: below it systemd touches nothing, and
//! what is there is made as on any v2 node (systemd's `CGROUP_DELEGATION` document). systemd lets it go when its last
//! process has ended.
//!
//! One connection serves all pods. It is to the system's bus: on its own socket systemd signs its answers with a name that
//! zbus 5 does not take for a sender's and panics at. That the scope is there is read from the shim's own /proc/PID/cgroup,
//! not from the job's signals: the kernel is the truth about it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use names::Kind;
use tokio::net::UnixStream;
use zbus::Connection;
use zbus::connection::Builder;
use zbus::zvariant::{OwnedObjectPath, Value};

use super::establish::{enable_controllers, pass_on_hugepages};
use super::{Cgroups, Driver, PodCgroup, file};
use crate::FsError;

const SOCKET: &str = "/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
/// systemd queues jobs; on a busy node one takes a while.
const PATIENCE: Duration = Duration::from_secs(20);

/// The step of [`Cgroups::adopt`] that was refused.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// Nobody listens at the bus's socket.
    #[error("connect to the system's bus at {}", .0.display())]
    Connect(PathBuf, #[source] Box<zbus::Error>),
    /// systemd does not make the unit.
    #[error("make the scope {unit}")]
    Start {
        /// Its name.
        unit: String,
        /// What systemd says.
        #[source]
        source: Box<zbus::Error>,
    },
    /// It does not answer.
    #[error("systemd has not answered in {PATIENCE:?} when asked for {0}")]
    Silent(String),
    /// The job came to nothing.
    #[error("systemd has not put process {pid} into {unit} in {PATIENCE:?}")]
    NotMoved {
        /// The scope.
        unit: String,
        /// The pod's shim.
        pid: i32,
    },
    /// A file of the scope's cgroup.
    #[error(transparent)]
    Divide(#[from] FsError),
}

impl ScopeError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Connect(..) | Self::Silent(_) | Self::NotMoved { .. } => Kind::Unavailable,
            Self::Start { .. } => Kind::Internal,
            Self::Divide(error) => error.kind(),
        }
    }
}

/// The daemon's connection to systemd, made when it is first needed and again when systemd has closed it.
#[derive(Debug)]
pub(super) struct Scopes {
    socket: PathBuf,
    /// Whom to ask on the bus; nobody, where the other end is the manager itself.
    manager: Option<&'static str>,
    connection: ArcSwapOption<Connection>,
}

impl Default for Scopes {
    fn default() -> Self {
        Self { socket: SOCKET.into(), manager: Some(SYSTEMD), connection: ArcSwapOption::empty() }
    }
}

impl Cgroups {
    /// With the systemd driver: has the pod's scope made around its shim, moves the shim into the leaf of its own, and enables the
    /// controllers for the leaves beside it. Does nothing with the cgroupfs driver, where the shim was born in its place.
    pub async fn adopt(&self, pod: &PodCgroup, shim: i32) -> Result<(), ScopeError> {
        if self.driver() == Driver::Cgroupfs {
            return Ok(());
        }
        let Some(unified) = self.unified() else { return Ok(()) };
        self.0.scopes.start(pod, shim).await?;
        moved(pod, shim).await?;
        let (pod, unified) = (pod.clone(), unified.to_owned());
        let divided = tokio::task::spawn_blocking(move || divide(&pod, &unified, shim)).await;
        Ok(divided.unwrap_or(Ok(()))?)
    }
}

impl Scopes {
    async fn start(&self, pod: &PodCgroup, shim: i32) -> Result<(), ScopeError> {
        let answered = tokio::time::timeout(PATIENCE, self.started(pod, shim)).await;
        answered.unwrap_or_else(|_| Err(ScopeError::Silent(pod.name().to_owned())))
    }

    async fn started(&self, pod: &PodCgroup, shim: i32) -> Result<(), ScopeError> {
        let failed = |error: zbus::Error| ScopeError::Start {
            unit: pod.name().to_owned(),
            source: error.into(),
        };
        let kept = self.connection.load_full();
        if let Some(connection) = kept {
            match self.ask(&connection, pod, shim).await {
                // The bus was started anew.
                Err(zbus::Error::InputOutput(_)) => self.connection.store(None),
                answered => return answered.map_err(failed),
            }
        }
        let connection = self.connect().await;
        let connection =
            connection.map_err(|e| ScopeError::Connect(self.socket.clone(), e.into()))?;
        self.ask(&connection, pod, shim).await.map_err(failed)?;
        self.connection.store(Some(Arc::new(connection)));
        Ok(())
    }

    async fn connect(&self) -> zbus::Result<Connection> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|e| zbus::Error::InputOutput(e.into()))?;
        let builder = Builder::unix_stream(stream);
        if self.manager.is_some() { builder } else { builder.p2p() }.build().await
    }

    async fn ask(&self, connection: &Connection, pod: &PodCgroup, shim: i32) -> zbus::Result<()> {
        let slice =
            pod.parent().map_or_else(|| "-.slice".to_owned(), |slice| slice.name().to_owned());
        let pid = u32::try_from(shim).unwrap_or_default();
        let properties = [
            ("Description", Value::from(format!("Pod {}", pod.name()))),
            ("Slice", Value::from(slice)),
            ("PIDs", Value::from(vec![pid])),
            ("Delegate", Value::from(true)),
            ("TasksMax", Value::from(u64::MAX)),
            // The node's shutdown stops containers by the kubelet's and our own order, not by systemd's.
            ("DefaultDependencies", Value::from(false)),
            ("CollectMode", Value::from("inactive-or-failed")),
        ];
        let aux: [(&str, Vec<(&str, Value<'_>)>); 0] = [];
        let body = (pod.name(), "fail", properties.as_slice(), aux.as_slice());
        let reply = connection
            .call_method(self.manager, MANAGER, Some(INTERFACE), "StartTransientUnit", &body)
            .await?;
        reply.body().deserialize::<OwnedObjectPath>().map(drop)
    }
}

/// Returns when the kernel says that the process is in the scope.
async fn moved(pod: &PodCgroup, shim: i32) -> Result<(), ScopeError> {
    let file = format!("/proc/{shim}/cgroup");
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        // A file of the kernel's memory: no thread waits for a disk.
        let held = fs::read_to_string(&file).unwrap_or_default();
        if held.lines().any(|line| line.strip_prefix("0::") == Some(pod.as_str())) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(ScopeError::NotMoved { unit: pod.name().to_owned(), pid: shim });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A cgroup that enables controllers for its children may hold no process itself: the shim moves first.
fn divide(pod: &PodCgroup, unified: &Path, shim: i32) -> Result<(), FsError> {
    let leaf = pod.shim().under(unified);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(FsError::new("make the cgroup", &leaf, error));
        }
        Ok(()) | Err(_) => {}
    }
    let procs = leaf.join("cgroup.procs");
    file::write(&procs, &shim.to_string()).map_err(FsError::at("move the shim into", &procs))?;
    pass_on_hugepages(unified, pod)?;
    enable_controllers(&pod.under(unified))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use names::SandboxId;
    use tokio::net::UnixListener;
    use zbus::zvariant::OwnedValue;
    use zbus::{Guid, interface};

    use super::*;

    type Asked = (String, String, HashMap<String, OwnedValue>);

    /// systemd's manager as far as a scope needs it.
    struct Manager(Arc<Mutex<Vec<Asked>>>);

    #[interface(name = "org.freedesktop.systemd1.Manager")]
    impl Manager {
        #[expect(clippy::unused_async, reason = "the interface's own form")]
        async fn start_transient_unit(
            &self,
            name: String,
            mode: String,
            properties: Vec<(String, OwnedValue)>,
            aux: Vec<(String, Vec<(String, OwnedValue)>)>,
        ) -> zbus::fdo::Result<OwnedObjectPath> {
            assert!(aux.is_empty(), "a scope needs no other unit");
            if name.contains("ffff") {
                return Err(zbus::fdo::Error::Failed("Unit was already loaded".to_owned()));
            }
            self.0.lock().unwrap().push((name, mode, properties.into_iter().collect()));
            Ok(OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/1").unwrap())
        }
    }

    async fn serve(listener: &UnixListener, asked: &Arc<Mutex<Vec<Asked>>>) -> Connection {
        let (stream, _) = listener.accept().await.unwrap();
        let server = Builder::unix_stream(stream).server(Guid::generate()).unwrap().p2p();
        server.serve_at(MANAGER, Manager(asked.clone())).unwrap().build().await.unwrap()
    }

    #[tokio::test]
    async fn systemd_is_asked_for_a_delegated_scope_in_the_parents_slice() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("private");
        let scopes = Scopes { socket, manager: None, ..Scopes::default() };
        let id = SandboxId::from_random([0xab; 32]);
        let pod = PodCgroup::systemd("kubepods-besteffort.slice", &id).unwrap();
        let absent = scopes.start(&pod, 77).await.unwrap_err();
        assert!(matches!(absent, ScopeError::Connect(..)), "{absent}");

        let asked = Arc::new(Mutex::new(Vec::new()));
        let listener = UnixListener::bind(&scopes.socket).unwrap();
        let (served, started) = tokio::join!(serve(&listener, &asked), scopes.start(&pod, 77));
        started.unwrap();
        // As when the bus is started anew: the next call connects again.
        drop(served);
        let (_served, started) = tokio::join!(serve(&listener, &asked), scopes.start(&pod, 78));
        started.unwrap();

        let calls = std::mem::take(&mut *asked.lock().unwrap());
        let [(name, mode, properties), (_, _, again)] = calls.as_slice() else {
            panic!("{calls:?}")
        };
        assert_eq!((name.as_str(), mode.as_str()), (&*format!("ferropod-{id}.scope"), "fail"));
        let slice: &str = properties["Slice"].downcast_ref().unwrap();
        assert_eq!(slice, "kubepods-besteffort.slice");
        assert!(bool::try_from(&properties["Delegate"]).unwrap());
        assert_eq!(u64::try_from(&properties["TasksMax"]).unwrap(), u64::MAX);
        assert_eq!(properties["PIDs"], OwnedValue::try_from(Value::from(vec![77_u32])).unwrap());
        assert_eq!(again["PIDs"], OwnedValue::try_from(Value::from(vec![78_u32])).unwrap());
    }

    #[tokio::test]
    async fn what_systemd_refuses_is_told_with_the_units_name() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("private");
        let scopes = Scopes { socket, manager: None, ..Scopes::default() };
        let pod = PodCgroup::systemd("", &SandboxId::from_random([0xff; 32])).unwrap();
        let listener = UnixListener::bind(&scopes.socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (_served, refused) = tokio::join!(serve(&listener, &asked), scopes.start(&pod, 77));
        let refused = refused.unwrap_err();
        assert!(refused.to_string().contains(pod.name()), "{refused}");
        assert!(matches!(refused, ScopeError::Start { .. }), "{refused:?}");
    }
}
