//! The one place that declares map types to be plain memory.
#![expect(
    unsafe_code,
    reason = "declaring plain-memory types is this file's purpose"
)]

/// Declares each type to be plain old data of exactly the given size in bytes: no padding that the
/// compiler adds, every bit pattern valid. The size is the sum of the fields', so that a hole shows.
macro_rules! shared_types {
    ($($ty:ty = $size:expr),+ $(,)?) => {$(
        const _: () = assert!(core::mem::size_of::<$ty>() == $size, "layout of a map type changed");
        const _: () = assert!(core::mem::align_of::<$ty>() <= 8, "the kernel aligns values to 8 bytes");
        // SAFETY: repr(C), Copy, only integers and byte arrays inside, and the size asserted above
        // leaves no room for padding.
        unsafe impl bytemuck::Zeroable for $ty {}
        // SAFETY: as above.
        unsafe impl bytemuck::Pod for $ty {}
        // SAFETY: as above.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $ty {}
    )+};
}

use crate::{
    affinity::{AffinityKey, AffinityVal},
    agent_state::AgentState,
    config::{AddrRange, AddrRanges, Config},
    device::DeviceVal,
    event::Event,
    flow::{FlowFlags, FlowKey, FlowVal},
    fragment::{FragmentKey, FragmentVal},
    frontend::{FrontendKey, FrontendVal, Kind},
    id::{BackendId, ServiceId},
    limit::Bucket,
    list::ListRange,
    name::ServiceName,
    net::{Addr4, Addr6, BePort, Proto},
    netns::NetnsVal,
    service::{Algorithm, Backend, BackendFlags, Service, Slot},
    session::{RevnatKey, RevnatVal, SessionKey, SessionVal},
    socket::{BoundPort, Peer, SocketVal},
    source::SourceKey,
    track::Timeouts,
};

shared_types! {
    Addr4 = 4,
    Addr6 = 16,
    BePort = 2,
    Proto = 1,
    Algorithm = 1,
    Kind = 1,
    BackendFlags = 4,
    ServiceId = 4,
    BackendId = 4,
    ListRange = 8,
    FrontendKey<Addr4> = 4 + 2 + 1 + 1,
    FrontendKey<Addr6> = 16 + 2 + 1 + 1,
    FrontendVal = 4 + 4,
    Service = 8 + 8 + 4 + 1 + 1 + 2 + 8,
    Slot<Addr4> = 4 + 2 + 2 + 4 + 4,
    Slot<Addr6> = 16 + 2 + 2 + 4 + 4,
    Backend<Addr4> = 4 + 2 + 2 + 4 + 4,
    Backend<Addr6> = 16 + 2 + 2 + 4 + 4,
    AffinityKey = 16 + 4 + 4,
    AffinityVal = 8 + 4 + 2 + 2,
    SessionKey = 8 + 16 + 2 + 1 + 5,
    SessionVal = 16 + 2 + 2 + 4 + 4 + 2 + 2 + 8,
    RevnatKey = 8 + 16 + 2 + 6,
    RevnatVal = 16 + 2 + 1 + 5,
    SocketVal = 16 + 16 + 2 + 2 + 4 + 4 + 2 + 1 + 1,
    Peer = 8 + 48 + 8,
    BoundPort = 2 + 2,
    SourceKey<Addr4> = 4 + 4,
    SourceKey<Addr6> = 4 + 16,
    NetnsVal = 4 + 16 + 4,
    AddrRange<Addr4> = 4 + 4 + 4,
    AddrRange<Addr6> = 16 + 16 + 4,
    AddrRanges<Addr4> = 4 + 8 * 12,
    AddrRanges<Addr6> = 4 + 8 * 36,
    Timeouts = 7 * 4,
    Config = 8 + 4 + 2 + 2 + 2 * (100 + 292) + 4 + 16 + 4 + 6 + 2 + 2 + 6 + 4 + 28,
    DeviceVal = 4 + 4 + 16,
    FlowFlags = 2,
    FlowKey<Addr4> = 2 * 4 + 2 * 2 + 1 + 3,
    FlowKey<Addr6> = 2 * 16 + 2 * 2 + 1 + 3,
    FlowVal<Addr4> = 3 * 4 + 2 * 2 + 4 + 4 + 2 + 2 + 4 + 4,
    FlowVal<Addr6> = 3 * 16 + 2 * 2 + 4 + 4 + 2 + 2 + 4 + 4,
    FragmentKey<Addr4> = 2 * 4 + 4 + 1 + 3,
    FragmentKey<Addr6> = 2 * 16 + 4 + 1 + 3,
    FragmentVal = 4,
    Bucket = 8 + 4 + 4,
    ServiceName = 64 + 64 + 63 + 1,
    AgentState = 4 + 4 + 8 * 5 + 4 * 4,
    Event = 8 + 8 + 4 + 4 + 4 + 4 + 16 + 2 + 1 + 5,
}
