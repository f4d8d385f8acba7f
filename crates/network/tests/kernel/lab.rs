//! Network namespaces and what is done in them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use names::{SandboxId, SandboxName};
use network::{Attachment, Config, Mode, Netns, Network, PortMapping, Protocol, Request};
use nix::sched::{CloneFlags, setns, unshare};

/// How long a level may take to be reached.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A network namespace without a name.
#[derive(Clone)]
pub(crate) struct Place {
    fd: Arc<OwnedFd>,
}

impl Place {
    /// A fresh one, its loopback down.
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
        };
        Self { fd: Arc::new(std::thread::spawn(make).join().unwrap()) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()).into()
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns { path: self.path(), fd: Arc::clone(&self.fd) }
    }

    /// Runs it on a thread in this namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let enter = || {
                setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            scope.spawn(enter).join().unwrap()
        })
    }

    /// What a shell here prints; it must succeed.
    pub(crate) fn sh(&self, script: &str) -> String {
        self.inside(|| sh(script))
    }

    /// Answers every TCP connection to the port with the address it came from.
    pub(crate) fn serve_tcp(&self, port: u16) {
        let listener =
            self.inside(|| TcpListener::bind(SocketAddr::from(([0u16; 8], port))).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let from = canonical(stream.peer_addr().unwrap());
                drop(write!(stream, "{from}"));
            }
        });
    }

    /// The same for datagrams, with `name` before the address.
    pub(crate) fn serve_udp(&self, port: u16, name: &'static str) {
        let socket = self.inside(|| UdpSocket::bind(SocketAddr::from(([0u16; 8], port))).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                drop(socket.send_to(format!("{name} {}", canonical(from)).as_bytes(), from));
            }
        });
    }

    /// What a TCP server answers: the address it saw.
    pub(crate) fn ask_tcp(&self, to: &str, port: u16) -> std::io::Result<String> {
        let to = SocketAddr::new(to.parse().unwrap(), port);
        self.inside(|| {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    pub(crate) fn ask_udp(&self, to: &str, port: u16) -> std::io::Result<String> {
        let socket = self.udp_client(if to.contains(':') { "::" } else { "0.0.0.0" });
        exchange(&socket, to, port)
    }

    pub(crate) fn udp_client(&self, bind: &str) -> UdpSocket {
        let bind: IpAddr = bind.parse().unwrap();
        self.inside(|| UdpSocket::bind(SocketAddr::new(bind, 0)).unwrap())
    }
}

pub(crate) fn exchange(socket: &UdpSocket, to: &str, port: u16) -> std::io::Result<String> {
    socket.set_read_timeout(Some(Duration::from_millis(700)))?;
    let to = SocketAddr::new(to.parse().unwrap(), port);
    let mut buffer = [0; 64];
    let mut result = Err(std::io::ErrorKind::TimedOut.into());
    for _ in 0..3 {
        socket.send_to(b"?", to)?;
        result = socket.recv_from(&mut buffer);
        if result.is_ok() {
            break;
        }
    }
    result.map(|(n, _)| String::from_utf8_lossy(&buffer[..n]).into_owned())
}

fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

#[expect(clippy::disallowed_methods, reason = "a test asks the tools what they see")]
pub(crate) fn sh(script: &str) -> String {
    let output = std::process::Command::new("sh").args(["-ec", script]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{script}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Waits until it holds.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until it is, and shows what it is otherwise.
pub(crate) fn becomes<T: PartialEq + std::fmt::Debug>(expected: &T, read: impl Fn() -> T) {
    let start = Instant::now();
    while read() != *expected && start.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(read(), *expected, "not within {SOON:?}");
}

/// Runs the test in a fresh namespace that plays the node: lo up, and a world outside behind `up0`
/// (node 192.0.2.1 and `2001:db8::1`, world 192.0.2.2 and `2001:db8::2`).
pub(crate) fn on_node<F: Future<Output = ()>>(test: impl FnOnce(Place) -> F + Send + 'static) {
    let node = Place::new();
    let runtime_of_node = node.clone();
    node.inside(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        sh("ip link set lo up");
        runtime.block_on(test(runtime_of_node));
    });
}

/// A world outside the node.
pub(crate) fn world(node: &Place) -> Place {
    let world = Place::new();
    let path = world.path();
    node.sh(&format!(
        "ip link add up0 type veth peer name out0 netns {}
         echo 0 > /proc/sys/net/ipv6/conf/up0/accept_dad
         ip addr add 192.0.2.1/24 dev up0
         ip addr add 2001:db8::1/64 dev up0 nodad
         ip link set up0 up",
        path.display()
    ));
    world.sh("ip link set lo up
         echo 0 > /proc/sys/net/ipv6/conf/out0/accept_dad
         ip addr add 192.0.2.2/24 dev out0
         ip addr add 2001:db8::2/64 dev out0 nodad
         ip link set out0 up");
    // The kernel tells of a carrier a while later, and routes show it.
    let up = || node.sh("ip -o link show up0").contains("state UP");
    eventually("the way to the world is up", up);
    world
}

pub(crate) fn config() -> Config {
    Config { mode: Mode::Native, ..Config::default() }
}

pub(crate) fn sandbox(n: u8) -> SandboxId {
    SandboxId::from_random([n; 32])
}

pub(crate) fn request(n: u8, ports: &[PortMapping]) -> Request {
    let name = format!("pod{n}");
    Request {
        sandbox: sandbox(n),
        name: SandboxName { namespace: "test".into(), name, uid: format!("uid-{n}"), attempt: 0 },
        ports: ports.to_vec(),
        dns: None,
        cgroup_parent: String::new(),
        annotations: std::collections::BTreeMap::new(),
    }
}

pub(crate) fn port(protocol: Protocol, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { protocol, container_port, host_port, host_ip: None }
}

/// A pod that has its network.
pub(crate) struct Pod {
    pub(crate) place: Place,
    pub(crate) attachment: Attachment,
}

impl Pod {
    pub(crate) async fn new(network: &Network, n: u8, ports: &[PortMapping]) -> Self {
        let place = Place::new();
        let intent = network.plan(&request(n, ports)).unwrap();
        let attachment = network.attach(&intent, &place.netns()).await.unwrap();
        Self { place, attachment }
    }

    pub(crate) fn address(&self, ipv6: bool) -> String {
        let found = self.attachment.addresses.iter().find(|a| a.is_ipv6() == ipv6);
        found.unwrap().to_string()
    }
}
