//! The table of behaviours of a new flow, on tables in plain collections.

mod common;

use std::collections::BTreeMap;

use common::{
    NETNS, OTHER_SERVICE, SERVICE, Vecs, at_second, dial, dice, host, outside, pod, v4, v6,
};
use lb_common::{
    affinity::AffinityKey,
    config::OWNED,
    decide::{Caller, Client, Decision, Dial, Fixed, Lookup, affinity_key, decide, lookup},
    frontend::{Class, FrontendKey, FrontendVal, Kind, SourceRule},
    id::{BackendId, ServiceId},
    list::{Empty, ListRange},
    net::{Addr4, Addr6, Address, BePort, Proto},
    reason::{Answer, Counter, Reason},
    service::{Algorithm, BackendFlags},
};

const VIP: &str = "172.30.0.1";
const B: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];

fn tables() -> Vecs<Addr4> {
    Vecs::serving(v4(VIP), &B.map(v4), 0)
}

/// Where a decision leads, as text.
fn goes<A: Address>(decision: Decision<A>) -> String {
    match decision {
        Decision::Pass => "pass".into(),
        Decision::Dnat(dnat) => format!("{:?}:{:?}", dnat.to.addr, dnat.to.port),
        Decision::Refuse { reason, service } => format!("{reason:?} of {}", service.0),
    }
}

fn to_vip(tables: &Vecs<Addr4>, client: &Client<Addr4>, dice: &Fixed) -> String {
    goes(decide(tables, &dial(v4(VIP), 80), client, dice))
}

fn hit(tables: &Vecs<Addr4>, client: &Client<Addr4>, dice: &Fixed) -> Counter {
    match decide(tables, &dial(v4(VIP), 80), client, dice) {
        Decision::Dnat(dnat) => dnat.hit,
        other @ (Decision::Pass | Decision::Refuse { .. }) => panic!("{other:?}"),
    }
}

#[test]
fn a_destination_is_a_services_nodes_or_nobodys_by_the_table() {
    let mut tables = tables();
    let node_port = FrontendVal::new(SERVICE, Kind::NODE_PORT);
    tables.frontends.insert(
        FrontendKey::node_port(BePort::new(30080), Proto::TCP),
        node_port,
    );
    tables
        .frontends
        .insert(FrontendKey::any_port(v4(VIP)), FrontendVal::any_port());
    tables.frontends.insert(
        FrontendKey::any_port(v4("172.30.0.7")),
        FrontendVal::foreign(),
    );
    tables.node_addrs.push(v4("192.0.2.1"));
    tables.range = Some((v4("172.30.0.0"), v4("172.30.0.255"), OWNED));
    let found = Lookup::Found(node_port);
    let cluster_ip = Lookup::Found(FrontendVal::new(SERVICE, Kind::CLUSTER_IP));
    let (unknown, free) = (
        Lookup::Refuse(Reason::UnknownPort),
        Lookup::Refuse(Reason::UnallocatedAddress),
    );
    let rows: [(&str, &str, u16, Client<Addr4>, Lookup); 17] = [
        ("a ClusterIP", VIP, 80, pod(), cluster_ip),
        ("83: another port of it", VIP, 81, pod(), unknown),
        ("83: a NodePort number on it", VIP, 30080, pod(), unknown),
        (
            "2: an address of another proxy",
            "172.30.0.7",
            80,
            pod(),
            Lookup::Pass,
        ),
        (
            "84: an address without a Service",
            "172.30.0.9",
            80,
            pod(),
            free,
        ),
        (
            "an address that is none of ours",
            "8.8.8.8",
            80,
            pod(),
            Lookup::Pass,
        ),
        (
            "47: a NodePort from a pod",
            "192.0.2.1",
            30080,
            pod(),
            found,
        ),
        (
            "47: a NodePort from the host",
            "192.0.2.1",
            30080,
            host(),
            found,
        ),
        (
            "47: a NodePort on another host",
            "192.0.2.2",
            30080,
            pod(),
            Lookup::Pass,
        ),
        (
            "47: a port in the range that nobody has",
            "192.0.2.1",
            30081,
            pod(),
            Lookup::Pass,
        ),
        (
            "47: a port outside of the range",
            "192.0.2.1",
            80,
            pod(),
            Lookup::Pass,
        ),
        (
            "53: loopback from the host",
            "127.0.0.1",
            30080,
            host(),
            found,
        ),
        (
            "53: loopback is all of 127/8",
            "127.9.9.9",
            30080,
            host(),
            found,
        ),
        (
            "the unspecified address means loopback",
            "0.0.0.0",
            30080,
            host(),
            found,
        ),
        (
            "the unspecified address of another namespace is its own loopback",
            "0.0.0.0",
            30080,
            pod(),
            Lookup::Pass,
        ),
        (
            "another namespace's loopback is its own",
            "127.0.0.1",
            30080,
            pod(),
            Lookup::Pass,
        ),
        (
            "loopback of a client outside",
            "127.0.0.1",
            30080,
            outside(v4("198.51.100.1")),
            Lookup::Pass,
        ),
    ];
    for (name, addr, port, client, expected) in rows {
        assert_eq!(
            lookup(&tables, &dial(v4(addr), port), &client),
            expected,
            "{name}"
        );
    }
    let udp = Dial {
        proto: Proto::UDP,
        ..dial(v4("192.0.2.1"), 30080)
    };
    assert_eq!(
        lookup(&tables, &udp, &pod()),
        Lookup::Pass,
        "57: another protocol"
    );
    tables.localhost = false;
    for addr in ["127.0.0.1", "0.0.0.0"] {
        assert_eq!(
            lookup(&tables, &dial(v4(addr), 30080), &host()),
            Lookup::Pass,
            "53: switched off: {addr}"
        );
    }
    tables.range = Some((v4("172.30.0.0"), v4("172.30.0.255"), 0));
    let unowned = dial(v4("172.30.0.9"), 80);
    assert_eq!(
        lookup(&tables, &unowned, &pod()),
        Lookup::Pass,
        "84: no ServiceCIDR known"
    );
}

