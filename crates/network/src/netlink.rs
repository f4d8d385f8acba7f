//! Netlink as this crate speaks it: messages put together by hand and sent in batches, on a socket that belongs to the
//! network namespace of the thread that opened it.

mod message;
mod parse;
mod shared;
mod socket;

pub(crate) use message::{Fields, Message};
pub(crate) use parse::{attributes, find, u32_of};
pub(crate) use shared::Shared;
pub(crate) use socket::{Answer, NetlinkError, Protocol, Socket};
