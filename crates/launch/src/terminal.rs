//! The terminal of a container, as it comes from the one who has made it.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::raw;
use process::failure::{At, Failure};

const STAGE: &str = "terminal";

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