#[test]
fn a_destination_that_is_no_services_costs_one_hash_lookup() {
    let mut tables = tables();
    tables.range = Some((v4("172.30.0.0"), v4("172.30.0.255"), OWNED));
    lookup(&tables, &dial(v4("8.8.8.8"), 443), &pod());
    assert_eq!(tables.frontend_reads.get(), 1);
}

/// The agent writes an address's ports before the address as such: whoever sees this one can see those.
#[test]
fn a_port_that_came_between_two_reads_is_found() {
    let mut tables = tables();
    tables
        .frontends
        .insert(FrontendKey::any_port(v4(VIP)), FrontendVal::any_port());
    tables.range = Some((v4("172.30.0.0"), v4("172.30.0.255"), OWNED));
    tables.early_reads.set(1);
    assert_eq!(to_vip(&tables, &pod(), &dice(0)), "10.0.0.1:8080");
}

#[test]
fn ipv6_is_looked_up_in_its_own_right() {
    let mut tables = Vecs::<Addr6>::serving(v6("fd30::1"), &[v6("fd10::1")], 0);
    tables.range = Some((v6("fd30::"), v6("fd30::ffff"), OWNED));
    let node_port = FrontendVal::new(SERVICE, Kind::NODE_PORT);
    tables.frontends.insert(
        FrontendKey::node_port(BePort::new(30080), Proto::TCP),
        node_port,
    );
    let goes_to = |addr, port| goes(decide(&tables, &dial(v6(addr), port), &host(), &dice(0)));
    assert_eq!(goes_to("fd30::1", 80), "fd10::1:8080");
    assert_eq!(goes_to("::1", 30080), "fd10::1:8080");
    assert_eq!(goes_to("fd30::2", 80), "UnallocatedAddress of 0");
    assert_eq!(goes_to("::2", 30080), "pass");
}

#[test]
fn an_empty_list_answers_with_its_verdict() {
    let mut tables = tables();
    tables.service_mut().cluster = ListRange::empty(Empty::Reject);
    assert_eq!(to_vip(&tables, &pod(), &dice(0)), "NoEndpoints of 7");
    tables.service_mut().cluster = ListRange::empty(Empty::Drop);
    assert_eq!(to_vip(&tables, &pod(), &dice(0)), "NoLocalEndpoints of 7");
    tables.services.clear();
    assert_eq!(to_vip(&tables, &pod(), &dice(0)), "NoEndpoints of 7");
}

