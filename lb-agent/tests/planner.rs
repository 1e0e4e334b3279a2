//! Ops: their order, their number, who gets a contested address, and what happens where room ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{EndpointExt, ROOMY, World, ep, key, node_port_svc, port, slice, svc};
use lb_agent::{
    maps::{Capacities, Content, LbMaps, Op},
    model::{Endpoint, Event, Foreign, Kind, Label, Object, ObjectRef, Service},
    plan::{Plan, PlanError, Planner, PortImage, PortKey},
};
use lb_common::{
    frontend::{FrontendKey, FrontendVal},
    id::ServiceId,
    list::List,
    net::{Addr4, BePort, Proto},
    service::Algorithm,
};

fn world() -> World<Addr4> {
    World::sound(ROOMY)
}

fn endpoints(count: u16) -> Vec<Endpoint> {
    (0..count)
        .map(|i| ep(&format!("10.1.{}.{}", i / 250, i % 250 + 1)))
        .collect()
}

/// Kinds of ops in their order, repeats folded.
fn kinds(ops: &[Op<Addr4>]) -> Vec<&'static str> {
    let kind = |op: &Op<Addr4>| match op {
        Op::PutName(..) => "PutName",
        Op::DelName(_) => "DelName",
        Op::PutSource(..) => "PutSource",
        Op::DelSource(..) => "DelSource",
        Op::PutBackend(_, b) if b.service.is_some() => "PutBackend",
        Op::PutBackend(..) => "FreeBackend",
        Op::PutSlots(..) => "PutSlots",
        Op::PutService(..) => "PutService",
        Op::DelService(_) => "DelService",
        Op::PutFrontend(..) => "PutFrontend",
        Op::DelFrontend(_) => "DelFrontend",
        Op::AwaitReaders => "AwaitReaders",
    };
    let mut kinds: Vec<_> = ops.iter().map(kind).collect();
    kinds.dedup();
    kinds
}

/// Tells the store alone, and plans without applying.
fn planned(world: &mut World<Addr4>, service: &str) -> Plan<Addr4> {
    let service = key(service);
    let desired = world.desired(&service);
    world.planner.plan_service(&service, &desired).unwrap()
}

fn tell(world: &mut World<Addr4>, object: Object) {
    world.store.apply(Event::Apply(object));
}

fn lb_svc() -> Service {
    Service {
        load_balancer_ips: vec![common::ip("203.0.113.1")],
        source_ranges: vec!["192.0.2.0/24".parse().unwrap()],
        ..svc("shop/web", &["172.30.0.1"])
    }
}

#[test]
fn what_is_pointed_at_is_written_first_and_freed_last() {
    let mut world = world();
    tell(
        &mut world,
        Object::Slice(slice("s", "shop/web", endpoints(2))),
    );
    tell(&mut world, Object::Service(lb_svc()));
    let built = [
        "PutName",
        "PutSource",
        "PutBackend",
        "PutSlots",
        "PutService",
        "PutFrontend",
    ];
    assert_eq!(kinds(&planned(&mut world, "shop/web").ops), built);

    world.put_service(lb_svc());
    world.put_slice(slice("s", "shop/web", endpoints(2)));
    world.apply(Event::Apply(Object::Service(Service {
        created_s: 1,
        ..lb_svc()
    })));
    world
        .store
        .apply(Event::Delete(ObjectRef::Service(key("shop/web"))));
    let freed = [
        "DelFrontend",
        "DelSource",
        "DelService",
        "FreeBackend",
        "DelName",
    ];
    assert_eq!(kinds(&planned(&mut world, "shop/web").ops), freed);
}

#[test]
fn an_unchanged_service_needs_no_op() {
    let mut world = world();
    world.put_slice(slice("s", "shop/web", endpoints(5)));
    world.put_service(lb_svc());
    assert_eq!(planned(&mut world, "shop/web").ops, []);
}

#[test]
fn a_condition_that_moves_no_list_changes_one_backend() {
    let mut world = world();
    let mut all = endpoints(50);
    all[7] = all[7].clone().unready();
    world.put_slice(slice("s", "shop/web", all.clone()));
    world.put_service(svc("shop/web", &["172.30.0.1"]));
    all[7] = all[7].clone().dead();
    tell(&mut world, Object::Slice(slice("s", "shop/web", all)));
    let plan = planned(&mut world, "shop/web");
    assert_eq!((kinds(&plan.ops), plan.ops.len()), (vec!["PutBackend"], 1));
}

