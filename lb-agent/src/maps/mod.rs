//! The seam between plans and the kernel: what can be read from the maps and changed in them.
//!
//! [`kernel`] is the real thing; [`fake`] keeps the same content in memory, and refuses what the
//! kernel would refuse (a full map), so that plans are tested against both.

pub mod fake;
pub mod family;
pub mod faulty;
pub mod kernel;
pub mod pinned;
pub mod snapshot;
pub mod sys;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    frontend::{FrontendKey, FrontendVal},
    id::{BackendId, ServiceId},
    name::ServiceName,
    net::Address,
    service::{Backend, Service, Slot},
    source::SourceKey,
};

/// Everything that the maps of one family hold for services.
#[derive(Clone, PartialEq, Debug)]
pub struct Content<A: Address> {
    /// `LB*_FRONTENDS`
    pub frontends: BTreeMap<FrontendKey<A>, FrontendVal>,
    /// `LB*_SERVICES`, those in use.
    pub services: BTreeMap<ServiceId, Service>,
    /// `LB*_NAMES`
    pub names: BTreeMap<ServiceId, ServiceName>,
    /// `LB*_BACKENDS`, those in use.
    pub backends: BTreeMap<BackendId, Backend<A>>,
    /// `LB*_SLOTS`, those that a list of a service in use covers.
    pub slots: BTreeMap<u32, Slot<A>>,
    /// `LB*_SOURCES`: ranges with their length in bits, the service id not counted.
    pub sources: BTreeSet<(SourceKey<A>, u32)>,
    /// The generation that each backend id had last, for ids that are free now.
    pub generations: BTreeMap<BackendId, u16>,
}

/// One change to one map. Any op may be repeated.
#[derive(Clone, PartialEq, Debug)]
pub enum Op<A: Address> {
    /// Names a service id.
    PutName(ServiceId, ServiceName),
    /// Takes a name away.
    DelName(ServiceId),
    /// Adds a source range of so many bits.
    PutSource(SourceKey<A>, u32),
    /// Takes a source range away.
    DelSource(SourceKey<A>, u32),
    /// Writes a backend; one without a service frees the id, keeping its generation.
    PutBackend(BackendId, Backend<A>),
    /// Writes a run of slots that no list covers yet.
    PutSlots(u32, Vec<Slot<A>>),
    /// Writes a service, each list in one 64-bit store; the cursor stays.
    PutService(ServiceId, Service),
    /// Zeroes a service.
    DelService(ServiceId),
    /// Makes an address answer.
    PutFrontend(FrontendKey<A>, FrontendVal),
    /// Makes an address stop answering.
    DelFrontend(FrontendKey<A>),
    /// Waits as [`LbMaps::wait_for_readers`] does: what answered before points at what goes next.
    AwaitReaders,
}

/// Sizes of the maps of one family, in entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named after the maps")]
pub struct Capacities {
    pub frontends: u32,
    pub services: u32,
    pub slots: u32,
    pub backends: u32,
    pub sources: u32,
    pub flows: u32,
}

/// Why a change was refused.
#[derive(thiserror::Error, Debug)]
pub enum MapError {
    /// No room. What is in the map stays in force.
    #[error("map {map} is full ({capacity} entries); raise {flag}")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// Its size.
        capacity: u32,
        /// The flag that raises it.
        flag: &'static str,
    },
    /// Anything else that the kernel says.
    #[error("map {map}: {action} {key}: {source}")]
    Kernel {
        /// Name of the map.
        map: &'static str,
        /// What was tried.
        action: &'static str,
        /// With which key.
        key: String,
        /// errno.
        source: std::io::Error,
    },
}

/// The maps of one family.
pub trait LbMaps<A: Address> {
    /// Their sizes.
    fn capacities(&self) -> Capacities;
    /// Reads all of them: to adopt after a restart, and to compare now and then.
    fn read(&self) -> Result<Content<A>, MapError>;
    /// Changes one thing.
    fn apply(&mut self, op: &Op<A>) -> Result<(), MapError>;
    /// Waits until every program that runs now has ended (an RCU grace period): what was freed
    /// before may be reused after.
    fn wait_for_readers(&mut self) -> Result<(), MapError>;
}
