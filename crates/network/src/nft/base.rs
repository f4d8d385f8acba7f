//! What all pods share: chains, rules, and the maps that pods put their ports into.
//!
//! ```text
//! prerouting  -300  127/8 that comes from a wire is dropped: route_localnet would let it in (CVE-2020-8558)
//! prerouting  -100  to an address of the host -> hostport
//! output      -100  the same for the host itself, 127.0.0.1 too
//! hostport          dnat by (address, transport, port), then by (transport, port)
//! postrouting  100  from 127/8 out of a wire, and a pod back to itself: masquerade
//!                   from a pod range -> outside
//! outside           to a pod range or a range that sees pods' addresses: return; else masquerade
//! ```
//!
//! The ranges are rules and not a set: there are few, and a rule needs no interval tree.

use crate::Cidr;
use crate::cidr::octets;
use crate::netlink::{Message, NetlinkError, Socket};

use super::element::SETS;
use super::expr::{Expr, Header, IPV4, IPV6, Meta, R0, R1, R2, R4, R5, expressions};
use super::{APPEND, CREATE, Op, request};

/// `RTN_LOCAL`, as `fib daddr type` gives it.
const LOCAL: u32 = 2;
const PREROUTING: u32 = 0;
const LOCAL_OUT: u32 = 3;
const POSTROUTING: u32 = 4;

struct Hook {
    kind: &'static str,
    number: u32,
    priority: i32,
}

const CHAINS: [(&str, Option<Hook>); 6] = [
    ("guard", Some(Hook { kind: "filter", number: PREROUTING, priority: -300 })),
    ("prerouting", Some(Hook { kind: "nat", number: PREROUTING, priority: -100 })),
    ("output", Some(Hook { kind: "nat", number: LOCAL_OUT, priority: -100 })),
    ("postrouting", Some(Hook { kind: "nat", number: POSTROUTING, priority: 100 })),
    ("hostport", None),
    ("outside", None),
];

/// The messages that make or renew the whole table; elements that are there stay.
pub(crate) fn base_messages(table: &str, pods: &[Cidr], direct: &[Cidr]) -> Vec<Message> {
    let mut all =
        vec![request("make nftables table", Op::NewTable, CREATE).with(|f| f.text(1, table))];
    all.extend(CHAINS.iter().map(|(name, hook)| chain(table, name, hook.as_ref())));
    all.extend(SETS.iter().zip(1..).map(|(set, id)| set.message(table, id)));
    let flush = |(name, _): &(&'static str, Option<Hook>)| {
        request("flush nftables chain", Op::DelRule, 0).with(|f| f.text(1, table).text(2, name))
    };
    all.extend(CHAINS.iter().map(flush));
    let mut add = |chain: &str, exprs: &[Expr]| {
        let message = request("add nftables rule", Op::NewRule, CREATE | APPEND);
        all.push(message.with(|f| expressions(f.text(1, table).text(2, chain), exprs)));
    };
    guard(&mut add);
    host_ports(&mut add);
    source(&mut add, pods, direct);
    all
}

/// The messages that remove the table and all in it.
pub(crate) fn table_removal(table: &str) -> Vec<Message> {
    vec![request("remove nftables table", Op::DelTable, 0).with(|f| f.text(1, table))]
}

