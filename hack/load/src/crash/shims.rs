//! Finding the shim of a pod, whatever the runtime: the parent of a process of one of its containers.

use std::collections::BTreeMap;

use super::book::{Pod, PodStep, Shim};
use super::worker::Shared;
use crate::daemon::signal;
use crate::process::{all, is_shim, pod_of};
use crate::random::Random;

/// Kills the shim of a pod that is ready and has a process. None when there is no such pod.
pub(super) fn kill_one(shared: &Shared, random: &mut Random) -> Option<String> {
    let mut shims: Vec<(String, u32)> = shims().into_iter().collect();
    while !shims.is_empty() {
        let (name, pid) = random.pick(&shims)?.clone();
        // The book says so before it happens: from now on errors are our doing.
        let mut book = shared.book();
        if let Some(pod) = book.pods.get_mut(&name).filter(|pod| is_prey(pod)) {
            pod.shim = Shim::Killed;
            drop(book);
            return signal(pid, nix::sys::signal::Signal::SIGKILL).ok().map(|()| name);
        }
        shims.retain(|(other, _)| *other != name);
    }
    None
}

fn is_prey(pod: &Pod) -> bool {
    pod.step == PodStep::Ready && pod.id.is_some() && pod.shim == Shim::Spared && !pod.condemned
}

fn shims() -> BTreeMap<String, u32> {
    let all = all();
    let contained = all.values().filter_map(|process| Some((pod_of(process.pid)?, process.parent)));
    contained.filter(|(_, parent)| all.get(parent).is_some_and(is_shim)).collect()
}
