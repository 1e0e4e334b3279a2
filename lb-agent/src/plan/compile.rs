//! One Service and its endpoints as this node sees them: which addresses answer, for whom, with
//! which endpoints. Pure; knows no ids.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::{
    frontend::{Class, FrontendKey, FrontendVal, Kind, SourceRule},
    id::ServiceId,
    net::BePort,
};

use super::{Facts, Family, PortImage, PortKey};
use crate::{
    eligible::{self, Uses},
    model::{Service, ServicePort, Slice},
};

/// What a Service is in family `A`: nothing where it has no ClusterIP of it (rule 6).
pub fn compile<A: Family>(
    service: &Service,
    slices: &[&Slice],
    facts: &Facts,
) -> BTreeMap<PortKey, PortImage<A>> {
    let cluster_ips = of_family::<A>(&service.cluster_ips);
    if cluster_ips.is_empty() {
        return BTreeMap::new();
    }
    let vips = Vips {
        cluster: cluster_ips,
        load_balancer: of_family(&service.load_balancer_ips),
        external: of_family(&service.external_ips),
    };
    let sources = Sources::<A>::new(service, &vips, facts);
    let mut images = BTreeMap::new();
    for port in service.ports.iter().filter(|port| port.port != 0) {
        let key = PortKey {
            service: service.key.clone(),
            port: port.name.clone(),
            proto: port.proto,
        };
        let image = compile_port(service, port, &vips, &sources, slices, facts);
        images.entry(key).or_insert(image);
    }
    images
}

/// What of another proxy's addresses is of family `A`.
pub fn foreign<A: Family>(ips: &[IpAddr]) -> BTreeSet<A> {
    of_family(ips).into_iter().collect()
}

/// Addresses of one family.
struct Vips<A> {
    cluster: Vec<A>,
    load_balancer: Vec<A>,
    external: Vec<A>,
}

/// The addresses of family `A` that can be dialled from elsewhere: not loopback, and not the
/// unspecified address, which NodePorts are stored under.
fn of_family<A: Family>(ips: &[IpAddr]) -> Vec<A> {
    (ips.iter().filter_map(|ip| A::from_ip(*ip)))
        .filter(|addr| !addr.is_unspecified() && !addr.is_loopback())
        .collect()
}

fn compile_port<A: Family>(
    service: &Service,
    port: &ServicePort,
    vips: &Vips<A>,
    sources: &Sources<A>,
    slices: &[&Slice],
    facts: &Facts,
) -> PortImage<A> {
    let is_external =
        port.node_port != 0 || !vips.load_balancer.is_empty() || !vips.external.is_empty();
    let uses = Uses {
        cluster: !service.internal_local || is_external,
        local: service.internal_local || (service.external_local && is_external),
    };
    let eligible = eligible::select::<A>(port, slices, uses, facts);
    PortImage {
        frontends: frontends(service, port, vips, sources, facts),
        endpoints: eligible.endpoints,
        verdict: eligible.verdict,
        affinity_timeout_s: service.affinity_timeout_s.unwrap_or(0),
        algorithm: service.algorithm,
        sources: if vips.load_balancer.is_empty() {
            BTreeSet::new()
        } else {
            sources.ranges.clone()
        },
        created_s: service.created_s,
    }
}

/// What the port answers on. Where one address is named twice, the first kind below counts.
fn frontends<A: Family>(
    service: &Service,
    port: &ServicePort,
    vips: &Vips<A>,
    sources: &Sources<A>,
    facts: &Facts,
) -> BTreeMap<FrontendKey<A>, FrontendVal> {
    let number = BePort::new(port.port);
    let at = |vip: &A| FrontendKey::new(*vip, number, port.proto);
    let external = |kind| external(service, kind, facts.family::<A>().has_detector);
    let mut all = BTreeMap::new();
    for vip in &vips.cluster {
        all.insert(FrontendKey::any_port(*vip), FrontendVal::any_port());
        all.insert(at(vip), internal(service));
    }
    if port.node_port != 0 {
        let key = FrontendKey::node_port(BePort::new(port.node_port), port.proto);
        all.insert(key, external(Kind::NODE_PORT));
    }
    for vip in &vips.load_balancer {
        let val = sources.restrict(external(Kind::LOAD_BALANCER));
        all.entry(at(vip)).or_insert(val);
    }
    for vip in &vips.external {
        all.entry(at(vip)).or_insert(external(Kind::EXTERNAL_IP));
    }
    all
}

