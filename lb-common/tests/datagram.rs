//! The table of behaviours of unconnected UDP, on tables in plain collections.

mod common;

use common::{OTHER_SERVICE, SECOND, SERVICE, Vecs, at_second, dial, pod, v4, v6};
use lb_common::{
    config::OWNED,
    datagram::{receive, send},
    decide::{Client, Decision, Dial},
    frontend::{FrontendKey, FrontendVal, Kind},
    id::BackendId,
    list::{Empty, ListRange},
    net::{Addr4, Addr6, Address, BePort, Proto},
    reason::Counter,
    service::BackendFlags,
    session::{RevnatVal, SessionKey},
};

const VIP: &str = "172.30.0.1";
const SECOND_VIP: &str = "203.0.113.1";
const B: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
const SOCKET: u64 = 77;
/// Dice that choose the first and the last backend.
const FIRST: u32 = 0;
const LAST: u32 = u32::MAX;

/// One service behind two addresses.
fn tables(backends: usize) -> Vecs<Addr4> {
    let mut tables = Vecs::serving(v4(VIP), &B.map(v4)[..backends], 0);
    let key = FrontendKey::new(v4(SECOND_VIP), BePort::new(80), Proto::UDP);
    tables
        .frontends
        .insert(key, FrontendVal::new(SERVICE, Kind::LOAD_BALANCER));
    tables
}

fn udp(addr: &str, port: u16) -> Dial<Addr4> {
    Dial {
        proto: Proto::UDP,
        ..dial(v4(addr), port)
    }
}

/// Sends from a socket; what happened, as text.
fn sent_by(tables: &Vecs<Addr4>, socket: u64, to: &str, second: u64, random: u32) -> String {
    match send(
        tables,
        socket,
        &udp(to, 80),
        &pod(),
        &at_second(second, random),
    ) {
        Decision::Pass => "pass".into(),
        Decision::Dnat(dnat) => format!("{:?} {:?}", dnat.to.addr, dnat.hit),
        Decision::Refuse { reason, service } => format!("{reason:?} of {}", service.0),
    }
}

fn sent(tables: &Vecs<Addr4>, to: &str, second: u64, random: u32) -> String {
    sent_by(tables, SOCKET, to, second, random)
}

/// What a reply from a backend shows.
fn shown(tables: &Vecs<Addr4>, from: &str, second: u64) -> Option<RevnatVal> {
    receive(
        tables,
        SOCKET,
        v4(from).mapped(),
        BePort::new(8080),
        second * SECOND,
    )
}

fn is_vip(shown: Option<RevnatVal>, vip: &str) -> bool {
    shown.is_some_and(|val| val.vip == v4(vip).mapped() && val.port == BePort::new(80))
}

#[test]
fn what_is_no_services_or_is_refused_leaves_no_trace() {
    let mut tables = tables(0);
    tables.range = Some((v4("172.30.0.0"), v4("172.30.0.255"), OWNED));
    assert_eq!(sent(&tables, "8.8.8.8", 0, FIRST), "pass");
    assert_eq!(
        sent(&tables, "172.30.0.9", 0, FIRST),
        "UnallocatedAddress of 0"
    );
    assert_eq!(sent(&tables, VIP, 0, FIRST), "NoLocalEndpoints of 7");
    assert!(tables.sessions.borrow().is_empty() && tables.revnats.borrow().is_empty());
}

#[test]
fn a_socket_keeps_its_backend_and_replies_show_the_address_dialled() {
    let tables = tables(4);
    assert_eq!(sent(&tables, VIP, 0, FIRST), "10.0.0.1 HitChosen");
    assert_eq!(sent(&tables, VIP, 1, LAST), "10.0.0.1 HitSession");
    assert!(is_vip(shown(&tables, B[0], 1), VIP));
    assert_eq!(
        shown(&tables, B[1], 1),
        None,
        "somebody else's datagram shows itself"
    );
    assert_eq!(
        sent_by(&tables, SOCKET + 1, VIP, 1, LAST),
        "10.0.0.4 HitChosen",
        "another socket"
    );
}

