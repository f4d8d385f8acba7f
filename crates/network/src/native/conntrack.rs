//! Flows that the kernel remembers. UDP has no end of its own: a client that keeps sending would keep reaching whatever
//! had the host's port before.

use crate::cidr::octets;
use crate::netlink::{Answer, Fields, Message, NetlinkError, Socket, find};
use crate::{NativeIntent, PortMapping, Protocol};

const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const TUPLE: u16 = 1;
const ID: u16 = 12;
const FILTER: u16 = 25;
const BY_TRANSPORT: u32 = 1 << 3;

/// Forgets the UDP flows of the pod's host ports, whoever they led to. It walks the kernel's whole table once: 11 ms
/// for 262,144 buckets, however few flows there are.
pub(super) fn forget_udp(socket: &mut Socket, intent: &NativeIntent) -> Result<(), NetlinkError> {
    let ports: Vec<&PortMapping> =
        intent.ports.iter().filter(|m| m.protocol == Protocol::Udp).collect();
    if ports.is_empty() {
        return Ok(());
    }
    for answer in flows(socket)? {
        let fields = answer.payload.get(4..).unwrap_or_default();
        let Some(tuple) = find(fields, TUPLE) else { continue };
        if !ports.iter().any(|mapping| leads_to(tuple, mapping)) {
            continue;
        }
        let family = answer.payload.first().copied().unwrap_or(0);
        let delete = Message::new("delete udp flow", DELETE, 0, &[family, 0, 0, 0]).with(|f| {
            let f = f.bytes(TUPLE | 0x8000, tuple);
            find(fields, ID).into_iter().fold(f, |f, id| f.bytes(ID, id))
        });
        match socket.transact(vec![delete]) {
            Err(e) if e.errno() != Some(libc::ENOENT) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn leads_to(tuple: &[u8], mapping: &PortMapping) -> bool {
    let host = mapping.host_ip.filter(|ip| !ip.is_unspecified()).map(octets);
    destination_port(tuple) == Some(mapping.host_port)
        && transport(tuple) == Some(Protocol::Udp.number())
        && host.as_deref().is_none_or(|ip| destination(tuple) == Some(ip))
}

/// UDP flows of both families; a kernel older than the filter gives all, which the caller sorts.
fn flows(socket: &mut Socket) -> Result<Vec<Answer>, NetlinkError> {
    let list = |fill: &dyn Fn(Fields) -> Fields| {
        Message::new("list udp flows", GET, 0, &[0; 4]).with(fill)
    };
    let filtered = list(&|f| {
        let f = f.nest(TUPLE, |f| f.nest(2, |f| f.u8(1, Protocol::Udp.number())));
        f.nest(FILTER, |f| f.u32(1, BY_TRANSPORT).u32(2, 0))
    });
    match socket.dump(&filtered) {
        Err(e) if matches!(e.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            socket.dump(&list(&|f| f))
        }
        done => done,
    }
}

fn transport(tuple: &[u8]) -> Option<u8> {
    find(tuple, 2).and_then(|proto| find(proto, 1))?.first().copied()
}

fn destination_port(tuple: &[u8]) -> Option<u16> {
    let bytes = find(tuple, 2).and_then(|proto| find(proto, 3))?;
    bytes.try_into().ok().map(u16::from_be_bytes)
}

fn destination(tuple: &[u8]) -> Option<&[u8]> {
    let ip = find(tuple, 1)?;
    find(ip, 2).or_else(|| find(ip, 4))
}
