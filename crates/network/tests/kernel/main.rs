//! The crate on a real kernel, as root. Each test makes its own network namespaces: one is the node, others are pods
//! and the world outside. They have no names, so they are gone with the test, however it ends.

#[cfg(test)]
mod check;
#[cfg(test)]
mod cni;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod leaks;
#[cfg(test)]
mod measure;
#[cfg(test)]
mod native;
#[cfg(test)]
mod sctp;
