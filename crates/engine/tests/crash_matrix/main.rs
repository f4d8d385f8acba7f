//! The engine against a node on which everything goes wrong once: the daemon dies at every effect and again at every effect of
//! the recovery, every effect fails, the shims are killed at every effect. Then everything is removed, and nothing may be left.

#[cfg(test)]
mod life;
#[cfg(test)]
mod scenario;
#[cfg(test)]
mod tests;