#[test]
fn each_class_uses_the_list_that_its_bit_names() {
    let mut tables = Vecs::serving(v4(VIP), &B.map(v4), 1);
    tables.all_frontends(|val| val.with_local(Class::Outside));
    let last = dice(u32::MAX);
    assert_eq!(to_vip(&tables, &pod(), &last), "10.0.0.4:8080");
    assert_eq!(to_vip(&tables, &host(), &last), "10.0.0.4:8080");
    assert_eq!(
        to_vip(&tables, &outside(v4("198.51.100.1")), &last),
        "10.0.0.1:8080"
    );
}

#[test]
fn random_numbers_spread_evenly_over_a_list() {
    let tables = tables();
    let mut hits: BTreeMap<String, u32> = BTreeMap::new();
    for i in 0..256_u32 {
        *hits
            .entry(to_vip(&tables, &pod(), &dice(i << 24)))
            .or_default() += 1;
    }
    let expected = B.map(|addr| (format!("{addr}:8080"), 64));
    assert_eq!(hits, expected.into(), "rule 33");
}

#[test]
fn round_robin_takes_backends_in_turn() {
    let mut tables = tables();
    tables.service_mut().algorithm = Algorithm::ROUND_ROBIN;
    let all: Vec<String> = (0..5).map(|_| to_vip(&tables, &pod(), &dice(9))).collect();
    assert_eq!(
        all,
        [B[0], B[1], B[2], B[3], B[0]].map(|addr| format!("{addr}:8080"))
    );
}

#[test]
fn an_unknown_algorithm_is_random() {
    let mut tables = tables();
    tables.service_mut().algorithm = Algorithm(200);
    assert_eq!(to_vip(&tables, &pod(), &dice(u32::MAX)), "10.0.0.4:8080");
    assert_eq!(tables.turn.get(), 0);
}

#[test]
fn source_ranges_are_looked_at_before_all_else() {
    let (inside, elsewhere) = (v4("192.0.2.9"), v4("198.51.100.9"));
    let in_netns = |cookie| Client {
        netns: cookie,
        ..pod()
    };
    let bound = |addr| Client {
        addr: Some(addr),
        ..pod()
    };
    let mut tables = tables();
    tables.service_mut().cluster = ListRange::empty(Empty::Reject);
    tables.sources.push((SERVICE, inside));
    tables.netns.extend([(1, inside), (2, elsewhere)]);
    let allowed = "NoEndpoints of 7";
    let rows = [
        ("allowed", SourceRule::Allow, pod(), allowed),
        ("denied", SourceRule::Deny, pod(), "SourceDenied of 7"),
        (
            "bound inside, though its class is denied",
            SourceRule::Deny,
            bound(inside),
            allowed,
        ),
        ("bound inside", SourceRule::Check, bound(inside), allowed),
        (
            "bound outside",
            SourceRule::Check,
            bound(elsewhere),
            "SourceDenied of 7",
        ),
        ("namespace inside", SourceRule::Check, in_netns(1), allowed),
        (
            "namespace outside",
            SourceRule::Check,
            in_netns(2),
            "SourceDenied of 7",
        ),
        (
            "namespace unknown",
            SourceRule::Check,
            in_netns(3),
            "SourceUnknown of 7",
        ),
    ];
    for (name, rule, client, expected) in rows {
        tables.all_frontends(|val| {
            FrontendVal::new(val.service, val.kind).with_sources(Class::Pod, rule)
        });
        assert_eq!(
            to_vip(&tables, &client, &dice(0)),
            expected,
            "rule 63: {name}"
        );
    }
}

#[test]
fn a_bound_address_decides_before_the_verdict_of_its_class() {
    let mut tables = tables();
    tables.sources.push((SERVICE, v4("192.0.2.9")));
    tables.all_frontends(|val| val.with_sources(Class::Outside, SourceRule::Check));
    let bound = |addr| Client {
        addr: Some(v4(addr)),
        ..pod()
    };
    assert_eq!(to_vip(&tables, &pod(), &dice(0)), "10.0.0.1:8080");
    assert_eq!(
        to_vip(&tables, &bound("192.0.2.9"), &dice(0)),
        "10.0.0.1:8080"
    );
    assert_eq!(
        to_vip(&tables, &bound("198.51.100.9"), &dice(0)),
        "SourceDenied of 7"
    );
}

