//! What the maps hold, byte by byte: whoever changes this changes the ABI version.

use bytemuck::{Pod, Zeroable, bytes_of};
use lb_common::{
    ABI_VERSION,
    affinity::{AffinityKey, AffinityVal},
    frontend::{Class, FrontendKey, FrontendVal, Kind, SourceRule},
    id::{BackendId, ServiceId},
    list::{Empty, ListRange},
    map_table::{MAPS, PROGRAMS, find},
    net::{Addr4, Addr6, BePort, Proto},
    netns::NetnsVal,
    reason::{COUNTER_SLOTS, Counter},
    service::{Algorithm, Backend, BackendFlags, Service, Slot},
    session::{RevnatKey, RevnatVal, SessionKey, SessionVal},
    socket::{BoundPort, SocketVal},
    source::SourceKey,
};

const V4: Addr4 = Addr4 { ip4: [10, 1, 2, 3] };
const V6: Addr6 = Addr6 {
    ip6: *b"0123456789abcdef",
};

/// Numbers in the machine's order, as the maps have them.
fn ne(value: u32) -> [u8; 4] {
    value.to_ne_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[track_caller]
fn golden<T: Pod>(value: &T, parts: &[&[u8]]) {
    assert_eq!(hex(bytes_of(value)), hex(&parts.concat()));
}

#[test]
fn the_abi_version_is_the_one_these_bytes_belong_to() {
    assert_eq!(ABI_VERSION, 1);
}

#[test]
fn a_frontend_is_what_travels_on_the_wire_then_flags() {
    let port = BePort::new(0x1234);
    golden(
        &FrontendKey::new(V4, port, Proto::TCP),
        &[&[10, 1, 2, 3], &[0x12, 0x34], &[6], &[0]],
    );
    golden(
        &FrontendKey::new(V6, port, Proto::UDP),
        &[b"0123456789abcdef", &[0x12, 0x34], &[17], &[0]],
    );
    golden(
        &FrontendKey::<Addr4>::any_port(V4),
        &[&[10, 1, 2, 3], &[0; 4]],
    );
    golden(
        &FrontendKey::<Addr4>::node_port(port, Proto::SCTP),
        &[&[0; 4], &[0x12, 0x34], &[132], &[0]],
    );
    let val = FrontendVal::new(ServiceId(0x0102), Kind::LOAD_BALANCER)
        .with_local(Class::Pod)
        .with_local(Class::Outside)
        .with_sources(Class::Host, SourceRule::Deny)
        .with_sources(Class::Outside, SourceRule::Check);
    golden(&val, &[&ne(0x0102), &[3, 0b101, 0b10_01_00, 0]]);
    golden(&FrontendVal::any_port(), &[&[0; 8]]);
}

#[test]
fn a_list_is_its_length_above_its_base() {
    let list = ListRange::new(0x11, 0x22);
    golden(&list, &[&0x22_0000_0011_u64.to_ne_bytes()]);
    golden(&ListRange::empty(Empty::Reject), &[&[0; 8]]);
    golden(&ListRange::empty(Empty::Drop), &[&1_u64.to_ne_bytes()]);
}

#[test]
fn a_service_is_two_lists_then_settings_then_the_turn() {
    let service = Service {
        cluster: ListRange::new(1, 2),
        local: ListRange::new(3, 4),
        affinity_timeout_s: 10800,
        algorithm: Algorithm::ROUND_ROBIN,
        flags: Service::IN_USE | Service::HAS_SOURCES,
        pad: 0,
        cursor: 9,
    };
    let (cluster, local) = (0x2_0000_0001_u64, 0x4_0000_0003_u64);
    golden(
        &service,
        &[
            &cluster.to_ne_bytes(),
            &local.to_ne_bytes(),
            &ne(10800),
            &[1, 3, 0, 0],
            &9_u64.to_ne_bytes(),
        ],
    );
}

#[test]
fn a_backend_and_its_slot_share_their_first_bytes() {
    let backend = Backend {
        addr: V4,
        port: BePort::new(8080),
        generation: 5,
        service: ServiceId(7),
        flags: BackendFlags::IN_CLUSTER.with(BackendFlags::HINTED_AWAY),
    };
    let place = [[10, 1, 2, 3], [0x1f, 0x90, 5, 0]].concat();
    golden(&backend, &[&place, &ne(7), &ne(0x81)]);
    golden(&backend.slot(BackendId(3)), &[&place, &ne(3), &ne(7)]);
    let slot = Slot {
        addr: V6,
        port: BePort::new(8080),
        generation: 5,
        backend: BackendId(3),
        service: ServiceId(7),
    };
    golden(
        &slot,
        &[b"0123456789abcdef", &[0x1f, 0x90, 5, 0], &ne(3), &ne(7)],
    );
}

#[test]
fn flags_of_a_backend_have_their_bits() {
    let all = [
        BackendFlags::IN_CLUSTER,
        BackendFlags::IN_LOCAL,
        BackendFlags::READY,
        BackendFlags::SERVING,
        BackendFlags::TERMINATING,
        BackendFlags::ON_NODE,
        BackendFlags::HOST_ADDR,
        BackendFlags::HINTED_AWAY,
    ];
    assert_eq!(all.map(|flag| flag.0), [1, 2, 4, 8, 16, 32, 64, 128]);
    let flags = BackendFlags::READY.set(BackendFlags::ON_NODE, true);
    assert!(flags.has(BackendFlags::READY) && flags.has(BackendFlags::ON_NODE));
    assert_eq!(flags.set(BackendFlags::READY, false), BackendFlags::ON_NODE);
}

#[test]
fn a_source_range_compares_the_service_first() {
    let key = SourceKey {
        service: ServiceId(7),
        addr: V4,
    };
    golden(&key, &[&ne(7), &[10, 1, 2, 3]]);
    assert_eq!(SourceKey::<Addr4>::prefix_len(24), 32 + 24);
}

#[test]
fn affinity_of_a_namespace_is_an_address_that_no_packet_has() {
    let key = AffinityKey::of_netns(0x0102_0304_0506_0708, ServiceId(7), 6);
    golden(
        &key,
        &[
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 2, 3, 4, 5, 6, 7, 8],
            &ne(7),
            &ne(6),
        ],
    );
    let val = AffinityVal {
        last_ns: 5,
        backend: BackendId(3),
        generation: 2,
        pad: 0,
    };
    golden(
        &val,
        &[&5_u64.to_ne_bytes(), &ne(3), &2_u16.to_ne_bytes(), &[0, 0]],
    );
    assert!(val.is_fresh(5 + 999_999_999, 1));
    assert!(!val.is_fresh(5 + 1_000_000_000, 1));
    assert!(val.is_fresh(0, 1), "a clock of another CPU may be behind");
}

