//! The system calls that nix has not, or not as this crate needs them: one call per function, wrapped at once.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Numbers of inherited descriptors are only known here.
#[expect(clippy::disallowed_types, reason = "inherited descriptors have numbers, not owners")]
type Number = std::os::fd::RawFd;

pub(crate) const RESOLVE_IN_ROOT: u64 = 0x10;
pub(crate) const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub(crate) const RESOLVE_NO_SYMLINKS: u64 = 0x04;
pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x01;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x02;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x04;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x08;
pub(crate) const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
pub(crate) const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// How often a path is resolved again; each takes some microseconds.
const TRIES: usize = 1000;

/// What `mount_setattr` changes; the layout is the kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) userns: u64,
}

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

fn done(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn number(result: libc::c_long) -> io::Result<Number> {
    Number::try_from(done(result)?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = number(result)?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes ownership of a descriptor that the parent process left open under a fixed number.
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag of a number; a closed one is EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    done(flags.into())?;
    // SAFETY: it is open, and the contract with the parent is that it is ours.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks every descriptor from 3 on to be closed by execve.
pub(crate) fn close_all_on_exec() -> io::Result<()> {
    // SAFETY: only flags of descriptors change.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    done(result).map(drop)
}

/// Clones the mount (with `recursive`, the tree) under `path` as a detached one.
pub(crate) fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let base = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let deep = if recursive { libc::AT_RECURSIVE.unsigned_abs() } else { 0 };
    let empty = if path.is_empty() { libc::AT_EMPTY_PATH.unsigned_abs() } else { 0 };
    // SAFETY: path is a C string that outlives the call.
    owned(unsafe {
        libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), base | deep | empty)
    })
}

/// Attaches a detached mount at the directory or file that `to` is.
pub(crate) fn attach(mount: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    const F_EMPTY_PATH: libc::c_uint = 0x04;
    const T_EMPTY_PATH: libc::c_uint = 0x40;
    let empty = c"";
    // SAFETY: both paths are empty C strings with static lifetime.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            empty.as_ptr(),
            to.as_raw_fd(),
            empty.as_ptr(),
            F_EMPTY_PATH | T_EMPTY_PATH,
        )
    };
    done(result).map(drop)
}

/// Adds a private mount to the group of another of the same file system, which may be attached nowhere (Linux 5.15).
pub(crate) fn set_group(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    const EMPTY_PATHS: libc::c_uint = 0x44;
    const SET_GROUP: libc::c_uint = 0x100;
    let empty = c"";
    // SAFETY: both paths are empty C strings with static lifetime.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            empty.as_ptr(),
            to.as_raw_fd(),
            empty.as_ptr(),
            EMPTY_PATHS | SET_GROUP,
        )
    };
    done(result).map(drop)
}

/// Changes a mount, with `recursive` all below it too.
pub(crate) fn set_mount(mount: BorrowedFd<'_>, attr: MountAttr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: attr is a live `struct mount_attr` of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    done(result).map(drop)
}

/// Opens a configuration context for a file system.
pub(crate) fn fs_open(kind: &CStr) -> io::Result<OwnedFd> {
    const CLOEXEC: libc::c_uint = 1;
    // SAFETY: kind is a C string that outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) })
}

/// Sets one option of a file system to be.
pub(crate) fn fs_set(context: BorrowedFd<'_>, key: &CStr, value: &CStr) -> io::Result<()> {
    const SET_STRING: libc::c_uint = 1;
    // SAFETY: key and value are C strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            SET_STRING,
            key.as_ptr(),
            value.as_ptr(),
            0,
        )
    };
    done(result).map(drop)
}

/// Sets one option that has no value.
pub(crate) fn fs_flag(context: BorrowedFd<'_>, key: &CStr) -> io::Result<()> {
    const SET_FLAG: libc::c_uint = 0;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: key is a C string that outlives the call, and a flag has no value.
    let result = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), SET_FLAG, key.as_ptr(), none, 0)
    };
    done(result).map(drop)
}

/// Makes the file system and a detached mount of it with attributes.
pub(crate) fn fs_mount(context: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    const CREATE: libc::c_uint = 6;
    const CLOEXEC: libc::c_uint = 1;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes neither key nor value.
    let made =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, none, none, 0) };
    done(made)?;
    // SAFETY: fsmount takes the context and two flag words.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, attributes) })
}

