//! Any sequence of object changes, failed writes and restarts ends in the same maps as a fresh
//! start, and no reader meets anything half-made on the way: the maps in memory check every op.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{
    EndpointExt, NODE, OTHER, ROOMY, World, config, detecting, ep, ip, node, port, slice, svc,
};
use lb_agent::{
    config::Config,
    maps::{LbMaps, fake::FakeMaps, faulty::Faulty},
    model::{Endpoint, Event, Foreign, Kind, Label, Node, Object, ObjectRef, Service, Slice},
    plan::{self, Family, Planner},
};
use lb_common::{
    net::{Addr4, Addr6, Proto},
    service::Algorithm,
};
use proptest::{prelude::*, sample::select};

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    News(Event),
    Restart,
    Grace,
}

const SERVICES: [&str; 4] = ["shop/web", "shop/api", "shop/db", "test/web"];
const SLICES: [&str; 4] = ["s1", "s2", "s3", "s4"];

fn addrs(prefix4: &str, prefix6: &str, n: u8) -> BoxedStrategy<Vec<std::net::IpAddr>> {
    let v4: Vec<_> = (1..=n).map(|i| ip(&format!("{prefix4}.{i}"))).collect();
    let v6: Vec<_> = (1..=n).map(|i| ip(&format!("{prefix6}::{i}"))).collect();
    (0..=1_usize, 0..=1_usize, select(v4), select(v6))
        .prop_map(|(has4, has6, v4, v6)| {
            let mut both = Vec::new();
            both.extend((has4 == 1).then_some(v4));
            both.extend((has6 == 1).then_some(v6));
            both
        })
        .boxed()
}

fn service() -> impl Strategy<Value = Service> {
    let policies = (
        any::<bool>(),
        any::<bool>(),
        0..3_i64,
        any::<bool>(),
        any::<bool>(),
    );
    let vips = (
        addrs("172.30.0", "fd30", 4),
        addrs("198.51.100", "fd31", 2),
        addrs("198.51.100", "fd31", 2),
    );
    let ports = (0..3_usize, 0..4_u16, 0..3_u16, any::<bool>());
    (select(&SERVICES), vips, policies, ports).prop_map(
        |(name, (cluster, lb, external), policies, (count, node_port, base, has_ranges))| {
            let (internal_local, external_local, created_s, sticky, in_turn) = policies;
            let ports = [
                port(
                    "",
                    Proto::TCP,
                    80 + base,
                    if node_port == 0 { 0 } else { 30000 + node_port },
                ),
                port(
                    "dns",
                    Proto::UDP,
                    53,
                    if node_port == 3 { 30053 } else { 0 },
                ),
            ];
            Service {
                created_s,
                cluster_ips: cluster,
                load_balancer_ips: lb,
                external_ips: external,
                internal_local,
                external_local,
                affinity_timeout_s: sticky.then_some(60),
                algorithm: Algorithm(u8::from(in_turn)),
                source_ranges: has_ranges
                    .then(|| "192.0.2.0/24".parse().expect("a network"))
                    .into_iter()
                    .collect(),
                ports: ports.into_iter().take(count).collect(),
                ..svc(name, &[])
            }
        },
    )
}

/// A Service of another proxy: maybe one that is ours, too, and maybe with another's address.
fn foreign() -> impl Strategy<Value = Foreign> {
    let vips = addrs("172.30.0", "fd30", 4);
    let label = select(vec![Label::ProxyName, Label::Headless]);
    (select(&SERVICES), label, vips).prop_map(|(name, label, cluster_ips)| Foreign {
        key: common::key(name),
        label,
        cluster_ips,
    })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let addr = select(vec![
        "10.1.0.1",
        "10.1.0.2",
        "10.1.0.3",
        "192.0.2.1",
        "fd10::1",
        "fd10::2",
        "fd10::3",
    ]);
    (addr, 0..4_u8, 0..3_u8, 0..4_u8).prop_map(|(addr, condition, place, hint)| {
        let e = ep(addr);
        let e = match condition {
            0 | 1 => e,
            2 => e.draining(),
            _ => e.unready(),
        };
        let e = match place {
            0 => e,
            1 => e.on(NODE),
            _ => e.on(OTHER),
        };
        match hint {
            0 | 1 => e,
            2 => e.zone("a"),
            _ => e.zone("b").for_node(OTHER),
        }
    })
}

