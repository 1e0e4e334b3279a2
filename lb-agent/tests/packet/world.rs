//! The node that packets meet: its addresses, its devices and Services, of which each stands for one way.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use lb_agent::{
    config::Config,
    model::{
        Event, Kind, Object, Service, ServiceCidr, ServicePort, ServiceType, Slice, SlicePort,
    },
};
use lb_common::net::Proto;

use crate::common::{self, EndpointExt as _, NODE, OTHER, config, ep, ip, key};
use crate::packet::Transport;

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub family: u8,
    /// Somebody outside.
    pub client: IpAddr,
    /// Somebody outside whom source ranges keep out.
    pub stranger: IpAddr,
    /// A client whose address makes a packet without a link header look like one of its family to
    /// BPF_PROG_TEST_RUN, which reads a link header anyway.
    pub l3_client: IpAddr,
    /// This node, on the first device and on the second.
    pub nodes: [IpAddr; 2],
    /// A pod of this node that is no backend.
    pub pod: IpAddr,
    /// Backends: here, and on other nodes by the first device and by the second.
    pub local: IpAddr,
    pub remote: IpAddr,
    pub narrow: IpAddr,
    /// The address that nobody has.
    pub lb0: IpAddr,
    vip_base: &'static str,
    lb_base: &'static str,
}

/// What a client dials.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

pub const ALL_TO: [To; 3] = [To::ClusterIp, To::NodePort, To::LoadBalancer];

/// Services by what is special about them; the number is in their addresses and ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Svc {
    /// One endpoint, here.
    Stack = 10,
    /// One endpoint, on another node.
    Redirect = 11,
    /// External policy Local, one endpoint here.
    Local = 12,
    /// No endpoint.
    Empty = 13,
    /// Both policies Local, one endpoint on another node.
    Elsewhere = 14,
    /// Source ranges that hold the client.
    Ranged = 15,
    /// The endpoint of [`Svc::Stack`].
    Twin = 16,
    /// One endpoint behind a device of small packets.
    Narrow = 17,
    /// Two endpoints, clients stay.
    Sticky = 18,
    /// Two endpoints.
    Both = 19,
}

const ALL_SVC: [Svc; 10] = [
    Svc::Stack,
    Svc::Redirect,
    Svc::Local,
    Svc::Empty,
    Svc::Elsewhere,
    Svc::Ranged,
    Svc::Twin,
    Svc::Narrow,
    Svc::Sticky,
    Svc::Both,
];

/// The port that clients dial, and the one that backends listen on.
pub const PORT: u16 = 80;
pub const TARGET: u16 = 8080;
pub const CLIENT_PORT: u16 = 33_000;
/// The one port to masquerade with, so that fixtures know it.
pub const SNAT_PORT: u16 = 61_000;
pub const MARK: u32 = 1 << 12;
pub const NARROW_MTU: u32 = 1_280;

pub fn places() -> [Place; 2] {
    [
        Place {
            family: 4,
            client: ip("203.0.113.9"),
            stranger: ip("198.51.100.7"),
            l3_client: ip("8.0.113.9"),
            nodes: [ip("192.0.2.1"), ip("192.0.3.1")],
            pod: ip("10.244.1.77"),
            local: ip("10.244.1.1"),
            remote: ip("10.244.2.1"),
            narrow: ip("10.244.3.1"),
            lb0: ip("169.254.42.1"),
            vip_base: "10.96.0.",
            lb_base: "198.18.0.",
        },
        Place {
            family: 6,
            client: ip("2001:db8:9::9"),
            stranger: ip("2001:db8:bad::7"),
            l3_client: ip("2001:db8:86dd::9"),
            nodes: [ip("2001:db8:2::1"), ip("2001:db8:3::1")],
            pod: ip("fd00:244:1::77"),
            local: ip("fd00:244:1::1"),
            remote: ip("fd00:244:2::1"),
            narrow: ip("fd00:244:3::1"),
            lb0: ip("fd00:6c62::2a01"),
            vip_base: "fd00:96::",
            lb_base: "2001:db8:18::",
        },
    ]
}

