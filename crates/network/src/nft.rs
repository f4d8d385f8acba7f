//! nftables over netlink: the few messages and expressions that the embedded network needs.

mod base;
mod element;
mod expr;

pub(crate) use base::{base_messages, table_exists, table_removal};
pub(crate) use element::{Element, elements_of, list_elements};

use crate::netlink::{Fields, Message, NetlinkError, Socket};

/// nfgenmsg's family of a table for IPv4 and IPv6 both.
const INET: u8 = 1;
const SUBSYSTEM: u16 = 10;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// A request of `nf_tables`.
#[derive(Debug, Clone, Copy)]
enum Op {
    NewTable,
    GetTable,
    DelTable,
    NewChain,
    NewRule,
    DelRule,
    NewSet,
    NewElement,
    GetElement,
    DelElement,
}

fn request(what: &'static str, op: Op, flags: u16) -> Message {
    let op = match op {
        Op::NewTable => 0,
        Op::GetTable => 1,
        Op::DelTable => 2,
        Op::NewChain => 3,
        Op::NewRule => 6,
        Op::DelRule => 8,
        Op::NewSet => 9,
        Op::NewElement => 12,
        Op::GetElement => 13,
        Op::DelElement => 14,
    };
    Message::new(what, (SUBSYSTEM << 8) | op, flags, &[INET, 0, 0, 0])
}

/// Does all or none of it.
pub(crate) fn commit(socket: &mut Socket, messages: Vec<Message>) -> Result<(), NetlinkError> {
    if messages.is_empty() {
        return Ok(());
    }
    let edge = |what, kind| {
        let [high, low] = SUBSYSTEM.to_be_bytes();
        Message::new(what, kind, 0, &[0, 0, high, low])
    };
    let mut all = vec![edge("begin nftables transaction", 0x10)];
    all.extend(messages);
    all.push(edge("end nftables transaction", 0x11));
    socket.transact_enclosed(all).map(drop)
}

/// `NFTA_DATA_VALUE` in a nest.
fn value(fields: Fields, kind: u16, bytes: &[u8]) -> Fields {
    fields.nest(kind, |f| f.bytes(1, bytes))
}
