//! Which endpoints a node uses: rules 12 to 32 and 46, a row each.

mod common;

use std::collections::BTreeSet;

use common::{EndpointExt, NODE, OTHER, config, ep, facts, ip, node, port, slice};
use lb_agent::{
    eligible::{Uses, select},
    model::{Endpoint, Node, ServicePort, Slice, SlicePort},
    plan::Facts,
};
use lb_common::{
    list::{Empty, List},
    net::{Addr4, Addr6, BePort, Proto},
    service::BackendFlags,
};

const BOTH: Uses = Uses {
    cluster: true,
    local: true,
};

/// Lists as text, and the verdict of an empty one.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    cluster: Vec<String>,
    local: Vec<String>,
    verdict: Empty,
}

fn chosen_of(slices: &[&Slice], facts: &Facts) -> Chosen {
    let port = port("", Proto::TCP, 80, 0);
    let found = select::<Addr4>(&port, slices, BOTH, facts);
    let list = |list| {
        let all = found.endpoints.iter();
        let listed = all.filter(|(_, flags)| flags.has(BackendFlags::of(list)));
        listed
            .map(|((addr, port), _)| format!("{addr:?}:{port:?}"))
            .collect()
    };
    Chosen {
        cluster: list(List::Cluster),
        local: list(List::Local),
        verdict: found.verdict,
    }
}

fn chosen(endpoints: &[Endpoint], facts: &Facts) -> Chosen {
    chosen_of(&[&slice("s", "shop/web", endpoints.to_vec())], facts)
}

struct Row {
    name: &'static str,
    endpoints: Vec<Endpoint>,
    /// Last numbers of the addresses 10.0.0.x.
    cluster: &'static [u8],
    local: &'static [u8],
    verdict: Empty,
}

fn row(
    name: &'static str,
    endpoints: Vec<Endpoint>,
    cluster: &'static [u8],
    local: &'static [u8],
    verdict: Empty,
) -> Row {
    Row {
        name,
        endpoints,
        cluster,
        local,
        verdict,
    }
}

fn e(n: u8) -> Endpoint {
    ep(&format!("10.0.0.{n}"))
}

