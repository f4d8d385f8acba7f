//! `ferropod-enter`: makes a further process in a container and ends. The shim executes it for every exec.
//!
//! ```text
//! shim ── fds 0-2 stdio, 3 control ──> enter
//!   Job{exec} ─> kept ─> cgroups ─> setns ─> fork ─> execve ─> Born     (or why not)
//! ```
//!
//! All that it does is in `crates/process`; here is where it begins. It is a program of its own for the sake of its size: it is linked
//! statically with musl, with neither libcontainer nor libseccomp nor JSON, and has begun its job before launch, which could do it
//! too, has got past the C library's beginning.
//!
//! Nobody depends on this crate. It has one thread, because setns and fork ask for that.
//!
//! # Costs
//! An `ExecSync` of `true` on the hybrid layout, kernel 6.18, release builds, 300 of each in turns while others used the machine:
//!
//! | | fastest | tenth | median |
//! |---|---|---|---|
//! | by launch, with the specification | 3.1 ms | 3.6 ms | 4.2 ms |
//! | by this program | 2.3 ms | 2.7 ms | 3.2 ms |
//! | its job sent before it is spawned, nothing said on a pipe of its own, ended without freeing | 2.2 ms | 2.6 ms | 3.1 ms |
//!
//! What is left, in µs, each call traced: the shim's clone3 and the first turn of its child 100, execve 105, the beginning of Rust and
//! musl 80, the joining of eight v1 cgroups 200 (10 to open, 7 to 17 to join each; v2 has none of it), the fork 55, 27 capabilities
//! dropped 115, 64 signals reset 95, the filter 120, execve 95. The container's own `true`, static with glibc, then takes 350.
//!
//! # Decisions
//! * Linked at a fixed address, as launch is, it is no faster: it has few relocations.
//! * The child has a copy of the memory, not the memory itself as after vfork: its parent has all rights of the node until it ends, and a
//!   container that may look into the one (`fs.suid_dumpable` = 1) would have the other.

use std::process::ExitCode;

use process::control::{Answer, Control};
use process::failure::{Failure, Kind};
use process::{exec, kept, raw};
use wire::v1::ExecJob;
use wire::v1::job::Job;

const STAGE: &str = "enter";

fn main() -> ExitCode {
    match Control::inherited().and_then(|control| control.serve(job)) {
        // At once, without freeing what the kernel frees: the shim may be waiting for this processor.
        Ok(()) => raw::leave(0),
        // Without a control socket there is nobody to tell, and stderr is the container's.
        Err(_) => ExitCode::FAILURE,
    }
}

fn job(job: Job) -> Result<Answer, Failure> {
    match job {
        Job::Exec(job) => enter(&job),
        Job::Create(_) | Job::Start(_) => {
            Err(Failure::new(STAGE, Kind::Unsupported, "a job for launch"))
        }
    }
}

fn enter(job: &ExecJob) -> Result<Answer, Failure> {
    let left = kept::read(&job.bundle)?;
    let nothing =
        || Failure::new(STAGE, Kind::NotFound, format!("{} has nothing kept", job.bundle));
    exec::exec(job, left.ok_or_else(nothing)?)
}
