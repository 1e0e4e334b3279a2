//! The agent: reads Services and endpoints, keeps the BPF maps as they should be, and shows them.
//!
//! ```text
//!  API server or manifest files
//!      v
//!  k8s, manifests -> model -> eligible -> plan -> maps -> kernel
//!  (only user of     (plain   (which      (image,  (one op
//!   kube)             data)    endpoints)  ops)     at a time)
//!  operator <- cli, observe <- counters, ring buffer, pinned maps
//! ```
//!
//! `model`, `eligible` and `plan` know neither kube, aya nor tokio; `tests/layers.rs` holds that.

pub mod attach;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod config_file;
pub mod devices;
pub mod eligible;
pub mod flow_sweep;
pub mod host_addrs;
pub mod host_ports;
pub mod k8s;
pub mod logging;
pub mod manifests;
pub mod maps;
pub mod model;
pub mod netns;
pub mod netns_watch;
pub mod observe;
pub mod oom;
pub mod plan;
pub mod reconcile;
pub mod run;
pub mod sock_diag;
pub mod source;
pub mod stale_udp;
pub mod udp_ends;
