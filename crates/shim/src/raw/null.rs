//! A null device that is not the node's.
//!
//! Processes of containers get it for a standard stream, and the container's root may change its mode, for the inode is root's.
//! Were it the node's, `chmod 0 /proc/self/fd/0` in a container would close /dev/null for all of the node.

use std::ffi::CStr;
use std::fs::{File, Permissions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};

const NAME: &CStr = c"null";

/// Makes one, in a file system of its own that goes with the last descriptor.
pub(crate) fn null() -> Result<OwnedFd, Errno> {
    let dir = tmpfs()?;
    mknodat(Some(dir.as_raw_fd()), NAME, SFlag::S_IFCHR, Mode::empty(), makedev(1, 3))?;
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: the name is a C string that outlives the call.
    let opened = unsafe { libc::openat(dir.as_raw_fd(), NAME.as_ptr(), flags) };
    let null = File::from(owned(opened.into())?);
    // Not by mknod: there is a umask.
    let all = null.set_permissions(Permissions::from_mode(0o666));
    all.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    Ok(null.into())
}

/// A mount that is attached nowhere, and may have devices.
fn tmpfs() -> Result<OwnedFd, Errno> {
    const CLOEXEC: libc::c_uint = 1;
    const CREATE: libc::c_uint = 6;
    let (kind, none) = (c"tmpfs", std::ptr::null::<libc::c_char>());
    // SAFETY: the kind is a C string that outlives the call.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) })?;
    let context = context.as_raw_fd();
    // SAFETY: this command takes neither key nor value.
    Errno::result(unsafe { libc::syscall(libc::SYS_fsconfig, context, CREATE, none, none, 0) })?;
    // SAFETY: fsmount takes a descriptor and two flag words.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context, CLOEXEC, 0) })
}

fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let number = i32::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call that gave this number made the descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn it_is_a_null_device_for_everybody_and_not_the_nodes() {
        let mut own = File::from(null().unwrap());
        let (about, nodes) = (own.metadata().unwrap(), std::fs::metadata("/dev/null").unwrap());
        assert_eq!((about.rdev(), about.mode()), (nodes.rdev(), libc::S_IFCHR | 0o666));
        assert_ne!((about.dev(), about.ino()), (nodes.dev(), nodes.ino()));
        own.write_all(b"gone").unwrap();
        assert_eq!(own.read(&mut [0; 4]).unwrap(), 0);
        let again = format!("/proc/self/fd/{}", own.as_raw_fd());
        File::options().read(true).write(true).open(again).unwrap();
    }
}