#[test]
fn a_session_ends_after_30_s_without_a_reply_and_120_s_with_one() {
    let silent = tables(4);
    sent(&silent, VIP, 0, FIRST);
    assert_eq!(sent(&silent, VIP, 29, LAST), "10.0.0.1 HitSession");
    assert_eq!(
        sent(&silent, VIP, 58, LAST),
        "10.0.0.1 HitSession",
        "each datagram refreshes"
    );
    assert_eq!(sent(&silent, VIP, 88, LAST), "10.0.0.4 HitChosen");

    let replied = tables(4);
    sent(&replied, VIP, 0, FIRST);
    assert!(is_vip(shown(&replied, B[0], 10), VIP));
    assert_eq!(
        sent(&replied, VIP, 129, LAST),
        "10.0.0.1 HitSession",
        "a reply refreshes"
    );
    assert_eq!(sent(&replied, VIP, 249, LAST), "10.0.0.4 HitChosen");
}

#[test]
fn a_session_follows_serving_and_neither_readiness_nor_policy() {
    let change = |flags| {
        let mut tables = tables(4);
        sent(&tables, VIP, 0, FIRST);
        tables.backends.get_mut(&BackendId(1)).unwrap().flags = flags;
        sent(&tables, VIP, 1, LAST)
    };
    let draining = BackendFlags::SERVING.with(BackendFlags::TERMINATING);
    assert_eq!(change(draining), "10.0.0.1 HitSession", "rule 90");
    assert_eq!(
        change(BackendFlags::TERMINATING),
        "10.0.0.4 HitChosen",
        "rule 89"
    );

    let mut emptied = tables(4);
    sent(&emptied, VIP, 0, FIRST);
    emptied.service_mut().cluster = ListRange::empty(Empty::Drop);
    assert_eq!(
        sent(&emptied, VIP, 1, LAST),
        "10.0.0.1 HitSession",
        "rule 90: policy"
    );
}

#[test]
fn a_session_does_not_outlive_its_backend_or_service() {
    let mut tables = tables(4);
    sent(&tables, VIP, 0, FIRST);
    tables.backends.get_mut(&BackendId(1)).unwrap().generation = 2;
    assert_eq!(
        sent(&tables, VIP, 1, LAST),
        "10.0.0.4 HitChosen",
        "the id is another endpoint's"
    );

    tables.backends.remove(&BackendId(4));
    assert_eq!(
        sent(&tables, VIP, 2, FIRST),
        "10.0.0.1 HitChosen",
        "the id is free"
    );

    tables.backends.get_mut(&BackendId(1)).unwrap().service = OTHER_SERVICE;
    assert_eq!(
        sent(&tables, VIP, 3, FIRST),
        "10.0.0.1 HitChosen",
        "the id is another service's"
    );

    let val = FrontendVal::new(OTHER_SERVICE, Kind::CLUSTER_IP);
    tables.all_frontends(|_| val);
    assert_eq!(
        sent(&tables, VIP, 4, FIRST),
        "NoEndpoints of 8",
        "the address is another service's"
    );
}

#[test]
fn two_addresses_of_one_socket_get_two_backends_while_there_are_two() {
    let two = tables(2);
    assert_eq!(sent(&two, VIP, 0, FIRST), "10.0.0.1 HitChosen");
    assert_eq!(sent(&two, SECOND_VIP, 0, FIRST), "10.0.0.2 HitChosen");
    assert!(is_vip(shown(&two, B[0], 0), VIP));
    assert!(is_vip(shown(&two, B[1], 0), SECOND_VIP));
    assert_eq!(*two.notes.borrow(), []);

    let one = tables(1);
    sent(&one, VIP, 0, FIRST);
    assert_eq!(sent(&one, SECOND_VIP, 0, FIRST), "10.0.0.1 HitChosen");
    assert!(
        is_vip(shown(&one, B[0], 0), SECOND_VIP),
        "the last one written wins"
    );
    assert_eq!(*one.notes.borrow(), [Counter::RevnatConflict], "counted");
}

#[test]
fn of_two_addresses_with_one_backend_the_one_written_last_is_shown() {
    let tables = tables(1);
    sent(&tables, VIP, 0, FIRST);
    sent(&tables, SECOND_VIP, 0, FIRST);
    for (second, vip) in [(1, VIP), (2, SECOND_VIP), (3, SECOND_VIP), (4, VIP)] {
        assert_eq!(sent(&tables, vip, second, FIRST), "10.0.0.1 HitSession");
        assert!(is_vip(shown(&tables, B[0], second), vip), "at {second}");
    }
    let conflicts = tables.notes.borrow().len();
    assert_eq!(
        conflicts,
        1 + 3,
        "when it began, and each time that it changed hands"
    );
}

