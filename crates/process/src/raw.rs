//! The system calls that nix has not, or not as the last steps need them: one call per function, wrapped at once.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Numbers of inherited descriptors are only known here.
#[expect(clippy::disallowed_types, reason = "inherited descriptors have numbers, not owners")]
type Number = std::os::fd::RawFd;

/// Of [`open_below`]: absolute paths and links begin at the directory, `..` does not leave it.
pub const RESOLVE_IN_ROOT: u64 = 0x10;
/// Of [`open_below`]: no link of /proc to a descriptor.
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
/// Of [`open_below`]: no link at all.
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// How often a path is resolved again; each takes some microseconds.
const TRIES: usize = 1000;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The result of a system call, or its error.
pub fn done(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn number(result: libc::c_long) -> io::Result<Number> {
    Number::try_from(done(result)?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

/// The descriptor that a system call has made. Only for the result of such a call: it is owned by nobody else.
pub fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = number(result)?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes ownership of a descriptor that the parent process left open under a fixed number.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag of a number; a closed one is EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    done(flags.into())?;
    // SAFETY: it is open, and the contract with the parent is that it is ours.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks every descriptor from 3 on to be closed by execve.
pub fn close_all_on_exec() -> io::Result<()> {
    // SAFETY: only flags of descriptors change.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    done(result).map(drop)
}

/// Opens a path below `dir`, resolved as `resolve` says. A step up that is to stay in a root is refused while anything on the
/// machine is renamed or mounted, and tried again.
pub fn open_below(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    let how =
        OpenHow { flags: u64::from((flags | libc::O_CLOEXEC).unsigned_abs()), mode: 0, resolve };
    let mut opened = open_once(dir, path, &how);
    for _ in 0..TRIES {
        match &opened {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
            _ => break,
        }
        opened = open_once(dir, path, &how);
    }
    opened
}

fn open_once(dir: BorrowedFd<'_>, path: &CStr, how: &OpenHow) -> io::Result<OwnedFd> {
    // SAFETY: path and how live through the call, the size is how's.
    owned(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            path.as_ptr(),
            std::ptr::from_ref(how),
            size_of::<OpenHow>(),
        )
    })
}

/// A pidfd of a process.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Enters the namespaces of a process that `flags` names.
pub fn enter(process: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and flags; this process has one thread.
    done(unsafe { libc::setns(process.as_raw_fd(), flags) }.into()).map(drop)
}

/// Forks a child whose parent is our own parent. `None` in the child.
pub fn fork_sibling() -> io::Result<Option<i32>> {
    let flags = libc::c_ulong::from(libc::CLONE_PARENT.unsigned_abs());
    let zero: libc::c_ulong = 0;
    // SAFETY: no new stack and no shared memory, as fork does; this process has one thread, so no lock can be held.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, zero, zero, zero, zero) };
    let pid = number(pid)?;
    Ok((pid != 0).then_some(pid))
}

/// Ends this process at once: nothing is flushed, no destructor runs.
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit does not return and touches nothing of ours.
    unsafe { libc::_exit(code) }
}

/// A prctl of numbers only.
pub fn prctl(option: i32, a: u64, b: u64) -> io::Result<libc::c_long> {
    // SAFETY: the options used here take numbers, never pointers.
    done(unsafe { libc::prctl(option, a, b, 0, 0) }.into())
}

/// Takes a new session keyring instead of the one that this process inherited. A kernel without keyrings has none to
/// leak, and a filter that forbids this call holds for the container too.
pub fn new_session_keyring() -> io::Result<()> {
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: without a name the kernel reads no memory.
    let joined = unsafe {
        libc::syscall(libc::SYS_keyctl, libc::c_long::from(libc::KEYCTL_JOIN_SESSION_KEYRING), none)
    };
    match done(joined) {
        Err(e) if [Some(libc::ENOSYS), Some(libc::EPERM)].contains(&e.raw_os_error()) => Ok(()),
        other => other.map(drop),
    }
}

/// Sets the three classical capability sets of this thread, as bit masks.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let word = |mask: u64, shift: u32| u32::try_from((mask >> shift) & 0xffff_ffff).unwrap_or(0);
    let data = [0, 32].map(|shift| CapData {
        effective: word(effective, shift),
        permitted: word(permitted, shift),
        inheritable: word(inheritable, shift),
    });
    // SAFETY: version 3 takes two data words, which these are.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    done(result).map(drop)
}

/// The permitted capabilities of this thread, as a bit mask.
pub fn permitted() -> io::Result<u64> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 fills two data words, which these are.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    done(result)?;
    let [low, high] = data;
    Ok(u64::from(low.permitted) | u64::from(high.permitted) << 32)
}

