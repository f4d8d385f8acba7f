//! SELinux labels, where the node has it: one for processes, one for the files that they are given.
//!
//! A label is `user:role:type:level`. What the client leaves open is the node's; the level sets pods apart and is one for all
//! containers of a pod.

use names::SandboxId;
use pod::config::SelinuxOptions;

use crate::request::{BuildError, NodeFacts, Request};

/// A privileged container's type: everything, with a name of its own.
const UNCONFINED: &str = "spc_t";
/// Categories of the usual policy are c0 to c1023.
const CATEGORIES: u32 = 1024;
/// Two different ones of them.
const PAIRS: u32 = CATEGORIES * (CATEGORIES - 1) / 2;

/// The labels that the node's policy has for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contexts {
    /// Of a process.
    pub process: String,
    /// Of a file that it may write.
    pub file: String,
}

/// The label of the container's processes.
pub(crate) fn process(request: &Request<'_>) -> Result<Option<String>, BuildError> {
    let Some(contexts) = &request.node.selinux else { return Ok(None) };
    let asked = asked(request);
    let given = |part: fn(&SelinuxOptions) -> &str| asked.map(part).filter(|text| !text.is_empty());
    let [user, role, kind] = parts(&contexts.process)?;
    let privileged = request.container.security.privileged;
    let kind = if privileged { UNCONFINED } else { kind };
    // The widest: it is not kept from the files of any pod.
    let level = if privileged { given(|o| &o.level).unwrap_or("s0") } else { level(request) };
    Ok(Some(format!(
        "{}:{}:{}:{level}",
        given(|o| &o.user).unwrap_or(user),
        given(|o| &o.role).unwrap_or(role),
        given(|o| &o.kind).unwrap_or(kind),
    )))
}

/// The label of its files.
pub(crate) fn mount(request: &Request<'_>) -> Result<Option<String>, BuildError> {
    match &request.node.selinux {
        Some(contexts) => file(contexts, level(request)).map(Some),
        None => Ok(None),
    }
}

/// The label of what the pod's containers share, its `/dev/shm`.
pub fn shared(sandbox: &pod::Sandbox, node: &NodeFacts) -> Result<Option<String>, BuildError> {
    let asked = sandbox.config.security.selinux.as_ref().map(|asked| asked.level.as_str());
    let level = asked.filter(|level| !level.is_empty()).or(sandbox.level.as_deref());
    node.selinux.as_ref().map(|contexts| file(contexts, level.unwrap_or("s0"))).transpose()
}

fn file(contexts: &Contexts, level: &str) -> Result<String, BuildError> {
    let [user, role, kind] = parts(&contexts.file)?;
    Ok(format!("{user}:{role}:{kind}:{level}"))
}

/// Volumes that are given the files' label before they are mounted: those whose mounts ask for it. A privileged container
/// may use them as they are.
pub(crate) fn relabel(request: &Request<'_>) -> Vec<String> {
    if request.node.selinux.is_none() || request.container.security.privileged {
        return Vec::new();
    }
    let volumes = request.container.mounts.iter().filter(|mount| mount.selinux_relabel);
    let paths = volumes.map(|mount| mount.host_path.clone());
    paths.filter(|path| !path.is_empty()).collect()
}

/// A container that names nothing has what its sandbox names.
fn asked<'a>(request: &Request<'a>) -> Option<&'a SelinuxOptions> {
    let (container, sandbox) = (&request.container.security, &request.sandbox.security);
    container.selinux.as_ref().or(sandbox.selinux.as_ref())
}

fn level<'a>(request: &Request<'a>) -> &'a str {
    let sandbox = request.sandbox.security.selinux.as_ref();
    let named = [asked(request), sandbox].into_iter().flatten().map(|asked| asked.level.as_str());
    named.chain(request.level).find(|level| !level.is_empty()).unwrap_or("s0")
}

/// Without the level, which may have colons of its own.
fn parts(context: &str) -> Result<[&str; 3], BuildError> {
    let mut parts = context.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(user), Some(role), Some(kind)) => Ok([user, role, kind]),
        _ => Err(BuildError::field("runtime.selinux", format!("{context:?} is not a label"))),
    }
}

/// A level that no other pod has: two categories. The id decides where the search begins.
pub fn free_level(id: &SandboxId, taken: impl Fn(&str) -> bool) -> String {
    let begin = id.as_str().get(..7).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    let begin = begin.unwrap_or_default() % PAIRS;
    let all = (begin..PAIRS).chain(0..begin).map(pair);
    // More pods than pairs: two of them share a level.
    all.into_iter().find(|level| !taken(level)).unwrap_or_else(|| pair(begin))
}

/// The n-th of the pairs (1,0) (2,0) (2,1) (3,0) …
fn pair(n: u32) -> String {
    let mut high = 1;
    let mut below = 0;
    while below + high <= n {
        below += high;
        high += 1;
    }
    format!("s0:c{},c{high}", n - below)
}
