//! What operators see of a running agent: metrics, health, rare events, and whether the kernel really
//! runs our programs.

pub mod attached;
