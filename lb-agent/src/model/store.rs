//! Everything that the sources told, and what an event changes of it.
//!
//! The store keeps plain objects; it neither chooses endpoints nor knows maps. It says which
//! Services must be planned anew, so that the cost of a change follows the change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Event, Foreign, Kind, Label, Node, Object, ObjectKey, ObjectRef, Service, ServiceCidr, Slice,
    Trigger,
};

/// What an event changed. An event that leaves the derived state as it was changes nothing
/// (rules 21 and 136).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Services to plan anew, or to forget where the store no longer holds them.
    pub services: BTreeSet<ObjectKey>,
    /// This node or the host's addresses changed: [`crate::plan::Facts`] must be made anew.
    pub facts: bool,
    /// ServiceCIDRs, ClusterIPs or NodePorts changed: the ranges must be made anew.
    pub ranges: bool,
    /// Changes of slices that say when they came to pass.
    pub triggers: Vec<Trigger>,
    /// Services that lost a slice: earlier triggers of theirs say nothing.
    pub untriggered: BTreeSet<ObjectKey>,
}

impl Changes {
    /// Nothing at all?
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.facts && !self.ranges
    }

    /// Adds those of another event.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.facts |= other.facts;
        self.ranges |= other.ranges;
        self.triggers
            .retain(|trigger| !other.untriggered.contains(&trigger.service));
        self.triggers.extend(other.triggers);
    }
}

/// The objects of all sources.
#[derive(Clone, Debug, Default)]
pub struct Store {
    node_name: String,
    required: BTreeSet<Kind>,
    delivered: BTreeSet<Kind>,
    services: BTreeMap<ObjectKey, Service>,
    foreign: BTreeMap<(Label, ObjectKey), Vec<IpAddr>>,
    slices: BTreeMap<ObjectKey, Slice>,
    /// Names of slices by their Service; kept for Services that are not known yet, too (rule 10).
    slices_of: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    nodes: BTreeMap<String, Node>,
    /// The object of this node was deleted; what it said stays in force.
    is_node_gone: bool,
    cidrs: BTreeMap<String, ServiceCidr>,
    host_addrs: BTreeSet<IpAddr>,
    cluster_ips: Tally<IpAddr>,
    node_ports: Tally<u16>,
    skipped: BTreeMap<String, String>,
}

