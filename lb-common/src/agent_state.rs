//! What the agent says of itself, for whoever opens the maps.

/// The one value of `LB_AGENT`, written by the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct AgentState {
    /// Which entry of `LB_CONFIG` is in force: 0 or 1.
    pub active_config: u32,
    /// Process id of the agent that wrote last, in its own pid namespace.
    pub pid: u32,
    /// When that agent started: nanoseconds since boot.
    pub started_ns: u64,
    /// When every watch had delivered its first list and the maps were complete; 0: not yet.
    pub synced_ns: u64,
    /// Last successful apply: nanoseconds since boot.
    pub applied_ns: u64,
    /// Network namespace whose loopback may answer NodePorts: its cookie.
    pub host_netns: u64,
    /// Sum of ns that applies took.
    pub apply_total_ns: u64,
    /// Objects that the agent skips at the moment, for they are bad.
    pub skipped: u32,
    /// Service ports whose last apply failed.
    pub failed: u32,
    /// Entries that the last full comparison found changed by somebody else, in all.
    pub repaired: u32,
    /// 1 once connected UDP sockets from before the hooks were ended.
    pub stale_udp_done: u32,
}
