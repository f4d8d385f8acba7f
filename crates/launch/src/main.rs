//! `ferropod-launch`: makes one container and ends. The shim executes it for each; further processes are made by `crates/enter`.
//!
//! ```text
//! shim ── fds 0-2 stdio, 3 control, 4-8 the pod's namespaces, 10 start ──> launch
//!   Job{create} ─> rootfs, sources ─> user ─> mounts ─> libcontainer ─> Born      (the process waits on <bundle>/<id>/notify.sock)
//!   Job{create, runtime} ─> rootfs, sources ─> user ─> RUNTIME create ───> Born     (the process waits for Job{start})
//!   Job{start}  ─> RUNTIME start, or poststart hooks ─> Born                        (or why not)
//!   Job{exec}   ─> kept, or config.json ─> as enter does it ────────────> Born     (or why not)
//! ```
//!
//! * [`create`]: the job, in order; [`kept`]: what it leaves for further processes;
//! * [`external`]: creation and start by an OCI runtime of the host, for pods whose handler names one;
//! * [`rootfs`], [`overlay`], [`source`], [`device`]: the mount namespace that a container is made in;
//! * [`options`], [`path`]: what a mount asks for; places of the host;
//! * [`attach`], [`point`], [`links`], [`late`]: its mounts, by us before libcontainer, by libcontainer, or by us after it; and
//!   the directories that it expects;
//! * [`peer`]: volumes from which mounts travel to the host;
//! * [`hook`]: programs that a container's specification names; [`ground`]: where the staging root is for their sake;
//! * [`cgroups`]: the container's own, where there are v1 hierarchies;
//! * [`volume`]: images as volumes; [`node`]: devices that are not below /dev; [`idmap`]: what a user namespace adds to it;
//! * [`user`]: what only the image's files can tell;
//! * [`carrier`], [`executor`], [`trace`]: living with libcontainer;
//! * [`seccomp`], [`label`], [`terminal`]: its filter, its files' labels, its terminal; [`raw`]: system calls.
//!
//! The last steps of its process, and the words to the shim, are in `crates/process`.
//!
//! Nobody depends on this crate, and nothing here outlives it: libcontainer changes its caller (dumpable flag, oom score,
//! directory), and all mounts are in a namespace that ends with the last process in it. It has one thread, because setns
//! and fork ask for that.
//!
//! # Costs
//! Of a creation on the hybrid layout, kernel 6.18, with two bind mounts of the client's; a debug build, which closes descriptors in
//! two system calls and links as it runs, about 130 of the first number. CPU time is that of the shim and all that it started, on a
//! machine that others kept busy:
//!
//! | | libcontainer makes all mounts | now |
//! |---|---|---|
//! | system calls: launch, helper, container's process | 679, 410, 1,894 | 780, 27, 340 |
//! | with five volumes more | 744, 410, 2,352 | 855, 27, 341 |
//! | CPU time, with three volumes more | 15.3 ms | 12.6 ms |
//!
//! The longest calls that are left, in ms: overlay 0.43 (four inodes on disk for its work directory each time), the two clones 0.44,
//! mount points that the image lacks 0.3 (its /etc is copied up), cgroups 0.5, execve 0.28, detaching the host's tree 0.14, the
//! namespace 0.08. Where the host has 1,000 other mounts, the last two are 0.9 and 1.5, and cutting propagation 0.16.
//!
//! Of a creation, the fastest of 100 in a release build: execve to the job 0.57 (most of it is glibc's beginning, which asks the
//! processor about its caches: `cpuid` leaves a virtual machine, for 4 µs each time), the job 0.24, cgroups, sources and the staging
//! root 1.3, mounts and specifications 1.5, libcontainer's two processes 1.7. Optimised for speed and not for size, launch is no
//! faster: it is 1.4 MB larger, and nearly all of this is the kernel's.
//!
//! # Decisions
//! * libcontainer is given a carrier: root, every capability, no filter. The last steps are ours, because its order loads
//!   filters before it drops ids, its exec loads none, and a filter built per process costs 14 ms.
//! * With v1 hierarchies the container's cgroups are made, limited and joined here and not by libcontainer, whose way of joining
//!   waits 8 to 16 ms on a quiet kernel and holds up every fork of the node ([`cgroups`]). On v2 libcontainer does it.
//! * The scripts link it statically at a fixed address: 0.58 ms from execve to its end without a job, 0.99 linked dynamically
//!   (medians of 300, busy machine). It takes glibc and libseccomp along; a plain `cargo build` links as usual.
//! * An image volume ([`volume`]) is an overlay that cannot be written to, `nosuid` and `nodev`: no stranger's file gives rights or is
//!   a device. It may be executed: the enhancement that brought image volumes took `noexec` back, of the two peers one never had it
//!   and the other's is lost on the way, and a client that wants it has `mount_options`.
//! * What an image calls a volume is a directory of the container's own root, made when it is missing, as CRI-O has it. containerd
//!   mounts a directory of the node there, which can be written to also where the root is read-only, and is counted nowhere.
//! * `noexec`, `nosuid` and `nodev` of a volume hold for what is mounted below it too: who denies them for a volume does not think of
//!   its submounts. What the host mounts there later, by propagation, comes as it is.
//! * A Bidirectional volume in which others lie joins the host's mounts when the container has all of its own ([`peer`]): mounted earlier,
//!   its `/etc/hosts`, a service account in `/run` or the pod's `/dev/shm` would cover the host's, and stay. Outside runtimes make their mounts in a
//!   volume that is joined already.
//! * libcontainer makes no mounts but those that take the container's PID or cgroup namespace ([`attach`]): a mount costs it 70
//!   system calls, us 15 with its source. sysfs and mqueue are made in the pod's namespaces, which this process joins for that.
//!   In a user namespace it makes them all, for what comes there with the root is locked, and a container with rights of its own
//!   could neither unmount it nor bind what it lies in; and on nodes with v1 hierarchies and no unified one. Clones attached
//!   from within, as [`late`] does it, would not be locked; but then neither is their `ro`, which the container's root could take
//!   back. Only a clone of what was copied with the namespace keeps that locked, and there is no moment of ours between
//!   libcontainer's unshare and its pivot.
//! * Mount points that the image lacks are made in the container's own layer: 0.17 ms for /etc/hosts and /etc/resolv.conf, with the
//!   copy of /etc. A layer below all images that has them would save that, and show empty files where nothing is mounted on them
//!   (an image volume, a pod without one of these), would have to be mapped for each user namespace, and would be of no use
//!   below an opaque /etc.
//! * Where the cgroups are ours, libcontainer is shown the unified hierarchy, with a plain directory for the container's cgroup
//!   ([`cgroups::blind`]): of v1 it would read the mount table thirteen times, in 380 system calls. A mount of its own instead
//!   of a clone of the host's would set the options of the host's, and waits for 9 ms.
//! * Read-only paths that are mounts of ours are made read-only as they are: bound once more, as libcontainer does it, the
//!   writable mount stays below.
//! * A link of the image to nowhere, where something is mounted, is followed inside the root ([`links`]), as other runtimes do.
//!   In a volume it is not: what the host shows there is not the image's to tell. One that leads to where another mount will be is refused.
//! * A job of an exec is done here too: for shims that are older than enter, and for containers that an older launch has made, whose
//!   bundles lack what enter reads. What an outside runtime makes is kept as well, unless its profile is one that it alone can read.
//! * `start` carries `stage\0message` of a container whose program could not be executed; the process then exits with
//!   127 (not found), 126 (not executable) or 128.
//! * An outside runtime makes and joins the cgroups itself, at the same paths, in the hierarchies with controllers and the unified
//!   one only: others are hidden from it. It looks the executable up when it creates, so that a missing one fails the creation.