fn a_slice() -> impl Strategy<Value = Slice> {
    let endpoints = prop::collection::vec(endpoint(), 0..6);
    (select(&SLICES), select(&SERVICES), endpoints, any::<bool>()).prop_map(
        |(name, service, endpoints, has_dns)| {
            let mut slice = slice(name, service, endpoints);
            if has_dns {
                slice.ports.push(lb_agent::model::SlicePort {
                    name: "dns".into(),
                    proto: Proto::UDP,
                    port: 5353,
                });
            }
            slice
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let service_ref = select(&SERVICES).prop_map(|name| ObjectRef::Service(common::key(name)));
    let slice_ref = (select(&SLICES), select(vec!["shop", "test"]))
        .prop_map(|(name, ns)| ObjectRef::Slice(common::key(&format!("{ns}/{name}"))));
    let own_node = select(vec![Some("a"), Some("b"), None]).prop_map(|zone| {
        let zone = zone.map(str::to_owned);
        Event::Apply(Object::Node(Node { zone, ..node() }))
    });
    let hosts = any::<bool>().prop_map(|has| {
        let addrs: BTreeSet<_> = has.then(|| ip("192.0.2.1")).into_iter().collect();
        Event::HostAddrs(addrs)
    });
    let relist = prop::collection::vec(service(), 0..3).prop_map(|services| {
        let unique: BTreeMap<_, _> = services.into_iter().map(|s| (s.key.clone(), s)).collect();
        let objects = unique.into_values().map(Object::Service).collect();
        Event::Replace(Kind::Service, objects)
    });
    let news = prop_oneof![
        6 => service().prop_map(|s| Event::Apply(Object::Service(s))),
        8 => a_slice().prop_map(|s| Event::Apply(Object::Slice(s))),
        2 => foreign().prop_map(|f| Event::Apply(Object::Foreign(f))),
        1 => foreign().prop_map(|f| Event::Delete(ObjectRef::Foreign(f.label, f.key))),
        2 => service_ref.prop_map(Event::Delete),
        2 => slice_ref.prop_map(Event::Delete),
        1 => own_node,
        1 => hosts,
        1 => relist,
    ];
    prop_oneof![
        12 => news.prop_map(Step::News),
        1 => Just(Step::Restart),
        2 => Just(Step::Grace),
    ]
}

fn run<A: Family>(world: &mut World<A>, steps: &[Step]) {
    for step in steps {
        match step {
            Step::News(event) => world.apply(event.clone()),
            Step::Restart => world.restart(),
            Step::Grace => {
                world.maps.wait_for_readers().expect("nothing to fail");
                world.planner.release_after_grace();
            }
        }
    }
}

/// The same objects, told once to an agent with empty maps.
fn fresh<A: Family>(config: Config, world: &World<A>) -> World<A> {
    let mut fresh = World::new(config, Faulty::new(FakeMaps::new(ROOMY), 0, 0));
    let store = world.store.clone();
    fresh.apply(Event::HostAddrs(store.host_addrs().clone()));
    if let Some(node) = store.node() {
        fresh.apply(Event::Apply(Object::Node(node.clone())));
    }
    for service in store.services() {
        for slice in store.slices_of(&service.key) {
            fresh.put_slice(slice.clone());
        }
        fresh.put_service(service.clone());
    }
    for foreign in store.foreign() {
        fresh.apply(Event::Apply(Object::Foreign(foreign)));
    }
    fresh
}

fn check<A: Family>(config: &Config, steps: &[Step], one_in: u64, seed: u64) {
    let maps = Faulty::new(FakeMaps::new(ROOMY), one_in, seed);
    let mut world = World::<A>::new(config.clone(), maps);
    run(&mut world, steps);
    world.settle();
    assert_eq!(world.dump(), fresh(config.clone(), &world).dump());

    let held = world.maps.read().expect("maps can be read");
    let drift = world.planner.drift(&held);
    assert_eq!(
        (drift.entries, drift.ops),
        (0, Vec::new()),
        "the mirror is what the maps hold"
    );

    let ops = world.maps.maps.ops();
    world.restart();
    assert_eq!(
        world.maps.maps.ops() - ops,
        0,
        "a restart with the same objects writes nothing"
    );
}

fn histories() -> impl Strategy<Value = (Vec<Step>, u64, u64)> {
    let one_in = select(vec![0_u64, 3, 9]);
    (prop::collection::vec(step(), 1..40), one_in, any::<u64>())
}

fn cases() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(150)
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_history_ends_as_a_fresh_start_would_in_ipv4((steps, one_in, seed) in histories()) {
        check::<Addr4>(&config(), &steps, one_in, seed);
    }

    #[test]
    fn any_history_ends_as_a_fresh_start_would_in_ipv6((steps, one_in, seed) in histories()) {
        check::<Addr6>(&detecting(), &steps, one_in, seed);
    }

    #[test]
    fn whatever_was_done_to_the_maps_a_new_agent_puts_them_right(
        (steps, _, _) in histories(),
        damage in prop::collection::vec((0..7_u8, any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut world = World::<Addr4>::new(config(), Faulty::new(FakeMaps::new(ROOMY), 0, 0));
        run(&mut world, &steps);
        let before = world.dump();
        for (what, at, salt) in &damage {
            world.maps.maps.meddle(|content| meddle(content, *what, at, *salt));
        }
        let held = world.maps.read().expect("maps can be read");
        let drift = world.planner.drift(&held);
        let mut repaired = world.maps.maps.clone();
        for op in &drift.ops {
            repaired.apply(op).expect("a repair fits");
        }
        let now = repaired.read().expect("maps can be read");
        prop_assert_eq!(world.planner.drift(&now).entries, 0, "the comparison repairs");

        let mut planner = Planner::adopt(ROOMY, held);
        for key in world.names() {
            planner.claim_foreign(&key, &plan::foreign(&world.store.foreign_ips(&key)));
            let plan = planner.plan_service(&key, &world.desired(&key)).expect("there is room");
            for op in &plan.ops {
                world.maps.apply(op).expect("it fits");
                planner.note(op);
            }
        }
        for op in &planner.sweep().expect("nothing is allocated").ops {
            world.maps.apply(op).expect("it fits");
            planner.note(op);
        }
        prop_assert_eq!(world.dump(), before);
        let held = world.maps.read().expect("maps can be read");
        prop_assert_eq!(planner.drift(&held).entries, 0);
        prop_assert_eq!(planner.sweep().expect("nothing is allocated").ops, vec![]);
    }
}

/// Breaks something, somewhere.
fn meddle(
    content: &mut lb_agent::maps::Content<Addr4>,
    what: u8,
    at: &prop::sample::Index,
    salt: u8,
) {
    use lb_common::{id::ServiceId, list::ListRange};
    let pick = |len: usize| at.index(len.max(1));
    let salt = u32::from(salt);
    match what {
        0 => {
            let key = content
                .frontends
                .keys()
                .nth(pick(content.frontends.len()))
                .copied();
            key.map(|key| content.frontends.remove(&key));
        }
        1 => {
            let len = pick(content.frontends.len());
            if let Some(val) = content.frontends.values_mut().nth(len) {
                val.service = ServiceId(salt);
            }
        }
        2 => {
            let len = pick(content.services.len());
            if let Some(service) = content.services.values_mut().nth(len) {
                service.cluster = ListRange::new(salt * 64, salt % 9);
            }
        }
        3 => {
            let len = pick(content.backends.len());
            if let Some(backend) = content.backends.values_mut().nth(len) {
                backend.service = ServiceId(salt % 8);
            }
        }
        4 => {
            let len = pick(content.slots.len());
            if let Some(slot) = content.slots.values_mut().nth(len) {
                slot.generation ^= 1;
            }
        }
        5 => {
            let key = content.names.keys().nth(pick(content.names.len())).copied();
            key.map(|key| content.names.remove(&key));
        }
        _ => {
            let name = content.names.values().next().copied();
            content
                .names
                .extend(name.map(|name| (ServiceId(900 + salt), name)));
        }
    }
}
