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

use std::process::ExitCode;

use process::control::{Answer, Control};
use process::failure::{Failure, Kind};
use process::{exec, kept};
use wire::v1::ExecJob;
use wire::v1::job::Job;

const STAGE: &str = "enter";

fn main() -> ExitCode {
    match Control::inherited().and_then(|control| control.serve(job)) {
        Ok(()) => ExitCode::SUCCESS,
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
