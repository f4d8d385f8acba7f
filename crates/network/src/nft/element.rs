//! Elements of the maps: what one pod has in the table.

use std::net::IpAddr;

use crate::cidr::octets;
use crate::native::HostPort;
use crate::netlink::{Answer, Message, NetlinkError, Socket, attributes, find};
use crate::{NativeIntent, PortMapping};

use super::{CREATE, Op, request, value};

const SET_MAP: u32 = 0x8;
/// nft's own numbers for types of values; the kernel keeps them for whoever lists the table.
const ADDRESS4: u32 = 7;
const ADDRESS6: u32 = 8;
const TRANSPORT: u32 = 12;
const PORT: u32 = 13;

/// A set or map of the table.
pub(super) struct Set {
    name: &'static str,
    key: &'static [u32],
    data: &'static [u32],
}

pub(super) const SETS: [Set; 6] = [
    Set { name: "hostport4", key: &[TRANSPORT, PORT], data: &[ADDRESS4, PORT] },
    Set { name: "hostport4_at", key: &[ADDRESS4, TRANSPORT, PORT], data: &[ADDRESS4, PORT] },
    Set { name: "hostport6", key: &[TRANSPORT, PORT], data: &[ADDRESS6, PORT] },
    Set { name: "hostport6_at", key: &[ADDRESS6, TRANSPORT, PORT], data: &[ADDRESS6, PORT] },
    Set { name: "itself4", key: &[ADDRESS4, ADDRESS4], data: &[] },
    Set { name: "itself6", key: &[ADDRESS6, ADDRESS6], data: &[] },
];

impl Set {
    pub(super) fn message(&self, table: &str, id: u32) -> Message {
        let kind = |types: &[u32]| types.iter().fold(0, |all, t| (all << 6) | t);
        let length =
            |types: &[u32]| types.iter().map(|t| if *t == ADDRESS6 { 16 } else { 4 }).sum::<u32>();
        let flags = if self.data.is_empty() { 0 } else { SET_MAP };
        request("make nftables map", Op::NewSet, CREATE).with(|f| {
            let f = f.text(1, table).text(2, self.name).be32(3, flags);
            let f = f.be32(4, kind(self.key)).be32(5, length(self.key)).be32(10, id);
            if self.data.is_empty() {
                f
            } else {
                f.be32(6, kind(self.data)).be32(7, length(self.data))
            }
        })
    }
}

/// One element: bytes as the kernel keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Element {
    pub(crate) set: &'static str,
    pub(crate) key: Vec<u8>,
    pub(crate) data: Vec<u8>,
    /// The port it is for; none for a pod's way back to itself.
    pub(crate) port: Option<HostPort>,
}

impl Element {
    pub(crate) fn add(&self, table: &str) -> Message {
        self.message("add host port to nftables", Op::NewElement, CREATE, table)
    }

    pub(crate) fn delete(&self, table: &str) -> Message {
        self.message("delete host port from nftables", Op::DelElement, 0, table)
    }

    fn message(&self, what: &'static str, op: Op, flags: u16, table: &str) -> Message {
        request(what, op, flags).with(|f| {
            f.text(1, table).text(2, self.set).nest(3, |f| {
                f.nest(1, |f| {
                    let f = value(f, 1, &self.key);
                    let with_data = matches!(op, Op::NewElement) && !self.data.is_empty();
                    if with_data { value(f, 2, &self.data) } else { f }
                })
            })
        })
    }
}

/// All elements of a pod.
pub(crate) fn elements_of(intent: &NativeIntent) -> Vec<Element> {
    let ports = intent.ports.iter().flat_map(|mapping| {
        let ports = HostPort::of(mapping, &intent.addresses);
        ports.into_iter().filter_map(|port| port_element(mapping, port, &intent.addresses))
    });
    let mut all: Vec<Element> = ports.collect();
    if !all.is_empty() {
        all.extend(intent.addresses.iter().map(|address| itself(*address)));
    }
    all
}

fn itself(address: IpAddr) -> Element {
    let set = if address.is_ipv6() { "itself6" } else { "itself4" };
    Element { set, key: octets(address).repeat(2), data: Vec::new(), port: None }
}

fn port_element(mapping: &PortMapping, port: HostPort, addresses: &[IpAddr]) -> Option<Element> {
    let pod = addresses.iter().find(|a| a.is_ipv6() == port.ipv6)?;
    let set = match (port.ipv6, port.address) {
        (false, None) => "hostport4",
        (false, Some(_)) => "hostport4_at",
        (true, None) => "hostport6",
        (true, Some(_)) => "hostport6_at",
    };
    let mut key = port.address.map(octets).unwrap_or_default();
    key.extend([port.protocol.number(), 0, 0, 0]);
    key.extend(padded(port.port));
    let mut data = octets(*pod);
    data.extend(padded(mapping.container_port));
    Some(Element { set, key, data, port: Some(port) })
}

/// A port in its register: two bytes in network order, two of padding.
fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// Every element that the table holds.
pub(crate) fn list_elements(
    socket: &mut Socket,
    table: &str,
) -> Result<Vec<Element>, NetlinkError> {
    let mut all = Vec::new();
    for set in &SETS {
        let ask = request("list nftables map", Op::GetElement, 0)
            .with(|f| f.text(1, table).text(2, set.name));
        match socket.dump(&ask) {
            Ok(answers) => all.extend(answers.iter().flat_map(|a| elements_in(set.name, a))),
            Err(e) if e.errno() == Some(libc::ENOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

fn elements_in(set: &'static str, answer: &Answer) -> Vec<Element> {
    let list = answer.payload.get(4..).and_then(|f| find(f, 3)).unwrap_or_default();
    let bytes =
        |fields, kind| find(fields, kind).and_then(|v| find(v, 1)).unwrap_or_default().to_vec();
    let element =
        |fields| Element { set, key: bytes(fields, 1), data: bytes(fields, 2), port: None };
    attributes(list).map(|a| element(a.value)).collect()
}
