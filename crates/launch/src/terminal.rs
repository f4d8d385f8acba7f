//! Pseudo terminals, made in the container's own devpts.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::statfs::{FsType, fstatfs};

use crate::failure::{At, Failure};
use crate::raw;

const STAGE: &str = "terminal";
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Where libcontainer sends the master of a container's terminal; in the staging root, so it vanishes.
pub(crate) const CONSOLE: &str = "/console.sock";

/// A socket that a terminal can be sent to.
pub(crate) fn listen(path: &str) -> Result<UnixListener, Failure> {
    UnixListener::bind(path).at(STAGE, || "making the console socket".into())
}

/// The master that libcontainer has sent.
pub(crate) fn receive(listener: &UnixListener) -> Result<OwnedFd, Failure> {
    // It has connected before it forked, and sent before it said that the container is made.
    listener.set_nonblocking(true).at(STAGE, || "taking the terminal".into())?;
    let (socket, _) = listener.accept().at(STAGE, || "taking the terminal".into())?;
    let mut name = [0; 64];
    let mut part = [IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!([std::ffi::c_int; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut part, Some(&mut space), flags)
        .at(STAGE, || "taking the terminal".into())?;
    let rights =
        message.cmsgs().at(STAGE, || "taking the terminal".into())?.find_map(|m| match m {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
    let number = rights.ok_or_else(|| Failure::invalid(STAGE, "no terminal came"))?;
    raw::inherited(number).at(STAGE, || "taking the terminal".into())
}

/// Master and slave of a new terminal of the container in whose mount namespace we are.
pub(crate) fn open() -> Result<(OwnedFd, OwnedFd), Failure> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let resolve = raw::RESOLVE_IN_ROOT | raw::RESOLVE_NO_MAGICLINKS;
    let master = raw::open_below(raw::here(), c"/dev/pts/ptmx", flags, resolve)
        .at(STAGE, || "opening the container's /dev/pts/ptmx".into())?;
    // What a container mounts there may be anything.
    let stat = fstatfs(&master).at(STAGE, || "looking at /dev/pts/ptmx".into())?;
    if stat.filesystem_type() != FsType(DEVPTS_SUPER_MAGIC) {
        return Err(Failure::invalid(
            STAGE,
            "the container's /dev/pts/ptmx is no terminal multiplexer",
        ));
    }
    raw::unlock_terminal(master.as_fd()).at(STAGE, || "unlocking the terminal".into())?;
    let slave = raw::terminal_peer(master.as_fd()).at(STAGE, || "opening the terminal".into())?;
    Ok((master, slave))
}

/// Gives a terminal the size of its window, where that is known.
pub(crate) fn size(master: &OwnedFd, width: u32, height: u32) -> Result<(), Failure> {
    let (Ok(width @ 1..), Ok(height @ 1..)) = (u16::try_from(width), u16::try_from(height)) else {
        return Ok(());
    };
    raw::size_terminal(master.as_fd(), width, height).at(STAGE, || "sizing the terminal".into())
}

/// Makes the terminal this session's, and the three standard descriptors.
pub(crate) fn take(slave: &OwnedFd) -> Result<(), Failure> {
    raw::control_terminal(slave.as_fd()).at(STAGE, || "taking control of the terminal".into())?;
    for place in 0..3 {
        raw::replace_stdio(slave.as_fd(), place).at(STAGE, || "taking the terminal".into())?;
    }
    Ok(())
}
