//! The one system call that has no safe form: asking the old iptables for a table.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// Name, hooks, five entries, five policies, count, size.
const INFO: usize = 84;
const UNDERFLOW_OF_FORWARD: usize = 32 + 4 + 20 + 8;
const SIZE: usize = 80;
/// Name and size, padded: then the rules.
const HEAD: usize = 40;
/// A table larger than this is not read.
const LARGEST: usize = 16 * 1024 * 1024;

/// What happens to a packet that no rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Accept,
    Drop,
}

/// The policy of iptables-legacy's FORWARD chain; nothing where it cannot be told.
pub(crate) fn forward_policy() -> Option<Policy> {
    policy(AddressFamily::Inet, libc::SOL_IP, 88)
}

/// The same of ip6tables-legacy.
pub(crate) fn forward_policy_ipv6() -> Option<Policy> {
    policy(AddressFamily::Inet6, libc::SOL_IPV6, 140)
}

/// `target_at` is where a rule says how far its target is.
fn policy(family: AddressFamily, level: libc::c_int, target_at: usize) -> Option<Policy> {
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let mut info = table("filter", INFO);
    ask(&socket, level, GET_INFO, &mut info)?;
    let size = u32_at(&info, SIZE)?;
    let mut rules = table("filter", HEAD.checked_add(size).filter(|s| *s <= LARGEST)?);
    rules.get_mut(32..36)?.copy_from_slice(&u32::try_from(size).ok()?.to_ne_bytes());
    ask(&socket, level, GET_ENTRIES, &mut rules)?;
    let rule = HEAD.checked_add(u32_at(&info, UNDERFLOW_OF_FORWARD)?)?;
    let distance = rules.get(rule + target_at..rule + target_at + 2)?;
    let target = rule + usize::from(u16::from_ne_bytes(distance.try_into().ok()?));
    // After the target's head stands the verdict: minus one less than NF_DROP (0) or NF_ACCEPT (1).
    let verdict = rules.get(target + 32..target + 36)?;
    match i32::from_ne_bytes(verdict.try_into().ok()?) {
        -1 => Some(Policy::Drop),
        _ => Some(Policy::Accept),
    }
}

fn table(name: &str, size: usize) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(size, 0);
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let value = u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
    usize::try_from(value).ok()
}

fn ask(socket: &OwnedFd, level: i32, option: i32, buffer: &mut [u8]) -> Option<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).ok()?;
    // SAFETY: the buffer is valid for `length` bytes, which is all that the kernel writes, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(())
}