#[test]
fn an_endpoint_that_drains_keeps_its_id() {
    let mut world = world();
    let mut all = endpoints(3);
    world.put_slice(slice("s", "shop/web", all.clone()));
    world.put_service(svc("shop/web", &["172.30.0.1"]));
    all[0] = all[0].clone().draining();
    tell(&mut world, Object::Slice(slice("s", "shop/web", all)));
    let plan = planned(&mut world, "shop/web");
    assert_eq!(kinds(&plan.ops), ["PutBackend", "PutSlots", "PutService"]);
    assert_eq!(plan.ops.len(), 3);
}

#[test]
fn one_endpoint_more_among_a_thousand_costs_three_ops_whatever_the_frontends() {
    let mut world = world();
    world.put_slice(slice("s", "shop/web", endpoints(1000)));
    let mut service = node_port_svc("shop/web", &["172.30.0.1"], 30001);
    service.load_balancer_ips = vec![common::ip("203.0.113.1")];
    service.external_ips = vec![common::ip("203.0.113.2")];
    world.put_service(service);
    tell(
        &mut world,
        Object::Slice(slice("s", "shop/web", endpoints(1001))),
    );
    let plan = planned(&mut world, "shop/web");
    assert_eq!(kinds(&plan.ops), ["PutBackend", "PutSlots", "PutService"]);
    assert_eq!(plan.ops.len(), 3);
}

#[test]
fn a_change_of_one_port_leaves_the_others_alone() {
    let mut world = world();
    let mut service = svc("shop/web", &["172.30.0.1"]);
    service.ports.push(port("dns", Proto::UDP, 53, 0));
    world.put_service(service);
    tell(
        &mut world,
        Object::Slice(slice("s", "shop/web", endpoints(2))),
    );
    let plan = planned(&mut world, "shop/web");
    let tcp = PortKey {
        service: key("shop/web"),
        port: String::new(),
        proto: Proto::TCP,
    };
    let id = world.planner.service_id(&tcp).unwrap();
    assert_eq!(kinds(&plan.ops), ["PutBackend", "PutSlots", "PutService"]);
    let is_ours = |op: &Op<Addr4>| {
        matches!(op, Op::PutBackend(_, backend) if backend.service == id)
            || matches!(op, Op::PutSlots(_, slots) if slots.iter().all(|slot| slot.service == id))
            || matches!(op, Op::PutService(service, _) if *service == id)
    };
    assert!(plan.ops.iter().all(is_ours), "{:?}", plan.ops);
}

/// Who read the frontend before finds the old port's lists until it has ended.
#[test]
fn a_renamed_port_never_stops_answering() {
    let mut world = world();
    world.put_service(svc("shop/web", &["172.30.0.1"]));
    let mut renamed = svc("shop/web", &["172.30.0.1"]);
    renamed.ports[0].name = "http".into();
    tell(&mut world, Object::Service(renamed));
    let ops = planned(&mut world, "shop/web").ops;
    let expected = [
        "PutName",
        "PutService",
        "PutFrontend",
        "AwaitReaders",
        "DelService",
        "DelName",
    ];
    assert_eq!(kinds(&ops), expected);
}

/// Who answers on an address.
fn owner(world: &World<Addr4>, at: FrontendKey<Addr4>) -> Option<String> {
    let held = world.maps.read().unwrap();
    let id = held.frontends.get(&at)?.service;
    world.planner.port_of(id).map(ToString::to_string)
}

fn at(addr: [u8; 4], port: u16) -> FrontendKey<Addr4> {
    FrontendKey::new(Addr4 { ip4: addr }, BePort::new(port), Proto::TCP)
}