#[test]
fn a_range_of_another_service_lets_nobody_in() {
    let mut tables = tables();
    tables.sources.push((OTHER_SERVICE, v4("192.0.2.9")));
    tables.all_frontends(|val| val.with_sources(Class::Outside, SourceRule::Check));
    let client = outside(v4("192.0.2.9"));
    assert_eq!(to_vip(&tables, &client, &dice(0)), "SourceDenied of 7");
}

fn sticky() -> Vecs<Addr4> {
    let mut tables = tables();
    tables.service_mut().affinity_timeout_s = 10;
    tables
}

#[test]
fn a_client_with_affinity_stays_until_it_was_idle_for_the_timeout() {
    let tables = sticky();
    let connect = |second, random| to_vip(&tables, &pod(), &at_second(second, random));
    assert_eq!(connect(100, 0), "10.0.0.1:8080");
    assert_eq!(
        connect(109, u32::MAX),
        "10.0.0.1:8080",
        "rule 71: not idle long enough"
    );
    assert_eq!(
        connect(118, u32::MAX),
        "10.0.0.1:8080",
        "rule 71: a connection refreshes"
    );
    assert_eq!(
        connect(128, u32::MAX),
        "10.0.0.4:8080",
        "rule 71: idle for the timeout"
    );
    assert_eq!(connect(129, 0), "10.0.0.4:8080", "the new one is pinned");
}

#[test]
fn pinned_and_chosen_backends_are_counted_apart() {
    let tables = sticky();
    assert_eq!(hit(&tables, &pod(), &dice(0)), Counter::HitChosen);
    assert_eq!(hit(&tables, &pod(), &dice(0)), Counter::HitPinned);
}

#[test]
fn a_pin_holds_only_while_its_backend_is_in_the_list() {
    let pinned = || {
        let tables = sticky();
        assert_eq!(to_vip(&tables, &pod(), &dice(0)), "10.0.0.1:8080");
        tables
    };
    let again = |tables: &Vecs<Addr4>| to_vip(tables, &pod(), &dice(u32::MAX));
    let first = BackendId(1);

    let mut tables = pinned();
    tables.backends.get_mut(&first).unwrap().flags = BackendFlags::SERVING;
    assert_eq!(again(&tables), "10.0.0.4:8080", "rule 72: left the list");
    assert_eq!(
        to_vip(&tables, &pod(), &dice(0)),
        "10.0.0.4:8080",
        "and is pinned anew"
    );

    let mut tables = pinned();
    tables.backends.get_mut(&first).unwrap().generation = 2;
    assert_eq!(
        again(&tables),
        "10.0.0.4:8080",
        "the id is another endpoint's"
    );

    let mut tables = pinned();
    tables.backends.get_mut(&first).unwrap().service = OTHER_SERVICE;
    assert_eq!(
        again(&tables),
        "10.0.0.4:8080",
        "the id is another service's"
    );

    let mut tables = pinned();
    tables.backends.remove(&first);
    assert_eq!(again(&tables), "10.0.0.4:8080", "the id is free");

    let mut tables = pinned();
    tables.service_mut().affinity_timeout_s = 0;
    assert_eq!(again(&tables), "10.0.0.4:8080", "rule 74: switched off");
}

#[test]
fn a_pin_to_the_cluster_list_says_nothing_about_the_local_one() {
    let mut tables = Vecs::serving(v4(VIP), &B.map(v4), 1);
    tables.service_mut().affinity_timeout_s = 10;
    assert_eq!(to_vip(&tables, &pod(), &dice(u32::MAX)), "10.0.0.4:8080");
    tables.all_frontends(|val| {
        val.with_local(Class::Pod)
            .with_local(Class::Host)
            .with_local(Class::Outside)
    });
    assert_eq!(
        to_vip(&tables, &pod(), &dice(u32::MAX)),
        "10.0.0.1:8080",
        "rule 72"
    );
}