/// Loads a seccomp program for this thread.
pub fn load_seccomp(program: &[u8], flags: u64) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    // The kernel takes nothing by halves either.
    if !program.len().is_multiple_of(8) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let rules: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|c| {
            let word = |i: usize| c.get(i).copied().unwrap_or(0);
            libc::sock_filter {
                code: u16::from_ne_bytes([word(0), word(1)]),
                jt: word(2),
                jf: word(3),
                k: u32::from_ne_bytes([word(4), word(5), word(6), word(7)]),
            }
        })
        .collect();
    let len = u16::try_from(rules.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let list = libc::sock_fprog { len, filter: rules.as_ptr().cast_mut() };
    // SAFETY: list points to len rules that live through the call; the kernel only reads them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const list) };
    done(result).map(drop)
}

/// Replaces the supplementary groups.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: groups is a live slice of the length given.
    done(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }.into()).map(drop)
}

/// Opens the slave of a pseudo terminal through its master.
pub fn terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and gives a new descriptor.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// Unlocks the slave of a pseudo terminal.
pub fn unlock_terminal(master: BorrowedFd<'_>) -> io::Result<()> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    done(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }.into())
        .map(drop)
}

/// Sets the size of a terminal, in characters.
pub fn size_terminal(master: BorrowedFd<'_>, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    done(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into())
        .map(drop)
}

/// Makes a terminal the controlling one of this session.
pub fn control_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    done(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Puts `fd` in the place of one of the three standard descriptors.
pub fn replace_stdio(fd: BorrowedFd<'_>, place: i32) -> io::Result<()> {
    // SAFETY: dup2 takes two numbers, and the standard ones have no owner in this program.
    done(unsafe { libc::dup2(fd.as_raw_fd(), place) }.into()).map(drop)
}

/// Replaces the program of this process. Returns only on failure.
pub fn execute(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both lists end with a null pointer, and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Gives an id pair to this process: group first, while it still may.
pub fn set_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: setresgid takes three numbers.
    done(unsafe { libc::setresgid(gid, gid, gid) }.into())?;
    // SAFETY: setresuid takes three numbers.
    done(unsafe { libc::setresuid(uid, uid, uid) }.into()).map(drop)
}

/// Puts every signal back to its default and blocks none: Rust ignores SIGPIPE, and a parent may block others.
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 {
        // SAFETY: only the disposition changes; KILL, STOP and the C library's own are refused and stay.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: all zeroes is the empty set.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: none lives through the call, and no old set is asked for.
    let result =
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
    done(result.into()).map(drop)
}

/// The current directory as a place to look paths up from.
pub fn here() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is always valid and never closed.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

/// The number under which `/proc/self/fd` shows a descriptor.
pub fn shown(fd: &impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}

/// A soft and a hard limit.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What holds.
    pub soft: u64,
    /// How far the soft one may be raised.
    pub hard: u64,
}

/// This process's limit of a resource, by the kernel's number.
pub fn limit(resource: u32) -> io::Result<Limit> {
    let mut old = Limit { soft: 0, hard: 0 };
    let new = std::ptr::null::<Limit>();
    // SAFETY: old has the layout of `struct rlimit64` and lives through the call, and nothing is set.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, &raw mut old) };
    done(result).map(|_| old)
}

/// Sets this process's limit of a resource, by the kernel's number.
pub fn set_limit(resource: u32, new: Limit) -> io::Result<()> {
    let old = std::ptr::null_mut::<Limit>();
    // SAFETY: new has the layout of `struct rlimit64` and lives through the call, and the old one is not asked for.
    done(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const new, old) }).map(drop)
}

/// The three standard descriptors.
pub fn stdio() -> [BorrowedFd<'static>; 3] {
    // SAFETY: who starts this program leaves them open, and nothing here closes them.
    [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_link_upwards_is_followed_while_others_rename() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        fs::create_dir_all(dir.path().join("root/a/b")).unwrap();
        symlink("../../a/b/../../a", dir.path().join("root/a/b/up")).unwrap();
        File::create(&one).unwrap();
        let root = File::open(dir.path().join("root")).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fs::rename(&one, &other).and_then(|()| fs::rename(&other, &one)).unwrap();
                }
            });
            let open = || open_below(root.as_fd(), c"a/b/up", libc::O_PATH, RESOLVE_IN_ROOT);
            let failed: Vec<_> = (0..20_000).filter_map(|_| open().err()).collect();
            over.store(true, Ordering::Relaxed);
            assert!(failed.is_empty(), "{} of 20000: {:?}", failed.len(), failed.first());
        });
    }
}
