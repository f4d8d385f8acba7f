//! The embedded network: a veth pair per pod, routes instead of a bridge, nftables for what leaves the node.
//!
//! All kernel work of one call is done by one fresh thread: netlink sockets belong to the namespace in which they were
//! opened, so it opens those of the host, enters the pod's namespace, opens the pod's, does everything, and ends.

mod attach;
mod base;
mod conntrack;
mod detach;
mod link;
mod pool;
mod route;
mod routed;
mod sweep;

pub(crate) use attach::loopback_up;
use attach::{attach, publish};
use base::Base;
use conntrack::forget_udp;
use detach::detach;
pub(crate) use pool::HostPort;
use pool::Pool;
pub(crate) use routed::{Routed, usable};
pub use sweep::Swept;
use sweep::sweep;
