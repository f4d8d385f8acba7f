//! What the node needs before its first pod: forwarding, rules, and an answer for addresses that no pod has.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::netlink::{NetlinkError, Protocol, Shared, Socket};
use crate::nft;
use crate::{BaseError, Cidr, KernelError};

use super::route::{RouteOp, unreachable};

/// The settings of the embedded network as they are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) table: String,
    pub(crate) prefix: String,
    pub(crate) mtu: Option<u32>,
    pub(crate) pods: Vec<Cidr>,
    pub(crate) direct: Vec<Cidr>,
}

impl Base {
    pub(crate) fn has(&self, ipv6: bool) -> bool {
        self.pods.iter().any(|c| c.is_ipv6() == ipv6)
    }

    /// Makes it so; may be called at any time, pods that stand keep their ports.
    pub(crate) fn establish(&self, netfilter: &Shared) -> Result<(), BaseError> {
        if self.has(false) {
            set("net/ipv4/ip_forward", "1")?;
        }
        if self.has(true) {
            forward_ipv6()?;
        }
        netfilter.with(|socket| self.establish_rules(socket)).map_err(KernelError)?;
        let mut route = Socket::open(Protocol::Route).map_err(KernelError)?;
        let routes = self.pods.iter().filter(|c| c.last() > 0);
        route
            .transact(routes.map(|c| unreachable(c, RouteOp::Add)).collect())
            .map_err(KernelError)?;
        Ok(())
    }

    fn establish_rules(&self, socket: &mut Socket) -> Result<(), NetlinkError> {
        let rules = || nft::base_messages(&self.table, &self.pods, &self.direct);
        match nft::commit(socket, rules()) {
            // A table of an older version, with other types: its elements are put back from the leases.
            Err(e) if matches!(e.errno(), Some(libc::EEXIST | libc::EBUSY | libc::EINVAL)) => {
                nft::commit(socket, nft::table_removal(&self.table))?;
                nft::commit(socket, rules())
            }
            done => done,
        }
    }
}

/// Turns forwarding on without losing the node's own router: a forwarding interface ignores advertisements unless
/// `accept_ra` is 2.
fn forward_ipv6() -> Result<(), BaseError> {
    let root = Path::new("/proc/sys/net/ipv6/conf");
    if read(&root.join("all/forwarding")).as_deref() == Some("1") {
        return Ok(());
    }
    let names = std::fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.file_name());
    for name in names.filter(|n| n != "all" && n != "default" && n != "lo") {
        let file = root.join(name).join("accept_ra");
        if read(&file).as_deref() == Some("1") {
            write(file, "2")?;
        }
    }
    set("net/ipv6/conf/all/forwarding", "1")
}

fn set(name: &str, value: &'static str) -> Result<(), BaseError> {
    let path = Path::new("/proc/sys").join(name);
    if read(&path).as_deref() == Some(value) {
        return Ok(());
    }
    write(path, value)
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn write(path: PathBuf, value: &'static str) -> Result<(), BaseError> {
    let open = std::fs::OpenOptions::new().write(true).open(&path);
    let done = open.and_then(|mut file| file.write_all(value.as_bytes()));
    done.map_err(|source: io::Error| BaseError::Sysctl { path, value, source })
}
