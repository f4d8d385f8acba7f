//! The rtnetlink messages of one pod's link: the pair, its settings, its addresses and neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use names::SandboxId;

use crate::cidr::octets;
use crate::netlink::{Answer, Fields, Message, NetlinkError, Socket, find, u32_of};

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const NEW_NEIGHBOUR: u16 = 28;

pub(super) const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
pub(super) const REPLACE: u16 = 0x100;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const SKIP_STATISTICS: u32 = 8;
const UP: u32 = 1;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The pod's interface.
pub(super) const INSIDE: &str = "eth0";

/// The next hop that every pod sees, on its own link.
pub(super) fn gateway(ipv6: bool) -> IpAddr {
    if ipv6 {
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))
    } else {
        IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1))
    }
}

/// A locally administered address of its own for each end, the same at every try.
pub(super) fn hardware_address(sandbox: &SandboxId, end: u8) -> [u8; 6] {
    let digits = sandbox.as_str().as_bytes();
    let byte = |n: usize| {
        let text = digits.get(n * 2..n * 2 + 2).and_then(|d| std::str::from_utf8(d).ok());
        text.and_then(|t| u8::from_str_radix(t, 16).ok()).unwrap_or(0)
    };
    [0x02 | (end << 4), byte(0), byte(1), byte(2), byte(3), byte(4)]
}

fn link_info(index: u32, flags: u32) -> Vec<u8> {
    let mut fixed = vec![0; 4];
    fixed.extend(index.to_ne_bytes());
    fixed.extend(flags.to_ne_bytes());
    fixed.extend(flags.to_ne_bytes());
    fixed
}

/// The names, hardware addresses and MTU of a pair.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    pub(super) outside: &'a str,
    pub(super) outside_address: [u8; 6],
    pub(super) inside_address: [u8; 6],
    pub(super) mtu: u32,
}

impl Pair<'_> {
    /// Makes the pair, the inner end already in the namespace: moving it there later would wait for the whole machine.
    pub(super) fn create(&self, netns_fd: i32) -> Message {
        let end = |f: Fields, name: &str, address: &[u8]| {
            f.text(IFLA_IFNAME, name)
                .bytes(IFLA_ADDRESS, address)
                .u32(IFLA_MTU, self.mtu)
                .u32(IFLA_NUM_TX_QUEUES, 1)
                .u32(IFLA_NUM_RX_QUEUES, 1)
        };
        let message =
            Message::new("make veth pair", NEW_LINK, CREATE | EXCLUSIVE, &link_info(0, 0));
        message.with(|f| {
            end(f, self.outside, &self.outside_address).nest(IFLA_LINKINFO, |f| {
                f.text(1, "veth").nest(2, |f| {
                    f.nest_after(1, &link_info(0, 0), |f| {
                        end(f, INSIDE, &self.inside_address)
                            .bytes(IFLA_NET_NS_FD, &netns_fd.to_ne_bytes())
                    })
                })
            })
        })
    }
}

/// Who a link belongs to, told to people and to the sweep.
pub(super) fn alias(table: &str, sandbox: &SandboxId) -> String {
    format!("{table} {}", sandbox.as_str())
}

/// Settings of the host's end, before it comes up: forwards, lets 127.0.0.1 be answered (a guard rule drops what
/// comes from a wire), refuses sources that are not the pod's, and makes no address of its own.
pub(super) fn configure(name: &str, alias: &str, ipv6: bool) -> Message {
    const FORWARDING: u16 = 1;
    const SEND_REDIRECTS: u16 = 6;
    const RP_FILTER: u16 = 8;
    const ROUTE_LOCALNET: u16 = 26;
    const ADDR_GEN_MODE: u16 = 8;
    const GEN_NONE: u8 = 1;
    let what = "configure the host's end of the veth pair";
    Message::new(what, SET_LINK, 0, &link_info(0, 0)).with(|f| {
        f.text(IFLA_IFNAME, name).text(IFLA_IFALIAS, alias).nest(IFLA_AF_SPEC, |f| {
            let f = f.nest(AF_INET.into(), |f| {
                f.nest(1, |f| {
                    let f = f.u32(FORWARDING, 1).u32(SEND_REDIRECTS, 0);
                    f.u32(RP_FILTER, 1).u32(ROUTE_LOCALNET, 1)
                })
            });
            if ipv6 { f.nest(AF_INET6.into(), |f| f.u8(ADDR_GEN_MODE, GEN_NONE)) } else { f }
        })
    })
}

