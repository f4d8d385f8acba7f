//! Expressions of a rule, each one instruction of `nf_tables`.

use crate::netlink::Fields;

use super::value;

/// Where a value is put: registers of 4 bytes count from 8; 1 is the first 16 bytes, the same place as 8 to 11.
pub(super) const R0: u32 = 8;
pub(super) const R1: u32 = 9;
pub(super) const R2: u32 = 10;
pub(super) const R4: u32 = 12;
pub(super) const R5: u32 = 13;
const VERDICT: u32 = 0;

/// The families as `meta nfproto` has them.
pub(super) const IPV4: u8 = 2;
pub(super) const IPV6: u8 = 10;

#[derive(Debug, Clone)]
pub(super) enum Expr {
    Meta {
        key: Meta,
        to: u32,
    },
    /// Bytes of the packet.
    Load {
        from: Header,
        offset: u32,
        length: u32,
        to: u32,
    },
    /// Goes on if register 0 equals, or does not equal.
    Equal(Vec<u8>),
    Differs(Vec<u8>),
    /// Masks register 0.
    Mask(Vec<u8>),
    /// The kind of address that the destination is, into register 0.
    AddressType,
    /// Goes on if the key from register 0 is in the set.
    In(&'static str),
    /// The same, with the map's value into register 0.
    Map(&'static str),
    /// Rewrites the destination to the address at register 0 and the port at `port`.
    Dnat {
        family: u8,
        port: u32,
    },
    Masquerade,
    Jump(&'static str),
    Return,
    Drop,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Meta {
    InputName,
    Family,
    Transport,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Header {
    Network,
    Transport,
}

impl Expr {
    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Load { .. } => "payload",
            Self::Equal(_) | Self::Differs(_) => "cmp",
            Self::Mask(_) => "bitwise",
            Self::AddressType => "fib",
            Self::In(_) | Self::Map(_) => "lookup",
            Self::Dnat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Jump(_) | Self::Return | Self::Drop => "immediate",
        }
    }

    fn data(&self, f: Fields) -> Fields {
        match self {
            Self::Meta { key, to } => f.be32(1, *to).be32(2, key.number()),
            Self::Load { from, offset, length, to } => {
                let base = match from {
                    Header::Network => 1,
                    Header::Transport => 2,
                };
                f.be32(1, *to).be32(2, base).be32(3, *offset).be32(4, *length)
            }
            Self::Equal(bytes) => value(f.be32(1, R0).be32(2, 0), 3, bytes),
            Self::Differs(bytes) => value(f.be32(1, R0).be32(2, 1), 3, bytes),
            Self::Mask(mask) => {
                let length = u32::try_from(mask.len()).unwrap_or(0);
                let f = value(f.be32(1, R0).be32(2, R0).be32(3, length), 4, mask);
                value(f, 5, &vec![0; mask.len()])
            }
            // result address type, by destination
            Self::AddressType => f.be32(1, R0).be32(2, 3).be32(3, 2),
            Self::In(set) => f.text(1, set).be32(2, R0),
            Self::Map(set) => f.text(1, set).be32(2, R0).be32(3, R0),
            Self::Dnat { family, port } => f
                .be32(1, 1)
                .be32(2, u32::from(*family))
                .be32(3, R0)
                .be32(4, R0)
                .be32(5, *port)
                .be32(6, *port),
            Self::Masquerade => f,
            Self::Jump(chain) => verdict(f, -3, Some(chain)),
            Self::Return => verdict(f, -5, None),
            Self::Drop => verdict(f, 0, None),
        }
    }
}

impl Meta {
    fn number(self) -> u32 {
        match self {
            Self::InputName => 6,
            Self::Family => 15,
            Self::Transport => 16,
        }
    }
}

fn verdict(f: Fields, code: i32, chain: Option<&str>) -> Fields {
    f.be32(1, VERDICT).nest(2, |f| {
        f.nest(2, |f| {
            let f = f.bytes(1, &code.to_be_bytes());
            chain.into_iter().fold(f, |f, chain| f.text(2, chain))
        })
    })
}

/// `NFTA_RULE_EXPRESSIONS`.
pub(super) fn expressions(f: Fields, exprs: &[Expr]) -> Fields {
    f.nest(4, |f| f.each(exprs, |f, e| f.nest(1, |f| f.text(1, e.name()).nest(2, |f| e.data(f)))))
}
