//! The network of pods: an embedded one, routed and without a bridge, and CNI where a cluster brings its own.
//!
//! [`Network`] is the door. It promises ([`Network::plan`]: pure, quick), makes ([`Network::attach`]), lets go
//! ([`Network::detach`]) and finds what was lost ([`Network::sweep`]). An [`Intent`] is all that a later process needs
//! to let go, so the caller records it before it attaches. Namespaces are somebody else's: this crate gets a path and
//! a descriptor. It knows neither records nor gRPC, and runs no program but CNI plugins.
//!
//! ```text
//! network    which of the two a pod gets
//! native     pool: who holds which address and port   routed: all of it, put back when someone flushed the rules
//!            attach, detach, link, route, base, conntrack, sweep: the kernel's side
//! nft        the table: rules (drawn in nft/base), and the elements of each pod
//! netlink    messages, batches, one kept socket
//! cni        conf: files   watch: as they are now   request, result: CNI's words   run: one plugin   plugins: all of it
//! counters   of the interfaces in a namespace
//! check      what a node has and lacks
//! thread     threads that end, for who enters a namespace may not come back
//! ```
//!
//! # Decisions
//!
//! * **Netlink by hand.** The messages are few, batches and `nf_tables` are what the crates for it do not offer, and one
//!   encoder serves rtnetlink, `nf_tables` and ctnetlink. Requests are done within `sendmsg`, so a socket is opened by
//!   whoever needs it, in the namespace it is for; only that of `nf_tables` is kept, because closing one waits 14 ms.
//! * **Routed.** The pod has /32 and /128 addresses and a default route through 169.254.1.1 and `fe80::1`, which no
//!   interface has: neighbours on both sides are permanent entries, so nothing asks and nothing answers ARP. A service
//!   address works between neighbours whatever `bridge-nf-call-iptables` says.
//! * **Settings go with the link.** `route_localnet`, `rp_filter`, `forwarding` are attributes of the request that
//!   configures the link; only forwarding of the node as a whole is written below /proc/sys.
//! * **Nothing per pod but a route**, and elements where it has host ports. Masquerading is by range.
//! * Links carry the table's name and the sandbox's id as alias, routes the protocol number 102: a sweep touches
//!   nothing else. Daemons that share a namespace need different tables, prefixes and ranges.
//! * A detach leaves the link to the end of the namespace (a deletion waits 32 ms), and takes its routes at once.
//! * UDP flows of a host port are forgotten before a detach is done, but beside an attach: the kernel can only be asked
//!   to walk its whole table.
//! * `::1` of the node leads to no host port: IPv6 has no `route_localnet`.
//!
//! Measured on two cores, kernel 6.18, debug build, medians: attach 1.0 ms, 1.4 ms with a host port; detach 0.17 ms, 0.3 ms
//! with a host port of TCP; with one of UDP a walk through all flows more, 11 ms for 262,144 buckets.

mod check;
mod cidr;
mod cni;
mod config;
mod counters;
mod error;
mod intent;
mod native;
mod netlink;
mod network;
mod nft;
#[expect(unsafe_code, reason = "the old iptables has no other interface")]
mod raw;
mod thread;

pub use check::{Finding, Verdict, check};
pub use cidr::{Cidr, ParseCidrError};
pub use cni::CniIntent;
pub use config::{CniConfig, Config, Mode, NativeConfig};
pub use counters::{InterfaceCounters, counters};
pub use error::{
    AttachError, BaseError, DetachError, KernelError, PlanError, PluginError, RangeError,
    StartError,
};
pub use intent::{
    Attachment, Dns, Intent, NativeIntent, Netns, PortMapping, Protocol, Released, Request, Wiring,
};
pub use native::Swept;
pub use network::{Network, Status};
