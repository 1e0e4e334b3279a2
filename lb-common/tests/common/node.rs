//! A node with one Service of two backends, and everyone who may dial it.

#![allow(
    dead_code,
    reason = "every test target is its own crate and uses its part"
)]

use std::cell::RefCell;

use lb_common::{
    config::{AddrRange, AddrRanges, Config, FamilyConfig},
    decide::Chance,
    flow::FlowKey,
    frontend::{Class, FrontendKey, FrontendVal, Kind},
    id::BackendId,
    list::ListRange,
    nat::{Draft, Network, Opening, Outcome, Route},
    net::{Addr4, Addr6, Address, BePort, Proto},
    service::{Backend, BackendFlags, Service},
    track::Timeouts,
};

use super::{SERVICE, Vecs, v4, v6};

pub const NOW_S: u32 = 1_000;
pub const UPLINK: u32 = 2;
pub const POD_SIDE: u32 = 5;
pub const LB0: u32 = 9;
pub const SNAT_LO: u16 = 61_000;
pub const SNAT_HI: u16 = 61_999;
/// What makes the dice choose the backend on this node, and the other one.
pub const LOCAL: u32 = 0;
pub const REMOTE: u32 = u32::MAX;

pub const LOCAL_ID: BackendId = BackendId(1);
pub const REMOTE_ID: BackendId = BackendId(2);

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Ends<A> {
    pub client: A,
    pub pod: A,
    pub node: A,
    pub vip: A,
    pub other_vip: A,
    pub local: A,
    pub remote: A,
    pub lb0: A,
    pods: (A, A),
}

pub fn ends4() -> Ends<Addr4> {
    Ends {
        client: v4("203.0.113.9"),
        pod: v4("10.244.1.77"),
        node: v4("192.0.2.1"),
        vip: v4("10.96.0.10"),
        other_vip: v4("10.96.0.11"),
        local: v4("10.244.1.1"),
        remote: v4("10.244.2.1"),
        lb0: v4("169.254.42.1"),
        pods: (v4("10.244.0.0"), v4("10.244.255.255")),
    }
}

pub fn ends6() -> Ends<Addr6> {
    Ends {
        client: v6("2001:db8:9::9"),
        pod: v6("fd00:244:1::77"),
        node: v6("2001:db8::1"),
        vip: v6("fd00:96::10"),
        other_vip: v6("fd00:96::11"),
        local: v6("fd00:244:1::1"),
        remote: v6("fd00:244:2::1"),
        lb0: v6("fd00:42::1"),
        pods: (
            v6("fd00:244::"),
            v6("fd00:244:ffff:ffff:ffff:ffff:ffff:ffff"),
        ),
    }
}

/// A family whose part of the configuration tests write.
pub trait Family: Address + Default {
    fn put(config: &mut Config, pods: AddrRanges<Self>, lb0: Self);
}

impl Family for Addr4 {
    fn put(config: &mut Config, pods: AddrRanges<Self>, lb0: Self) {
        (config.pods4, config.lb0_addr4) = (pods, lb0);
    }
}

impl Family for Addr6 {
    fn put(config: &mut Config, pods: AddrRanges<Self>, lb0: Self) {
        (config.pods6, config.lb0_addr6) = (pods, lb0);
    }
}

/// With a detector, and `lb0`.
pub fn config<A: Family>(ends: &Ends<A>) -> Config {
    let mut config = Config {
        flags: Config::DETECTOR4 | Config::DETECTOR6,
        nodeport_lo: BePort::new(30_000),
        nodeport_hi: BePort::new(32_767),
        lb0: LB0,
        snat_lo: BePort::new(SNAT_LO),
        snat_hi: BePort::new(SNAT_HI),
        timeouts: Timeouts::DEFAULT,
        ..Config::default()
    };
    let mut pods = AddrRanges {
        len: 1,
        ..AddrRanges::default()
    };
    let (lo, hi) = ends.pods;
    pods.ranges[0] = AddrRange { lo, hi, flags: 0 };
    A::put(&mut config, pods, ends.lb0);
    config
}

pub fn without_detector<A: Family>(mut config: Config) -> Config {
    config.flags &= !(Config::DETECTOR4 | Config::DETECTOR6);
    A::put(&mut config, AddrRanges::default(), A::UNSPECIFIED);
    config
}

/// A Service's policies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policies {
    pub external_local: bool,
    pub internal_local: bool,
}

