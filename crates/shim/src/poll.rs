//! What the main loop waits for.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Which of the shim's descriptors is ready. The number is that of a container, an exec, a launch or a
/// client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Listen,
    Connection,
    Birth,
    Signals,
    LogDone,
    Launch(u32),
    Stdout(u32),
    Stderr(u32),
    Start(u32),
    /// Of an attached client.
    Session(u32),
    TapOut(u32),
    TapErr(u32),
}

#[derive(Debug)]
pub(crate) struct Poll(Epoll);

// === impl Token ===

impl Token {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Self::Listen => (0, 0),
            Self::Connection => (1, 0),
            Self::Birth => (2, 0),
            Self::Signals => (3, 0),
            Self::LogDone => (4, 0),
            Self::Launch(number) => (5, number),
            Self::Stdout(number) => (6, number),
            Self::Stderr(number) => (7, number),
            Self::Start(number) => (8, number),
            Self::Session(number) => (9, number),
            Self::TapOut(number) => (10, number),
            Self::TapErr(number) => (11, number),
        };
        (kind << 32) | u64::from(number)
    }

    fn unpack(packed: u64) -> Option<Self> {
        let number = u32::try_from(packed & u64::from(u32::MAX)).ok()?;
        Some(match packed >> 32 {
            0 => Self::Listen,
            1 => Self::Connection,
            2 => Self::Birth,
            3 => Self::Signals,
            4 => Self::LogDone,
            5 => Self::Launch(number),
            6 => Self::Stdout(number),
            7 => Self::Stderr(number),
            8 => Self::Start(number),
            9 => Self::Session(number),
            10 => Self::TapOut(number),
            11 => Self::TapErr(number),
            _ => return None,
        })
    }
}

// === impl Poll ===

impl Poll {
    pub(crate) fn new() -> Result<Self, Errno> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(Self)
    }

    pub(crate) fn read<Fd: AsFd>(&self, fd: Fd, token: Token) -> Result<(), Errno> {
        self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token.pack()))
    }

    /// Waits for room too, or no longer.
    pub(crate) fn write<Fd: AsFd>(&self, fd: Fd, token: Token, wanted: bool) -> Result<(), Errno> {
        let flags = if wanted { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        self.0.modify(fd, &mut EpollEvent::new(flags | EpollFlags::EPOLLIN, token.pack()))
    }

    /// Waits for room in a pipe.
    pub(crate) fn room<Fd: AsFd>(&self, fd: Fd, token: Token) -> Result<(), Errno> {
        self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLOUT, token.pack()))
    }

    /// Waits for nothing any more but that the other end hangs up.
    pub(crate) fn hang_up<Fd: AsFd>(&self, fd: Fd, token: Token) -> Result<(), Errno> {
        self.0.modify(fd, &mut EpollEvent::new(EpollFlags::empty(), token.pack()))
    }

    /// A descriptor that somebody else holds too stays in an epoll set although it is closed here.
    pub(crate) fn forget<Fd: AsFd>(&self, fd: Fd) {
        self.0.delete(fd).ok();
    }

    /// What is ready, at the latest at the deadline.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Vec<Token> {
        let timeout = deadline.map_or(EpollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()).as_millis() + 1;
            EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
        });
        let mut events = [EpollEvent::empty(); 16];
        let count = self.0.wait(&mut events, timeout).unwrap_or(0);
        events.iter().take(count).filter_map(|event| Token::unpack(event.data())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_went() {
        let all = [
            Token::Listen,
            Token::Connection,
            Token::Birth,
            Token::Signals,
            Token::LogDone,
            Token::Launch(u32::MAX),
            Token::Stdout(0),
            Token::Stderr(7),
            Token::Start(1 << 31),
            Token::Session(1),
            Token::TapOut(2),
            Token::TapErr(3),
        ];
        for token in all {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
