//! Taking ownership of received descriptors.

use std::os::fd::{FromRawFd, OwnedFd};

/// Owns descriptors that `recvmsg` has just installed in this process.
pub(crate) fn own(numbers: &[i32]) -> Vec<OwnedFd> {
    let one = |&number: &i32| {
        // SAFETY: the kernel made this descriptor for this very control message, which is read once.
        unsafe { OwnedFd::from_raw_fd(number) }
    };
    numbers.iter().map(one).collect()
}
