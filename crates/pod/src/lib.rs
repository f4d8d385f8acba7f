//! DECIDE: what a pod is, what may happen to it, and what must then be true.
#![forbid(unsafe_code)]

pub mod config;