/// A ClusterIP: the internal policy alone counts, for every client (rules 34 and 37).
fn internal(service: &Service) -> FrontendVal {
    let val = FrontendVal::new(ServiceId::NONE, Kind::CLUSTER_IP);
    if !service.internal_local {
        return val;
    }
    val.with_local(Class::Pod)
        .with_local(Class::Host)
        .with_local(Class::Outside)
}

/// Anything else: the external policy alone counts, and clients of this node are short-circuited to
/// the Cluster list (rules 35, 39 and 42).
fn external(service: &Service, kind: Kind, has_detector: bool) -> FrontendVal {
    let val = FrontendVal::new(ServiceId::NONE, kind);
    if !service.external_local {
        return val;
    }
    let val = val.with_local(Class::Outside);
    if has_detector {
        val
    } else {
        val.with_local(Class::Pod)
    }
}

/// `loadBalancerSourceRanges` of one family (rules 62 to 65), and what they mean for clients of
/// this node.
struct Sources<A: Family> {
    ranges: BTreeSet<(A, u32)>,
    pod: SourceRule,
    host: SourceRule,
}

impl<A: Family> Sources<A> {
    fn new(service: &Service, vips: &Vips<A>, facts: &Facts) -> Self {
        let nets: Vec<IpNet> = (service.source_ranges.iter())
            .filter(|net| A::from_ip(net.addr()).is_some())
            .map(IpNet::trunc)
            .collect();
        let family = facts.family::<A>();
        let mut ranges: BTreeSet<(A, u32)> = nets.iter().filter_map(bits).collect();
        // Some load balancers put the VIP on the node, whose own traffic then has it as source.
        let has_node = |ip: IpAddr| nets.iter().any(|net| net.contains(&ip));
        if family.primary.is_some_and(has_node) {
            ranges.extend(vips.load_balancer.iter().map(|vip| (*vip, A::BITS)));
        }
        let own: Vec<IpNet> = family.own_addrs.iter().copied().map(IpNet::from).collect();
        Self {
            pod: rule(&family.pod_ranges, &nets),
            host: rule(&own, &nets),
            ranges,
        }
    }

    /// Without a range of the family its VIPs are unfiltered (rule 65).
    fn restrict(&self, val: FrontendVal) -> FrontendVal {
        if self.ranges.is_empty() {
            return val;
        }
        val.with_sources(Class::Pod, self.pod)
            .with_sources(Class::Host, self.host)
            .with_sources(Class::Outside, SourceRule::Check)
    }
}

fn bits<A: Family>(net: &IpNet) -> Option<(A, u32)> {
    Some((A::from_ip(net.network())?, u32::from(net.prefix_len())))
}

/// What ranges say about clients somewhere in `clients`: where those are not known, or are only in
/// part inside, each client's address decides.
fn rule(clients: &[IpNet], ranges: &[IpNet]) -> SourceRule {
    let ranges = IpNet::aggregate(&ranges.to_vec());
    let is_inside = |net: &IpNet| ranges.iter().any(|range| range.contains(net));
    let is_outside = |net: &IpNet| {
        let touches = |range: &IpNet| range.contains(net) || net.contains(range);
        !ranges.iter().any(touches)
    };
    if clients.is_empty() {
        SourceRule::Check
    } else if clients.iter().all(is_inside) {
        SourceRule::Allow
    } else if clients.iter().all(is_outside) {
        SourceRule::Deny
    } else {
        SourceRule::Check
    }
}
