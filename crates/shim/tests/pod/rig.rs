//! A real shim with a daemon of the test's.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use prost::Message;
use tempfile::TempDir;
use wire::exits::read_exits;
use wire::v1::envelope::Body;
use wire::v1::{
    Commit, Create, CreateJob, Created, Envelope, Exec, ExecExited, ExecJob, Exited, Failure,
    Forget, Hello, Shutdown, Start, Started, State,
};

const LONG: Duration = Duration::from_secs(20);

/// A shim and what it was started with. Dropped, it ends the shim.
pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    pub(crate) shim: Child,
    pub(crate) birth: Option<UnixStream>,
}

/// A connection of a daemon's.
pub(crate) struct Daemon {
    pub(crate) socket: UnixStream,
    next: u64,
    events: VecDeque<Body>,
}

/// Where a container's output goes.
#[derive(Default, PartialEq, Eq)]
pub(crate) enum Log {
    #[default]
    File,
    Nowhere,
}

/// A container's input.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdin {
    #[default]
    None,
    Kept,
    Once,
}

/// How a container is made.
#[derive(Default)]
pub(crate) struct How<'a> {
    pub(crate) tty: bool,
    pub(crate) stdin: Stdin,
    pub(crate) target: &'a str,
    pub(crate) log: Log,
    /// Empty: launch itself.
    pub(crate) runtime: &'a str,
    pub(crate) deadline_ms: u32,
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// Waits for a level, with a bound.
pub(crate) fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !reached() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A shell command that leaves a process behind, in a session of its own, which writes its pid to the file and sleeps.
pub(crate) fn escape(pid: &Path) -> String {
    let script = pid.with_extension("sh");
    let mut file = File::create(&script).unwrap();
    writeln!(file, "echo $$ > {}; exec sleep 600", pid.display()).unwrap();
    format!("setsid sh -c 'sh {} &'", script.display())
}

/// Numbers that a process wrote to a file.
pub(crate) fn pid_in(path: &Path) -> i32 {
    let mut pid = 0;
    wait_until("a pid in a file", || {
        pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        pid > 0
    });
    pid
}

fn fake_launch() -> PathBuf {
    let shim = Path::new(env!("CARGO_BIN_EXE_ferropod-shim"));
    shim.parent().unwrap().join("examples/fake-launch")
}

// === impl Rig ===

impl Rig {
    pub(crate) fn new() -> Self {
        Self::of(Path::new(env!("CARGO_BIN_EXE_ferropod-shim")))
    }