impl Store {
    /// Empty. `required` are the kinds that must have been delivered before it counts as synced.
    pub fn new(node_name: impl Into<String>, required: impl IntoIterator<Item = Kind>) -> Self {
        Self {
            node_name: node_name.into(),
            required: required.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Takes one piece of news.
    pub fn apply(&mut self, event: Event) -> Changes {
        let mut changes = Changes::default();
        match event {
            Event::Apply(object) => self.put(object, &mut changes),
            Event::Delete(reference) => self.remove(&reference, &mut changes),
            Event::Replace(kind, objects) => self.replace(kind, objects, &mut changes),
            Event::Skip(skip) => {
                self.skipped.insert(skip.object, skip.reason);
            }
            Event::Unskip(object) => {
                self.skipped.remove(&object);
            }
            Event::HostAddrs(addrs) => {
                changes.facts = self.host_addrs != addrs;
                changes.ranges = changes.facts;
                self.host_addrs = addrs;
            }
        }
        changes
    }

    /// Has every required kind been delivered once? Nothing may be written before (rule 96).
    pub fn is_synced(&self) -> bool {
        self.required.is_subset(&self.delivered)
    }

    /// The required kinds that have not been delivered.
    pub fn awaited(&self) -> impl Iterator<Item = Kind> {
        self.required.difference(&self.delivered).copied()
    }

    /// One Service.
    pub fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The ClusterIPs that another proxy serves for a Service.
    pub fn foreign_ips(&self, key: &ObjectKey) -> Vec<IpAddr> {
        let of = |label| self.foreign.get(&(label, key.clone()));
        let both = [Label::ProxyName, Label::Headless].into_iter();
        both.filter_map(of).flatten().copied().collect()
    }

    /// All Services of other proxies.
    pub fn foreign(&self) -> impl Iterator<Item = Foreign> {
        let all = self.foreign.iter();
        all.map(|((label, key), cluster_ips)| Foreign {
            key: key.clone(),
            label: *label,
            cluster_ips: cluster_ips.clone(),
        })
    }

    /// The slices of a Service, by name.
    pub fn slices_of(&self, service: &ObjectKey) -> Vec<&Slice> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name)).collect()
    }

    /// This node, where it is known.
    pub fn node(&self) -> Option<&Node> {
        self.nodes.get(&self.node_name)
    }

    /// May load balancers send traffic here (rule 117)? `None`: nothing is known of this node.
    pub fn is_node_eligible(&self) -> Option<bool> {
        let node = self.node()?;
        Some(!self.is_node_gone && !node.is_leaving)
    }

    /// Has a kind been delivered once?
    pub fn has(&self, kind: Kind) -> bool {
        self.delivered.contains(&kind)
    }

    /// All service ranges.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &ServiceCidr> {
        self.cidrs.values()
    }

    /// The addresses of this host's interfaces, loopback excluded.
    pub fn host_addrs(&self) -> &BTreeSet<IpAddr> {
        &self.host_addrs
    }

    /// Every ClusterIP in use, both families; the numbers say by how many Services.
    pub fn cluster_ips(&self) -> &BTreeMap<IpAddr, u32> {
        &self.cluster_ips.0
    }

    /// Every NodePort in use; the numbers say by how many service ports.
    pub fn node_ports(&self) -> &BTreeMap<u16, u32> {
        &self.node_ports.0
    }

    /// Bad objects and what is wrong with them.
    pub fn skipped(&self) -> &BTreeMap<String, String> {
        &self.skipped
    }

    fn replace(&mut self, kind: Kind, objects: Vec<Object>, changes: &mut Changes) {
        self.delivered.insert(kind);
        let kept: BTreeSet<ObjectRef> = objects.iter().map(Object::reference).collect();
        for gone in self.references(kind) {
            if !kept.contains(&gone) {
                self.remove(&gone, changes);
            }
        }
        for object in objects {
            self.put(object, changes);
        }
    }

    fn references(&self, kind: Kind) -> Vec<ObjectRef> {
        match kind {
            Kind::Service => (self.services.keys().cloned())
                .map(ObjectRef::Service)
                .collect(),
            Kind::Foreign(label) => (self.foreign.keys())
                .filter(|(of, _)| *of == label)
                .map(|(label, key)| ObjectRef::Foreign(*label, key.clone()))
                .collect(),
            Kind::Slice => (self.slices.keys().cloned())
                .map(ObjectRef::Slice)
                .collect(),
            Kind::Node => self.nodes.keys().cloned().map(ObjectRef::Node).collect(),
            Kind::ServiceCidr => (self.cidrs.keys().cloned())
                .map(ObjectRef::ServiceCidr)
                .collect(),
        }
    }

    fn put(&mut self, object: Object, changes: &mut Changes) {
        match object {
            Object::Service(service) => self.put_service(service, changes),
            Object::Foreign(foreign) => self.put_foreign(foreign, changes),
            Object::Slice(slice) => self.put_slice(slice, changes),
            Object::Node(node) => {
                let is_own = node.name == self.node_name;
                self.is_node_gone &= !is_own;
                let old = self.nodes.get(&node.name);
                let is_moved = !old.is_some_and(|old| old.is_same_place(&node));
                self.nodes.insert(node.name.clone(), node);
                changes.facts |= is_own && is_moved;
                changes.ranges |= is_own && is_moved;
            }
            Object::ServiceCidr(cidr) => {
                if self.cidrs.get(&cidr.name) != Some(&cidr) {
                    self.cidrs.insert(cidr.name.clone(), cidr);
                    changes.ranges = true;
                }
            }
        }
    }

    fn remove(&mut self, reference: &ObjectRef, changes: &mut Changes) {
        match reference {
            ObjectRef::Service(key) => {
                if let Some(old) = self.services.remove(key) {
                    changes.ranges |= self.uncount(&old);
                    changes.services.insert(key.clone());
                }
            }
            ObjectRef::Foreign(label, key) => {
                if self.foreign.remove(&(*label, key.clone())).is_some() {
                    changes.services.insert(key.clone());
                }
            }
            ObjectRef::Slice(key) => self.remove_slice(key, changes),
            // What this node is does not change because its object is away for a while: a kubelet that
            // registers anew brings the next version, and until then nothing served gets worse.
            ObjectRef::Node(name) if *name == self.node_name => self.is_node_gone = true,
            ObjectRef::Node(name) => {
                self.nodes.remove(name);
            }
            ObjectRef::ServiceCidr(name) => {
                changes.ranges |= self.cidrs.remove(name).is_some();
            }
        }
    }

    fn put_service(&mut self, service: Service, changes: &mut Changes) {
        let old = self.services.get(&service.key);
        if old == Some(&service) {
            return;
        }
        // Counted in before the old one is counted out: what both have does not look changed.
        let mut ranges = self.count(&service);
        if let Some(old) = self.services.insert(service.key.clone(), service.clone()) {
            ranges |= self.uncount(&old);
        }
        changes.ranges |= ranges;
        changes.services.insert(service.key);
    }

    fn put_foreign(&mut self, foreign: Foreign, changes: &mut Changes) {
        let Foreign {
            key,
            label,
            cluster_ips,
        } = foreign;
        let old = self.foreign.insert((label, key.clone()), cluster_ips);
        if old.as_ref() != self.foreign.get(&(label, key.clone())) {
            changes.services.insert(key);
        }
    }

    fn put_slice(&mut self, mut slice: Slice, changes: &mut Changes) {
        normalise(&mut slice);
        let owner = slice.service_key();
        match self.slices.get_mut(&slice.key) {
            Some(old) if is_same(old, &slice) => {
                old.triggered = slice.triggered;
                return;
            }
            Some(old) if old.service != slice.service => {
                let key = slice.key.clone();
                self.remove_slice(&key, changes);
            }
            Some(_) | None => {}
        }
        if self.services.contains_key(&owner) {
            let old = self.slices.get(&slice.key);
            changes.triggers.extend(Trigger::of(&slice, old));
        }
        self.dirty(&owner, changes);
        let names = self.slices_of.entry(owner).or_default();
        names.insert(slice.key.clone());
        self.slices.insert(slice.key.clone(), slice);
    }

    fn remove_slice(&mut self, key: &ObjectKey, changes: &mut Changes) {
        let Some(old) = self.slices.remove(key) else {
            return;
        };
        let owner = old.service_key();
        if self.services.contains_key(&owner) {
            // What went with it can be waited for no longer.
            changes.triggers.retain(|trigger| trigger.service != owner);
            changes.untriggered.insert(owner.clone());
        }
        if let Some(names) = self.slices_of.get_mut(&owner) {
            names.remove(key);
            if names.is_empty() {
                self.slices_of.remove(&owner);
            }
        }
        self.dirty(&owner, changes);
    }

    /// A slice without its Service waits for it (rule 10).
    fn dirty(&self, service: &ObjectKey, changes: &mut Changes) {
        if self.services.contains_key(service) {
            changes.services.insert(service.clone());
        }
    }

    fn count(&mut self, service: &Service) -> bool {
        let ips = self.cluster_ips.add(service.cluster_ips.iter().copied());
        self.node_ports.add(node_ports(service)) || ips
    }

    fn uncount(&mut self, service: &Service) -> bool {
        let ips = self.cluster_ips.sub(service.cluster_ips.iter().copied());
        self.node_ports.sub(node_ports(service)) || ips
    }
}

