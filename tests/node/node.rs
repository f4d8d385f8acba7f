//! One daemon with its own directories, and the client that drives it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::machine;

pub(crate) const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
/// A registry that asks who one is, where a test starts one.
pub(crate) const GUARDED: &str = "127.0.0.1:5001";
const NATIVE: &str = "mode = \"native\"";
/// In seconds, for what the node does by itself, without a call that waits for it.
const PATIENCE: u64 = 20;

static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Node {
    dir: tempfile::TempDir,
    root: tempfile::TempDir,
    daemon: Option<Child>,
    before: BTreeSet<String>,
    pods: RefCell<Vec<String>>,
    made: Cell<u32>,
    /// The network namespace that its daemon lives in, when it is not the tests' own.
    netns: Option<String>,
    /// The runtime handler of its pods, when it is not the default one.
    handler: Option<String>,
    /// Whether the parent of its pods' cgroups must be a slice, as the systemd driver has it.
    slices: bool,
    _turn: Option<MutexGuard<'static, ()>>,
}

/// A sandbox, and the request that made it.
pub(crate) struct Pod {
    pub(crate) id: String,
    request: PathBuf,
}

impl Pod {
    pub(crate) fn request(&self) -> &str {
        text(&self.request)
    }
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::with_network(|_| NATIVE.to_owned())
    }

    /// With these lines in the section of the network, which may name its directory.
    pub(crate) fn with_network(network: impl FnOnce(&Path) -> String) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self::in_netns(None, Some(turn), std::env::var("FERROPOD_HANDLER").ok(), network)
    }

    /// With busybox, for pods whose containers an outside runtime makes.
    pub(crate) fn with_runc() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let handler = Some("runc".to_owned());
        let node = Self::in_netns(None, Some(turn), handler, |_| NATIVE.to_owned());
        node.crictl(&["pull", BUSYBOX]);
        node
    }

    /// A second node beside one that has the turn, in this network namespace.
    pub(crate) fn beside(_: &Self, netns: &str, network: &str) -> Self {
        Self::in_netns(Some(netns.to_owned()), None, None, |_| network.to_owned())
    }

    fn in_netns(
        netns: Option<String>,
        turn: Option<MutexGuard<'static, ()>>,
        handler: Option<String>,
        network: impl FnOnce(&Path) -> String,
    ) -> Self {
        let dir = tempfile::tempdir_in(told("FERROPOD_RUN")).expect("a directory");
        let root = tempfile::tempdir_in(told("FERROPOD_ROOT")).expect("a directory on disk");
        let mut node = Self {
            dir,
            root,
            daemon: None,
            before: BTreeSet::new(),
            pods: RefCell::default(),
            made: Cell::new(0),
            netns,
            handler,
            slices: false,
            _turn: turn,
        };
        write(&node.path("config.toml"), &node.config(&network(node.dir.path())));
        node.serve();
        node.slices = node.crictl(&["runtime-config"]).contains("SYSTEMD");
        node.compare_with_now();
        node
    }

    /// With the image that nearly all tests run.
    pub(crate) fn with_busybox() -> Self {
        let node = Self::start();
        node.crictl(&["pull", BUSYBOX]);
        node
    }

    /// Whether an outside runtime makes its containers.
    pub(crate) fn is_outside(&self) -> bool {
        self.handler.is_some()
    }

    fn config(&self, network: &str) -> String {
        format!(
            "root = {:?}\nstate = {:?}\nsocket = {:?}\n[network]\n{network}\n\
             [image]\nhosts_dirs = [{:?}]\nregistries_conf = \"\"\n\
             insecure_registries = [{GUARDED:?}]\n{}",
            self.root(),
            self.path("state"),
            self.path("ferropod.sock"),
            told("FERROPOD_HOSTS"),
            self.handler.as_deref().map(handler_section).unwrap_or_default(),
        )
    }

    // === the daemon ===

    pub(crate) fn serve(&mut self) {
        let log = File::options().append(true).create(true).open(self.path("log")).expect("a log");
        let daemon = self.serving().stderr(log).spawn();
        self.daemon = Some(daemon.expect("the daemon starts"));
        eventually("the daemon answers", || self.try_crictl(&["version"]).status.success());
    }

    /// The command that serves on this node's directories.
    pub(crate) fn serving(&self) -> Command {
        self.command("serve")
    }

    /// The program with a verb and this node's configuration.
    pub(crate) fn command(&self, verb: &str) -> Command {
        let ferropod = format!("{}/ferropod", told("FERROPOD_BIN"));
        let mut command = match &self.netns {
            None => tool(&ferropod),
            Some(netns) => {
                // Not `ip netns exec`: it mounts another /sys.
                let mut command = tool("nsenter");
                command.arg(format!("--net=/run/netns/{netns}")).arg(&ferropod);
                command
            }
        };
        command.args([verb, "--config"]).arg(self.path("config.toml"));
        command
    }

    /// How many descriptors the daemon has open.
    pub(crate) fn descriptors(&self) -> usize {
        let pid = self.daemon.as_ref().expect("a daemon").id();
        std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count()
    }

    /// Starts the daemon again with more lines in its configuration.
    pub(crate) fn configure(&mut self, lines: &str) {
        let config = std::fs::read_to_string(self.path("config.toml")).expect("a configuration");
        write(&self.path("config.toml"), &(config + lines));
        self.kill_daemon();
        self.serve();
    }

    /// What the daemon has said, since its first start.
    pub(crate) fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.path("log")).expect("a log")
    }

    /// As a crash does it: without a chance to write anything.
    pub(crate) fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon to kill");
        daemon.kill().expect("a signal");
        daemon.wait().expect("its end");
    }

    // === the client ===

    pub(crate) fn try_crictl(&self, args: &[&str]) -> Output {
        self.client(args).output().expect("crictl runs")
    }

    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let endpoint = format!("unix://{}", self.path("ferropod.sock").display());
        let mut command = tool(&told("CRICTL"));
        // Without a configuration file of its own it warns that there is none.
        command.args([
            "--config",
            "/dev/null",
            "--timeout",
            "60s",
            "-r",
            &endpoint,
            "-i",
            &endpoint,
        ]);
        command.args(args);
        command
    }

    /// What it printed; it must have succeeded.
    pub(crate) fn crictl(&self, args: &[&str]) -> String {
        let output = self.try_crictl(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "crictl {}: {said}", args.join(" "));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let (verb, rest) = args.split_first().expect("a verb");
        let printed = self.crictl(&[&[*verb, "-o", "json"], rest].concat());
        serde_json::from_str(&printed).expect("crictl prints JSON")
    }

    /// What it complained of; it must have failed.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let output = self.try_crictl(args);
        assert!(!output.status.success(), "crictl {} was not refused", args.join(" "));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    // === pods and containers ===

    /// Writes a request that can be made of a pod; what `extra` has counts for more.
    pub(crate) fn pod_request(&self, extra: &Value) -> PathBuf {
        let number = self.next();
        let mut request = json!({
            "metadata": {"name": format!("pod{number}"), "namespace": "tests", "uid": format!("uid{number}")},
            "log_directory": self.path(&format!("logs{number}")),
            "linux": {"cgroup_parent": self.cgroup()},
        });
        merge(&mut request, extra);
        self.request(number, &request)
    }

    /// Writes a request that a busybox runs this script.
    pub(crate) fn container_request(&self, script: &str, extra: &Value) -> PathBuf {
        let number = self.next();
        let mut request = json!({
            "metadata": {"name": format!("container{number}")},
            "image": {"image": BUSYBOX},
            "command": ["sh", "-c", script],
            "log_path": format!("{number}.log"),
            "linux": {"security_context": {"namespace_options": {"pid": 1}}},
        });
        merge(&mut request, extra);
        self.request(number, &request)
    }

    pub(crate) fn run_pod(&self, extra: &Value) -> Pod {
        let request = self.pod_request(extra);
        let handler = self.handler.as_deref().map_or(vec![], |name| vec!["--runtime", name]);
        let id = self.crictl(&[&["runp"][..], &handler, &[text(&request)]].concat());
        self.pods.borrow_mut().push(id.clone());
        Pod { id, request }
    }

    pub(crate) fn create(&self, pod: &Pod, script: &str, extra: &Value) -> String {
        let request = self.container_request(script, extra);
        self.crictl(&["create", &pod.id, text(&request), text(&pod.request)])
    }

    pub(crate) fn run(&self, pod: &Pod, script: &str, extra: &Value) -> String {
        let id = self.create(pod, script, extra);
        self.crictl(&["start", &id]);
        id
    }

    /// The client that asks for a container, at work.
    pub(crate) fn creating(&self, pod: &Pod, script: &str) -> Child {
        let request = self.container_request(script, &Value::Null);
        let mut client = self.client(&["create", &pod.id, text(&request), text(&pod.request)]);
        client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("crictl runs")
    }

    pub(crate) fn create_refused(&self, pod: &Pod, extra: &Value) -> String {
        let request = self.container_request("true", extra);
        self.refused(&["create", &pod.id, text(&request), text(&pod.request)])
    }

    /// The status of a container.
    pub(crate) fn status(&self, container: &str) -> Value {
        self.json(&["inspect", container])["status"].take()
    }

    pub(crate) fn exit(&self, container: &str) -> (i64, String) {
        eventually("the container exits", || self.status(container)["state"] == "CONTAINER_EXITED");
        let status = self.status(container);
        let reason = status["reason"].as_str().expect("a reason").to_owned();
        (status["exitCode"].as_i64().expect("a number"), reason)
    }

    pub(crate) fn logs_show(&self, container: &str, line: &str) {
        let has = || self.crictl(&["logs", container]).lines().any(|found| found == line);
        eventually(&format!("{line:?} in the log"), has);
    }

    // === the end ===

    /// Removes all pods and holds the machine against what it was.
    pub(crate) fn end_clean(self) {
        self.crictl(&["rmp", "--all", "--force"]);
        self.left_nothing();
    }

    pub(crate) fn left_nothing(&self) {
        let end = Instant::now() + at_most(PATIENCE);
        while self.traces() != self.before && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.traces(), self.before, "the machine is not as it was");
    }

    /// Less than before is well: a pod's network may still have been coming up then.
    pub(crate) fn left_nothing_but(&self, before: &BTreeSet<String>) {
        let more = || self.traces().difference(before).cloned().collect::<Vec<_>>();
        let (mut left, end) = (more(), Instant::now() + at_most(PATIENCE));
        while !left.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            left = more();
        }
        assert_eq!(left, Vec::<String>::new(), "of what began after that");
    }

    /// What is there now is no leak.
    pub(crate) fn compare_with_now(&mut self) {
        self.before = self.traces();
    }

    pub(crate) fn traces(&self) -> BTreeSet<String> {
        let mut traces = machine::traces(self.dir.path(), self.root.path(), &self.cgroup());
        let pods = self.pods.borrow();
        traces.extend(pods.iter().filter_map(|id| machine::pin(id)));
        traces
    }

    // === its things ===

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// For what a file system of memory cannot do on every kernel.
    pub(crate) fn on_disk(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The daemon's directory on disk.
    pub(crate) fn root(&self) -> PathBuf {
        self.root.path().join("root")
    }

    /// Below the name of the run, by which the script sweeps what a test that failed has left.
    pub(crate) fn cgroup(&self) -> String {
        let run = told("FERROPOD_RUN");
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        let name = format!("{}{}", name(Path::new(&run)), name(self.dir.path()));
        if self.slices { slice(&name) } else { format!("/{name}") }
    }

    fn next(&self) -> u32 {
        self.made.set(self.made.get() + 1);
        self.made.get()
    }

    fn request(&self, number: u32, request: &Value) -> PathBuf {
        let path = self.path(&format!("request{number}.json"));
        write(&path, &request.to_string());
        path
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            eprintln!("the daemon's log:\n{log}");
            self.try_crictl(&["rmp", "--all", "--force"]);
        }
        if self.daemon.is_some() {
            self.kill_daemon();
        }
        machine::drop_cgroups(&self.cgroup());
    }
}

