//! Finding what no pod holds any more.

use std::collections::HashSet;

use crate::netlink::{NetlinkError, Protocol, Shared, Socket};
use crate::nft::{self, Element, elements_of, list_elements};
use crate::{KernelError, NativeIntent};

use super::link;
use super::route::{self, RouteOp, unreachable};
use super::{Base, detach};

/// What a sweep found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Links that were deleted, by name.
    pub links: Vec<String>,
    /// Routes that were deleted, by destination.
    pub routes: Vec<String>,
    /// Host port elements that were deleted.
    pub elements: usize,
    /// Host port elements that were missing.
    pub restored: usize,
}

/// Removes links, routes and elements of ours that belong to none of `keep`, and puts back elements that are missing.
/// Goes on past errors.
pub(crate) fn sweep(
    netfilter: &Shared,
    base: &Base,
    keep: &[NativeIntent],
) -> (Swept, Vec<KernelError>) {
    let mut swept = Swept::default();
    let steps = [
        links(base, keep, &mut swept),
        routes(base, keep, &mut swept),
        netfilter.with(|socket| elements(socket, base, keep, &mut swept)),
    ];
    (swept, steps.into_iter().filter_map(Result::err).map(KernelError).collect())
}

fn links(base: &Base, keep: &[NativeIntent], swept: &mut Swept) -> Result<(), NetlinkError> {
    let mut socket = Socket::open(Protocol::Route)?;
    let kept: HashSet<&str> = keep.iter().map(|i| i.link.as_str()).collect();
    let mark = format!("{} ", base.table);
    for found in link::read_links(&socket.dump(&link::list())?) {
        let ours = found.kind == "veth"
            && found.name.starts_with(&base.prefix)
            && found.alias.starts_with(&mark);
        if !ours || kept.contains(found.name.as_str()) {
            continue;
        }
        match socket.transact(vec![link::delete(found.index)]) {
            Ok(_) => swept.links.push(found.name),
            Err(e) if e.errno() == Some(libc::ENODEV) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A pod's route goes with its link. Ranges that are no longer configured and that no pod has an address of lose theirs.
fn routes(base: &Base, keep: &[NativeIntent], swept: &mut Swept) -> Result<(), NetlinkError> {
    let mut socket = Socket::open(Protocol::Route)?;
    for ipv6 in [false, true] {
        for route in route::ours(&mut socket, ipv6)?.into_iter().filter(|r| r.unreachable) {
            let range = route.destination;
            let held = keep.iter().flat_map(|i| &i.addresses).any(|a| range.contains(*a));
            if held || base.pods.contains(&range) {
                continue;
            }
            match socket.transact(vec![unreachable(&range, RouteOp::Delete)]) {
                Ok(_) => swept.routes.push(range.to_string()),
                Err(e) if e.errno() == Some(libc::ESRCH) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

fn elements(
    socket: &mut Socket,
    base: &Base,
    keep: &[NativeIntent],
    swept: &mut Swept,
) -> Result<(), NetlinkError> {
    let same = |a: &Element, b: &Element| a.set == b.set && a.key == b.key && a.data == b.data;
    let found = list_elements(socket, &base.table)?;
    let wanted: Vec<Element> = keep.iter().flat_map(elements_of).collect();
    for stray in found.iter().filter(|f| !wanted.iter().any(|w| same(f, w))) {
        detach::unpublish(socket, &base.table, stray)?;
        swept.elements += 1;
    }
    for missing in wanted.iter().filter(|w| !found.iter().any(|f| same(f, w))) {
        nft::commit(socket, vec![missing.add(&base.table)])?;
        swept.restored += 1;
    }
    Ok(())
}