#[test]
fn a_session_has_no_hole() {
    let key = SessionKey::new(1, V6, BePort::new(53));
    golden(
        &key,
        &[
            &1_u64.to_ne_bytes(),
            b"0123456789abcdef",
            &[0, 53, 17],
            &[0; 5],
        ],
    );
    let back = RevnatKey::new(1, V6, BePort::new(53));
    golden(
        &back,
        &[&1_u64.to_ne_bytes(), b"0123456789abcdef", &[0, 53], &[0; 6]],
    );
    golden(
        &RevnatVal::of(&key),
        &[b"0123456789abcdef", &[0, 53, 17], &[0; 5]],
    );
    let mut val = SessionVal::zeroed();
    val.port = BePort::new(53);
    val.generation = 2;
    val.backend = BackendId(3);
    val.service = ServiceId(4);
    val.replied = 1;
    val.contested = 2;
    val.last_ns = 6;
    let flags = [1_u16.to_ne_bytes(), 2_u16.to_ne_bytes()].concat();
    let numbers = [&ne(3)[..], &ne(4), &flags].concat();
    golden(
        &val,
        &[
            &[0; 16],
            &[0, 53],
            &2_u16.to_ne_bytes(),
            &numbers,
            &6_u64.to_ne_bytes(),
        ],
    );
}

