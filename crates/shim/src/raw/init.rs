//! The built-in init: the first process of a pod's shared PID namespace. It reaps, and ends on SIGTERM.
//!
//! Every container of the pod can look at it, so it has nothing to show: an empty read-only root of its own, no
//! descriptors, no privileges, and it cannot be traced.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root, setsid, write};

use super::helper::{Step, encode};

const NAME: &std::ffi::CStr = c"ferropod-init";

/// Shuts itself in, reports, and reaps for ever.
pub(super) fn run(
    report: &OwnedFd,
    argv: Option<(usize, usize)>,
    (root, nobody): (&str, (u32, u32)),
) -> ! {
    let told = match shut_in(argv, root, nobody) {
        Ok(()) => encode(Step::Done, 0, 0),
        Err(error) => encode(Step::Init, 0, error as i32),
    };
    let signals = block_signals();
    close_all_but(report);
    write(report, &told).ok();
    if told == encode(Step::Done, 0, 0) {
        // SAFETY: takes a number only; this process never returns to the descriptor's owner.
        unsafe { libc::close(report.as_raw_fd()) };
        reap(&signals);
    }
    // SAFETY: ends the child without the parent's exit handlers.
    unsafe { libc::_exit(0) }
}

fn shut_in(argv: Option<(usize, usize)>, root: &str, nobody: (u32, u32)) -> Result<(), Errno> {
    setsid()?;
    empty_root(root)?;
    drop_privileges(nobody)?;
    rename(argv);
    Ok(())
}

fn empty_root(options: &str) -> Result<(), Errno> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let locked = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Any directory will do; this one is there.
    mount(Some("none"), "/proc", Some("tmpfs"), locked, Some(options))?;
    chdir("/proc")?;
    // Stacks the old root on top of the new one, from where it is detached.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    mount(
        none,
        "/",
        none,
        locked | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY,
        none,
    )
}

fn drop_privileges((uid, gid): (u32, u32)) -> Result<(), Errno> {
    for capability in 0..64 {
        // SAFETY: takes numbers only. Those that the kernel does not know give an error, which means that it is gone.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    // SAFETY: an empty list of groups.
    Errno::result(unsafe { libc::syscall(libc::SYS_setgroups, 0, ptr::null::<u32>()) })?;
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: takes numbers only. Leaving uid 0 clears every capability set.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    Ok(())
}

fn rename(argv: Option<(usize, usize)>) {
    // SAFETY: the name is shorter than 16 bytes and ends in zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, NAME.as_ptr(), 0, 0, 0) };
    let Some((start, end)) = argv else { return };
    let name = NAME.to_bytes();
    if end.saturating_sub(start) <= name.len() {
        return;
    }
    let area: *mut u8 = ptr::with_exposed_provenance_mut(start);
    // SAFETY: the kernel told this range as that of our arguments, on our own writable stack; nobody reads them any more.
    unsafe { ptr::write_bytes(area, 0, end - start) };
    // SAFETY: as above, and the name is shorter than the range.
    unsafe { ptr::copy_nonoverlapping(name.as_ptr(), area, name.len()) };
}

/// Before the report: whoever hears of the init finds it with nothing but that in its hands.
fn close_all_but(report: &OwnedFd) {
    let Ok(kept) = u32::try_from(report.as_raw_fd()) else { return };
    if let Some(last) = kept.checked_sub(1) {
        // SAFETY: this process has no use for these descriptors, and never returns to their owners.
        unsafe { libc::syscall(libc::SYS_close_range, 0, last, 0) };
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, kept + 1, u32::MAX, 0) };
}

/// Those that are waited for. Blocked before the report, because the kernel throws a signal away that the first process of a
/// namespace neither blocks nor handles.
fn block_signals() -> libc::sigset_t {
    // SAFETY: a signal set is plain bits, of which zero is a value.
    let mut set = unsafe { std::mem::zeroed::<libc::sigset_t>() };
    for signal in [libc::SIGCHLD, libc::SIGTERM] {
        // SAFETY: the set lives on this stack.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: the set lives on this stack.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
    set
}

fn reap(set: &libc::sigset_t) {
    loop {
        // SAFETY: takes any child, and no status is asked for.
        while unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) } > 0 {}
        // SAFETY: the set lives longer than the call, and no details are asked for.
        if unsafe { libc::sigwaitinfo(ptr::from_ref(set), ptr::null_mut()) } == libc::SIGTERM {
            return;
        }
    }
}