#[test]
fn a_contested_address_goes_to_the_cluster_ip_then_the_older_then_the_name() {
    let contested = at([203, 0, 113, 1], 80);
    let external = |name: &str, own: &str, created_s| Service {
        external_ips: vec![common::ip("203.0.113.1")],
        created_s,
        ..svc(name, &[own])
    };
    let all = [
        ("shop/d", external("shop/d", "172.30.0.4", 2)),
        ("shop/c", external("shop/c", "172.30.0.3", 2)),
        ("shop/b", external("shop/b", "172.30.0.2", 1)),
        (
            "shop/a",
            Service {
                created_s: 9,
                ..svc("shop/a", &["203.0.113.1"])
            },
        ),
    ];
    let mut world = world();
    for (name, service) in all.clone() {
        world.put_service(service);
        assert_eq!(
            owner(&world, contested),
            Some(format!("{name}/TCP")),
            "each wins when it comes"
        );
    }
    assert_eq!(world.planner.conflicts().count(), 3);
    for (gone, next) in [
        ("shop/a", "shop/b"),
        ("shop/b", "shop/c"),
        ("shop/c", "shop/d"),
    ] {
        world.apply(Event::Delete(ObjectRef::Service(key(gone))));
        assert_eq!(
            owner(&world, contested),
            Some(format!("{next}/TCP")),
            "after {gone}"
        );
    }
    assert_eq!(world.planner.conflicts().count(), 0);
    world.apply(Event::Delete(ObjectRef::Service(key("shop/d"))));
    assert_eq!(owner(&world, contested), None);

    let mut reversed = self::world();
    all.into_iter()
        .rev()
        .for_each(|(_, service)| reversed.put_service(service));
    assert_eq!(
        owner(&reversed, contested),
        Some("shop/a/TCP".to_owned()),
        "in any order"
    );
}

#[test]
fn the_next_claimant_answers_in_the_same_plan_without_a_gap() {
    let mut world = world();
    world.put_service(node_port_svc("shop/a", &["172.30.0.1"], 30001));
    world.put_service(node_port_svc("shop/b", &["172.30.0.2"], 30001));
    world
        .store
        .apply(Event::Delete(ObjectRef::Service(key("shop/a"))));
    let ops = planned(&mut world, "shop/a").ops;
    let contested = FrontendKey::node_port(BePort::new(30001), Proto::TCP);
    let touching: Vec<_> = (ops.iter())
        .filter(|op| matches!(op, Op::PutFrontend(k, _) | Op::DelFrontend(k) if *k == contested))
        .collect();
    assert!(
        matches!(touching[..], [Op::PutFrontend(..)]),
        "{touching:?}"
    );
}

#[test]
fn a_conflict_is_told_once_and_a_shared_cluster_ip_as_such_is_none() {
    let mut world = world();
    world.put_service(node_port_svc("shop/a", &["172.30.0.1"], 30001));
    world.put_service(node_port_svc("shop/b", &["172.30.0.2"], 30001));
    let said = "node port 30001/TCP of shop/b/TCP belongs to shop/a/TCP already; \
                give one of them another address or port";
    assert_eq!(world.conflicts, [said]);
    let mut again = node_port_svc("shop/b", &["172.30.0.2"], 30001);
    again.algorithm = Algorithm::ROUND_ROBIN;
    world.put_service(again);
    assert_eq!(world.conflicts.len(), 1);

    let mut two = svc("shop/c", &["172.30.0.3"]);
    two.ports.push(port("b", Proto::TCP, 81, 0));
    world.put_service(two);
    assert_eq!(world.conflicts.len(), 1);
}

#[test]
fn ids_and_slots_are_reused_only_after_readers_have_ended() {
    let small = Capacities {
        services: 2,
        slots: 4,
        backends: 5,
        ..ROOMY
    };
    let mut world = World::<Addr4>::sound(small);
    world.put_service(svc("shop/a", &["172.30.0.1"]));
    world.put_slice(slice("s", "shop/a", endpoints(4)));
    world.apply(Event::Delete(ObjectRef::Service(key("shop/a"))));
    tell(&mut world, Object::Service(svc("shop/b", &["172.30.0.1"])));
    let desired = world.desired(&key("shop/b"));
    let plan = |world: &mut World<Addr4>| world.planner.plan_service(&key("shop/b"), &desired);
    assert_eq!(plan(&mut world), Err(PlanError::NeedsGrace));
    world.planner.release_after_grace();
    assert_eq!(kinds(&plan(&mut world).unwrap().ops)[0], "PutName");
}

fn full_text(map: &str, capacity: u32, flag: &str) -> String {
    format!("map {map} is full ({capacity} entries); raise {flag}")
}