#[test]
fn a_socket_and_a_namespace_keep_their_form() {
    let val = SocketVal {
        vip: V6,
        backend: V6,
        vip_port: BePort::new(80),
        backend_port: BePort::new(8080),
        service: ServiceId(7),
        backend_id: BackendId(3),
        generation: 2,
        flags: SocketVal::HAS_SESSION,
        family: 4,
    };
    let addr = b"0123456789abcdef";
    let ports = [0, 80, 0x1f, 0x90];
    golden(
        &val,
        &[
            addr,
            addr,
            &ports,
            &ne(7),
            &ne(3),
            &2_u16.to_ne_bytes(),
            &[1, 4],
        ],
    );
    assert!(val.is_peer(&V6, BePort::new(8080)));
    assert!(!val.is_peer(&V6, BePort::new(80)));
    assert!(
        !SocketVal::default().is_peer(&Addr6::default(), BePort::new(0)),
        "nothing stored"
    );
    let bound = BoundPort {
        port: BePort::new(0x1f90),
        pad: [0; 2],
    };
    golden(&bound, &[&[0x1f, 0x90], &[0; 2]]);
    let netns = NetnsVal {
        addr4: V4,
        addr6: V6,
        pad: 0,
    };
    golden(&netns, &[&[10, 1, 2, 3], addr, &[0; 4]]);
}

#[test]
fn the_map_table_has_every_map_once_with_its_sizes() {
    let sizes: Vec<(&str, usize, usize)> = MAPS
        .iter()
        .map(|map| (map.name, map.key_size, map.value_size))
        .collect();
    let expected = [
        ("LB4_FRONTENDS", 8, 8),
        ("LB6_FRONTENDS", 20, 8),
        ("LB4_SERVICES", 4, 32),
        ("LB6_SERVICES", 4, 32),
        ("LB4_SLOTS", 4, 16),
        ("LB6_SLOTS", 4, 28),
        ("LB4_BACKENDS", 4, 16),
        ("LB6_BACKENDS", 4, 28),
        ("LB4_SOURCES", 12, 4),
        ("LB6_SOURCES", 24, 4),
        ("LB4_NODE_ADDRS", 4, 4),
        ("LB6_NODE_ADDRS", 16, 4),
        ("LB_CONFIG", 4, 872),
        ("LB_AGENT", 4, 64),
        ("LB4_NAMES", 4, 192),
        ("LB6_NAMES", 4, 192),
        ("LB_NETNS", 8, 24),
        ("LB_AFFINITY", 24, 16),
        ("LB_UDP_SESSION", 32, 40),
        ("LB_UDP_REVNAT", 32, 24),
        ("LB4_FLOWS", 16, 36),
        ("LB4_EMBRYOS", 16, 36),
        ("LB4_FRAGMENTS", 16, 4),
        ("LB6_FLOWS", 40, 72),
        ("LB6_EMBRYOS", 40, 72),
        ("LB6_FRAGMENTS", 40, 4),
        ("LB4_DRAFT", 4, 228),
        ("LB6_DRAFT", 4, 456),
        ("LB_QUESTION", 4, 64),
        ("LB_DEVICES", 4, 24),
        ("LB_PORTS", 4, 8),
        ("LB_HOST_PORTS", 4, 8),
        ("LB_BOUND", 4, 4),
        ("LB_LIMIT", 4, 16),
        ("LB_SOCKETS", 4, 48),
        ("LB_PEERS", 4, 64),
        ("LB_COUNTERS", 4, 8),
        ("LB_EVENTS", 0, 56),
    ];
    assert_eq!(sizes, expected);
    for map in MAPS {
        assert_eq!(find(map.name), Some(map), "named once");
    }
    assert_eq!(find("LB4_NOTHING"), None);
}

#[test]
fn the_kernel_keeps_every_name_whole() {
    let maps = MAPS.iter().map(|map| map.name);
    let programs = PROGRAMS.iter().map(|(program, _)| *program);
    for name in maps.chain(programs) {
        assert!(name.len() <= 15, "{name}");
    }
}

#[test]
fn every_counter_has_a_slot_and_a_label_of_its_own() {
    let labels: std::collections::BTreeSet<_> = Counter::ALL.iter().map(|c| c.label()).collect();
    assert_eq!(labels.len(), Counter::ALL.len());
    for (i, counter) in (0_u32..).zip(Counter::ALL) {
        assert_eq!(*counter as u32, i);
        assert!(i < COUNTER_SLOTS, "{counter:?}");
        assert!(!counter.help().is_empty(), "{counter:?}");
    }
}