#[test]
fn frontends_of_a_service_share_affinity_and_clients_do_not() {
    let mut tables = sticky();
    let other_vip = FrontendKey::new(v4("203.0.113.1"), BePort::new(81), Proto::TCP);
    tables
        .frontends
        .insert(other_vip, FrontendVal::new(SERVICE, Kind::LOAD_BALANCER));
    assert_eq!(to_vip(&tables, &pod(), &dice(u32::MAX)), "10.0.0.4:8080");
    let other = decide(&tables, &dial(v4("203.0.113.1"), 81), &pod(), &dice(0));
    assert_eq!(goes(other), "10.0.0.4:8080", "rule 70");
    let neighbour = Client {
        netns: NETNS + 1,
        ..pod()
    };
    assert_eq!(
        to_vip(&tables, &neighbour, &dice(0)),
        "10.0.0.1:8080",
        "rule 70"
    );
}

#[test]
fn a_client_is_its_address_outside_and_its_namespace_at_a_socket() {
    let addr = v4("198.51.100.9");
    let by_addr = AffinityKey {
        client: addr.mapped(),
        service: SERVICE,
        family: 4,
    };
    let by_netns = AffinityKey::of_netns(NETNS, SERVICE, 4);
    let bound = Client {
        addr: Some(addr),
        ..pod()
    };
    assert_eq!(affinity_key(&outside(addr), SERVICE), by_addr);
    assert_eq!(affinity_key(&pod::<Addr4>(), SERVICE), by_netns);
    assert_eq!(
        affinity_key(&bound, SERVICE),
        by_netns,
        "a bound socket is no other client"
    );
    assert_ne!(by_netns, AffinityKey::of_netns(NETNS, SERVICE, 6));
    assert_ne!(by_netns, AffinityKey::of_netns(NETNS + 1, SERVICE, 4));
}

#[test]
fn a_reader_that_raced_with_a_change_looks_again() {
    let mut tables = tables();
    // The list was at 0..4, and is at 4..8 now; its old slots are another service's.
    let moved: Vec<_> = tables.slots.clone();
    tables
        .slots
        .iter_mut()
        .for_each(|slot| slot.service = OTHER_SERVICE);
    tables.slots.extend(moved);
    let old = *tables.service_mut();
    tables.service_mut().cluster = ListRange::new(4, 4);
    for stale_reads in 1..=3 {
        tables.stale.replace(vec![old; stale_reads]);
        assert_eq!(
            to_vip(&tables, &pod(), &dice(0)),
            "10.0.0.1:8080",
            "{stale_reads}"
        );
    }
    tables.stale.replace(vec![old; 50]);
    assert_eq!(
        to_vip(&tables, &pod(), &dice(0)),
        "Raced of 7",
        "not for ever"
    );
}

#[test]
fn a_reader_that_raced_with_an_emptied_or_lost_list_gives_up() {
    let mut tables = tables();
    let old = *tables.service_mut();
    tables
        .slots
        .iter_mut()
        .for_each(|slot| slot.service = OTHER_SERVICE);
    tables.service_mut().cluster = ListRange::empty(Empty::Reject);
    tables.stale.replace(vec![old]);
    assert_eq!(to_vip(&tables, &pod(), &dice(0)), "Raced of 7");
    tables.services.clear();
    tables.stale.replace(vec![old]);
    assert_eq!(to_vip(&tables, &pod(), &dice(0)), "Raced of 7");
    tables.slots.clear();
    tables.stale.replace(vec![old]);
    assert_eq!(
        to_vip(&tables, &pod(), &dice(0)),
        "Raced of 7",
        "a slot beyond the array"
    );
}

fn bound_to_loopback() -> Client<Addr4> {
    Client {
        addr: Some(Addr4::LOCALHOST),
        ..host()
    }
}

/// The first `count` backends are on this host.
fn with_host_backends(count: u32) -> Vecs<Addr4> {
    let mut tables = tables();
    for id in 1..=count {
        let backend = tables
            .backends
            .get_mut(&BackendId(id))
            .expect("it is there");
        backend.flags = backend.flags.with(BackendFlags::HOST_ADDR);
    }
    tables
}

#[test]
fn a_socket_bound_to_loopback_reaches_only_backends_on_this_host() {
    let client = bound_to_loopback();
    let none = with_host_backends(0);
    assert_eq!(to_vip(&none, &client, &dice(0)), "LoopbackBound of 7");
    let in_a_pod = Client {
        class: Class::Pod,
        ..client
    };
    assert_eq!(
        to_vip(&with_host_backends(4), &in_a_pod, &dice(0)),
        "LoopbackBound of 7",
        "this host is beyond a pod's loopback"
    );
    for (count, last) in [
        (1, "10.0.0.1:8080"),
        (2, "10.0.0.2:8080"),
        (4, "10.0.0.4:8080"),
    ] {
        let tables = with_host_backends(count);
        assert_eq!(to_vip(&tables, &client, &dice(0)), "10.0.0.1:8080");
        assert_eq!(to_vip(&tables, &client, &dice(u32::MAX)), last);
        assert_eq!(
            to_vip(&tables, &pod(), &dice(u32::MAX)),
            "10.0.0.4:8080",
            "others choose freely"
        );
    }
}