#[test]
fn endpoints_are_chosen_by_the_table() {
    use Empty::{Drop, Reject};
    let (here, there) = (|n| e(n).on(NODE), |n| e(n).on(OTHER));
    let rows = [
        row("32, 45: nothing at all", vec![], &[], &[], Reject),
        row(
            "28, 29: ready ones",
            vec![here(1), there(2)],
            &[1, 2],
            &[1],
            Drop,
        ),
        row(
            "29: local list without local endpoints",
            vec![there(1)],
            &[1],
            &[],
            Drop,
        ),
        row(
            "30: neither ready nor terminating",
            vec![here(1).unready()],
            &[],
            &[],
            Reject,
        ),
        row(
            "30: serving, not ready, not terminating",
            vec![Endpoint {
                ready: false,
                ..here(1)
            }],
            &[],
            &[],
            Reject,
        ),
        row(
            "30, 45: terminating, not serving",
            vec![here(1).dead()],
            &[],
            &[],
            Reject,
        ),
        row(
            "28, 29: draining where nothing is ready",
            vec![here(1).draining()],
            &[1],
            &[1],
            Drop,
        ),
        row(
            "28: ready beats draining",
            vec![here(1).draining(), there(2)],
            &[2],
            &[1],
            Drop,
        ),
        row(
            "31: each list falls back on its own",
            vec![here(1).draining(), here(2).unready(), there(3)],
            &[3],
            &[1],
            Drop,
        ),
        row(
            "29: a local ready one beats a local draining one",
            vec![here(1).draining(), here(2)],
            &[2],
            &[2],
            Drop,
        ),
        row(
            "46: draining elsewhere",
            vec![there(1).draining()],
            &[1],
            &[],
            Drop,
        ),
        row(
            "19: ready wins over terminating",
            vec![Endpoint {
                terminating: true,
                ..here(1)
            }],
            &[1],
            &[1],
            Drop,
        ),
        row(
            "25b: every ready one names a node, one of them ours",
            vec![there(1).for_node(NODE), there(2).for_node(OTHER)],
            &[1],
            &[],
            Drop,
        ),
        row(
            "25b: one without a node hint ends node mode",
            vec![there(1).for_node(NODE), there(2)],
            &[1, 2],
            &[],
            Drop,
        ),
        row(
            "25b, 25c: no node hint names us, zone hints do",
            vec![
                there(1).for_node(OTHER).zone("a"),
                there(2).for_node(OTHER).zone("b"),
            ],
            &[1],
            &[],
            Drop,
        ),
        row(
            "27: node hints go before zone hints",
            vec![
                there(1).for_node(NODE).zone("b"),
                there(2).for_node(OTHER).zone("a"),
            ],
            &[1],
            &[],
            Drop,
        ),
        row(
            "25c: every ready one names a zone, one of them ours",
            vec![
                there(1).zone("a"),
                there(2).zone("b"),
                there(3).zone("b").zone("a"),
            ],
            &[1, 3],
            &[],
            Drop,
        ),
        row(
            "25d: no zone hint names ours",
            vec![there(1).zone("b"), there(2).zone("c")],
            &[1, 2],
            &[],
            Drop,
        ),
        row(
            "25d: one without a zone hint ends zone mode",
            vec![there(1).zone("a"), there(2)],
            &[1, 2],
            &[],
            Drop,
        ),
        row(
            "25: hints of endpoints that are not ready do not count",
            vec![there(1).zone("a"), there(2).zone("b"), there(3).draining()],
            &[1],
            &[],
            Drop,
        ),
        row(
            "28: the fallback ignores topology",
            vec![there(1).zone("b").draining(), there(2).zone("a").draining()],
            &[1, 2],
            &[],
            Drop,
        ),
        row(
            "29: the local list ignores topology",
            vec![here(1).zone("b"), there(2).zone("a")],
            &[2],
            &[1],
            Drop,
        ),
    ];
    for row in rows {
        let texts = |numbers: &[u8]| -> Vec<String> {
            numbers.iter().map(|n| format!("10.0.0.{n}:8080")).collect()
        };
        let expected = Chosen {
            cluster: texts(row.cluster),
            local: texts(row.local),
            verdict: row.verdict,
        };
        assert_eq!(chosen(&row.endpoints, &facts()), expected, "{}", row.name);
        let mut reversed = row.endpoints;
        reversed.reverse();
        assert_eq!(
            chosen(&reversed, &facts()),
            expected,
            "{}, reversed",
            row.name
        );
    }
}

#[test]
fn a_node_without_a_zone_is_in_none() {
    let node = Node {
        zone: None,
        ..node()
    };
    let facts = Facts::new(&config(), Some(&node), &BTreeSet::new());
    let all = chosen(&[e(1).zone("a"), e(2).zone("b")], &facts).cluster;
    assert_eq!(all, ["10.0.0.1:8080", "10.0.0.2:8080"], "rule 26");
}

#[test]
fn slices_join_by_port_name_and_protocol_and_give_the_number() {
    let named = |name: &str, proto, port| SlicePort {
        name: name.into(),
        proto,
        port,
    };
    let slice = Slice {
        ports: vec![
            named("", Proto::UDP, 1),
            named("", Proto::TCP, 2),
            named("web", Proto::TCP, 3),
        ],
        ..slice("s", "shop/web", vec![e(1)])
    };
    let number = |port: &ServicePort| -> Vec<u16> {
        let found = select::<Addr4>(port, &[&slice], BOTH, &facts());
        found
            .endpoints
            .keys()
            .map(|(_, port)| port.host())
            .collect()
    };
    assert_eq!(number(&port("", Proto::TCP, 80, 0)), [2], "rule 14");
    assert_eq!(number(&port("", Proto::UDP, 80, 0)), [1], "rule 15");
    assert_eq!(number(&port("web", Proto::TCP, 80, 0)), [3], "rule 14");
    assert_eq!(number(&port("web", Proto::SCTP, 80, 0)), [0; 0], "rule 15");
    assert_eq!(number(&port("api", Proto::TCP, 80, 0)), [0; 0], "rule 14");
}

