//! What an event changes, and what it does not (rules 9, 10, 21, 128 and 136).

mod common;

use std::collections::BTreeSet;

use common::{EndpointExt, NODE, ep, ip, key, node, node_port_svc, slice, svc};
use lb_agent::model::{
    Changes, Event, Foreign, Kind, Label, Node, Object, ObjectKey, ObjectRef, ServiceCidr, Skip,
    Slice, Store,
};

fn store() -> Store {
    Store::new(NODE, [Kind::Service, Kind::Slice])
}

fn dirty(services: &[&str]) -> BTreeSet<ObjectKey> {
    services.iter().map(|name| key(name)).collect()
}

fn put(store: &mut Store, object: impl Into<Put>) -> Changes {
    store.apply(Event::Apply(object.into().0))
}

struct Put(Object);

impl From<lb_agent::model::Service> for Put {
    fn from(service: lb_agent::model::Service) -> Self {
        Self(Object::Service(service))
    }
}

impl From<lb_agent::model::Slice> for Put {
    fn from(slice: lb_agent::model::Slice) -> Self {
        Self(Object::Slice(slice))
    }
}

impl From<Node> for Put {
    fn from(node: Node) -> Self {
        Self(Object::Node(node))
    }
}

#[test]
fn a_slice_waits_for_its_service() {
    let mut store = store();
    assert!(put(&mut store, slice("s", "shop/web", vec![ep("10.0.0.1")])).is_empty());
    let changes = put(&mut store, svc("shop/web", &["172.30.0.1"]));
    assert_eq!(changes.services, dirty(&["shop/web"]));
    assert_eq!(store.slices_of(&key("shop/web")).len(), 1);
}

#[test]
fn the_same_object_again_changes_nothing() {
    let mut store = store();
    let objects = [
        Object::Service(svc("shop/web", &["172.30.0.1"])),
        Object::Slice(slice("s", "shop/web", vec![ep("10.0.0.1")])),
        Object::Node(node()),
        Object::ServiceCidr(ServiceCidr::default()),
    ];
    for object in objects {
        assert!(
            !store.apply(Event::Apply(object.clone())).is_empty(),
            "{object:?}"
        );
        assert!(
            store.apply(Event::Apply(object.clone())).is_empty(),
            "{object:?}"
        );
    }
    let hosts = BTreeSet::from([ip("192.0.2.1")]);
    assert!(!store.apply(Event::HostAddrs(hosts.clone())).is_empty());
    assert!(store.apply(Event::HostAddrs(hosts)).is_empty());
}

#[test]
fn another_proxys_service_is_its_addresses() {
    let mut store = store();
    let with = |label, ips: &[&str]| Foreign {
        key: key("shop/web"),
        label,
        cluster_ips: ips.iter().map(|text| ip(text)).collect(),
    };
    let apply = |store: &mut Store, foreign| store.apply(Event::Apply(Object::Foreign(foreign)));
    let first = with(Label::ProxyName, &["172.30.0.1", "fd30::1"]);
    let changes = apply(&mut store, first.clone());
    assert_eq!(changes.services, dirty(&["shop/web"]));
    assert!(!changes.ranges && !changes.facts);
    assert!(apply(&mut store, first.clone()).is_empty());
    assert_eq!(store.foreign_ips(&key("shop/web")), first.cluster_ips);

    apply(&mut store, with(Label::Headless, &["172.30.0.2"]));
    assert_eq!(store.foreign_ips(&key("shop/web")).len(), 3);
    let none = Event::Replace(Kind::Foreign(Label::ProxyName), vec![]);
    assert_eq!(store.apply(none).services, dirty(&["shop/web"]));
    assert_eq!(store.foreign_ips(&key("shop/web")), [ip("172.30.0.2")]);
    assert!(store.service(&key("shop/web")).is_none());
}

#[test]
fn order_and_trigger_time_of_a_slice_change_nothing() {
    let mut store = store();
    put(&mut store, svc("shop/web", &["172.30.0.1"]));
    let mut endpoints = vec![ep("10.0.0.1").zone("a").zone("b"), ep("10.0.0.2")];
    put(&mut store, slice("s", "shop/web", endpoints.clone()));
    endpoints.reverse();
    endpoints[1].zones.reverse();
    let mut again = slice("s", "shop/web", endpoints);
    again.triggered = Some("2026-01-01T00:00:00Z".parse().unwrap());
    assert!(put(&mut store, again).is_empty());
    assert!(store.slices_of(&key("shop/web"))[0].triggered.is_some());
}

#[test]
fn a_slice_that_moves_to_another_service_dirties_both() {
    let mut store = store();
    put(&mut store, svc("shop/web", &["172.30.0.1"]));
    put(&mut store, svc("shop/api", &["172.30.0.2"]));
    put(&mut store, slice("s", "shop/web", vec![ep("10.0.0.1")]));
    let changes = put(&mut store, slice("s", "shop/api", vec![ep("10.0.0.1")]));
    assert_eq!(changes.services, dirty(&["shop/web", "shop/api"]));
    assert!(store.slices_of(&key("shop/web")).is_empty());
}

#[test]
fn a_new_list_removes_what_it_lacks_and_dirties_what_differs() {
    let mut store = store();
    for name in ["shop/a", "shop/b", "shop/c"] {
        put(&mut store, svc(name, &["172.30.0.1"]));
    }
    let kept = Object::Service(svc("shop/a", &["172.30.0.1"]));
    let changed = Object::Service(svc("shop/b", &["172.30.0.2"]));
    let changes = store.apply(Event::Replace(Kind::Service, vec![kept, changed]));
    assert_eq!(changes.services, dirty(&["shop/b", "shop/c"]));
    assert!(store.service(&key("shop/c")).is_none());
}

