//! A stand-in for the shim: subreaper, spawner of launch, starter of containers.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use names::{ContainerId, ContainerName, SandboxId, SandboxName};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use pod::config::{
    ContainerConfig, ContainerSecurity, ImageSpec, Labels, Mount, NamespaceMode, Namespaces,
    Resources, SandboxConfig, SandboxSecurity, Stdio,
};
use wire::inherited::{CONTROL_FD, START_FD};
use wire::v1::{self, answer, job};

use crate::raw;

const TOOLS: [&str; 16] = [
    "bash", "cat", "id", "ls", "touch", "mkdir", "stat", "sleep", "readlink", "env", "mount",
    "umount", "true", "tty", "chmod", "unshare",
];

/// How the name of a case's cgroup begins; the case's own id comes next.
const CGROUP: &str = "ferropod-f-";

/// A directory that holds a root filesystem's one layer, shared by all tests and never written.
fn layers() -> &'static Path {
    static LAYERS: OnceLock<PathBuf> = OnceLock::new();
    LAYERS.get_or_init(|| {
        sweep_cgroups();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("launch-layers");
        let base = dir.join("base");
        let _earlier = fs::remove_dir_all(&base);
        for sub in ["bin", "etc", "tmp", "dev", "proc", "sys"] {
            fs::create_dir_all(base.join(sub)).unwrap();
        }
        for tool in TOOLS {
            copy_with_libraries(&base, tool);
        }
        fs::copy("/bin/bash", base.join("bin/sh")).unwrap();
        put(&base.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n");
        put(&base.join("etc/group"), "root:x:0:\nwww:x:34:\nlog:x:50:web\n");
        put(&base.join("bin/noexec"), "not a program");
        dir
    })
}

fn copy_with_libraries(base: &Path, tool: &str) {
    let source = ["/bin", "/usr/bin"]
        .map(|d| Path::new(d).join(tool))
        .into_iter()
        .find(|p| p.exists())
        .unwrap();
    fs::copy(&source, base.join("bin").join(tool)).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's own tool")]
    let listed = Command::new("ldd").arg(&source).output().unwrap();
    for word in
        String::from_utf8(listed.stdout).unwrap().split_whitespace().filter(|w| w.starts_with('/'))
    {
        let target = base.join(word.trim_start_matches('/'));
        if !target.exists() {
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(word, target).unwrap();
        }
    }
}

/// Writes a whole file.
pub(crate) fn put(path: &Path, text: &str) {
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// A container to be, with everything it needs on the host.
pub(crate) struct Case {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) id: ContainerId,
    pub(crate) sandbox: SandboxConfig,
    pub(crate) container: ContainerConfig,
    pub(crate) image: spec::ImageConfig,
    pub(crate) node: spec::NodeFacts,
    pub(crate) place: spec::Place,
    pub(crate) lower: Vec<String>,
    pub(crate) layers: PathBuf,
    pub(crate) deny_missing: Vec<String>,
    pub(crate) localhost: Option<String>,
    pub(crate) image_volumes: Vec<v1::ImageVolume>,
    pub(crate) apparmor: Option<String>,
    /// The pod's own, with their numbers in launch.
    pub(crate) namespaces: Vec<(OwnedFd, i32)>,
}

/// A container that waits to be started, or runs; or an exec.
pub(crate) struct Made {
    pub(crate) born: v1::Born,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) stdout: File,
    pub(crate) start: File,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) status: WaitStatus,
    pub(crate) start_error: String,
}

/// What a run left that was killed: the name of a case's cgroup begins with the number of its process.
fn sweep_cgroups() {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().filter_map(Result::ok);
    let cgroups = hierarchies.filter_map(|at| fs::read_dir(at.path()).ok()).flatten();
    for cgroup in cgroups.filter_map(Result::ok) {
        let name = cgroup.file_name().into_string().unwrap_or_default();
        let pid =
            name.strip_prefix(CGROUP).and_then(|id| u32::from_str_radix(id.get(..8)?, 16).ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // One that is not empty is somebody's who lives.
            let _busy = fs::remove_dir(cgroup.path());
        }
    }
}