/// Opens a path below `dir`, resolved as `resolve` says. A step up that is to stay in a root is refused while anything on the
/// machine is renamed or mounted, and tried again.
pub(crate) fn open_below(
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

/// Reads an extended attribute: its length.
pub(crate) fn get_xattr(path: &CStr, name: &CStr, value: &mut [u8]) -> io::Result<usize> {
    let room = value.as_mut_ptr().cast();
    // SAFETY: both names are C strings, and room has the length given.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), room, value.len()) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Sets an extended attribute.
pub(crate) fn set_xattr(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    let from = value.as_ptr().cast();
    // SAFETY: both names are C strings, and value is read to the length given.
    let set = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), from, value.len(), 0) };
    done(set.into()).map(drop)
}

/// The mount id of what `fd` is.
pub(crate) fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    const STATX_MNT_ID: libc::c_uint = 0x1000;
    // SAFETY: all zeroes is a valid statx buffer.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is an empty C string and the buffer is ours.
    let result = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT,
            STATX_MNT_ID,
            &raw mut stat,
        )
    };
    done(result.into())?;
    Ok(stat.stx_mnt_id)
}

/// A pidfd of a process.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Enters the namespaces of a process that `flags` names.
pub(crate) fn enter(process: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and flags; this process has one thread.
    done(unsafe { libc::setns(process.as_raw_fd(), flags) }.into()).map(drop)
}

/// Forks a child whose parent is our own parent. `None` in the child.
pub(crate) fn fork_sibling() -> io::Result<Option<i32>> {
    let flags = libc::c_ulong::from(libc::CLONE_PARENT.unsigned_abs());
    let zero: libc::c_ulong = 0;
    // SAFETY: no new stack and no shared memory, as fork does; this process has one thread, so no lock can be held.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, zero, zero, zero, zero) };
    let pid = number(pid)?;
    Ok((pid != 0).then_some(pid))
}

/// Ends this process at once: nothing is flushed, no destructor runs.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: _exit does not return and touches nothing of ours.
    unsafe { libc::_exit(code) }
}

/// A prctl of numbers only.
pub(crate) fn prctl(option: i32, a: u64, b: u64) -> io::Result<libc::c_long> {
    // SAFETY: the options used here take numbers, never pointers.
    done(unsafe { libc::prctl(option, a, b, 0, 0) }.into())
}

/// Takes a new session keyring instead of the one that this process inherited. A kernel without keyrings has none to
/// leak, and a filter that forbids this call holds for the container too.
pub(crate) fn new_session_keyring() -> io::Result<()> {
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
pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
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
pub(crate) fn permitted() -> io::Result<u64> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 fills two data words, which these are.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    done(result)?;
    let [low, high] = data;
    Ok(u64::from(low.permitted) | u64::from(high.permitted) << 32)
}

/// Loads a seccomp program for this thread.
pub(crate) fn load_seccomp(program: &[u8], flags: u64) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_uint = 1;
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
pub(crate) fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: groups is a live slice of the length given.
    done(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }.into()).map(drop)
}

/// Opens the slave of a pseudo terminal through its master.
pub(crate) fn terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and gives a new descriptor.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// Unlocks the slave of a pseudo terminal.
pub(crate) fn unlock_terminal(master: BorrowedFd<'_>) -> io::Result<()> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    done(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }.into())
        .map(drop)
}

/// Sets the size of a terminal, in characters.
pub(crate) fn size_terminal(master: BorrowedFd<'_>, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    done(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into())
        .map(drop)
}

/// Makes a terminal the controlling one of this session.
pub(crate) fn control_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    done(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Puts `fd` in the place of one of the three standard descriptors.
pub(crate) fn replace_stdio(fd: BorrowedFd<'_>, place: i32) -> io::Result<()> {
    // SAFETY: dup2 takes two numbers, and the standard ones have no owner in this program.
    done(unsafe { libc::dup2(fd.as_raw_fd(), place) }.into()).map(drop)
}

/// Replaces the program of this process. Returns only on failure.
pub(crate) fn execute(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both lists end with a null pointer, and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Gives an id pair to this process: group first, while it still may.
pub(crate) fn set_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: setresgid takes three numbers.
    done(unsafe { libc::setresgid(gid, gid, gid) }.into())?;
    // SAFETY: setresuid takes three numbers.
    done(unsafe { libc::setresuid(uid, uid, uid) }.into()).map(drop)
}

/// Puts every signal back to its default and blocks none: Rust ignores SIGPIPE, and a parent may block others.
pub(crate) fn reset_signals() -> io::Result<()> {
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
pub(crate) fn here() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is always valid and never closed.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

/// The number under which `/proc/self/fd` shows a descriptor.
pub(crate) fn shown(fd: &impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
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
