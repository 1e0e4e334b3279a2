//! The source without a cluster: a folder of ordinary Kubernetes YAML and JSON.
//!
//! Read are `*.yaml`, `*.yml` and `*.json` of the folder itself, dot files left out, with Service,
//! EndpointSlice, Endpoints, Node and ServiceCIDR documents and lists of them; other kinds are
//! ignored. Where a Service has both EndpointSlices and Endpoints, both count: its endpoints are
//! their union. What an API server fills in is filled in here (`object.rs`). Of two documents for one
//! object the first counts, by file name and then by place.
//!
//! ```text
//!  folder -> files -> documents -> objects -> state -> events
//!  (watch)  (changed  (text to     (Kubernetes (merge,
//!            ones)     values)      to model)   diff)
//! ```

mod document;
mod folder;
mod object;
mod state;
mod watch;

#[cfg(test)]
mod tests;

pub use folder::FolderError;
pub use watch::{Manifests, WatchError};
