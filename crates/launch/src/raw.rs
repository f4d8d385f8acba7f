//! The system calls that nix has not, or not as this crate needs them: one call per function, wrapped at once.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

pub(crate) use process::raw::{
    RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, close_all_on_exec, enter, here,
    inherited, leave, open_below, permitted, pidfd, reset_signals, shown,
};
use process::raw::{done, owned};

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x01;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x02;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x04;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x08;
pub(crate) const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
pub(crate) const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// What `mount_setattr` changes; the layout is the kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) userns: u64,
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