#[test]
fn a_store_is_synced_when_every_required_kind_was_delivered_even_if_empty() {
    let mut store = store();
    put(&mut store, svc("shop/web", &["172.30.0.1"]));
    assert!(!store.is_synced(), "an object is no list");
    store.apply(Event::Replace(Kind::Service, Vec::new()));
    assert_eq!(store.awaited().collect::<Vec<_>>(), [Kind::Slice]);
    store.apply(Event::Replace(Kind::Slice, Vec::new()));
    assert!(store.is_synced());
}

#[test]
fn only_our_own_node_makes_new_facts() {
    let mut store = store();
    let other = Node {
        name: "n2".into(),
        ..node()
    };
    assert!(put(&mut store, other).is_empty());
    assert!(put(&mut store, node()).facts);
    let moved = Node {
        zone: Some("b".into()),
        ..node()
    };
    assert!(put(&mut store, moved).facts, "rule 136");
}

#[test]
fn a_deleted_node_object_leaves_what_is_known_of_this_node() {
    let mut store = store();
    put(&mut store, node());
    let gone = store.apply(Event::Delete(ObjectRef::Node(NODE.into())));
    assert!(gone.is_empty());
    assert_eq!(store.node(), Some(&node()));
    let relisted = store.apply(Event::Replace(Kind::Node, Vec::new()));
    assert!(relisted.is_empty());
    assert_eq!(store.node(), Some(&node()));
}

#[test]
fn ranges_change_with_the_first_and_last_user_of_an_address_or_node_port() {
    let mut store = store();
    assert!(put(&mut store, node_port_svc("shop/a", &["172.30.0.1"], 30001)).ranges);
    assert!(!put(&mut store, node_port_svc("shop/b", &["172.30.0.1"], 30001)).ranges);
    let gone = |store: &mut Store, name| store.apply(Event::Delete(ObjectRef::Service(key(name))));
    assert!(!gone(&mut store, "shop/a").ranges);
    assert!(gone(&mut store, "shop/b").ranges);
    assert!(store.cluster_ips().is_empty() && store.node_ports().is_empty());
}

#[test]
fn a_change_of_ports_alone_leaves_the_ranges() {
    let mut store = store();
    put(&mut store, node_port_svc("shop/a", &["172.30.0.1"], 30001));
    let mut more = node_port_svc("shop/a", &["172.30.0.1"], 30001);
    more.affinity_timeout_s = Some(5);
    let changes = put(&mut store, more);
    assert_eq!(
        (changes.ranges, changes.services),
        (false, dirty(&["shop/a"]))
    );
}

#[test]
fn a_bad_object_is_remembered_until_it_is_good() {
    let mut store = store();
    let skip = Skip {
        object: "Service shop/web".into(),
        reason: "spec.clusterIP is missing; give one".into(),
    };
    assert!(store.apply(Event::Skip(skip.clone())).is_empty());
    assert_eq!(store.skipped().get(&skip.object), Some(&skip.reason));
    store.apply(Event::Unskip(skip.object));
    assert!(store.skipped().is_empty());
}

/// Rule 117; what Services depend on stays as it was.
#[test]
fn a_node_that_leaves_is_not_eligible_and_no_service_is_planned_for_it() {
    let mut store = store();
    assert_eq!(store.is_node_eligible(), None);
    put(&mut store, node());
    assert_eq!(store.is_node_eligible(), Some(true));
    let leaving = Node {
        is_leaving: true,
        ..node()
    };
    assert!(put(&mut store, leaving).is_empty());
    assert_eq!(store.is_node_eligible(), Some(false));
    put(&mut store, node());
    assert_eq!(store.is_node_eligible(), Some(true));
    assert!(
        store
            .apply(Event::Delete(ObjectRef::Node(NODE.into())))
            .is_empty()
    );
    assert_eq!(store.is_node_eligible(), Some(false), "deleted");
    put(&mut store, node());
    assert_eq!(store.is_node_eligible(), Some(true), "registered anew");
}

/// Rule 128.
#[test]
fn a_changed_slice_says_when_and_an_equal_one_does_not() {
    let at = |second: i64| jiff::Timestamp::from_second(second).ok();
    let told = |second, addrs: &[&str]| Slice {
        triggered: at(second),
        ..slice("s", "shop/web", addrs.iter().map(|addr| ep(addr)).collect())
    };
    let times = |changes: &Changes| -> Vec<(bool, i64)> {
        let all = changes.triggers.iter();
        all.map(|trigger| (trigger.is_ipv4, trigger.at.as_second()))
            .collect()
    };
    let mut store = store();
    let early = put(&mut store, told(9, &["10.0.0.9"]));
    assert_eq!(times(&early), [], "nobody waits for it yet");
    put(&mut store, svc("shop/web", &["10.96.0.1"]));
    let first = put(&mut store, told(1, &["10.0.0.1"]));
    assert_eq!(times(&first), [(true, 1)]);
    let same = put(&mut store, told(2, &["10.0.0.1"]));
    assert_eq!(times(&same), [], "only the annotation differs");
    let emptied = put(&mut store, told(3, &[]));
    assert_eq!(times(&emptied), [(true, 3)], "the family of what was there");
    let silent = put(
        &mut store,
        Slice {
            triggered: None,
            ..told(0, &["fd00::1"])
        },
    );
    assert_eq!(times(&silent), [], "no annotation");
    let mut all = first;
    all.merge(put(&mut store, told(4, &["fd00::2"])));
    assert_eq!(times(&all), [(true, 1), (false, 4)]);
    let gone = store.apply(Event::Delete(ObjectRef::Slice(key("shop/s"))));
    all.merge(gone);
    assert_eq!(
        times(&all),
        [],
        "a slice that goes takes what its Service waits for with it"
    );
}
