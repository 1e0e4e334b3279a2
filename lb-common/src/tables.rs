//! What a decision may ask and note: a small trait, so that the same source runs over BPF maps in
//! the kernel, over pinned maps in the command line, and over plain vectors in tests.

use crate::{
    affinity::{AffinityKey, AffinityVal},
    frontend::{FrontendKey, FrontendVal},
    id::{BackendId, ServiceId},
    net::BePort,
    reason::Counter,
    service::{Backend, Service, Slot},
    session::{RevnatKey, RevnatVal, SessionKey, SessionVal},
};

/// Lookups of one address family. Values are returned by copy: the agent may rewrite an entry
/// under the reader.
pub trait Tables<A> {
    /// `LB*_FRONTENDS`
    fn frontend(&self, key: &FrontendKey<A>) -> Option<FrontendVal>;
    /// `LB*_SERVICES`
    fn service(&self, id: ServiceId) -> Option<Service>;
    /// `LB*_SLOTS`
    fn slot(&self, index: u32) -> Option<Slot<A>>;
    /// `LB*_BACKENDS`
    fn backend(&self, id: BackendId) -> Option<Backend<A>>;
    /// `LB*_NODE_ADDRS`: do NodePorts answer on it?
    fn is_node_addr(&self, addr: &A) -> bool;
    /// `LB*_SOURCES`: is the client inside one of the service's ranges?
    fn source_allowed(&self, service: ServiceId, client: &A) -> bool;
    /// `LB_NETNS`: the address of a namespace's clients.
    fn netns_addr(&self, cookie: u64) -> Option<A>;
    /// `LB_CONFIG`: may this port be a NodePort?
    fn is_node_port(&self, port: BePort) -> bool;
    /// `LB_CONFIG`: do NodePorts answer on loopback?
    fn localhost(&self) -> bool;
    /// `LB_CONFIG`: the flags of the service range that holds `addr`; see [`crate::config::AddrRanges::find`].
    fn service_range(&self, addr: &A) -> Option<u32>;
    /// `LB_AFFINITY`
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityVal>;
    /// Notes a pinned backend. Best effort: without room the next connection chooses anew.
    fn pin(&self, key: &AffinityKey, val: &AffinityVal);
    /// The next number in turn of a round-robin service.
    fn turn(&self, id: ServiceId) -> u32;
}

/// Lookups of unconnected UDP, shared by both families.
pub trait Sessions {
    /// `LB_UDP_SESSION`: looks at an entry in place, for a copy would take too much of a BPF stack.
    fn session<R>(&self, key: &SessionKey, look: impl FnOnce(&SessionVal) -> R) -> Option<R>;
    /// `LB_UDP_REVNAT`: looks at an entry in place.
    fn revnat<R>(&self, key: &RevnatKey, look: impl FnOnce(&RevnatVal) -> R) -> Option<R>;
    /// Creates or replaces a session; false when there was no room.
    fn put_session(&self, key: &SessionKey, val: &SessionVal) -> bool;
    /// Creates or replaces what replies from a peer show; false when there was no room.
    fn put_revnat(&self, key: &RevnatKey, val: &RevnatVal) -> bool;
    /// Counts [`Counter::RevnatConflict`] or [`Counter::StateLost`].
    fn note(&self, counter: Counter);
    /// Notes that a session is in use, in place.
    fn touch(&self, key: &SessionKey, now_ns: u64, replied: bool);
    /// Marks a session as contested, in place.
    fn contest(&self, key: &SessionKey);
}