#[test]
fn a_full_map_hits_the_new_service_alone_and_says_what_to_raise() {
    let caps = [
        (
            "LB4_SERVICES",
            "--max-services",
            Capacities {
                services: 2,
                ..ROOMY
            },
        ),
        ("LB4_SLOTS", "--max-slots", Capacities { slots: 3, ..ROOMY }),
        (
            "LB4_BACKENDS",
            "--max-backends",
            Capacities {
                backends: 4,
                ..ROOMY
            },
        ),
        (
            "LB4_FRONTENDS",
            "--max-frontends",
            Capacities {
                frontends: 2,
                ..ROOMY
            },
        ),
    ];
    for (map, flag, small) in caps {
        let mut world = World::<Addr4>::sound(small);
        world.put_slice(slice("s", "shop/a", endpoints(3)));
        world.put_service(svc("shop/a", &["172.30.0.1"]));
        assert_eq!(world.refused, [""; 0], "{map}");
        let before = world.dump();
        world.put_slice(slice("t", "shop/b", endpoints(2)));
        world.put_service(svc("shop/b", &["172.30.0.2"]));
        let capacity = match map {
            "LB4_SERVICES" => small.services,
            "LB4_SLOTS" => small.slots,
            "LB4_BACKENDS" => small.backends,
            _ => small.frontends,
        };
        let expected = format!("shop/b/TCP: {}", full_text(map, capacity, flag));
        assert!(
            world.refused.contains(&expected),
            "{map}: {:?}",
            world.refused
        );
        assert!(
            world
                .dump()
                .starts_with(&before[..before.find("172.30.0.1 ref").unwrap()])
        );

        world.apply(Event::Delete(ObjectRef::Service(key("shop/a"))));
        world.refused.clear();
        world.put_service(Service {
            created_s: 5,
            ..svc("shop/b", &["172.30.0.2"])
        });
        assert_eq!(world.refused, [""; 0], "{map}: there is room again");
        assert_eq!(
            owner(&world, at([172, 30, 0, 2], 80)).as_deref(),
            Some("shop/b/TCP"),
            "{map}"
        );
    }
}

#[test]
fn source_ranges_that_do_not_fit_let_fewer_clients_in_not_more() {
    let mut world = World::<Addr4>::sound(Capacities {
        sources: 1,
        ..ROOMY
    });
    let mut service = lb_svc();
    service
        .source_ranges
        .push("198.51.100.0/24".parse().unwrap());
    world.put_service(service);
    let expected = format!(
        "shop/web/TCP: {}",
        full_text("LB4_SOURCES", 1, "--max-source-ranges")
    );
    assert_eq!(world.refused, [expected]);
    assert!(world.dump().contains("Outside:Check"), "{}", world.dump());
}

#[test]
fn where_slots_run_short_a_list_that_is_still_good_stays() {
    let mut world = World::<Addr4>::sound(Capacities { slots: 8, ..ROOMY });
    world.put_slice(slice("s", "shop/a", endpoints(5)));
    world.put_service(svc("shop/a", &["172.30.0.1"]));
    world.put_slice(slice("s", "shop/a", endpoints(6)));
    let expected = format!("shop/a/TCP: {}", full_text("LB4_SLOTS", 8, "--max-slots"));
    assert_eq!(world.refused, [expected]);
    let held = world.maps.read().unwrap();
    assert_eq!(held.services[&ServiceId(1)].list(List::Cluster).len(), 5);
}

#[test]
fn where_slots_run_short_a_list_with_a_gone_endpoint_is_cut_not_kept() {
    let mut world = World::<Addr4>::sound(Capacities { slots: 8, ..ROOMY });
    world.put_slice(slice("s", "shop/a", endpoints(5)));
    world.put_service(svc("shop/a", &["172.30.0.1"]));
    world.put_slice(slice("s", "shop/a", endpoints(7)[1..].to_vec()));
    let held = world.maps.read().unwrap();
    assert_eq!(held.services[&ServiceId(1)].list(List::Cluster).len(), 3);
}

#[test]
fn backends_that_carry_traffic_get_ids_first() {
    let mut world = World::<Addr4>::sound(Capacities {
        backends: 3,
        ..ROOMY
    });
    let mut all = endpoints(4);
    all[0] = all[0].clone().unready();
    all[1] = all[1].clone().unready();
    world.put_slice(slice("s", "shop/a", all));
    world.put_service(svc("shop/a", &["172.30.0.1"]));
    let held = world.maps.read().unwrap();
    assert_eq!(held.services[&ServiceId(1)].list(List::Cluster).len(), 2);
}

#[test]
fn a_name_too_long_for_the_maps_is_refused_by_name() {
    let mut world = world();
    let name = format!("shop/{}", "x".repeat(65));
    world.put_service(svc(&name, &["172.30.0.1"]));
    assert_eq!(
        world.refused,
        [format!(
            "{name}/TCP: service port {name}/TCP has a name longer than 63 bytes; shorten it"
        )]
    );
}