    /// With another build of the shim.
    #[expect(clippy::disallowed_methods, reason = "a test starts the program under test")]
    pub(crate) fn of(program: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listen = UnixListener::bind(dir.path().join("shim.sock")).unwrap();
        let (birth, theirs) = UnixStream::pair().unwrap();
        let exits =
            OpenOptions::new().append(true).create(true).open(dir.path().join("exits")).unwrap();
        let mut command = Command::new(program);
        command.arg("0123456789abcdef".repeat(4)).env_clear();
        let fds = [listen.as_raw_fd(), theirs.as_raw_fd(), exits.as_raw_fd()];
        let place = move || {
            for (fd, target) in fds.iter().zip([103, 104, 105]) {
                nix::unistd::dup2(*fd, target)?;
            }
            for target in [3, 4, 5] {
                nix::unistd::dup2(target + 100, target)?;
            }
            Ok(())
        };
        // SAFETY: makes system calls only.
        unsafe { command.pre_exec(place) };
        Self { shim: command.spawn().unwrap(), dir, birth: Some(birth) }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.shim.id()).unwrap()
    }

    /// Connects, and says hello.
    pub(crate) fn connect(&self) -> (Daemon, State) {
        self.connect_with(None)
    }

    /// With a program for further processes.
    pub(crate) fn connect_with(&self, enter: Option<&File>) -> (Daemon, State) {
        let socket = UnixStream::connect(self.dir.path().join("shim.sock")).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let mut daemon = Daemon { socket, next: 0, events: VecDeque::new() };
        let launch =
            File::open(fake_launch()).expect("the example fake-launch is built by `cargo test`");
        let hello = Body::Hello(Hello { version: wire::VERSION });
        let programs: Vec<_> =
            [Some(&launch), enter].into_iter().flatten().map(AsFd::as_fd).collect();
        let (answer, _) = daemon.call(hello, &programs);
        let Body::State(state) = answer else { panic!("{answer:?}") };
        (daemon, state)
    }

    /// Connects and commits.
    pub(crate) fn committed() -> (Self, Daemon) {
        let mut rig = Self::new();
        let (mut daemon, _) = rig.connect();
        daemon.done(Body::Commit(Commit {}));
        rig.birth = None;
        (rig, daemon)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn log(&self, id: &str) -> String {
        fs::read_to_string(self.path(&format!("{id}.log"))).unwrap_or_default()
    }

    /// The texts of a log, by stream.
    pub(crate) fn texts(&self, id: &str, stream: &str) -> Vec<String> {
        let of = |line: &str| {
            let mut parts = line.splitn(4, ' ');
            (parts.nth(1) == Some(stream)).then(|| line.splitn(4, ' ').nth(3).unwrap().to_owned())
        };
        self.log(id).split_terminator('\n').filter_map(of).collect()
    }

    pub(crate) fn exits(&self) -> Vec<Exited> {
        read_exits(&fs::read(self.path("exits")).unwrap())
    }

    pub(crate) fn create(
        &self,
        daemon: &mut Daemon,
        id: &str,
        script: &str,
        how: &How<'_>,
    ) -> Result<Created, Failure> {
        let bundle = self.path(id);
        fs::create_dir_all(&bundle).unwrap();
        let deny_missing = if how.tty { vec!["tty".to_owned()] } else { Vec::new() };
        let job = CreateJob {
            container_id: id.to_owned(),
            bundle: bundle.to_str().unwrap().to_owned(),
            spec: script.into(),
            deny_missing,
            runtime: how.runtime.to_owned(),
            ..CreateJob::default()
        };
        let log = self.path(&format!("{id}.log"));
        let request = Create {
            container_id: id.to_owned(),
            job: job.encode_to_vec(),
            log_path: if how.log == Log::Nowhere {
                String::new()
            } else {
                log.to_str().unwrap().to_owned()
            },
            stdin: how.stdin != Stdin::None,
            stdin_once: how.stdin == Stdin::Once,
            target_container_id: how.target.to_owned(),
            tty: how.tty,
            deadline_ms: how.deadline_ms,
            no_cgroup_fd: how.cgroup.is_none(),
        };
        let fds: Vec<BorrowedFd<'_>> = how.cgroup.into_iter().collect();
        match daemon.call(Body::Create(request), &fds).0 {
            Body::Created(created) => Ok(created),
            Body::Failure(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    /// Creates and starts.
    pub(crate) fn run(&self, daemon: &mut Daemon, id: &str, script: &str) -> Created {
        let created = self.create(daemon, id, script, &How::default()).unwrap();
        daemon.start(id).unwrap();
        created
    }

    /// Its memory that no other process shares, in KiB.
    pub(crate) fn anonymous_kib(&self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Pss_Anon:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Ok(None) = self.shim.try_wait() {
            // Whatever the test did: a new daemon may ask it to end.
            if std::thread::panicking() {
                self.shim.kill().ok();
            } else {
                let (mut daemon, _) = self.connect();
                daemon.done(Body::Shutdown(Shutdown {}));
            }
        }
        self.shim.wait().ok();
    }
}

// === impl Daemon ===

impl Daemon {
    /// Sends a request and waits for its answer; events are kept.
    pub(crate) fn call(&mut self, body: Body, fds: &[BorrowedFd<'_>]) -> (Body, Vec<OwnedFd>) {
        let id = self.send(body, fds);
        loop {
            let (envelope, fds) = wire::recv::<_, Envelope>(&self.socket).unwrap();
            match envelope.id {
                0 => self.events.push_back(envelope.body.unwrap()),
                answered => {
                    assert_eq!(answered, id);
                    return (envelope.body.unwrap(), fds);
                }
            }
        }
    }

    pub(crate) fn send(&mut self, body: Body, fds: &[BorrowedFd<'_>]) -> u64 {
        self.next += 1;
        let envelope = Envelope { id: self.next, body: Some(body) };
        wire::send(&self.socket, &envelope, fds).unwrap();
        self.next
    }

    pub(crate) fn done(&mut self, body: Body) {
        let (answer, _) = self.call(body, &[]);
        assert!(matches!(answer, Body::Done(_)), "{answer:?}");
    }

    pub(crate) fn refused(&mut self, body: Body) -> Failure {
        let (answer, _) = self.call(body, &[]);
        let Body::Failure(failure) = answer else { panic!("{answer:?}") };
        failure
    }

    pub(crate) fn start(&mut self, id: &str) -> Result<Started, Failure> {
        match self.call(Body::Start(Start { container_id: id.to_owned() }), &[]).0 {
            Body::Started(started) => Ok(started),
            Body::Failure(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn forget(&mut self, id: &str) {
        self.done(Body::Forget(Forget { container_id: id.to_owned() }));
    }

    pub(crate) fn event(&mut self) -> Body {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        let (envelope, _) = wire::recv::<_, Envelope>(&self.socket).unwrap();
        assert_eq!(envelope.id, 0, "an answer that nobody waits for");
        envelope.body.unwrap()
    }

    pub(crate) fn exited(&mut self) -> Exited {
        match self.event() {
            Body::Exited(exited) => exited,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn exec_exited(&mut self) -> ExecExited {
        match self.event() {
            Body::ExecExited(exited) => exited,
            other => panic!("{other:?}"),
        }
    }

    /// Starts `sh -c script`. The options are filled into what the test has said.
    pub(crate) fn exec(
        &mut self,
        request: Exec,
        script: &str,
        fds: &[BorrowedFd<'_>],
    ) -> (i32, Vec<OwnedFd>) {
        let args = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let job = ExecJob { args, tty: request.tty, ..ExecJob::default() };
        let request = Exec { job: job.encode_to_vec(), ..request };
        match self.call(Body::Exec(request), fds) {
            (Body::ExecStarted(started), fds) => (started.pid, fds),
            other => panic!("{other:?}"),
        }
    }
}
