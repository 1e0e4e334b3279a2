//! The node's devices: which of them packets are translated on, and `lb0`.
//!
//! ```text
//!  netlink -> follow (links, addresses, routes as facts) -> select (pure: a role per device)
//!                                                              -> attach::devices (programs, LB_DEVICES)
//! ```
//!
//! Everything is of the agent's own network namespace.

pub mod conntrack;
pub mod follow;
mod glob;
pub mod lb0;
pub mod link;
pub mod netlink;
pub mod reserved_ports;
pub mod select;
mod table;
