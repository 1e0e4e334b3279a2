//! The clusters that are measured: Services and slices as a source would deliver them, the same from run to
//! run.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};

use lb_agent::model::{
    Endpoint, Event, Kind, Label, Node, Object, ObjectKey, Service, ServiceCidr, ServicePort,
    ServiceType, Slice, SlicePort,
};
use lb_common::net::Proto;
use serde::{Deserialize, Serialize};

/// Endpoints of every ordinary Service.
const ENDPOINTS: u32 = 10;
/// Slices of the large Service, with [`SLICE`] endpoints each, as the control plane makes them.
pub const SLICES: u32 = 10;
const SLICE: u32 = 100;
const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;
/// Where the real server listens; the sink is on the next port.
pub const SERVER_PORT: u16 = 8080;

/// Answered by the real server, TCP and UDP.
pub const WEB: SocketAddrV4 = vip(10, PORT);
/// UDP to the sink.
pub const SINK: SocketAddrV4 = vip(11, PORT);
/// With ClientIP affinity.
pub const STICKY: SocketAddrV4 = vip(12, PORT);
/// Without endpoints.
pub const EMPTY: SocketAddrV4 = vip(13, PORT);
/// A ClusterIP, on a port that it does not have.
pub const NO_PORT: SocketAddrV4 = vip(12, 9);

const fn vip(last: u8, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, last), port)
}

/// What objects name that differs from run to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Here {
    pub node: [IpAddr; 2],
    pub server: Ipv4Addr,
    pub host_netns: u64,
}

impl Here {
    /// The NodePort of the cluster of kinds.
    pub fn node_port(&self) -> Option<SocketAddrV4> {
        match self.node.first() {
            Some(IpAddr::V4(ip)) => Some(SocketAddrV4::new(*ip, NODE_PORT)),
            _ => None,
        }
    }
}

/// The content of an API server.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub services: Vec<Service>,
    pub slices: Vec<Slice>,
}

impl Objects {
    /// `count` Services on random ClusterIPs with ten random endpoints each.
    pub fn crowd(count: u32) -> Self {
        let mut random = Random(1);
        let mut vips = BTreeSet::new();
        while vips.len() < count as usize {
            // 10.97.0.0 to 10.104.255.255, inside the range of ServiceCIDRs.
            vips.insert(Ipv4Addr::from(0x0a61_0000 + random.below(0x0008_0000)));
        }
        // In random order, as IPs are given out.
        let mut vips: Vec<Ipv4Addr> = vips.into_iter().collect();
        random.shuffle(&mut vips);
        let mut objects = Self::default();
        for (number, vip) in vips.into_iter().enumerate() {
            let endpoints = (0..ENDPOINTS).map(|_| endpoint(pod(random.below(1 << 22))));
            let service = service(&format!("crowd-{number}"), vip, &[Proto::UDP]);
            objects.add(service, endpoints.collect(), PORT);
        }
        objects
    }

    /// One Service of each kind that is measured.
    pub fn kinds(here: &Here) -> Self {
        let mut objects = Self::default();
        objects.add_web(here);
        let some = |first: u32| (0..ENDPOINTS).map(|i| endpoint(pod(first + i))).collect();
        objects.add(
            service("sink", *SINK.ip(), &[Proto::UDP]),
            vec![endpoint(here.server)],
            SERVER_PORT + 1,
        );
        let sticky = Service {
            affinity_timeout_s: Some(10_800),
            ..service("sticky", *STICKY.ip(), &[Proto::UDP])
        };
        objects.add(sticky, some(100), PORT);
        objects.add(
            service("empty", *EMPTY.ip(), &[Proto::UDP]),
            Vec::new(),
            PORT,
        );
        let mut node_port = service("node-port", Ipv4Addr::new(10, 96, 0, 14), &[Proto::UDP]);
        node_port.service_type = ServiceType::NodePort;
        node_port
            .ports
            .iter_mut()
            .for_each(|port| port.node_port = NODE_PORT);
        objects.add(node_port, some(200), PORT);
        objects
    }

    /// The Service behind which the real server stands.
    pub fn add_web(&mut self, here: &Here) {
        self.add(
            service("web", *WEB.ip(), &[Proto::TCP, Proto::UDP]),
            vec![endpoint(here.server)],
            SERVER_PORT,
        );
    }

    /// A Service with 1,000 endpoints and four frontends: ClusterIP, NodePort, two LoadBalancer IPs.
    pub fn add_large(&mut self) {
        let mut large = service("large", Ipv4Addr::new(10, 96, 0, 20), &[Proto::TCP]);
        large.service_type = ServiceType::LoadBalancer;
        large
            .ports
            .iter_mut()
            .for_each(|port| port.node_port = 30_020);
        large.load_balancer_ips = [1, 2]
            .map(|last| Ipv4Addr::new(203, 0, 113, last).into())
            .to_vec();
        self.services.push(large);
        self.slices
            .extend((0..SLICES).map(|number| large_slice(number, 0)));
    }

