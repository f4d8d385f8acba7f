//! Letting a pod's network go. The link itself goes with the pod's namespace, which is a thousand times cheaper than
//! deleting it (32 ms of waiting for every processor), so it stays until then.

use names::SandboxId;

use crate::netlink::{NetlinkError, Protocol, Shared, Socket};
use crate::nft::{self, Element};
use crate::{DetachError, KernelError, NativeIntent, Released};

use super::{link, route};

/// Releases rules and routes, never needs the pod's namespace, goes on past errors. `elements` are those of the pod
/// that nobody else has taken since.
pub(crate) fn detach(
    netfilter: &Shared,
    table: &str,
    sandbox: &SandboxId,
    intent: &NativeIntent,
    elements: &[Element],
) -> Result<Released, DetachError> {
    let mut errors = Vec::new();
    let mut released = Released::AlreadyGone;
    for step in [ports(netfilter, table, elements), routes(intent)] {
        match step {
            Ok(Released::Now) => released = Released::Now,
            Ok(Released::AlreadyGone) => {}
            Err(e) => errors.push(KernelError(e)),
        }
    }
    if errors.is_empty() {
        Ok(released)
    } else {
        Err(DetachError::Kernel { sandbox: sandbox.clone(), errors })
    }
}

fn ports(netfilter: &Shared, table: &str, elements: &[Element]) -> Result<Released, NetlinkError> {
    if elements.is_empty() {
        return Ok(Released::AlreadyGone);
    }
    netfilter.with(|socket| unpublish_all(socket, table, elements))
}

fn unpublish_all(
    socket: &mut Socket,
    table: &str,
    elements: &[Element],
) -> Result<Released, NetlinkError> {
    match nft::commit(socket, elements.iter().map(|e| e.delete(table)).collect()) {
        Ok(()) => Ok(Released::Now),
        // One was missing, so none was deleted.
        Err(e) if e.errno() == Some(libc::ENOENT) => {
            let mut released = Released::AlreadyGone;
            for element in elements {
                if unpublish(socket, table, element)? == Released::Now {
                    released = Released::Now;
                }
            }
            Ok(released)
        }
        Err(e) => Err(e),
    }
}

/// Deletes one element, if it is there.
pub(super) fn unpublish(
    socket: &mut Socket,
    table: &str,
    element: &Element,
) -> Result<Released, NetlinkError> {
    match nft::commit(socket, vec![element.delete(table)]) {
        Ok(()) => Ok(Released::Now),
        Err(e) if e.errno() == Some(libc::ENOENT) => Ok(Released::AlreadyGone),
        Err(e) => Err(e),
    }
}

fn routes(intent: &NativeIntent) -> Result<Released, NetlinkError> {
    let mut socket = Socket::open(Protocol::Route)?;
    let Some(found) = link::find_link(&mut socket, &intent.link)? else {
        return Ok(Released::AlreadyGone);
    };
    let mut released = Released::AlreadyGone;
    for address in &intent.addresses {
        match socket.transact(vec![route::delete_pod_route(found.index, *address)]) {
            Ok(_) => released = Released::Now,
            Err(e) if matches!(e.errno(), Some(libc::ESRCH | libc::ENODEV)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(released)
}
