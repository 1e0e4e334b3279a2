//! The project's verbs and the laboratory that its demo, benches and tests stand on.

pub mod cluster;
pub mod lab;
