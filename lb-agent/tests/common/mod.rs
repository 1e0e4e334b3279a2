//! Builders of objects, and a world that reconciles them into maps in memory.

#![allow(
    dead_code,
    reason = "every test target is its own crate and uses its part"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use lb_agent::{
    config::{Config, DetectLocal, EndpointsSource, NodePortAddresses, Packets, Source},
    maps::{Capacities, LbMaps, fake::FakeMaps, faulty::Faulty},
    model::{
        Endpoint, Event, Kind, Node, Object, ObjectKey, Service, ServicePort, ServiceType, Slice,
        SlicePort, Store,
    },
    plan::{self, Facts, Family, Image, Plan, PlanError, Planner, PortImage, PortKey, compile},
};
use lb_common::net::Proto;

/// This node.
pub const NODE: &str = "n1";
/// Another one.
pub const OTHER: &str = "n2";

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn key(text: &str) -> ObjectKey {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ObjectKey::new(namespace, name)
}

/// A Service with one unnamed TCP port 80.
pub fn svc(name: &str, cluster_ips: &[&str]) -> Service {
    Service {
        key: key(name),
        cluster_ips: cluster_ips.iter().map(|text| ip(text)).collect(),
        ports: vec![port("", Proto::TCP, 80, 0)],
        ..Service::default()
    }
}

pub fn node_port_svc(name: &str, cluster_ips: &[&str], node_port: u16) -> Service {
    Service {
        service_type: ServiceType::NodePort,
        ports: vec![port("", Proto::TCP, 80, node_port)],
        ..svc(name, cluster_ips)
    }
}

pub fn port(name: &str, proto: Proto, port: u16, node_port: u16) -> ServicePort {
    ServicePort {
        name: name.into(),
        proto,
        port,
        node_port,
    }
}

/// A slice of a Service with the unnamed TCP port 8080.
pub fn slice(name: &str, service: &str, endpoints: Vec<Endpoint>) -> Slice {
    let service = key(service);
    Slice {
        key: ObjectKey::new(service.namespace, name),
        service: service.name,
        ports: vec![SlicePort {
            name: String::new(),
            proto: Proto::TCP,
            port: 8080,
        }],
        endpoints,
        triggered: None,
    }
}

/// A ready endpoint on no node.
pub fn ep(addr: &str) -> Endpoint {
    Endpoint {
        addr: ip(addr),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zones: Vec::new(),
        nodes: Vec::new(),
    }
}

/// Short forms to change an endpoint.
pub trait EndpointExt {
    fn on(self, node: &str) -> Self;
    fn unready(self) -> Self;
    fn draining(self) -> Self;
    fn dead(self) -> Self;
    fn zone(self, zone: &str) -> Self;
    fn for_node(self, node: &str) -> Self;
}

impl EndpointExt for Endpoint {
    fn on(self, node: &str) -> Self {
        Self {
            node: Some(node.into()),
            ..self
        }
    }

    /// Not ready, not serving, not terminating.
    fn unready(self) -> Self {
        Self {
            ready: false,
            serving: false,
            ..self
        }
    }

    /// Terminating, still serving.
    fn draining(self) -> Self {
        Self {
            ready: false,
            serving: true,
            terminating: true,
            ..self
        }
    }

    /// Terminating, not serving.
    fn dead(self) -> Self {
        Self {
            ready: false,
            serving: false,
            terminating: true,
            ..self
        }
    }

    fn zone(mut self, zone: &str) -> Self {
        self.zones.push(zone.into());
        self
    }

    fn for_node(mut self, node: &str) -> Self {
        self.nodes.push(node.into());
        self
    }
}

pub const ROOMY: Capacities = Capacities {
    frontends: 4096,
    services: 1024,
    slots: 8192,
    backends: 4096,
    sources: 1024,
    flows: 1024,
};

pub fn config() -> Config {
    Config {
        file: None,
        shown: serde_json::Value::Null,
        oom_score_adj: 0,
        sync_period: std::time::Duration::from_secs(30),
        source: Source::Manifests(PathBuf::new()),
        endpoints: EndpointsSource::Slices,
        node_name: NODE.into(),
        bind_address: None,
        external_ips: true,
        cluster_cidrs: Vec::new(),
        detect_local: DetectLocal::ClusterCidr,
        nodeport_addresses: NodePortAddresses::default(),
        localhost4: true,
        localhost6: true,
        protect_node_ports: false,
        masquerade_all: false,
        healthz_bind_address: None,
        metrics_bind_address: None,
        bind_hard_fail: false,
        cgroup_root: PathBuf::new(),
        bpffs_root: PathBuf::new(),
        capacities: ROOMY,
        packets: Packets::default(),
        min_sync_period: std::time::Duration::ZERO,
        full_check_period: std::time::Duration::ZERO,
    }
}

pub fn node() -> Node {
    Node {
        name: NODE.into(),
        zone: Some("a".into()),
        addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        pod_cidrs: Vec::new(),
        is_leaving: false,
    }
}

