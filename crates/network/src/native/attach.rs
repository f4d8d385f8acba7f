//! Making a pod's link.

use std::os::fd::{AsFd, AsRawFd};

use names::SandboxId;
use nix::sched::{CloneFlags, setns};

use crate::netlink::{Answer, NetlinkError, Protocol, Socket};
use crate::nft::{self, Element};
use crate::{AttachError, KernelError, NativeIntent, Netns};

use super::link::{self, INSIDE, Pair, gateway, hardware_address};
use super::route::{self, uplink_mtu};
use super::{Base, detach};

/// The MTU when neither the configuration nor a default route tells one.
const USUAL_MTU: u32 = 1500;

/// Makes it, all but its host ports, on a thread that ends afterwards: it stays in the pod's namespace.
pub(crate) fn attach(
    base: &Base,
    sandbox: &SandboxId,
    intent: &NativeIntent,
    netns: &Netns,
) -> Result<(), AttachError> {
    let kernel =
        |source| AttachError::Kernel { sandbox: sandbox.clone(), source: KernelError(source) };
    let mut host = Socket::open(Protocol::Route).map_err(kernel)?;
    setns(netns.fd.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|e| AttachError::Enter { path: netns.path.clone(), source: e.into() })?;
    let mut pod = Socket::open(Protocol::Route).map_err(kernel)?;
    let pair = Pair {
        outside: &intent.link,
        outside_address: hardware_address(sandbox, 0),
        inside_address: hardware_address(sandbox, 1),
        mtu: base.mtu.or_else(|| uplink_mtu(&mut host)).unwrap_or(USUAL_MTU),
    };
    let outer = outside(&mut host, base, sandbox, &pair, netns).map_err(kernel)?;
    inside(&mut pod, intent, &pair).map_err(kernel)?;
    reach(&mut host, outer, intent, &pair).map_err(kernel)
}

/// Brings the loopback of a namespace up, on a thread that ends afterwards.
pub(crate) fn loopback_up(sandbox: &SandboxId, netns: &Netns) -> Result<(), AttachError> {
    let kernel =
        |source| AttachError::Kernel { sandbox: sandbox.clone(), source: KernelError(source) };
    setns(netns.fd.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|e| AttachError::Enter { path: netns.path.clone(), source: e.into() })?;
    let mut pod = Socket::open(Protocol::Route).map_err(kernel)?;
    pod.transact(vec![link::up("lo")]).map(drop).map_err(kernel)
}

/// The pair, and the host's end up; its index.
fn outside(
    host: &mut Socket,
    base: &Base,
    sandbox: &SandboxId,
    pair: &Pair<'_>,
    netns: &Netns,
) -> Result<u32, NetlinkError> {
    let alias = link::alias(&base.table, sandbox);
    let messages = || {
        vec![
            pair.create(netns.fd.as_raw_fd()),
            link::configure(pair.outside, &alias, base.has(true)),
            link::up(pair.outside),
            link::get(pair.outside),
        ]
    };
    let answers = match host.transact(messages()) {
        // What a half-done attempt left.
        Err(e) if e.errno() == Some(libc::EEXIST) => {
            if let Some(old) = link::find_link(host, pair.outside)? {
                host.transact(vec![link::delete(old.index)])?;
            }
            host.transact(messages())?
        }
        done => done?,
    };
    index_of(&answers)
}

fn index_of(answers: &[Answer]) -> Result<u32, NetlinkError> {
    let link = link::read_links(answers).pop();
    link.map(|l| l.index).ok_or(NetlinkError::Silent("look for interface"))
}

fn inside(pod: &mut Socket, intent: &NativeIntent, pair: &Pair<'_>) -> Result<(), NetlinkError> {
    let answers = pod.transact(vec![link::up("lo"), link::up(INSIDE), link::get(INSIDE)])?;
    let index = index_of(&answers)?;
    let mut messages = Vec::new();
    for address in &intent.addresses {
        messages.push(link::address(index, *address));
        messages.push(link::neighbour(index, gateway(address.is_ipv6()), &pair.outside_address));
        messages.push(route::default_route(index, address.is_ipv6()));
    }
    pod.transact(messages).map(drop)
}

fn reach(
    host: &mut Socket,
    index: u32,
    intent: &NativeIntent,
    pair: &Pair<'_>,
) -> Result<(), NetlinkError> {
    let mut messages = Vec::new();
    for address in &intent.addresses {
        if address.is_ipv6() {
            messages.push(link::address(index, gateway(true)));
        }
        messages.push(link::neighbour(index, *address, &pair.inside_address));
        messages.push(route::pod_route(index, *address));
    }
    host.transact(messages).map(drop)
}

/// Adds the pod's elements; one of the same key that is left of a dead pod is replaced.
pub(super) fn publish(
    socket: &mut Socket,
    table: &str,
    elements: &[Element],
) -> Result<(), NetlinkError> {
    let add = || elements.iter().map(|e| e.add(table));
    match nft::commit(socket, add().collect()) {
        Err(e) if matches!(e.errno(), Some(libc::EEXIST | libc::EBUSY)) => {
            for element in elements {
                detach::unpublish(socket, table, element)?;
            }
            nft::commit(socket, add().collect())
        }
        done => done,
    }
}
