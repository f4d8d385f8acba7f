//! A real daemon on the real kernel, driven by a real crictl: what somebody at a node sees.
//!
//! `hack/blackbox` runs these tests: they need its network namespace and its registry, and it tells them by environment
//! variables where things are. Each has a daemon of its own, one after the other, and ends by comparing the machine
//! with what it was before.
//!
//! `node` is the daemon and the client, `machine` what the kernel says beside them.

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod channels;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod cni;
#[cfg(test)]
mod confinement;
#[cfg(test)]
mod debug;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod events;
#[cfg(test)]
mod forge;
#[cfg(test)]
mod handlers;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod images;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod node;
#[cfg(test)]
mod patience;
#[cfg(test)]
mod pods;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod stops;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod users;
#[cfg(test)]
mod volumes;
