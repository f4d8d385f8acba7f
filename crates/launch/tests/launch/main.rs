//! The real program, driven as the shim drives it, as root, with a root filesystem made of this machine's own tools.
//! Every test has a mount namespace of its own; what it makes on the host is checked and removed.

#[cfg(test)]
mod creating;
#[cfg(test)]
mod executing;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod images;
#[cfg(test)]
mod mapped;
#[cfg(test)]
mod mounting;
#[cfg(test)]
mod points;
#[cfg(test)]
#[expect(unsafe_code, reason = "descriptors of a child have fixed numbers")]
mod raw;
#[cfg(test)]
mod shim;