fn node_ports(service: &Service) -> impl Iterator<Item = u16> {
    (service.ports.iter().map(|port| port.node_port)).filter(|port| *port != 0)
}

/// Order says nothing in a slice: two that differ in it alone are the same.
fn normalise(slice: &mut Slice) {
    for endpoint in &mut slice.endpoints {
        endpoint.zones.sort();
        endpoint.nodes.sort();
    }
    slice.endpoints.sort();
    slice.ports.sort();
}

/// The same but for the trigger time, which nothing is derived from?
fn is_same(a: &Slice, b: &Slice) -> bool {
    a.service == b.service && a.ports == b.ports && a.endpoints == b.endpoints
}

/// How often each value is in use.
#[derive(Clone, Debug)]
struct Tally<T>(BTreeMap<T, u32>);

impl<T> Default for Tally<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Tally<T> {
    /// Is any of them new?
    fn add(&mut self, values: impl Iterator<Item = T>) -> bool {
        let before = self.0.len();
        for value in values {
            *self.0.entry(value).or_default() += 1;
        }
        self.0.len() != before
    }

    /// Is any of them gone?
    fn sub(&mut self, values: impl Iterator<Item = T>) -> bool {
        let before = self.0.len();
        for value in values {
            let left = self.0.get(&value).map_or(0, |n| n.saturating_sub(1));
            if left == 0 {
                self.0.remove(&value);
            } else {
                self.0.insert(value, left);
            }
        }
        self.0.len() != before
    }
}
