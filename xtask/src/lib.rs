//! The project's verbs, as `cargo xtask <verb>`: build, test, check, demo. Continuous integration calls these and
//! nothing else, so what it does can be done at a desk in the same words. [`lab`] and [`cluster`] are what the demo, the
//! benches and the agent's tests stand on.
//!
//! Light to compile on purpose (no tokio, no kube): it is the first thing a new checkout builds.

pub mod bench;
pub mod build;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod demo;
pub mod ebpf;
pub mod fuzz;
pub mod image;
pub mod lab;
pub mod miri;
pub mod packages;
pub mod process;
pub mod programs;
pub mod say;
pub mod targets;
pub mod test;
pub mod tools;
pub mod workspace;