#[test]
fn a_socket_bound_to_loopback_trusts_no_slot_that_raced() {
    let client = bound_to_loopback();
    let mut tables = with_host_backends(1);
    tables.slots[0].service = OTHER_SERVICE;
    assert_eq!(to_vip(&tables, &client, &dice(0)), "Raced of 7");
    let mut tables = with_host_backends(1);
    tables.backends.get_mut(&BackendId(1)).unwrap().generation = 9;
    assert_eq!(to_vip(&tables, &client, &dice(0)), "LoopbackBound of 7");
    let mut tables = with_host_backends(1);
    tables.backends.clear();
    assert_eq!(to_vip(&tables, &client, &dice(0)), "LoopbackBound of 7");
    let mut tables = with_host_backends(1);
    tables.slots.clear();
    assert_eq!(to_vip(&tables, &client, &dice(0)), "LoopbackBound of 7");
}

/// Panics when asked for what a frontend that treats all alike does not need.
struct Unasked;

impl Caller<Addr4> for Unasked {
    fn class(&self) -> Class {
        panic!("the class costs a helper call")
    }

    fn netns(&self) -> u64 {
        panic!("the namespace costs a helper call")
    }

    fn addr(&self) -> Option<Addr4> {
        None
    }
}

#[test]
fn a_plain_service_asks_nothing_of_the_client() {
    let decision = decide(&tables(), &dial(v4(VIP), 80), &Unasked, &dice(0));
    assert_eq!(goes(decision), "10.0.0.1:8080");
    let elsewhere = decide(&tables(), &dial(v4("8.8.8.8"), 30080), &Unasked, &dice(0));
    assert_eq!(goes(elsewhere), "pass");
}

#[test]
fn every_reason_names_its_counter_and_its_rule() {
    let all = [
        Reason::NoEndpoints,
        Reason::NoLocalEndpoints,
        Reason::UnknownPort,
        Reason::UnallocatedAddress,
        Reason::SourceDenied,
        Reason::SourceUnknown,
        Reason::LoopbackBound,
        Reason::Raced,
    ];
    for reason in all {
        assert_eq!(format!("{:?}", reason.counter()), format!("{reason:?}"));
        assert!(!reason.rule().is_empty(), "{reason:?}");
    }
}

#[test]
fn what_cannot_answer_refuses_and_what_must_not_is_unreachable() {
    use Reason::{
        LoopbackBound, NoEndpoints, NoLocalEndpoints, Raced, SourceDenied, SourceUnknown,
        UnallocatedAddress, UnknownPort,
    };
    for reason in [NoEndpoints, UnknownPort, LoopbackBound, Raced] {
        assert_eq!(reason.answer(), Answer::Refused, "{reason:?}");
    }
    for reason in [
        NoLocalEndpoints,
        UnallocatedAddress,
        SourceDenied,
        SourceUnknown,
    ] {
        assert_eq!(reason.answer(), Answer::Unreachable, "{reason:?}");
    }
}

#[test]
fn values_of_frontends_keep_rules_apart_by_class() {
    let classes = [Class::Pod, Class::Host, Class::Outside];
    let rules = [SourceRule::Allow, SourceRule::Deny, SourceRule::Check];
    for class in classes {
        for rule in rules {
            let val = FrontendVal::new(ServiceId(1), Kind::LOAD_BALANCER).with_sources(class, rule);
            for other in classes {
                let expected = if other == class {
                    rule
                } else {
                    SourceRule::Allow
                };
                assert_eq!(val.sources(other), expected, "{class:?} {rule:?} {other:?}");
            }
            assert_eq!(val.has_source_ranges(), rule != SourceRule::Allow);
            assert_eq!(val.is_same_for_all(), rule == SourceRule::Allow);
        }
    }
}
