//! Routes: the pod's way out, the host's way to a pod, and an answer for addresses that no pod has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Cidr;
use crate::cidr::octets;
use crate::netlink::{Answer, Message, NetlinkError, Socket, find, u32_of};

use super::link::{CREATE, REPLACE, family, gateway, mtu_of};

const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const DESTINATION: u16 = 1;
const LINK: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;

const MAIN_TABLE: u8 = 254;
/// What `ip route` shows as the protocol of our routes, so that they are known from others'.
const PROTOCOL: u8 = 102;
const SCOPE_LINK: u8 = 253;
const UNICAST: u8 = 1;
const UNREACHABLE: u8 = 7;
const ONLINK: u32 = 4;

fn head(destination: IpAddr, bits: u8, scope: u8, kind: u8, flags: u32) -> Vec<u8> {
    let mut fixed = vec![family(destination), bits, 0, 0, MAIN_TABLE, PROTOCOL, scope, kind];
    fixed.extend(flags.to_ne_bytes());
    fixed
}

/// The pod's way out. The gateway is on no network that the pod knows, hence onlink.
pub(super) fn default_route(index: u32, ipv6: bool) -> Message {
    let next = gateway(ipv6);
    Message::new(
        "add default route",
        NEW_ROUTE,
        CREATE | REPLACE,
        &head(next, 0, 0, UNICAST, ONLINK),
    )
    .with(|f| f.bytes(GATEWAY, &octets(next)).u32(LINK, index))
}

/// The host's way to a pod.
pub(super) fn pod_route(index: u32, pod: IpAddr) -> Message {
    Message::new("add route to pod", NEW_ROUTE, CREATE | REPLACE, &pod_head(pod))
        .with(|f| f.bytes(DESTINATION, &octets(pod)).u32(LINK, index))
}

pub(super) fn delete_pod_route(index: u32, pod: IpAddr) -> Message {
    Message::new("delete route to pod", DEL_ROUTE, 0, &pod_head(pod))
        .with(|f| f.bytes(DESTINATION, &octets(pod)).u32(LINK, index))
}

fn pod_head(pod: IpAddr) -> Vec<u8> {
    let (bits, scope) = if pod.is_ipv6() { (128, 0) } else { (32, SCOPE_LINK) };
    head(pod, bits, scope, UNICAST, 0)
}

/// Whether a route comes or goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum RouteOp {
    Add,
    Delete,
}

/// Answers for addresses of the node's range that no pod has; without it they would leave by the default route, and
/// two nodes with routes to each other would pass them to and fro.
pub(super) fn unreachable(range: &Cidr, op: RouteOp) -> Message {
    const LAST_RESORT: u32 = 4_278_198_272;
    let head = head(range.network(), range.prefix(), 0, UNREACHABLE, 0);
    let to = octets(range.network());
    match op {
        RouteOp::Add => {
            let what = "add route for unused pod addresses";
            Message::new(what, NEW_ROUTE, CREATE | REPLACE, &head)
                .with(|f| f.bytes(DESTINATION, &to).u32(PRIORITY, LAST_RESORT))
        }
        RouteOp::Delete => {
            Message::new("delete route for unused pod addresses", DEL_ROUTE, 0, &head)
                .with(|f| f.bytes(DESTINATION, &to))
        }
    }
}

/// A route of ours in the host's main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) destination: Cidr,
    pub(super) unreachable: bool,
}

/// All routes that carry our protocol number.
pub(super) fn ours(socket: &mut Socket, ipv6: bool) -> Result<Vec<Route>, NetlinkError> {
    let mut fixed = vec![family(gateway(ipv6))];
    fixed.resize(12, 0);
    let answers = socket.dump(&Message::new("list routes", GET_ROUTE, 0, &fixed))?;
    Ok(answers.iter().filter_map(read).collect())
}

fn read(answer: &Answer) -> Option<Route> {
    let head = answer.payload.get(..12)?;
    let ours = head.get(4) == Some(&MAIN_TABLE) && head.get(5) == Some(&PROTOCOL);
    let address = match find(answer.payload.get(12..)?, DESTINATION)? {
        four if four.len() == 4 => IpAddr::from(<[u8; 4]>::try_from(four).ok()?),
        other => IpAddr::from(<[u8; 16]>::try_from(other).ok()?),
    };
    let destination = Cidr::new(address, *head.get(1)?)?;
    ours.then_some(Route { destination, unreachable: head.get(7) == Some(&UNREACHABLE) })
}

/// The MTU of the interface that leads out of the node; nothing when there is no way out.
pub(super) fn uplink_mtu(socket: &mut Socket) -> Option<u32> {
    // Addresses for documentation: nobody's, so only a default route leads there.
    let far4 = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
    let far6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1));
    let index = [far4, far6].into_iter().find_map(|far| {
        let mut fixed = vec![family(far), if far.is_ipv6() { 128 } else { 32 }];
        fixed.resize(12, 0);
        let ask = Message::new("look for the way out", GET_ROUTE, 0, &fixed);
        let answers =
            socket.transact(vec![ask.with(|f| f.bytes(DESTINATION, &octets(far)))]).ok()?;
        let route = &answers.first()?.payload;
        let leads_out = route.get(7) == Some(&UNICAST);
        find(route.get(12..)?, LINK).and_then(u32_of).filter(|_| leads_out)
    })?;
    mtu_of(socket, index).filter(|mtu| (1280..=65_535).contains(mtu))
}
