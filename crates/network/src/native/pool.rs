//! Who holds which address and which port of the host. Nothing here touches the kernel.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use names::SandboxId;

use crate::{Cidr, NativeIntent, PlanError, PortMapping, Protocol};

/// A port of the host in one family; no address means all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) ipv6: bool,
    pub(crate) address: Option<IpAddr>,
}

impl HostPort {
    /// The ports that a mapping takes on a pod with these addresses.
    pub(crate) fn of(mapping: &PortMapping, addresses: &[IpAddr]) -> Vec<Self> {
        let address = mapping.host_ip.filter(|ip| !ip.is_unspecified());
        let families = addresses.iter().map(IpAddr::is_ipv6);
        families
            .filter(|ipv6| mapping.host_ip.is_none_or(|ip| ip.is_ipv6() == *ipv6))
            .map(|ipv6| Self { protocol: mapping.protocol, port: mapping.host_port, ipv6, address })
            .collect()
    }

    fn overlaps(&self, other: &Self) -> bool {
        let same =
            self.protocol == other.protocol && self.port == other.port && self.ipv6 == other.ipv6;
        same && (self.address.is_none() || other.address.is_none() || self.address == other.address)
    }
}

/// The leases of one daemon.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    ranges: Vec<Range>,
    taken: HashSet<IpAddr>,
    holders: HashMap<SandboxId, NativeIntent>,
    ports: HashMap<(Protocol, u16), Vec<(HostPort, SandboxId)>>,
}

#[derive(Debug)]
struct Range {
    cidr: Cidr,
    /// Addresses are given in turn, so that one just let go rests as long as can be.
    last: u128,
}

impl Pool {
    pub(crate) fn new(cidrs: &[Cidr]) -> Self {
        let mut pool = Self::default();
        pool.set_ranges(cidrs);
        pool
    }

    /// New pods get addresses of these; what is leased stays leased.
    pub(crate) fn set_ranges(&mut self, cidrs: &[Cidr]) {
        let old = std::mem::take(&mut self.ranges);
        let last = |c: &Cidr| old.iter().find(|r| r.cidr == *c).map_or(0, |r| r.last);
        self.ranges = cidrs.iter().map(|c| Range { cidr: *c, last: last(c) }).collect();
    }