/// With a detector for both families.
pub fn detecting() -> Config {
    Config {
        cluster_cidrs: ["10.0.0.0/8", "fd00::/16"]
            .map(|text| text.parse().expect("a network"))
            .to_vec(),
        ..config()
    }
}

pub fn facts() -> Facts {
    Facts::new(&config(), Some(&node()), &BTreeSet::new())
}

/// An agent without I/O: store, planner and maps of one family.
pub struct World<A: Family> {
    pub config: Config,
    pub store: Store,
    pub planner: Planner<A>,
    pub maps: Faulty<FakeMaps<A>>,
    facts: Facts,
    dirty: BTreeSet<ObjectKey>,
    sweep: bool,
    pub refused: Vec<String>,
    pub conflicts: Vec<String>,
}

impl<A: Family> World<A> {
    pub fn new(config: Config, maps: Faulty<FakeMaps<A>>) -> Self {
        let facts = Facts::new(&config, None, &BTreeSet::new());
        Self {
            store: Store::new(NODE, [Kind::Service, Kind::Slice]),
            planner: Planner::new(maps.capacities()),
            config,
            maps,
            facts,
            dirty: BTreeSet::new(),
            sweep: false,
            refused: Vec::new(),
            conflicts: Vec::new(),
        }
    }

    pub fn sound(capacities: Capacities) -> Self {
        let mut world = Self::new(config(), Faulty::new(FakeMaps::new(capacities), 0, 0));
        world.apply(Event::Apply(Object::Node(node())));
        world
    }

    pub fn put_service(&mut self, service: Service) {
        self.apply(Event::Apply(Object::Service(service)));
    }

    pub fn put_slice(&mut self, slice: Slice) {
        self.apply(Event::Apply(Object::Slice(slice)));
    }

    /// Takes an event and tries to bring the maps up to date; what fails is tried with the next.
    pub fn apply(&mut self, event: Event) {
        let changes = self.store.apply(event);
        self.dirty.extend(changes.services);
        if changes.facts {
            let facts = Facts::new(&self.config, self.store.node(), self.store.host_addrs());
            if facts != self.facts {
                self.facts = facts;
                let all = self.store.services().map(|service| service.key.clone());
                self.dirty.extend(all);
            }
        }
        self.reconcile();
    }

    pub fn desired(&self, service: &ObjectKey) -> BTreeMap<PortKey, PortImage<A>> {
        let slices = self.store.slices_of(service);
        let service = self.store.service(service);
        service.map_or_else(BTreeMap::new, |s| compile(s, &slices, &self.facts))
    }

    /// One try at everything that is not as it should be.
    pub fn reconcile(&mut self) {
        for service in std::mem::take(&mut self.dirty) {
            let desired = self.desired(&service);
            let foreign = plan::foreign(&self.store.foreign_ips(&service));
            self.planner.claim_foreign(&service, &foreign);
            if !self.with_grace(|planner| planner.plan_service(&service, &desired)) {
                self.dirty.insert(service);
            }
        }
        if self.sweep && self.dirty.is_empty() {
            self.sweep = !self.with_grace(Planner::sweep);
        }
    }

    fn with_grace(&mut self, plan: impl Fn(&mut Planner<A>) -> Result<Plan<A>, PlanError>) -> bool {
        let plan = match plan(&mut self.planner) {
            Err(PlanError::NeedsGrace) => {
                if self.maps.wait_for_readers().is_err() {
                    return false;
                }
                self.planner.release_after_grace();
                plan(&mut self.planner).expect("nothing rests any more")
            }
            other => other.expect("no other error"),
        };
        let said = plan
            .refused
            .iter()
            .map(|r| format!("{}: {}", r.port, r.error));
        self.refused.extend(said);
        self.conflicts
            .extend(plan.conflicts.iter().map(ToString::to_string));
        for op in &plan.ops {
            let applied = self.maps.apply(op);
            assert_eq!(
                self.maps.maps.violations(),
                &[] as &[String],
                "after {op:?}"
            );
            if applied.is_err() {
                return false;
            }
            self.planner.note(op);
        }
        true
    }

    /// Every Service, ours or not.
    pub fn names(&self) -> BTreeSet<ObjectKey> {
        (self.store.services().map(|service| service.key.clone()))
            .chain(self.store.foreign().map(|foreign| foreign.key))
            .collect()
    }

    /// The agent dies, and a new one takes the maps over.
    pub fn restart(&mut self) {
        let held = self.maps.read().expect("maps can be read");
        self.planner = Planner::adopt(self.maps.capacities(), held);
        (self.maps.wait_for_readers()).expect("nothing to fail");
        self.dirty = self.names();
        self.sweep = true;
        self.reconcile();
    }

    /// Tries until everything is as it should be; nothing fails from here on.
    pub fn settle(&mut self) {
        self.maps.heal();
        self.reconcile();
        assert!(self.dirty.is_empty(), "left: {:?}", self.dirty);
    }

    /// What the maps say, without ids.
    pub fn dump(&self) -> String {
        Image::of(&self.maps.read().expect("maps can be read")).to_string()
    }
}
