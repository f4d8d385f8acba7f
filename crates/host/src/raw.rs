//! System calls that nix does not wrap: errors as `io::Error`, descriptors owned and close-on-exec.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod child;
mod trial;

pub(crate) use child::{Birth, Newborn, spawn};
pub(crate) use trial::{Sleeper, Trial, try_idmap};

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

fn checked(result: libc::c_long) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = checked(result)?;
    // SAFETY: the system call has just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor of a process.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Signals the process of a pidfd.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is what kill(2) would send.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    checked(result).map(drop)
}

/// Takes pages of a file that was mapped for reading and executing out of this process: the next access maps them again.
pub(crate) fn unmap_file_pages(start: usize, length: usize) -> io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: nobody can have written to pages without the right to write, so that the file still has what they hold.
    let result = unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
    checked(result.into()).map(drop)
}

/// How many arenas threads may share; of every thread that has not asked for memory yet.
pub(crate) fn limit_arenas(most: libc::c_int) -> io::Result<()> {
    // SAFETY: takes two integers, under the allocator's own lock.
    let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
    if done == 0 { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
}

/// Gives the kernel whole pages in which nothing is allocated.
pub(crate) fn trim_heap() {
    // SAFETY: touches only what is free, under the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

/// A new file system of this type, to be configured.
pub(crate) fn fsopen(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the name outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

/// Sets an option of a file system that is not made yet.
pub(crate) fn fsconfig_set(fs: BorrowedFd<'_>, key: &CStr, value: &CStr) -> io::Result<()> {
    let fs = fs.as_raw_fd();
    let (key, value) = (key.as_ptr(), value.as_ptr());
    // SAFETY: both strings outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0) };
    checked(result).map(drop)
}

/// Reads an extended attribute: its length.
pub(crate) fn get_xattr(path: &CStr, name: &CStr, value: &mut [u8]) -> io::Result<usize> {
    let room = value.as_mut_ptr().cast();
    // SAFETY: both names are C strings, and room has the length given.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), room, value.len()) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Sets an extended attribute.
pub(crate) fn set_xattr(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    let from = value.as_ptr().cast();
    // SAFETY: both names are C strings, and value is read to the length given.
    let set = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), from, value.len(), 0) };
    checked(set.into()).map(drop)
}

/// Makes the file system.
pub(crate) fn fsconfig_create(fs: BorrowedFd<'_>) -> io::Result<()> {
    let none = std::ptr::null::<libc::c_char>();
    let fs = fs.as_raw_fd();
    // SAFETY: this command takes neither key nor value.
    let result =
        unsafe { libc::syscall(libc::SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, none, none, 0) };
    checked(result).map(drop)
}

/// Mounts it nowhere yet, with these `MOUNT_ATTR_` bits.
pub(crate) fn fsmount(fs: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    let fs = fs.as_raw_fd();
    // SAFETY: takes integers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes) })
}

/// Attaches a detached mount at a path.
pub(crate) fn move_mount(mount: BorrowedFd<'_>, to: &CStr) -> io::Result<()> {
    let (mount, empty) = (mount.as_raw_fd(), c"".as_ptr());
    let (at, to, flags) = (libc::AT_FDCWD, to.as_ptr(), libc::MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: both strings outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, mount, empty, at, to, flags) };
    checked(result).map(drop)
}

/// Adds these `MOUNT_ATTR_` bits to one mount.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    set_mount(mount, set, 0)
}

/// Gives a mount that is attached nowhere the ids of a user namespace.
pub(crate) fn mount_map(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let namespace = u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    set_mount(mount, libc::MOUNT_ATTR_IDMAP, namespace)
}

fn set_mount(mount: BorrowedFd<'_>, set: u64, userns_fd: u64) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd };
    let (mount, empty, flags) = (mount.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
    let (attr, size) = (&raw const attr, size_of::<libc::mount_attr>());
    // SAFETY: the string and the structure outlive the call, and the size is the structure's.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, mount, empty, flags, attr, size) };
    checked(result).map(drop)
}

/// Fills the buffer from the kernel's random pool.
pub(crate) fn random(buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the pointer and the length are of one live slice.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}

/// A file in memory that can be sealed.
pub(crate) fn memfd(name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_EXEC) };
    if fd < 0 {
        // Kernels before 6.3 know no MFD_EXEC.
        // SAFETY: as above.
        return owned(unsafe { libc::memfd_create(name.as_ptr(), flags) }.into());
    }
    owned(fd.into())
}

/// A string for the kernel; a NUL inside is an invalid argument.
pub(crate) fn c_string(bytes: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

/// Readiness of an owned descriptor, told by the tokio runtime that this is called in.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open and has one number until it is dropped, which is with the `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Sets the size of a terminal, in characters.
pub(crate) fn resize(terminal: BorrowedFd<'_>, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads one winsize, which lives until the call returns.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    checked(result.into()).map(drop)
}

/// Opens a path relative to a directory.
pub(crate) fn open_at<P: ?Sized + NixPath>(
    dir: Option<BorrowedFd<'_>>,
    path: &P,
    flags: OFlag,
) -> Result<OwnedFd, Errno> {
    let dir = dir.map(|dir| dir.as_raw_fd());
    let fd = nix::fcntl::openat(dir, path, flags | OFlag::O_CLOEXEC, Mode::empty())?;
    // SAFETY: openat has just returned this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether a directory is the root of a mount, also of one that shares its device with what it covers.
pub(crate) fn is_mount_root(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    // SAFETY: all zero is a valid statx.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let (dir, path, flags) = (dir.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the string and the structure outlive the call.
    let result = unsafe { libc::statx(dir, path, flags, libc::STATX_TYPE, &raw mut found) };
    Errno::result(result)?;
    let bit = u64::try_from(libc::STATX_ATTR_MOUNT_ROOT).unwrap_or_default();
    Ok(found.stx_attributes & bit != 0)
}

/// Makes a file in a directory, open for writing.
pub(crate) fn create_at(dir: BorrowedFd<'_>, name: &str, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(mode);
    let fd = nix::fcntl::openat(Some(dir.as_raw_fd()), name, flags, mode)?;
    // SAFETY: openat has just returned this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Nobody can change this memfd any more.
pub(crate) fn seal_all(memfd: BorrowedFd<'_>) -> Result<(), Errno> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(memfd.as_raw_fd(), FcntlArg::F_ADD_SEALS(seals)).map(drop)
}