    fn add(&mut self, service: Service, endpoints: Vec<Endpoint>, target: u16) {
        let ports = service
            .ports
            .iter()
            .map(|port| (port.name.clone(), port.proto));
        let ports = ports.map(|(name, proto)| SlicePort {
            name,
            proto,
            port: target,
        });
        self.slices.push(Slice {
            key: service.key.clone(),
            service: service.key.name.clone(),
            ports: ports.collect(),
            endpoints,
            triggered: None,
        });
        self.services.push(service);
    }

    /// The first lists of a source.
    pub fn events(self, here: &Here) -> Vec<Event> {
        let node = Node {
            name: super::world::NODE.into(),
            addresses: here.node.to_vec(),
            ..Node::default()
        };
        let cidr = ServiceCidr {
            name: "kubernetes".into(),
            cidrs: "10.96.0.0/12".parse().into_iter().collect(),
        };
        vec![
            Event::Replace(Kind::Node, vec![Object::Node(node)]),
            Event::Replace(Kind::Foreign(Label::ProxyName), Vec::new()),
            Event::Replace(Kind::Foreign(Label::Headless), Vec::new()),
            Event::Replace(Kind::ServiceCidr, vec![Object::ServiceCidr(cidr)]),
            Event::Replace(
                Kind::Service,
                self.services.into_iter().map(Object::Service).collect(),
            ),
            Event::Replace(
                Kind::Slice,
                self.slices.into_iter().map(Object::Slice).collect(),
            ),
        ]
    }
}

/// A slice of the large Service; each `version` has another one in place of one endpoint.
pub fn large_slice(number: u32, version: u32) -> Slice {
    let base = 0x0020_0000 + number * SLICE;
    let address = |i| match i {
        0 if version > 0 => pod(0x0030_0000 + number * 0x1_0000 + version),
        _ => pod(base + i),
    };
    Slice {
        key: ObjectKey::new("bench", format!("large-{number}")),
        service: "large".into(),
        ports: vec![SlicePort {
            name: String::new(),
            proto: Proto::TCP,
            port: PORT,
        }],
        endpoints: (0..SLICE).map(|i| endpoint(address(i))).collect(),
        triggered: None,
    }
}

/// A Service that is not there yet, with ten endpoints.
pub fn newcomer(number: u8) -> (Service, Slice) {
    let mut objects = Objects::default();
    let endpoints = (0..ENDPOINTS).map(|i| endpoint(pod(0x003f_0000 + u32::from(number) * 16 + i)));
    objects.add(
        service(
            &format!("newcomer-{number}"),
            Ipv4Addr::new(10, 105, 0, number),
            &[Proto::TCP],
        ),
        endpoints.collect(),
        PORT,
    );
    (objects.services.remove(0), objects.slices.remove(0))
}

/// Ports are named after their protocol where there are several.
fn service(name: &str, vip: Ipv4Addr, protos: &[Proto]) -> Service {
    let name_of = |proto: Proto| match protos {
        [_] => String::new(),
        _ => proto.to_string().to_lowercase(),
    };
    Service {
        key: ObjectKey::new("bench", name),
        cluster_ips: vec![vip.into()],
        ports: protos
            .iter()
            .map(|proto| ServicePort {
                name: name_of(*proto),
                proto: *proto,
                port: PORT,
                node_port: 0,
            })
            .collect(),
        ..Service::default()
    }
}

fn endpoint(addr: Ipv4Addr) -> Endpoint {
    Endpoint {
        addr: addr.into(),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zones: Vec::new(),
        nodes: Vec::new(),
    }
}

/// An address of 10.128.0.0/10.
fn pod(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a80_0000 + number % (1 << 22))
}

/// Destinations that are no Service's, and no NodePort.
pub fn strangers(count: usize) -> Vec<SocketAddrV4> {
    let mut random = Random(2);
    (0..count)
        .map(|_| SocketAddrV4::new(pod(random.below(1 << 22)), 443))
        .collect()
}

/// The same, in another order. Maps are filled in the order of creation: to dial in that order would be to walk through
/// them from front to end.
pub fn shuffled(list: &[SocketAddrV4]) -> Vec<SocketAddrV4> {
    let mut list = list.to_vec();
    Random(3).shuffle(&mut list);
    list
}

/// splitmix64
struct Random(u64);

impl Random {
    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            let other = self.below(u32::try_from(i + 1).unwrap_or(u32::MAX)) as usize;
            list.swap(i, other);
        }
    }

    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = (z ^ (z >> 31)) >> 32;
        u32::try_from((high * u64::from(end)) >> 32).unwrap_or(0)
    }
}
