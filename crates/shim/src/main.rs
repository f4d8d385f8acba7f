//! The holder of a pod: parent and subreaper of its processes, keeper of its namespaces, reader of its output,
//! recorder of its exits. One per pod, it outlives the daemon that spawned it.
//!
//! ```text
//! daemon ══ frames + fds ══> [ main loop: epoll ] ── spawns ──> launch, enter ──> container's init, exec'd process
//!                              │  ▲ pipes, ptys                              (children of the shim)
//!                              │  └───────────────────────────────────────────────┘
//!                              └── queue ──> [ log thread ] ──> CRI log files
//! ```
//!
//! It is started by descriptor, as `ferropod-shim <sandbox-id>`, with the descriptors of [`wire::inherited`] and an
//! empty environment; the argument is for those who read a list of processes.
//!
//! * `pod`: the main loop and all that it owns, one file per duty;
//! * `container`: what is held of a container, an exec, a launch; `attach`: of a client; `namespaces`, `output`: of the
//!   pod, of a stream;
//! * `line`: the CRI log format (pure); `log`: the second thread; `sysctl`: names as paths (pure); `tree`: killing;
//! * `raw`: the fence, with what runs between fork and exec, and the built-in init of a shared PID namespace.
//!
//! It depends on std, nix, libc and `wire`. No runtime, no libcontainer: what it holds in memory, every pod of the
//! node pays for.
//!
//! # Decisions
//! * Children are known by pid, without pidfds: the shim alone reaps them, so that no pid of a child is used again
//!   behind its back. While a launch has not answered, unknown children stay zombies: one may be the container.
//! * What an outside runtime has made is started by a launch that runs the runtime again. Its process is not reaped before that
//!   has answered: only then is it known whether its end was one of a program. So it is with poststart hooks, which the
//!   shim has a launch run: they are over before the start is answered, and it knows the moment, whatever the daemon does.
//! * An exit is recorded at once, and told when the log of what came before it is written, or after 200 ms.
//! * A container's share of the log queue is bounded; over it, its pipe is not read until the disk has caught up.
//! * Measured (musl, `shim` profile): 44 KiB of its own memory fresh, 72 with a container, 76 after 100 execs and 15 MB of
//!   logs; ten side by side are 95 KiB PSS each, fresh. Batches of records are mapped and unmapped for that (`output`).
//! * What has no stream gets a null device of the pod's own (`raw`): the node's could be closed to the node by a container's root.
//! * A launch, or enter, finds its job in its socket when it begins: it is written before the spawn, which saves two changes of process.
//! * The spawn is a clone3 with a copy of this small memory (0.07 ms): with `CLONE_VM` the child would run on a stack of the main loop's,
//!   and the call that gives birth into a cgroup has no wrapper that takes another.
//! * A terminal of an exec belongs to the daemon alone, so that it hangs up when the daemon lets it go or dies.
//! * An input for one client (`stdin_once`) is handed to the first, not copied: it ends with that client by itself.
//! * A client that is full holds one stream, by one read, for ten seconds at most: a slow one gets through, a stuck one is
//!   cut. Once the container has ended nobody is held: the rest of its pipe waits here for the client, so that the log, the
//!   exit and the removal do not. Reads are copied to each client: the bytes are in hand for the log, and tee would save
//!   one copy of two while it needs a pipe on both sides, which a terminal is not.

#![deny(clippy::wildcard_imports)]

mod attach;
mod container;
mod failure;
mod line;
mod log;
mod namespaces;
mod output;
mod pod;
mod poll;
#[expect(unsafe_code, reason = "descriptors by number, and what happens between fork and exec")]
mod raw;
mod sysctl;
mod tree;

use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, setsid};
use wire::{BIRTH_FD, EXITS_FD, LISTEN_FD};

use pod::{Inherited, Pod};

fn main() -> ExitCode {
    match begin() {
        Ok(pod) => {
            pod.run();
            ExitCode::SUCCESS
        }
        // Nobody reads a message of ours: the daemon sees the status, and that nobody listens.
        Err(_) => ExitCode::FAILURE,
    }
}

fn begin() -> Result<Pod, Errno> {
    raw::close_from(EXITS_FD + 1);
    let listen = raw::inherited(LISTEN_FD)?;
    let birth = raw::inherited(BIRTH_FD)?;
    let exits = raw::inherited(EXITS_FD)?;
    // A leader of its session stays so.
    setsid().ok();
    chdir("/")?;
    umask(Mode::from_bits_truncate(0o022));
    set_child_subreaper(true)?;
    raw::name(c"ferropod-shim");
    spare();
    Pod::new(Inherited { listen, birth, exits })
}

/// Asks the kernel to spare this process when memory runs out; without the capability it stays as it is.
fn spare() {
    use std::io::Write;
    if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj") {
        file.write_all(b"-998").ok();
    }
}
