//! What both sides of the load balancer must agree on, and the logic worth testing twice.
//!
//! The BPF programs, the agent and the command line all use this crate: the types of every map,
//! the one table that names the maps, and `decide`, the pure function that says what happens to a
//! flow. Nothing here does I/O, allocates or knows where its tables live; `unsafe` appears only
//! where a type is declared to be plain memory (`pod.rs`).
#![no_std]
#![deny(unsafe_code)]

pub mod affinity;
pub mod agent_state;
pub mod answer;
pub mod config;
pub mod csum;
pub mod datagram;
pub mod decide;
pub mod device;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod frontend;
pub mod id;
pub mod limit;
pub mod list;
pub mod map_table;
pub mod name;
pub mod nat;
pub mod net;
pub mod netns;
pub mod parse;
mod pod;
pub mod ports;
pub mod reason;
pub mod rewrite;
pub mod sctp;
pub mod service;
pub mod session;
pub mod socket;
pub mod source;
pub mod tables;
pub mod track;

/// Version of the layout of every pinned map: part of the pin path (`<bpffs-root>/v1`), raised with
/// any change to a key, a value or the meaning of a field.
pub const ABI_VERSION: u32 = 1;