#[test]
fn of_two_endpoints_at_one_place_the_local_then_the_ready_then_the_serving_one_counts() {
    let pairs = [
        ("local", e(1).on(NODE).unready(), e(1).on(OTHER)),
        ("ready", e(1).on(OTHER), e(1).on(OTHER).draining()),
        ("serving", e(1).draining(), e(1).dead()),
        ("ready local", e(1).on(NODE), e(1).on(NODE).draining()),
    ];
    for (name, winner, loser) in pairs {
        let alone = chosen(std::slice::from_ref(&winner), &facts());
        let (a, b) = (
            slice("a", "shop/web", vec![winner]),
            slice("b", "shop/web", vec![loser]),
        );
        assert_eq!(chosen_of(&[&a, &b], &facts()), alone, "{name}");
        assert_eq!(chosen_of(&[&b, &a], &facts()), alone, "{name}, reversed");
    }
}

#[test]
fn one_address_with_two_ports_is_two_endpoints() {
    let mut second = slice("b", "shop/web", vec![e(1)]);
    second.ports[0].port = 9090;
    let first = slice("a", "shop/web", vec![e(1)]);
    let all = chosen_of(&[&first, &second], &facts()).cluster;
    assert_eq!(all, ["10.0.0.1:8080", "10.0.0.1:9090"], "rule 17");
}

#[test]
fn an_endpoint_of_the_other_family_is_not_seen() {
    let slice = slice("s", "shop/web", vec![e(1), ep("fd00::1")]);
    let port = port("", Proto::TCP, 80, 0);
    let found = select::<Addr6>(&port, &[&slice], BOTH, &facts());
    let places: Vec<_> = found
        .endpoints
        .keys()
        .map(|(a, p)| (format!("{a:?}"), *p))
        .collect();
    assert_eq!(
        places,
        [("fd00::1".to_owned(), BePort::new(8080))],
        "rule 102"
    );
}

#[test]
fn flags_say_where_an_endpoint_is_and_why_it_is_left_out() {
    let hosts = BTreeSet::from([ip("192.0.2.1")]);
    let facts = Facts::new(&config(), Some(&node()), &hosts);
    let port = port("", Proto::TCP, 80, 0);
    let flags = |endpoints: &[Endpoint], uses| -> Vec<BackendFlags> {
        let slice = slice("s", "shop/web", endpoints.to_vec());
        let found = select::<Addr4>(&port, &[&slice], uses, &facts);
        found.endpoints.into_values().collect()
    };
    let all = |flags: &[BackendFlags]| {
        (flags.iter()).fold(BackendFlags::default(), |all, flag| all.with(*flag))
    };
    use BackendFlags as F;
    let ready = [F::READY, F::SERVING];
    let cluster_only = Uses {
        cluster: true,
        local: false,
    };
    let local_only = Uses {
        cluster: false,
        local: true,
    };
    let here = e(1).on(NODE);
    let expected = all(&[ready[0], ready[1], F::ON_NODE, F::IN_CLUSTER, F::IN_LOCAL]);
    assert_eq!(flags(std::slice::from_ref(&here), BOTH), [expected]);
    let expected = all(&[ready[0], ready[1], F::ON_NODE, F::IN_CLUSTER]);
    assert_eq!(
        flags(std::slice::from_ref(&here), cluster_only),
        [expected],
        "rule 23"
    );
    let expected = all(&[ready[0], ready[1], F::ON_NODE, F::IN_LOCAL]);
    assert_eq!(flags(&[here], local_only), [expected], "rule 22");

    let host = all(&[ready[0], ready[1], F::HOST_ADDR, F::IN_CLUSTER]);
    assert_eq!(flags(&[ep("127.0.0.1")], BOTH), [host]);
    assert_eq!(flags(&[ep("192.0.2.1")], BOTH), [host]);

    let near = all(&[ready[0], ready[1], F::IN_CLUSTER]);
    let away = all(&[ready[0], ready[1], F::HINTED_AWAY]);
    assert_eq!(
        flags(&[e(1).zone("a"), e(2).zone("b")], BOTH),
        [near, away],
        "rule 25"
    );

    let draining = all(&[F::SERVING, F::TERMINATING]);
    assert_eq!(
        flags(&[e(1), e(2).draining()], BOTH),
        [near, draining],
        "rule 90"
    );
    assert_eq!(
        flags(&[e(1), e(2).dead()], BOTH),
        [near, F::TERMINATING],
        "rule 30"
    );
}