pub(super) fn up(name: &str) -> Message {
    Message::new("bring interface up", SET_LINK, 0, &link_info(0, UP))
        .with(|f| f.text(IFLA_IFNAME, name))
}

pub(super) fn delete(index: u32) -> Message {
    Message::new("delete link", DEL_LINK, 0, &link_info(index, 0))
}

pub(super) fn get(name: &str) -> Message {
    ask(0).with(|f| f.text(IFLA_IFNAME, name))
}

pub(super) fn list() -> Message {
    ask(0)
}

fn ask(index: u32) -> Message {
    Message::new("look for interface", GET_LINK, 0, &link_info(index, 0))
        .with(|f| f.u32(IFLA_EXT_MASK, SKIP_STATISTICS))
}

/// A link as the kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) kind: String,
    pub(super) mtu: u32,
}

pub(super) fn read_links(answers: &[Answer]) -> Vec<Link> {
    answers.iter().filter(|a| a.kind == NEW_LINK).filter_map(read_link).collect()
}

fn read_link(answer: &Answer) -> Option<Link> {
    let index = answer.payload.get(4..8).and_then(u32_of)?;
    let fields = answer.payload.get(16..)?;
    let text = |value: Option<&[u8]>| {
        let value = value.unwrap_or_default();
        String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
    };
    Some(Link {
        index,
        name: text(find(fields, IFLA_IFNAME)),
        alias: text(find(fields, IFLA_IFALIAS)),
        kind: text(find(fields, IFLA_LINKINFO).and_then(|info| find(info, 1))),
        mtu: find(fields, IFLA_MTU).and_then(u32_of).unwrap_or(0),
    })
}

/// The link of that name, if there is one.
pub(super) fn find_link(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    match socket.transact(vec![get(name)]) {
        Ok(answers) => Ok(read_links(&answers).pop()),
        Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The MTU of a link.
pub(super) fn mtu_of(socket: &mut Socket, index: u32) -> Option<u32> {
    let answers = socket.transact(vec![ask(index)]).ok()?;
    read_links(&answers).pop().map(|link| link.mtu)
}

/// An address, usable at once: duplicate detection would hold back IPv6 for a second or more.
pub(super) fn address(index: u32, address: IpAddr) -> Message {
    const NODAD: u8 = 2;
    let bits = if address.is_ipv6() { 128 } else { 32 };
    let mut fixed = vec![family(address), bits, if address.is_ipv6() { NODAD } else { 0 }, 0];
    fixed.extend(index.to_ne_bytes());
    Message::new("add address", NEW_ADDRESS, CREATE | REPLACE, &fixed)
        .with(|f| f.bytes(2, &octets(address)).bytes(1, &octets(address)))
}

/// Who is at an address: told once, never asked.
pub(super) fn neighbour(index: u32, address: IpAddr, hardware: &[u8]) -> Message {
    const PERMANENT: u16 = 0x80;
    let mut fixed = vec![family(address), 0, 0, 0];
    fixed.extend(index.to_ne_bytes());
    fixed.extend(PERMANENT.to_ne_bytes());
    fixed.extend([0, 0]);
    Message::new("add neighbour", NEW_NEIGHBOUR, CREATE | REPLACE, &fixed)
        .with(|f| f.bytes(1, &octets(address)).bytes(2, hardware))
}

pub(super) fn family(address: IpAddr) -> u8 {
    if address.is_ipv6() { AF_INET6 } else { AF_INET }
}