#[test]
fn a_reply_half_that_cannot_be_taken_back_is_counted() {
    let mut tables = tables(1);
    sent(&tables, VIP, 0, FIRST);
    sent(&tables, SECOND_VIP, 0, FIRST);
    tables.revnats_full = true;
    tables.notes.borrow_mut().clear();
    assert_eq!(sent(&tables, VIP, 1, FIRST), "10.0.0.1 HitSession");
    assert_eq!(
        *tables.notes.borrow(),
        [Counter::RevnatConflict, Counter::StateLost]
    );
}

#[test]
fn another_socket_takes_no_backend_away() {
    let tables = tables(2);
    sent_by(&tables, SOCKET + 1, VIP, 0, FIRST);
    assert_eq!(sent(&tables, SECOND_VIP, 0, FIRST), "10.0.0.1 HitChosen");
}

#[test]
fn a_backend_whose_other_session_ended_is_free_again() {
    let tables = tables(2);
    sent(&tables, VIP, 0, FIRST);
    assert_eq!(
        sent(&tables, SECOND_VIP, 30, FIRST),
        "10.0.0.1 HitChosen",
        "30 s idle"
    );
    assert_eq!(*tables.notes.borrow(), []);
}

#[test]
fn a_pinned_backend_is_kept_even_where_another_address_uses_it() {
    let mut tables = tables(2);
    tables.service_mut().affinity_timeout_s = 600;
    assert_eq!(sent(&tables, VIP, 0, FIRST), "10.0.0.1 HitChosen");
    assert_eq!(
        sent(&tables, SECOND_VIP, 1, LAST),
        "10.0.0.1 HitPinned",
        "rule 76"
    );
    assert_eq!(*tables.notes.borrow(), [Counter::RevnatConflict]);
}

#[test]
fn a_datagram_goes_out_though_nothing_can_be_remembered() {
    for (sessions_full, revnats_full) in [(true, false), (false, true)] {
        let mut tables = tables(2);
        (tables.sessions_full, tables.revnats_full) = (sessions_full, revnats_full);
        assert_eq!(sent(&tables, VIP, 0, FIRST), "10.0.0.1 HitChosen");
        assert_eq!(*tables.notes.borrow(), [Counter::StateLost]);
        assert!(
            tables.sessions.borrow().is_empty(),
            "no session without a reply half"
        );
    }
}

#[test]
fn ports_of_one_address_are_apart() {
    let mut tables = tables(4);
    let key = FrontendKey::new(v4(VIP), BePort::new(81), Proto::UDP);
    tables
        .frontends
        .insert(key, FrontendVal::new(SERVICE, Kind::CLUSTER_IP));
    sent(&tables, VIP, 0, FIRST);
    let second = send(&tables, SOCKET, &udp(VIP, 81), &pod(), &at_second(0, FIRST));
    assert!(
        matches!(second, Decision::Dnat(d) if d.to.addr != v4(B[0])),
        "{second:?}"
    );
}

#[test]
fn both_families_share_the_form_of_a_session() {
    let tables4 = tables(1);
    sent(&tables4, VIP, 0, FIRST);
    let key = SessionKey::new(SOCKET, v6("::ffff:172.30.0.1"), BePort::new(80));
    assert_eq!(
        tables4.sessions.borrow()[0].0,
        key,
        "recvmsg6 serves a v4-mapped socket"
    );

    let tables6 = Vecs::<Addr6>::serving(v6("fd30::1"), &[v6("fd10::1")], 0);
    let to = Dial {
        proto: Proto::UDP,
        ..dial(v6("fd30::1"), 80)
    };
    let client: Client<Addr6> = pod();
    send(&tables6, SOCKET, &to, &client, &at_second(0, FIRST));
    let shown = receive(&tables6, SOCKET, v6("fd10::1"), BePort::new(8080), 0);
    assert!(shown.is_some_and(|val| val.vip == v6("fd30::1")));
}