impl Place {
    pub fn client_at(&self) -> SocketAddr {
        SocketAddr::new(self.client, CLIENT_PORT)
    }

    pub fn vip(&self, svc: Svc) -> IpAddr {
        ip(&format!("{}{}", self.vip_base, svc as u8))
    }

    pub fn lb(&self, svc: Svc) -> IpAddr {
        ip(&format!("{}{}", self.lb_base, svc as u8))
    }

    /// What is dialled.
    pub fn dial(&self, svc: Svc, to: To) -> SocketAddr {
        match to {
            To::ClusterIp => SocketAddr::new(self.vip(svc), PORT),
            To::LoadBalancer => SocketAddr::new(self.lb(svc), PORT),
            To::NodePort => SocketAddr::new(self.nodes[0], node_port(svc)),
        }
    }

    pub fn target(&self, addr: IpAddr) -> SocketAddr {
        SocketAddr::new(addr, TARGET)
    }

    /// What a masqueraded packet is sent from.
    pub fn masqueraded(&self) -> SocketAddr {
        SocketAddr::new(self.nodes[0], SNAT_PORT)
    }
}

pub fn node_port(svc: Svc) -> u16 {
    30_000 + svc as u16
}

/// Openers of every protocol.
pub const OPENERS: [(&str, Transport, Transport, Transport); 3] = [
    (
        "TCP",
        Transport::Tcp(crate::packet::SYN),
        Transport::Tcp(crate::packet::SYN | crate::packet::ACK),
        Transport::Tcp(crate::packet::ACK),
    ),
    ("UDP", Transport::Udp, Transport::Udp, Transport::Udp),
    (
        "SCTP",
        Transport::Sctp(crate::packet::INIT),
        Transport::Sctp(2),
        Transport::Sctp(crate::packet::DATA),
    ),
];

/// The agent's configuration.
pub fn agent_config(bpffs_root: std::path::PathBuf) -> Config {
    let mut config = Config {
        cluster_cidrs: ["10.244.0.0/16", "fd00:244::/32"]
            .map(|text| text.parse().expect("a network"))
            .to_vec(),
        capacities: rig_capacities(),
        bpffs_root,
        ..config()
    };
    config.packets.snat_ports = (SNAT_PORT, SNAT_PORT);
    config.packets.lb0_addr6 = "fd00:6c62::2a01".parse().expect("an address");
    config
}

pub fn rig_capacities() -> lb_agent::maps::Capacities {
    lb_agent::maps::Capacities {
        flows: 4096,
        ..common::ROOMY
    }
}

/// All that an API server would tell.
pub fn events() -> Vec<Event> {
    let node = lb_agent::model::Node {
        name: NODE.into(),
        zone: None,
        addresses: places().map(|place| place.nodes[0]).to_vec(),
        pod_cidrs: Vec::new(),
        is_leaving: false,
    };
    let cidr = ServiceCidr {
        name: "default".into(),
        cidrs: ["10.96.0.0/24", "fd00:96::/112"]
            .map(|text| text.parse().expect("a network"))
            .to_vec(),
    };
    // Nothing is written before every kind was listed.
    let mut events: Vec<Event> = Kind::ALL
        .into_iter()
        .map(|kind| Event::Replace(kind, Vec::new()))
        .collect();
    events.extend([
        Event::HostAddrs(
            places()
                .iter()
                .flat_map(|place| place.nodes)
                .collect::<BTreeSet<_>>(),
        ),
        Event::Replace(Kind::Node, vec![Object::Node(node)]),
        Event::Replace(Kind::ServiceCidr, vec![Object::ServiceCidr(cidr)]),
    ]);
    let services = ALL_SVC.iter().map(|svc| Object::Service(service(*svc)));
    let slices = ALL_SVC
        .iter()
        .flat_map(|svc| places().map(|place| Object::Slice(slice(*svc, &place))));
    events.push(Event::Replace(Kind::Service, services.collect()));
    events.push(Event::Replace(Kind::Slice, slices.collect()));
    events
}