/// The mounts of this directory, or of an overlay in it, that the whole test process sees: outside the tests' own namespaces.
fn host_mounts(dir: &Path) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", std::process::id())).unwrap();
    let dir = dir.display().to_string();
    table.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect()
}

impl Case {
    /// A container that runs a shell script.
    pub(crate) fn new(script: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        prctl::set_child_subreaper(true).unwrap();
        let layers = layers().to_owned();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&std::process::id().to_be_bytes());
        bytes[4..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let id = ContainerId::from_random(bytes);
        for sub in ["bundle", "upper", "work", "cache", "shm"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        for file in ["hostname", "hosts", "resolv.conf"] {
            put(&dir.path().join(file), "from the pod\n");
        }
        let path = |name: &str| dir.path().join(name).display().to_string();
        let place = spec::Place {
            cgroup: format!("/{CGROUP}{}", id.as_str().get(..16).unwrap()),
            hostname: path("hostname"),
            hosts: path("hosts"),
            resolv_conf: path("resolv.conf"),
            shm: path("shm"),
            ..spec::Place::default()
        };
        let mut container = container();
        container.command = vec!["/bin/sh".into(), "-c".into(), script.into()];
        Self {
            id,
            sandbox: sandbox(),
            container,
            image: spec::ImageConfig {
                env: vec!["PATH=/bin".into()],
                ..spec::ImageConfig::default()
            },
            node: node(),
            place,
            lower: vec!["base".into()],
            layers,
            deny_missing: vec![],
            localhost: None,
            image_volumes: vec![],
            apparmor: None,
            namespaces: vec![],
            dir,
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn built(&self) -> spec::Built {
        spec::build(&spec::Request {
            sandbox: &self.sandbox,
            sandbox_id: &SandboxId::from_random([9; 32]),
            container_id: &self.id,
            container: &self.container,
            image: &self.image,
            node: &self.node,
            place: &self.place,
            localhost_profile: self.localhost.as_deref(),
            injected: &spec::Edits::default(),
            apparmor: self.apparmor.as_deref(),
            level: None,
        })
        .unwrap()
    }

    fn job(&self) -> v1::CreateJob {
        let built = self.built();
        let user = v1::User {
            image_user: built.user.image_user.clone(),
            uid: built.user.uid,
            name: built.user.name.clone(),
            gid: built.user.gid,
            groups: built.user.groups.clone(),
            strict_groups: built.user.strict_groups,
        };
        let device = |d: &spec::DeviceRequest| v1::Device {
            container_path: d.container_path.clone(),
            host_path: d.host_path.clone(),
            permissions: d.permissions.clone(),
            own: None,
        };
        v1::CreateJob {
            container_id: self.id.as_str().into(),
            bundle: self.path("bundle"),
            spec: built.json().unwrap(),
            rootfs: Some(v1::Rootfs {
                dir: self.layers.display().to_string(),
                lower: self.lower.clone(),
                upper: self.path("upper"),
                work: self.path("work"),
                label: built.mount_label.clone().unwrap_or_default(),
            }),
            user: Some(user),
            seccomp_cache: self.path("cache"),
            deny_missing: self.deny_missing.clone(),
            set_home: true,
            devices: built.devices.iter().map(device).collect(),
            all_devices: built.all_devices,
            directories: built.directories,
            image_volumes: self.image_volumes.clone(),
            runtime: String::new(),
            poststart_ms: 0,
            relabel: built.relabel,
        }
    }

    /// Creates the container.
    pub(crate) fn create(&self) -> Result<Made, v1::Failure> {
        self.launch(job::Job::Create(self.job()))
    }

    /// Runs a further command in it.
    pub(crate) fn exec(
        &self,
        made: &Made,
        args: &[&str],
        change: impl FnOnce(&mut v1::ExecJob),
    ) -> Result<Made, v1::Failure> {
        let mut job = v1::ExecJob {
            container_id: self.id.as_str().into(),
            bundle: self.path("bundle"),
            pid: made.born.pid,
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            seccomp_cache: self.path("cache"),
            cgroups: self.cgroups(),
            ..v1::ExecJob::default()
        };
        change(&mut job);
        self.launch(job::Job::Exec(job))
    }

    /// The container's directories in the v1 hierarchies.
    pub(crate) fn cgroups(&self) -> Vec<String> {
        let at = |h: &String| format!("/sys/fs/cgroup/{h}{}", self.place.cgroup);
        self.node.hierarchies.iter().map(at).filter(|d| Path::new(d).exists()).collect()
    }

    fn launch(&self, job: job::Job) -> Result<Made, v1::Failure> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (stdout, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (start, start_writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the test is the shim")]
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferropod-launch"));
        command
            .stdin(std::process::Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .env_clear();
        let mut fds = vec![(theirs.into(), CONTROL_FD), (start_writer, START_FD)];
        fds.extend(self.namespaces.iter().map(|(fd, number)| (fd.try_clone().unwrap(), *number)));
        raw::place(&mut command, fds);
        let mut launch = command.spawn().unwrap();
        drop(command);
        wire::send(&ours, &v1::Job { job: Some(job) }, &[]).unwrap();
        let answered = wire::recv::<_, v1::Answer>(&ours);
        let ended = launch.wait().unwrap();
        let (answer, mut fds) = answered.unwrap_or_else(|e| panic!("{e:?}, launch: {ended}"));
        match answer.answer.unwrap() {
            answer::Answer::Born(born) => {
                Ok(Made { born, terminal: fds.pop(), stdout: stdout.into(), start: start.into() })
            }
            answer::Answer::Failure(failure) => Err(failure),
        }
    }

    /// Starts a created container as the shim does.
    pub(crate) fn start(&self) {
        // The socket's path is longer than an address holds.
        let dir = File::open(Path::new(&self.path("bundle")).join(self.id.as_str())).unwrap();
        drop(
            UnixStream::connect(format!("/proc/self/fd/{}/notify.sock", dir.as_raw_fd())).unwrap(),
        );
    }

    /// Creates, starts, and waits for the end.
    pub(crate) fn run(&self) -> Ran {
        let made = self.create().unwrap_or_else(|f| panic!("{f:?}"));
        self.start();
        made.finish()
    }

    /// The failure of a creation that must fail.
    pub(crate) fn refused(&self) -> v1::Failure {
        match self.create() {
            Ok(made) => {
                made.end();
                panic!("it was created")
            }
            Err(failure) => failure,
        }
    }
}

impl Made {
    /// Waits for the end, with all that was printed.
    pub(crate) fn finish(mut self) -> Ran {
        let mut start_error = String::new();
        self.start.read_to_string(&mut start_error).unwrap();
        let out = if let Some(terminal) = self.terminal.take() {
            read_terminal(terminal)
        } else {
            let mut out = String::new();
            self.stdout.read_to_string(&mut out).unwrap();
            out
        };
        let status = waitpid(Pid::from_raw(self.born.pid), None).unwrap();
        Ran { out, status, start_error }
    }

    /// Kills it and waits.
    pub(crate) fn end(self) {
        kill(Pid::from_raw(self.born.pid), Signal::SIGKILL).unwrap();
        let _status = waitpid(Pid::from_raw(self.born.pid), None);
    }

    /// Waits for a line on its output.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    /// A field of the process's status.
    pub(crate) fn status(&self, field: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.born.pid)).unwrap();
        let line = text.lines().find(|l| l.starts_with(&format!("{field}:"))).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    }
}

/// Reaps the children of execs that failed, as a shim does: a PID namespace ends only when all in it are reaped. They are
/// told from launches by their second pid.
pub(crate) fn reap_failed() {
    for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let field = |name: &str| {
            status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned()
        };
        let ours =
            field("PPid:") == std::process::id().to_string() && field("State:").starts_with('Z');
        if ours
            && field("Name:") == "ferropod-launch"
            && field("NSpid:").split_whitespace().count() > 1
        {
            let pid = entry.file_name().to_string_lossy().parse().unwrap();
            let _reaped_by_another = waitpid(Pid::from_raw(pid), None);
        }
    }
}

/// A terminal's master says EIO at the end.
fn read_terminal(terminal: OwnedFd) -> String {
    let mut file = File::from(terminal);
    let mut out = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = file.read(&mut buffer) {
        out.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(out).unwrap().replace("\r\n", "\n")
}

impl Ran {
    pub(crate) fn code(&self) -> i32 {
        match self.status {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let ours = self.dir.path().display().to_string();
        for at in table
            .lines()
            .rev()
            .filter_map(|l| l.split(' ').nth(4))
            .filter(|at| at.starts_with(&ours))
        {
            umount2(at, MntFlags::MNT_DETACH).unwrap();
        }
        for cgroup in self.cgroups() {
            // The kernel empties it a moment after the last process was reaped.
            let removed = (0..400).any(|_| {
                let gone = fs::remove_dir(&cgroup).is_ok();
                if !gone {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                gone
            });
            assert!(removed || std::thread::panicking(), "{cgroup} is in use");
        }
        let left = host_mounts(self.dir.path());
        assert!(left.is_empty() || std::thread::panicking(), "left on the host: {left:?}");
    }
}

fn node() -> spec::NodeFacts {
    let held = fs::read_to_string("/proc/self/status").unwrap();
    let line = held.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap();
    let mask = u64::from_str_radix(line.trim(), 16).unwrap();
    let mut node = spec::NodeFacts::default();
    if mask & (1 << 24) == 0 {
        node.bounding.remove("SYS_RESOURCE");
        node.lowest_oom_score_adj = 0;
    }
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    node.hugetlb = unified;
    if !unified {
        node.cgroups = spec::CgroupLayout::Hybrid;
        let names = fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap());
        node.hierarchies = names.filter(|n| n != "unified" && n != "systemd").collect();
    }
    node
}

fn sandbox() -> SandboxConfig {
    SandboxConfig {
        name: SandboxName { namespace: "n".into(), name: "p".into(), uid: "u".into(), attempt: 0 },
        hostname: "web-0".into(),
        log_directory: String::new(),
        dns: None,
        ports: vec![],
        labels: Labels::new(),
        annotations: Labels::new(),
        runtime_handler: String::new(),
        cgroup_parent: String::new(),
        sysctls: std::collections::BTreeMap::new(),
        namespaces: Namespaces {
            network: NamespaceMode::Node,
            ipc: NamespaceMode::Node,
            ..Namespaces::default()
        },
        security: SandboxSecurity::default(),
        overhead: None,
        resources: None,
    }
}

fn container() -> ContainerConfig {
    ContainerConfig {
        name: ContainerName { name: "c".into(), attempt: 0 },
        image: ImageSpec::default(),
        command: vec![],
        args: vec![],
        working_dir: String::new(),
        envs: vec![],
        mounts: vec![],
        devices: vec![],
        cdi_devices: vec![],
        labels: Labels::new(),
        annotations: Labels::new(),
        log_path: String::new(),
        stdio: Stdio::default(),
        stop_signal: None,
        stop_signal_enum: 0,
        resources: Resources::default(),
        security: ContainerSecurity {
            namespaces: Namespaces { pid: NamespaceMode::Container, ..Namespaces::default() },
            ..ContainerSecurity::default()
        },
    }
}

/// A volume of the host at a place in the container.
pub(crate) fn volume(at: &str, host: &str) -> Mount {
    Mount { container_path: at.into(), host_path: host.into(), ..Mount::default() }
}
