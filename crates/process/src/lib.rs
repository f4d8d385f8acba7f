//! The last steps of a process, on its way from the node's root to a program of a container: what is the same for a container's
//! first process, which `crates/launch` makes, and for a further one, which `crates/enter` makes.
//!
//! * [`control`], [`failure`]: the words to the shim;
//! * [`kept`]: what a container's creation leaves for its further processes; [`exec`]: a further process, in order;
//! * [`standing`]: where a process stands on the node: cgroups, OOM score, owner of its pipes;
//! * [`terminal`], [`directory`], [`privileges`], [`labels`], [`program`]: within the container;
//! * [`raw`]: system calls.
//!
//! It depends on nix, libc and `wire`: no libcontainer, no libseccomp, no JSON. So a program of it alone begins in a third of the time
//! that launch takes to begin.
//!
//! # Decisions
//! * A further process reads no specification: creation has said in the words of the kernel what it is to have ([`wire::v1::Kept`]), the
//!   compiled filter among them. It is one file, so that there is no process without its filter because another was not there.
//! * The executable is looked up by execve itself with the rights of the user, not checked beforehand.
//! * An exec's answer comes after execve, so that the client learns of a missing program by an error.
//! * AppArmor profiles and SELinux labels are asked for through a /proc that was opened on the host, for the container's may be
//!   a volume that only looks like one (CVE-2019-16884).

pub mod control;
pub mod directory;
pub mod exec;
pub mod failure;
pub mod kept;
pub mod labels;
pub mod privileges;
pub mod program;
#[expect(unsafe_code, reason = "system calls that nix has not")]
pub mod raw;
pub mod standing;
pub mod terminal;