    pub(crate) fn ranges(&self) -> Vec<Cidr> {
        self.ranges.iter().map(|r| r.cidr).collect()
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = (&SandboxId, &NativeIntent)> {
        self.holders.iter()
    }

    /// Takes one address of each family and the ports; all or nothing.
    pub(crate) fn lease(
        &mut self,
        sandbox: &SandboxId,
        link: String,
        ports: &[PortMapping],
    ) -> Result<NativeIntent, PlanError> {
        if let Some(held) = self.holders.get(sandbox) {
            return Ok(held.clone());
        }
        let ports: Vec<PortMapping> = ports.iter().filter(|p| p.host_port != 0).cloned().collect();
        let mut addresses = Vec::new();
        for ipv6 in [false, true] {
            if self.ranges.iter().any(|r| r.cidr.is_ipv6() == ipv6) {
                addresses.push(self.pick(ipv6)?);
            }
        }
        self.check_ports(sandbox, &ports, &addresses)?;
        let intent = NativeIntent { addresses, link, ports };
        self.hold(sandbox, &intent);
        Ok(intent)
    }

    /// Notes what a sandbox holds, as it was promised before.
    pub(crate) fn hold(&mut self, sandbox: &SandboxId, intent: &NativeIntent) {
        self.release(sandbox);
        self.taken.extend(&intent.addresses);
        for mapping in &intent.ports {
            for port in HostPort::of(mapping, &intent.addresses) {
                let key = (port.protocol, port.port);
                self.ports.entry(key).or_default().push((port, sandbox.clone()));
            }
        }
        self.holders.insert(sandbox.clone(), intent.clone());
    }

    pub(crate) fn release(&mut self, sandbox: &SandboxId) {
        let Some(intent) = self.holders.remove(sandbox) else { return };
        for address in &intent.addresses {
            self.taken.remove(address);
        }
        for mapping in &intent.ports {
            let key = (mapping.protocol, mapping.host_port);
            if let Some(holders) = self.ports.get_mut(&key) {
                holders.retain(|(_, holder)| holder != sandbox);
                if holders.is_empty() {
                    self.ports.remove(&key);
                }
            }
        }
    }

    /// Whether someone else took what this sandbox once had: its late release must not touch that.
    pub(crate) fn belongs_to_another(&self, sandbox: &SandboxId, port: &HostPort) -> bool {
        self.port_holder(port).is_some_and(|holder| holder != sandbox)
    }

    fn port_holder(&self, port: &HostPort) -> Option<&SandboxId> {
        let holders = self.ports.get(&(port.protocol, port.port))?;
        holders.iter().find(|(held, _)| held.overlaps(port)).map(|(_, holder)| holder)
    }

    fn check_ports(
        &self,
        sandbox: &SandboxId,
        ports: &[PortMapping],
        addresses: &[IpAddr],
    ) -> Result<(), PlanError> {
        let mut own: Vec<HostPort> = Vec::new();
        for mapping in ports {
            let wanted = HostPort::of(mapping, addresses);
            if wanted.is_empty() {
                return Err(PlanError::NoSuchFamily(mapping.clone()));
            }
            for port in wanted {
                if let Some(holder) = self.port_holder(&port) {
                    let (protocol, port) = (mapping.protocol.name(), mapping.host_port);
                    return Err(PlanError::PortHeld { protocol, port, holder: holder.clone() });
                }
                if own.iter().any(|o| o.overlaps(&port)) {
                    let (protocol, port) = (mapping.protocol.name(), mapping.host_port);
                    return Err(PlanError::PortTwice { protocol, port, sandbox: sandbox.clone() });
                }
                own.push(port);
            }
        }
        Ok(())
    }

    fn pick(&mut self, ipv6: bool) -> Result<IpAddr, PlanError> {
        let taken = &self.taken;
        let found =
            self.ranges.iter_mut().filter(|r| r.cidr.is_ipv6() == ipv6).find_map(|r| r.next(taken));
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        found.ok_or(PlanError::NoAddress { family, leased: self.taken.len() })
    }
}

impl Range {
    fn next(&mut self, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
        let (first, end) = usable(&self.cidr);
        let count = end.checked_sub(first)?.saturating_add(1);
        // Of taken.len() + 1 different addresses one is free.
        let tries = u128::try_from(taken.len()).unwrap_or(u128::MAX).saturating_add(1).min(count);
        for _ in 0..tries {
            self.last = if self.last < first || self.last >= end { first } else { self.last + 1 };
            let address = self.cidr.nth(self.last);
            if !taken.contains(&address) {
                return Some(address);
            }
        }
        None
    }
}

/// The first and last that a pod can have: not the network's own address, nor IPv4's broadcast.
fn usable(cidr: &Cidr) -> (u128, u128) {
    match (cidr.last(), cidr.is_ipv6()) {
        (last @ 0..=1, _) => (0, last),
        (last, true) => (1, last),
        (last, false) => (1, last - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> SandboxId {
        SandboxId::from_random([n; 32])
    }

    fn pool(cidrs: &[&str]) -> Pool {
        Pool::new(&cidrs.iter().map(|c| c.parse().unwrap()).collect::<Vec<_>>())
    }

    fn port(host_port: u16, host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port, host_ip }
    }

    fn lease(pool: &mut Pool, n: u8, ports: &[PortMapping]) -> Result<NativeIntent, PlanError> {
        pool.lease(&id(n), format!("fp{n}"), ports)
    }

    #[test]
    fn addresses_go_round_and_a_full_range_says_so() {
        let mut pool = pool(&["10.0.0.0/30"]);
        assert_eq!(
            lease(&mut pool, 1, &[]).unwrap().addresses,
            ["10.0.0.1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(
            lease(&mut pool, 2, &[]).unwrap().addresses,
            ["10.0.0.2".parse::<IpAddr>().unwrap()]
        );
        assert!(matches!(
            lease(&mut pool, 3, &[]),
            Err(PlanError::NoAddress { family: "IPv4", leased: 2 })
        ));
        pool.release(&id(1));
        assert_eq!(
            lease(&mut pool, 3, &[]).unwrap().addresses,
            ["10.0.0.1".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn a_sandbox_that_asks_again_gets_what_it_has() {
        let mut pool = pool(&["10.0.0.0/24", "fd00::/64"]);
        let first = lease(&mut pool, 1, &[]).unwrap();
        assert_eq!(first.addresses.len(), 2);
        assert_eq!(lease(&mut pool, 1, &[]).unwrap(), first);
    }

    #[test]
    fn a_held_port_is_refused_by_name_and_costs_no_address() {
        let mut pool = pool(&["10.0.0.0/29"]);
        lease(&mut pool, 1, &[port(80, None)]).unwrap();
        for _ in 0..20 {
            let refusal = lease(&mut pool, 2, &[port(80, Some("127.0.0.1"))]).unwrap_err();
            assert!(refusal.to_string().contains("tcp port 80"), "{refusal}");
            assert!(refusal.to_string().contains(id(1).as_str()), "{refusal}");
        }
        lease(&mut pool, 2, &[port(81, Some("10.1.1.1")), port(81, Some("10.1.1.2"))]).unwrap();
        pool.release(&id(1));
        lease(&mut pool, 3, &[port(80, None)]).unwrap();
    }

    #[test]
    fn one_pod_cannot_map_a_port_twice_nor_in_a_family_it_lacks() {
        let mut pool = pool(&["10.0.0.0/24"]);
        let twice = lease(&mut pool, 1, &[port(80, None), port(80, None)]);
        assert!(matches!(twice, Err(PlanError::PortTwice { port: 80, .. })));
        assert!(matches!(
            lease(&mut pool, 1, &[port(80, Some("::1"))]),
            Err(PlanError::NoSuchFamily(_))
        ));
        assert!(lease(&mut pool, 1, &[port(0, None), port(0, None)]).unwrap().ports.is_empty());
    }

    #[test]
    fn a_restart_holds_again_what_was_promised() {
        let mut pool = pool(&["10.0.0.0/24"]);
        let old = lease(&mut pool, 1, &[port(80, None)]).unwrap();
        let mut after = Pool::new(&pool.ranges());
        after.hold(&id(1), &old);
        assert_ne!(lease(&mut after, 2, &[]).unwrap().addresses, old.addresses);
        lease(&mut after, 3, &[port(80, None)]).unwrap_err();
    }
}