fn name(svc: Svc) -> String {
    format!("shop/{svc:?}").to_lowercase()
}

fn service(svc: Svc) -> Service {
    let is_local = matches!(svc, Svc::Local | Svc::Elsewhere);
    let ports = [Proto::TCP, Proto::UDP, Proto::SCTP].map(|proto| ServicePort {
        name: proto.name().to_lowercase(),
        proto,
        port: PORT,
        node_port: node_port(svc),
    });
    Service {
        key: key(&name(svc)),
        service_type: ServiceType::LoadBalancer,
        cluster_ips: places().map(|place| place.vip(svc)).to_vec(),
        load_balancer_ips: places().map(|place| place.lb(svc)).to_vec(),
        source_ranges: if svc == Svc::Ranged {
            ["203.0.113.0/24", "2001:db8:9::/48"]
                .map(|text| text.parse().expect("a network"))
                .to_vec()
        } else {
            Vec::new()
        },
        external_local: is_local,
        internal_local: svc == Svc::Elsewhere,
        affinity_timeout_s: (svc == Svc::Sticky).then_some(600),
        ports: ports.to_vec(),
        ..Service::default()
    }
}

fn slice(svc: Svc, place: &Place) -> Slice {
    let here = |addr: IpAddr| ep(&addr.to_string()).on(NODE);
    let there = |addr: IpAddr| ep(&addr.to_string()).on(OTHER);
    let endpoints = match svc {
        Svc::Stack | Svc::Local | Svc::Ranged | Svc::Twin => vec![here(place.local)],
        Svc::Redirect | Svc::Elsewhere => vec![there(place.remote)],
        Svc::Narrow => vec![there(place.narrow)],
        Svc::Empty => Vec::new(),
        Svc::Sticky | Svc::Both => vec![here(place.local), there(place.remote)],
    };
    let ports = [Proto::TCP, Proto::UDP, Proto::SCTP].map(|proto| SlicePort {
        name: proto.name().to_lowercase(),
        proto,
        port: TARGET,
    });
    Slice {
        ports: ports.to_vec(),
        ..common::slice(
            &format!("{:?}-{}", svc, place.family).to_lowercase(),
            &name(svc),
            endpoints,
        )
    }
}

/// `ip` commands that make the node's devices and routes.
pub const NETWORK: &str = "\
link add up0 type veth peer name far0
link add up1 mtu 1280 type veth peer name far1
link add pod0 type veth peer name far2
link add lb0 type veth peer name far3
link set far0 up
link set far1 up
link set far2 up
link set far3 up
link set up0 address 02:00:00:00:01:00
link set up1 address 02:00:00:00:01:01
link set lb0 address 02:00:00:00:01:0b
link set lb0 arp off
addr add 192.0.2.1/24 dev up0
addr add 192.0.3.1/24 dev up1
addr add 2001:db8:2::1/64 dev up0 nodad
addr add 2001:db8:3::1/64 dev up1 nodad
link set up0 up
link set up1 up
link set pod0 up
link set lb0 up
neigh add 192.0.2.2 lladdr 02:00:00:00:02:02 dev up0 nud permanent
neigh add 192.0.3.2 lladdr 02:00:00:00:03:02 dev up1 nud permanent
neigh add 2001:db8:2::2 lladdr 02:00:00:00:02:02 dev up0 nud permanent
neigh add 2001:db8:3::2 lladdr 02:00:00:00:03:02 dev up1 nud permanent
route add default via 192.0.2.2
route add default via 2001:db8:2::2
route add 10.244.1.0/24 dev pod0
route add fd00:244:1::/64 dev pod0
route add 10.244.3.0/24 via 192.0.3.2
route add fd00:244:3::/64 via 2001:db8:3::2
route add 169.254.42.1/32 dev lb0
route add fd00:6c62::2a01/128 dev lb0
";
