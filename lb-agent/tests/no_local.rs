//! Service ports that a Local policy drops here (rule 130).

mod common;

use std::collections::BTreeSet;

use common::{EndpointExt as _, NODE, OTHER, config, ep, ip, node, node_port_svc, slice, svc};
use lb_agent::{
    model::{Endpoint, Service},
    plan::{Facts, NoLocal, compile},
};
use lb_common::net::{Addr4, Addr6};

fn of(service: &Service, endpoints: Vec<Endpoint>) -> [(u64, u64); 2] {
    let facts = Facts::new(&config(), Some(&node()), &BTreeSet::new());
    let slice = slice("s", "shop/web", endpoints);
    let v4 = NoLocal::of(service, &compile::<Addr4>(service, &[&slice], &facts));
    let v6 = NoLocal::of(service, &compile::<Addr6>(service, &[&slice], &facts));
    [v4, v6].map(|found| (found.internal, found.external))
}

#[test]
fn ports_count_where_endpoints_are_elsewhere_and_none_is_here() {
    let ips = &["10.96.0.1", "fd00:96::1"];
    let internal = Service {
        internal_local: true,
        ..svc("shop/web", ips)
    };
    let external = Service {
        external_local: true,
        ..node_port_svc("shop/web", ips, 30080)
    };
    let both = Service {
        internal_local: true,
        ..external.clone()
    };
    let by_address = Service {
        external_local: true,
        external_ips: vec![ip("192.0.2.77")],
        ..svc("shop/web", ips)
    };
    let unused = Service {
        external_local: true,
        ..svc("shop/web", ips)
    };
    let elsewhere = || vec![ep("10.0.0.1").on(OTHER), ep("fd00::1").on(OTHER)];
    for (name, service, endpoints, want) in [
        ("internal", &internal, elsewhere(), [(1, 0), (1, 0)]),
        ("external", &external, elsewhere(), [(0, 1), (0, 1)]),
        ("both", &both, elsewhere(), [(1, 1), (1, 1)]),
        (
            "external by one family's address",
            &by_address,
            elsewhere(),
            [(0, 1), (0, 0)],
        ),
        ("nothing external", &unused, elsewhere(), [(0, 0), (0, 0)]),
        (
            "a Cluster policy",
            &svc("shop/web", ips),
            elsewhere(),
            [(0, 0), (0, 0)],
        ),
        ("no endpoint at all", &both, vec![], [(0, 0), (0, 0)]),
        (
            "unready ones elsewhere",
            &both,
            vec![ep("10.0.0.1").on(OTHER).unready()],
            [(0, 0), (0, 0)],
        ),
        (
            "one here",
            &both,
            vec![ep("10.0.0.1").on(NODE), ep("fd00::1").on(OTHER)],
            [(0, 0), (1, 1)],
        ),
        (
            "a draining one here",
            &both,
            vec![ep("10.0.0.1").on(NODE).draining(), ep("10.0.0.2").on(OTHER)],
            [(0, 0), (0, 0)],
        ),
    ] {
        assert_eq!(of(service, endpoints), want, "{name}");
    }
}