/// The Service under its ClusterIP, a second VIP and its NodePort, compiled as the agent does.
pub fn tables<A: Family>(ends: &Ends<A>, policies: Policies, has_detector: bool) -> Vecs<A> {
    let mut tables = Vecs::new();
    tables.node_addrs = vec![ends.node];
    let flags = BackendFlags::IN_CLUSTER
        .with(BackendFlags::READY)
        .with(BackendFlags::SERVING);
    let local_flags = flags
        .with(BackendFlags::IN_LOCAL)
        .with(BackendFlags::ON_NODE);
    for (id, addr, flags) in [
        (LOCAL_ID, ends.local, local_flags),
        (REMOTE_ID, ends.remote, flags),
    ] {
        let backend = Backend {
            addr,
            port: BePort::new(8080),
            generation: 1,
            service: SERVICE,
            flags,
        };
        tables.backends.insert(id, backend);
        tables.slots.push(backend.slot(id));
    }
    let service = Service {
        cluster: ListRange::new(0, 2),
        local: ListRange::new(0, 1),
        flags: Service::IN_USE,
        ..Service::default()
    };
    tables.services.insert(SERVICE, service);
    let cluster_ip = FrontendVal::new(SERVICE, Kind::CLUSTER_IP);
    let internal = if policies.internal_local {
        (cluster_ip.with_local(Class::Pod))
            .with_local(Class::Host)
            .with_local(Class::Outside)
    } else {
        cluster_ip
    };
    let external = |kind| {
        let val = FrontendVal::new(SERVICE, kind);
        match (policies.external_local, has_detector) {
            (false, _) => val,
            (true, true) => val.with_local(Class::Outside),
            (true, false) => val.with_local(Class::Outside).with_local(Class::Pod),
        }
    };
    let (node_port, other) = (external(Kind::NODE_PORT), external(Kind::LOAD_BALANCER));
    for proto in [Proto::TCP, Proto::UDP, Proto::SCTP] {
        let key = |addr, port| FrontendKey::new(addr, BePort::new(port), proto);
        tables.frontends.extend([
            (key(ends.vip, 80), internal),
            (key(ends.other_vip, 80), other),
            (key(A::UNSPECIFIED, 30_080), node_port),
        ]);
    }
    tables
}

/// The node's own network, as packets see it.
pub struct Nodes<A> {
    pub ends: Ends<A>,
    pub is_pod_device: bool,
    /// Tuples that sockets of the host use.
    pub taken: RefCell<Vec<FlowKey<A>>>,
    /// Every port is a socket's.
    pub is_all_taken: bool,
    /// The address to masquerade with; unspecified: the device has none.
    pub source: A,
}

impl<A: Address> Nodes<A> {
    pub fn new(ends: Ends<A>) -> Self {
        Self {
            ends,
            is_pod_device: false,
            taken: RefCell::default(),
            is_all_taken: false,
            source: ends.node,
        }
    }
}

impl<A: Address> Network<A> for Nodes<A> {
    fn route(&self, to: &A) -> Route<A> {
        if *to == self.ends.local || *to == self.ends.pod {
            return Route {
                oif: POD_SIDE,
                source: A::UNSPECIFIED,
                is_uplink: false,
            };
        }
        Route {
            oif: UPLINK,
            source: self.source,
            is_uplink: true,
        }
    }

    fn is_port_taken(&self, answers: &FlowKey<A>) -> bool {
        self.is_all_taken || self.taken.borrow().contains(answers)
    }

    fn is_pod_device(&self) -> bool {
        self.is_pod_device
    }
}

/// Dice that fall as told; the last throw is repeated.
pub struct Dice(pub RefCell<Vec<u32>>);

impl Dice {
    pub fn falling(throws: &[u32]) -> Self {
        Self(RefCell::new(throws.iter().rev().copied().collect()))
    }
}

impl Chance for Dice {
    fn now_ns(&self) -> u64 {
        u64::from(NOW_S) * super::SECOND
    }

    fn random(&self) -> u32 {
        let mut left = self.0.borrow_mut();
        let last = left.last().copied().unwrap_or(0);
        if left.len() > 1 {
            left.pop();
        }
        last
    }
}

pub type World<'a, A> = Opening<'a, Vecs<A>, Nodes<A>, Dice>;

pub fn world<'a, A: Family>(config: &'a Config, ends: Ends<A>, policies: Policies) -> World<'a, A>
where
    Config: FamilyConfig<A>,
{
    let has_detector = FamilyConfig::<A>::has_detector(config);
    Opening {
        tables: tables(&ends, policies, has_detector),
        network: Nodes::new(ends),
        config,
        chance: Dice::falling(&[LOCAL]),
        now_s: NOW_S,
    }
}

/// What becomes of an opener, with the dice falling so.
pub fn open<A: Family>(
    world: &mut World<'_, A>,
    key: FlowKey<A>,
    throws: &[u32],
) -> (Outcome, Draft<A>)
where
    Config: FamilyConfig<A>,
{
    world.chance = Dice::falling(throws);
    let mut draft = Draft::opener(key);
    let outcome = world.open(&mut draft);
    (outcome, draft)
}

pub fn tcp<A: Address>(src: A, sport: u16, dst: A, dport: u16) -> FlowKey<A> {
    FlowKey::new(Proto::TCP, src, BePort::new(sport), dst, BePort::new(dport))
}
