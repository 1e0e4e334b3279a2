//! The trials of `check`, by where they look.

pub mod bpf;
pub mod network;
pub mod system;