#[test]
fn what_a_failed_attempt_took_is_taken_back() {
    let mut world = world();
    tell(
        &mut world,
        Object::Slice(slice("s", "shop/a", endpoints(9))),
    );
    tell(&mut world, Object::Service(svc("shop/a", &["172.30.0.1"])));
    let first = planned(&mut world, "shop/a");
    // All but the last op of the build succeed, again and again.
    for _ in 0..2000 {
        let plan = planned(&mut world, "shop/a");
        let build = plan
            .ops
            .iter()
            .take_while(|op| !matches!(op, Op::PutService(..)));
        build.for_each(|op| world.planner.note(op));
    }
    let last = planned(&mut world, "shop/a");
    let service = |plan: &Plan<Addr4>| {
        let put = |op: &Op<Addr4>| {
            let Op::PutService(id, service) = op else {
                return None;
            };
            Some((*id, service.cluster))
        };
        plan.ops.iter().find_map(put)
    };
    assert_eq!(service(&last), service(&first));
    assert_eq!(world.planner.fill().backends, 9);
}

#[test]
fn a_reused_backend_id_has_another_generation_also_after_a_restart() {
    let small = Capacities {
        backends: 2,
        ..ROOMY
    };
    let mut world = World::<Addr4>::sound(small);
    world.put_service(svc("shop/a", &["172.30.0.1"]));
    let mut seen = BTreeSet::new();
    for round in 0..6 {
        world.put_slice(slice("s", "shop/a", endpoints(1)));
        let held = world.maps.read().unwrap();
        let backend = held.backends.values().next().unwrap();
        assert!(
            seen.insert(backend.generation),
            "round {round}: {backend:?}"
        );
        world.apply(Event::Delete(ObjectRef::Slice(key("shop/s"))));
        if round % 2 == 0 {
            world.restart();
        }
    }
}

#[test]
fn a_new_agent_keeps_what_is_wanted_and_sweeps_the_rest() {
    let mut world = world();
    world.put_slice(slice("s", "shop/a", endpoints(3)));
    world.put_service(svc("shop/a", &["172.30.0.1"]));
    let wanted = world.dump();
    let mut gone = lb_svc();
    gone.cluster_ips = vec![common::ip("172.30.0.9")];
    world.put_service(gone);
    // Gone while no agent ran.
    world
        .store
        .apply(Event::Delete(ObjectRef::Service(key("shop/web"))));
    let ops = world.maps.maps.ops();
    world.restart();
    assert_eq!(world.dump(), wanted);
    // Two frontends and the ClusterIP as such, two sources (the VIP is one), service and name.
    assert_eq!(world.maps.maps.ops() - ops, 3 + 2 + 1 + 1);
}

#[test]
fn a_sweep_that_failed_half_way_is_finished_by_the_next() {
    let mut world = world();
    for i in 1..=3 {
        world.put_service(svc(&format!("shop/s{i}"), &[&format!("172.30.0.{i}")]));
    }
    let held = world.maps.read().unwrap();
    let mut planner = Planner::adopt(ROOMY, held);
    let all = planner.sweep().unwrap().ops;
    assert_eq!(
        all.len(),
        3 * 4,
        "two frontends, service and name of each: {all:?}"
    );
    for op in &all[..8] {
        planner.note(op);
    }
    let rest = planner.sweep().unwrap().ops;
    assert_eq!(rest, all[8..]);
    rest.iter().for_each(|op| planner.note(op));
    assert_eq!(planner.sweep().unwrap().ops, []);
    assert_eq!(planner.fill(), lb_agent::plan::Fill::default());
}

#[test]
fn a_restart_moves_no_contested_address() {
    let mut world = world();
    world.put_service(node_port_svc("shop/b", &["172.30.0.2"], 30001));
    let older = Service {
        created_s: -5,
        ..node_port_svc("shop/c", &["172.30.0.3"], 30001)
    };
    world.put_service(older);
    let ops = world.maps.maps.ops();
    world.restart();
    assert_eq!(world.maps.maps.ops(), ops);
    let contested = FrontendKey::node_port(BePort::new(30001), Proto::TCP);
    assert_eq!(owner(&world, contested).as_deref(), Some("shop/c/TCP"));
}