mod attach;
mod carrier;
mod cgroups;
mod create;
mod device;
mod executor;
mod external;
mod ground;
mod hook;
mod idmap;
mod kept;
mod label;
mod late;
mod links;
mod node;
mod options;
mod overlay;
mod path;
mod peer;
mod point;
#[expect(unsafe_code, reason = "system calls that nix has not")]
mod raw;
mod rootfs;
mod seccomp;
mod source;
mod terminal;
mod trace;
mod user;
mod volume;

use std::process::ExitCode;

use process::control::{Answer, Control};
use process::exec;
use process::failure::Failure;
use wire::v1::job::Job;

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    if let Some(done) = hook::as_hook(&args) {
        return if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    match Control::inherited().and_then(|control| control.serve(job)) {
        Ok(()) => ExitCode::SUCCESS,
        // Without a control socket there is nobody to tell, and stderr is the container's.
        Err(_) => ExitCode::FAILURE,
    }
}

fn job(job: Job) -> Result<Answer, Failure> {
    match job {
        Job::Create(job) if !job.runtime.is_empty() => external::create(&job),
        Job::Start(job) if job.runtime.is_empty() => hook::poststart(&job),
        Job::Start(job) => external::start(&job),
        Job::Create(job) => create::create(&job, raw::inherited(wire::inherited::START_FD).ok()),
        Job::Exec(job) => exec::exec(&job, kept::for_exec(&job)?),
    }
}