pub(crate) fn table_exists(socket: &mut Socket, table: &str) -> Result<bool, NetlinkError> {
    let ask = request("look for nftables table", Op::GetTable, 0).with(|f| f.text(1, table));
    match socket.transact(vec![ask]) {
        Ok(_) => Ok(true),
        Err(e) if e.errno() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

fn chain(table: &str, name: &str, hook: Option<&Hook>) -> Message {
    request("make nftables chain", Op::NewChain, CREATE).with(|f| {
        let f = f.text(1, table).text(3, name);
        hook.into_iter().fold(f, |f, hook| {
            f.nest(4, |f| f.be32(1, hook.number).bytes(2, &hook.priority.to_be_bytes()))
                .text(7, hook.kind)
        })
    })
}

type Add<'a> = dyn FnMut(&str, &[Expr]) + 'a;

fn guard(add: &mut Add<'_>) {
    let mut lo = b"lo".to_vec();
    lo.resize(16, 0);
    for offset in [12, 16] {
        let mut rule = vec![Expr::Meta { key: Meta::InputName, to: R0 }, Expr::Differs(lo.clone())];
        rule.extend(family(IPV4));
        rule.extend(within(offset, &Cidr::LOOPBACK));
        rule.push(Expr::Drop);
        add("guard", &rule);
    }
}

fn host_ports(add: &mut Add<'_>) {
    for hook in ["prerouting", "output"] {
        let local =
            [Expr::AddressType, Expr::Equal(LOCAL.to_ne_bytes().to_vec()), Expr::Jump("hostport")];
        add(hook, &local);
    }
    let transport = |to| Expr::Meta { key: Meta::Transport, to };
    let port = |to| Expr::Load { from: Header::Transport, offset: 2, length: 2, to };
    let dnat = |version, map, key: &[Expr]| {
        let at = if version == IPV4 { R1 } else { R4 };
        let mut rule = family(version);
        rule.extend_from_slice(key);
        rule.extend([Expr::Map(map), Expr::Dnat { family: version, port: at }]);
        rule
    };
    let to4 = Expr::Load { from: Header::Network, offset: 16, length: 4, to: R0 };
    let to6 = Expr::Load { from: Header::Network, offset: 24, length: 16, to: R0 };
    add("hostport", &dnat(IPV4, "hostport4_at", &[to4, transport(R1), port(R2)]));
    add("hostport", &dnat(IPV4, "hostport4", &[transport(R0), port(R1)]));
    add("hostport", &dnat(IPV6, "hostport6_at", &[to6, transport(R4), port(R5)]));
    add("hostport", &dnat(IPV6, "hostport6", &[transport(R0), port(R1)]));
}

fn source(add: &mut Add<'_>, pods: &[Cidr], direct: &[Cidr]) {
    let mut from_loopback = family(IPV4);
    from_loopback.extend(within(12, &Cidr::LOOPBACK));
    // Only what was rewritten on its way out can leave with such a source.
    from_loopback.extend([Expr::Load { from: Header::Network, offset: 16, length: 1, to: R0 }]);
    from_loopback.extend([Expr::Differs(vec![127]), Expr::Masquerade]);
    add("postrouting", &from_loopback);
    let pair = |offset, length, to| Expr::Load { from: Header::Network, offset, length, to };
    for (version, set, first, second) in [
        (IPV4, "itself4", pair(12, 4, R0), pair(16, 4, R1)),
        (IPV6, "itself6", pair(8, 16, R0), pair(24, 16, R4)),
    ] {
        let mut rule = family(version);
        rule.extend([first, second, Expr::In(set), Expr::Masquerade]);
        add("postrouting", &rule);
    }
    for range in pods {
        let mut rule = family(version_of(range));
        rule.extend(within(if range.is_ipv6() { 8 } else { 12 }, range));
        rule.push(Expr::Jump("outside"));
        add("postrouting", &rule);
    }
    let multicast = ["224.0.0.0/4", "ff00::/8"].into_iter().filter_map(|c| c.parse().ok());
    for range in pods.iter().chain(direct).copied().chain(multicast) {
        let mut rule = family(version_of(&range));
        rule.extend(within(if range.is_ipv6() { 24 } else { 16 }, &range));
        rule.push(Expr::Return);
        add("outside", &rule);
    }
    add("outside", &[Expr::Masquerade]);
}

fn family(version: u8) -> Vec<Expr> {
    vec![Expr::Meta { key: Meta::Family, to: R0 }, Expr::Equal(vec![version])]
}

fn version_of(range: &Cidr) -> u8 {
    if range.is_ipv6() { IPV6 } else { IPV4 }
}

/// The address at `offset` of the IP header is of the range.
fn within(offset: u32, range: &Cidr) -> Vec<Expr> {
    let length = if range.is_ipv6() { 16 } else { 4 };
    vec![
        Expr::Load { from: Header::Network, offset, length, to: R0 },
        Expr::Mask(range.mask_bytes()),
        Expr::Equal(octets(range.network())),
    ]
}