#[test]
fn the_full_comparison_counts_each_changed_entry() {
    let mut world = world();
    world.put_slice(slice("s", "shop/a", endpoints(3)));
    world.put_service(svc("shop/a", &["172.30.0.1"]));
    let drift = |world: &World<Addr4>| world.planner.drift(&world.maps.read().unwrap());
    assert_eq!(drift(&world).entries, 0);
    let change = |content: &mut Content<Addr4>| {
        content.frontends.pop_first();
        content.slots.values_mut().next().unwrap().generation ^= 1;
        let mut stray = *content.backends.values().next().unwrap();
        stray.addr.ip4[3] ^= 1;
        content.backends.insert(lb_common::id::BackendId(77), stray);
    };
    world.maps.maps.meddle(change);
    let found = drift(&world);
    assert_eq!(found.entries, 3);
    assert_eq!(
        kinds(&found.ops),
        ["PutSlots", "PutFrontend", "FreeBackend"]
    );
    // The programs count turns in the service: no drift.
    world.maps.maps.meddle(|content| {
        content.services.values_mut().next().unwrap().cursor = 9;
    });
    assert_eq!(drift(&world).entries, 3);
}

#[test]
fn a_service_whose_ports_are_all_gone_is_forgotten() {
    let mut world = world();
    world.put_service(svc("shop/a", &["172.30.0.1"]));
    let mut none = svc("shop/a", &["172.30.0.1"]);
    none.ports.clear();
    world.put_service(none);
    assert_eq!(world.dump(), "");
    assert_eq!(world.planner.fill(), lb_agent::plan::Fill::default());
}

#[test]
fn nothing_is_planned_for_what_was_never_known() {
    let none: BTreeMap<PortKey, PortImage<Addr4>> = BTreeMap::new();
    let plan = Planner::new(ROOMY)
        .plan_service(&key("shop/a"), &none)
        .unwrap();
    assert_eq!((plan.ops, plan.refused), (vec![], vec![]));
}

/// Rules 2 and 3: an address that changes hands is somebody's throughout.
#[test]
fn an_address_passes_to_another_proxy_and_back_without_a_gap() {
    let mut world = world();
    let foreign = |label| Foreign {
        key: key("shop/web"),
        label,
        cluster_ips: vec![common::ip("172.30.0.1")],
    };
    let vip = FrontendKey::any_port(Addr4::from(std::net::Ipv4Addr::new(172, 30, 0, 1)));
    world.put_slice(slice("s", "shop/web", endpoints(1)));
    world.put_service(svc("shop/web", &["172.30.0.1"]));
    let ours = world.dump();

    world.apply(Event::Apply(Object::Foreign(foreign(Label::ProxyName))));
    assert_eq!(world.dump(), ours, "ours as long as we have it");
    world
        .store
        .apply(Event::Delete(ObjectRef::Service(key("shop/web"))));
    let ops = planned(&mut world, "shop/web").ops;
    assert_eq!(ops[0], Op::PutFrontend(vip, FrontendVal::foreign()));
    let is_removal = |op: &Op<Addr4>| *op == Op::DelFrontend(vip);
    assert!(!ops.iter().any(is_removal), "{ops:?}");

    world.apply(Event::Apply(Object::Foreign(foreign(Label::Headless))));
    world.apply(Event::Delete(ObjectRef::Foreign(
        Label::ProxyName,
        key("shop/web"),
    )));
    assert_eq!(world.dump(), "172.30.0.1 belongs to another proxy\n");
    let written = world.maps.maps.ops();
    world.restart();
    assert_eq!(world.maps.maps.ops(), written);

    world.put_service(svc("shop/web", &["172.30.0.1"]));
    world.apply(Event::Delete(ObjectRef::Foreign(
        Label::Headless,
        key("shop/web"),
    )));
    assert_eq!(world.dump(), ours);
}

#[test]
fn the_ports_of_an_address_are_written_before_the_address_as_such() {
    let mut world = world();
    tell(
        &mut world,
        Object::Service(svc("shop/web", &["172.30.0.1"])),
    );
    let ops = planned(&mut world, "shop/web").ops;
    let mut ports = Vec::new();
    for op in &ops {
        if let Op::PutFrontend(key, _) = op {
            ports.push(key.port.host());
        }
    }
    assert_eq!(ports, [80, 0]);
}

#[test]
fn an_address_that_no_proxy_has_any_more_is_forgotten_by_a_restart_too() {
    let mut world = world();
    let theirs = Foreign {
        key: key("shop/web"),
        label: Label::ProxyName,
        cluster_ips: vec![common::ip("172.30.0.1")],
    };
    world.apply(Event::Apply(Object::Foreign(theirs)));
    let none = Event::Replace(Kind::Foreign(Label::ProxyName), vec![]);
    world.store.apply(none);
    world.restart();
    assert_eq!(world.dump(), "");
}