/// As a kubelet names one: `a-b.slice` lies in `a.slice`.
fn slice(name: &str) -> String {
    let above = name.match_indices('-').filter_map(|(at, _)| name.get(..at));
    above.chain([name]).flat_map(|stem| ["/", stem, ".slice"]).collect()
}

fn handler_section(name: &str) -> String {
    format!("[runtime.handlers.{name}]\npath = {:?}\n", told("RUNC"))
}

/// The bound of what takes so many seconds at most on a machine of its own, and longer where all is slow.
pub(crate) fn at_most(seconds: u64) -> Duration {
    let slowness =
        std::env::var("FERROPOD_SLOWNESS").map_or(1, |text| text.parse().expect("times"));
    Duration::from_secs(seconds * slowness)
}

/// Polls until it holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + at_most(PATIENCE);
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[expect(clippy::disallowed_methods, reason = "a test waits for its tools")]
pub(crate) fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

pub(crate) fn write(path: &Path, content: &str) {
    let mut file = File::create(path).expect("a file");
    file.write_all(content.as_bytes()).expect("its content");
}

pub(crate) fn told(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: hack/blackbox runs these tests"))
}

/// Puts the second into the first: objects are joined, all else is replaced.
fn merge(into: &mut Value, extra: &Value) {
    match (into, extra) {
        (Value::Object(into), Value::Object(extra)) => {
            for (key, value) in extra {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, extra) => *into = extra.clone(),
    }
}
