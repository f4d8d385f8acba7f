//! The engine's network over the network room. An intent is that room's own words, as JSON.

use std::net::IpAddr;
use std::sync::Arc;

use engine::world::Network;
use names::Kind;
use network::{Dns, Intent, Netns, PortMapping, Protocol, Request, Wiring};
use pod::config::NamespaceMode;
use pod::step::Fault;
use pod::{Sandbox, config, plan};
use tokio::net::TcpStream;

use super::{Node, fault};

impl Network for Node {
    fn plan(&self, sandbox: &Sandbox) -> Result<Option<String>, Fault> {
        if sandbox.config.namespaces.network == NamespaceMode::Node {
            return Ok(None);
        }
        let intent = self.network.plan(&request(sandbox)).map_err(|e| fault(e.kind(), &e))?;
        write(&intent).map(Some)
    }

    fn outlives_boot(&self, intent: &str) -> bool {
        matches!(read(intent), Ok(Intent { wiring: Wiring::Cni(_), .. }))
    }

    async fn attach(
        &self,
        sandbox: &Sandbox,
        intent: &str,
    ) -> Result<(Vec<IpAddr>, String), Fault> {
        let path = self.pins.path(&plan::netns_pin(&sandbox.id));
        let file = std::fs::File::open(&path)
            .map_err(|e| Fault::new(Kind::Internal, format!("open {}: {e}", path.display())))?;
        let netns = Netns { path, fd: Arc::new(file.into()) };
        let attached = self.network.attach(&read(intent)?, &netns).await;
        let attached = attached.map_err(|e| fault(e.kind(), &e))?;
        Ok((attached.addresses, write(&attached.intent)?))
    }

    async fn detach(&self, sandbox: &Sandbox, intent: &str) -> Result<(), Fault> {
        let path = self.pins.path(&plan::netns_pin(&sandbox.id));
        let netns = path.exists().then_some(path.as_path());
        let detached = self.network.detach(&read(intent)?, netns).await;
        detached.map(drop).map_err(|e| fault(e.kind(), &e))
    }

    fn adopt(&self, intent: &str) {
        match read(intent) {
            Ok(intent) => self.network.adopt(&intent),
            Err(fault) => tracing::error!("{}", fault.message),
        }
    }

    async fn dial(&self, sandbox: &Sandbox, port: u16) -> Result<TcpStream, Fault> {
        let own = sandbox.config.namespaces.network != NamespaceMode::Node;
        let netns = own.then(|| self.pins.path(&plan::netns_pin(&sandbox.id)));
        let dialled = host::dial::loopback(netns.as_deref(), port).await;
        dialled.map_err(|e| fault(e.kind(), &e))
    }

    async fn sweep_network(&self, intents: &[String]) -> Result<(), Fault> {
        let keep: Result<Vec<Intent>, Fault> = intents.iter().map(|text| read(text)).collect();
        self.network.sweep(&keep?).await;
        Ok(())
    }
}

fn request(sandbox: &Sandbox) -> Request {
    let config = &sandbox.config;
    Request {
        sandbox: sandbox.id.clone(),
        name: config.name.clone(),
        ports: config.ports.iter().map(port).collect(),
        dns: config.dns.as_ref().map(|dns| Dns {
            servers: dns.servers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        cgroup_parent: config.cgroup_parent.clone(),
        annotations: config.annotations.clone(),
    }
}

fn port(port: &config::PortMapping) -> PortMapping {
    PortMapping {
        protocol: match port.protocol {
            config::Protocol::Tcp => Protocol::Tcp,
            config::Protocol::Udp => Protocol::Udp,
            config::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: port.container_port,
        host_port: port.host_port,
        host_ip: port.host_ip,
    }
}

fn read(intent: &str) -> Result<Intent, Fault> {
    serde_json::from_str(intent)
        .map_err(|error| Fault::new(Kind::Internal, format!("network intent: {error}")))
}

fn write(intent: &Intent) -> Result<String, Fault> {
    serde_json::to_string(intent)
        .map_err(|error| Fault::new(Kind::Internal, format!("network intent: {error}")))
}
