//! An address range.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network: its first address and the length of its prefix. Host bits are cleared when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// A string that is not `address/prefix`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address range such as 10.88.0.0/16")]
pub struct ParseCidrError(String);

impl Cidr {
    /// 127.0.0.0/8.
    pub(crate) const LOOPBACK: Self =
        Self { network: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 };

    /// The range of `prefix` bits around `address`; nothing if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let host = width(address).checked_sub(prefix)?;
        let bits = number(address) & !mask(host);
        Some(Self { network: address_of(bits, address.is_ipv6()), prefix })
    }

    /// Its first address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// How many bits it fixes.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.network.is_ipv6()
    }

    /// Whether it holds that address.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::new(address, self.prefix).is_some_and(|c| c.network == self.network)
    }

    /// How many addresses follow the first.
    pub(crate) fn last(&self) -> u128 {
        mask(width(self.network).saturating_sub(self.prefix))
    }

    /// The n-th address after the first.
    pub(crate) fn nth(&self, n: u128) -> IpAddr {
        address_of(number(self.network).saturating_add(n), self.is_ipv6())
    }

    /// The mask as bytes, for a comparison in the kernel.
    pub(crate) fn mask_bytes(&self) -> Vec<u8> {
        let host = mask(width(self.network).saturating_sub(self.prefix));
        octets(address_of(!host & mask(width(self.network)), self.is_ipv6()))
    }
}

/// An address as the wire has it.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(host_bits: u8) -> u128 {
    1u128.checked_shl(u32::from(host_bits)).map_or(u128::MAX, |one| one - 1)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address_of(bits: u128, ipv6: bool) -> IpAddr {
    if ipv6 {
        IpAddr::V6(Ipv6Addr::from(bits))
    } else {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(bits).unwrap_or(u32::MAX)))
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;
    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let parse = || {
            let (address, prefix) = text.trim().split_once('/')?;
            Self::new(address.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| ParseCidrError(text.to_owned()))
    }
}

impl TryFrom<String> for Cidr {
    type Error = ParseCidrError;
    fn try_from(text: String) -> Result<Self, ParseCidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_clears_its_host_bits_and_knows_its_members() {
        let range = cidr("10.88.3.9/16");
        assert_eq!(range.to_string(), "10.88.0.0/16");
        assert!(range.contains("10.88.255.255".parse().unwrap()));
        assert!(!range.contains("10.89.0.0".parse().unwrap()));
        assert!(!range.contains("fd00::1".parse().unwrap()));
        assert_eq!(range.nth(258).to_string(), "10.88.1.2");
        assert_eq!(range.last(), 65_535);
        assert_eq!(cidr("fd00:fe::/64").nth(5).to_string(), "fd00:fe::5");
        assert_eq!(cidr("::/0").last(), u128::MAX);
        assert_eq!(cidr("10.0.0.0/9").mask_bytes(), [255, 128, 0, 0]);
        assert_eq!(cidr("fd00::/8").mask_bytes()[..2], [255, 0]);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
