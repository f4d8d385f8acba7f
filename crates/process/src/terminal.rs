//! Pseudo terminals, made in the container's own devpts.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::statfs::{FsType, fstatfs};

use crate::failure::{At, Failure};
use crate::raw;

const STAGE: &str = "terminal";
const DEVPTS_SUPER_MAGIC: u16 = 0x1cd1;

/// Master and slave of a new terminal of the container in whose mount namespace we are.
pub fn open() -> Result<(OwnedFd, OwnedFd), Failure> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let resolve = raw::RESOLVE_IN_ROOT | raw::RESOLVE_NO_MAGICLINKS;
    let master = raw::open_below(raw::here(), c"/dev/pts/ptmx", flags, resolve)
        .at(STAGE, || "opening the container's /dev/pts/ptmx".into())?;
    // What a container mounts there may be anything.
    let stat = fstatfs(&master).at(STAGE, || "looking at /dev/pts/ptmx".into())?;
    if stat.filesystem_type() != FsType(DEVPTS_SUPER_MAGIC.into()) {
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
pub fn size(master: &OwnedFd, width: u32, height: u32) -> Result<(), Failure> {
    let (Ok(width @ 1..), Ok(height @ 1..)) = (u16::try_from(width), u16::try_from(height)) else {
        return Ok(());
    };
    raw::size_terminal(master.as_fd(), width, height).at(STAGE, || "sizing the terminal".into())
}

/// Makes the terminal this session's, and the three standard descriptors.
pub fn take(slave: &OwnedFd) -> Result<(), Failure> {
    raw::control_terminal(slave.as_fd()).at(STAGE, || "taking control of the terminal".into())?;
    for place in 0..3 {
        raw::replace_stdio(slave.as_fd(), place).at(STAGE, || "taking the terminal".into())?;
    }
    Ok(())
}
