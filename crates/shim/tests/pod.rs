//! A real shim, a daemon of the test's, and a launch that only forks. Needs root.
#![expect(unsafe_code, reason = "descriptors are put into place between fork and exec")]

#[cfg(test)]
#[path = "pod/attach.rs"]
mod attach;
#[cfg(test)]
#[path = "pod/container.rs"]
mod container;
#[cfg(test)]
#[path = "pod/exec.rs"]
mod exec;
#[cfg(test)]
#[path = "pod/life.rs"]
mod life;
#[cfg(test)]
#[path = "pod/memory.rs"]
mod memory;
#[cfg(test)]
#[path = "pod/namespaces.rs"]
mod namespaces;
#[cfg(test)]
#[path = "pod/outside.rs"]
mod outside;
#[cfg(test)]
#[path = "pod/rig.rs"]
mod rig;
