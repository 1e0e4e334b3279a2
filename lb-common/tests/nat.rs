//! New flows: every row of the table of masquerading, collisions of tuples, and tables without room.

mod common;

use common::{
    SERVICE,
    node::{
        Ends, Family, LB0, LOCAL, LOCAL_ID, NOW_S, Policies, REMOTE, REMOTE_ID, SNAT_HI, SNAT_LO,
        UPLINK, World, config, ends4, ends6, open, tcp, without_detector, world,
    },
};
use lb_common::{
    config::{AddrRange, AddrRanges, Config, FamilyConfig, OWNED},
    flow::{FlowFlags, FlowKey, FlowVal},
    frontend::{Class, FrontendKey, FrontendVal, SourceRule},
    list::{Empty, ListRange},
    nat::{Draft, Outcome, stands},
    net::{Addr4, Addr6, Address, BePort, Proto},
    reason::{Counter, Reason},
    service::BackendFlags,
    track::Step,
};
use proptest::prelude::*;

const CHOSEN: Option<u32> = Some(Counter::HitChosen as u32);
const CLIENT_PORT: u16 = 40_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    Pod,
    Node,
    Outside,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

fn opener<A: Address>(ends: &Ends<A>, from: From, to: To) -> FlowKey<A> {
    let src = match from {
        From::Pod => ends.pod,
        From::Node => ends.node,
        From::Outside => ends.client,
    };
    match to {
        To::ClusterIp => tcp(src, CLIENT_PORT, ends.vip, 80),
        To::NodePort => tcp(src, CLIENT_PORT, ends.node, 30_080),
        To::LoadBalancer => tcp(src, CLIENT_PORT, ends.other_vip, 80),
    }
}

/// Which backends a cell of the table names, and whether the other node's one sees us as the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    Both,
    BothMasqueraded,
    LocalAlone,
    LocalAloneMasqueraded,
}
use Cell::{Both, BothMasqueraded as Masq, LocalAlone, LocalAloneMasqueraded as LocalMasq};

/// The table after rule 82: policies Cluster, external Local, internal Local.
const TABLE: [(From, To, [Cell; 3]); 9] = [
    (From::Pod, To::ClusterIp, [Both, Both, LocalAlone]),
    (From::Node, To::ClusterIp, [Masq, Masq, LocalMasq]),
    (From::Outside, To::ClusterIp, [Masq, Masq, LocalMasq]),
    (From::Pod, To::NodePort, [Masq, Both, Masq]),
    (From::Pod, To::LoadBalancer, [Masq, Both, Masq]),
    (From::Node, To::NodePort, [Masq, Masq, Masq]),
    (From::Node, To::LoadBalancer, [Masq, Masq, Masq]),
    (From::Outside, To::NodePort, [Masq, LocalAlone, Masq]),
    (From::Outside, To::LoadBalancer, [Masq, LocalAlone, Masq]),
];

const COLUMNS: [Policies; 3] = [
    Policies {
        external_local: false,
        internal_local: false,
    },
    Policies {
        external_local: true,
        internal_local: false,
    },
    Policies {
        external_local: false,
        internal_local: true,
    },
];

/// The deliberate difference from the table: a backend on this node sees the client even where the table
/// masquerades, for its answers leave by our devices anyway.
fn wanted<A: Address>(ends: &Ends<A>, key: &FlowKey<A>, is_local: bool, cell: Cell) -> FlowVal<A> {
    let is_local = is_local || matches!(cell, LocalAlone | LocalMasq);
    let is_masqueraded = !is_local && cell == Masq;
    FlowVal {
        src: if is_masqueraded { ends.node } else { key.src },
        sport: BePort::new(if is_masqueraded { SNAT_LO } else { CLIENT_PORT }),
        dst: if is_local { ends.local } else { ends.remote },
        via: A::UNSPECIFIED,
        dport: BePort::new(8080),
        service: SERVICE,
        backend: if is_local { LOCAL_ID } else { REMOTE_ID },
        generation: 1,
        flags: match (is_local, is_masqueraded) {
            (true, _) => FlowFlags::LOCAL,
            (_, true) => FlowFlags::SNAT,
            (_, false) => FlowFlags::default(),
        },
        oif: if is_masqueraded { UPLINK } else { 0 },
        seen_s: NOW_S,
    }
}

fn assert_table<A: Family>(
    ends: Ends<A>,
    config: &Config,
    cell_of: impl Fn(From, To, usize) -> Cell,
) where
    Config: FamilyConfig<A>,
{
    for (from, to, _) in TABLE {
        for (column, policies) in COLUMNS.into_iter().enumerate() {
            for throw in [LOCAL, REMOTE] {
                let mut world = world(config, ends, policies);
                let key = opener(&ends, from, to);
                let (outcome, draft) = open(&mut world, key, &[throw, 0]);
                let name = format!("{from:?} to {to:?}, {policies:?}, thrown {throw}");
                assert_eq!(outcome.made(), CHOSEN, "{name}");
                let val = wanted(&ends, &key, throw == LOCAL, cell_of(from, to, column));
                assert_eq!(draft.val, val, "{name}");
                assert_halves(&world, &key, &val);
            }
        }
    }
}

/// Both halves are there, and each gives the other.
fn assert_halves<A: Family>(world: &World<'_, A>, key: &FlowKey<A>, val: &FlowVal<A>) {
    let flows = world.tables.flows.borrow();
    let answers = val.other_key(key.proto);
    let other = flows[&answers];
    assert_eq!(flows.len(), 2);
    assert_eq!(flows[key], *val);
    assert_eq!(other, val.other_val(key, other.oif));
    assert_eq!(other.other_key(key.proto), *key);
    assert_eq!(other.other_val(&answers, val.oif), *val);
    let is_snat = val.flags.has(FlowFlags::SNAT);
    assert_eq!(
        other.oif != 0,
        is_snat,
        "answers of what we sent by ourselves come to us"
    );
}

fn cell(from: From, to: To, column: usize) -> Cell {
    let row = TABLE.iter().find(|row| (row.0, row.1) == (from, to));
    row.expect("every pair is a row").2[column]
}

#[test]
fn every_row_of_the_table_of_masquerading() {
    assert_table(ends4(), &config(&ends4()), cell);
    assert_table(ends6(), &config(&ends6()), cell);
}

/// Node and outside to a ClusterIP keep their address, and pods cannot be told from outside clients.
fn cell_without_detector(from: From, to: To, column: usize) -> Cell {
    match (from, to, cell(from, to, column)) {
        (From::Pod, To::NodePort | To::LoadBalancer, Both) => LocalAlone,
        (_, To::ClusterIp, Masq) => Both,
        (_, To::ClusterIp, LocalMasq) => LocalAlone,
        (_, _, cell) => cell,
    }
}

#[test]
fn every_row_of_the_table_without_a_detector() {
    let config4 = without_detector::<Addr4>(config(&ends4()));
    assert_table(ends4(), &config4, cell_without_detector);
    let config6 = without_detector::<Addr6>(config(&ends6()));
    assert_table(ends6(), &config6, cell_without_detector);
}

#[test]
fn every_row_of_the_table_with_masquerade_all() {
    let cell = |from, to, column| match cell(from, to, column) {
        Both if to == To::ClusterIp => Masq,
        LocalAlone if to == To::ClusterIp => LocalMasq,
        cell @ (Both | LocalAlone | Masq | LocalMasq) => cell,
    };
    let mut all4 = config(&ends4());
    all4.flags |= Config::MASQUERADE_ALL;
    assert_table(ends4(), &all4, cell);
    let mut all6 = config(&ends6());
    all6.flags |= Config::MASQUERADE_ALL;
    assert_table(ends6(), &all6, cell);
}

/// Runs a case in both families.
macro_rules! both {
    ($($name:ident),+ $(,)?) => {
        mod ipv4 { $(#[test] fn $name() { super::$name(super::ends4()); })+ }
        mod ipv6 { $(#[test] fn $name() { super::$name(super::ends6()); })+ }
    };
}

both!(
    a_pod_that_dials_itself_goes_through_lb0,
    another_nodes_pod_that_dials_itself_sees_this_node,
    without_lb0_a_hairpin_keeps_its_address,
    backends_of_this_node_are_masqueraded_through_lb0_on_request,
    without_redirects_masqueraded_flows_go_through_lb0,
    a_device_without_an_address_masquerades_nothing,
    two_vips_to_one_backend_get_different_ports,
    a_direct_flow_of_the_same_tuple_keeps_its_port,
    a_port_of_a_hosts_socket_is_not_used,
    ports_that_are_all_taken_are_counted_and_leave_nothing,
    a_range_without_ports_is_counted,
    a_port_that_another_flow_has_is_not_used,
    without_room_nothing_is_left_behind,
    an_opener_that_cannot_step_aside_leaves_nothing,
    an_opener_of_another_cpu_wins_and_no_half_is_left,
    an_opener_of_another_cpu_with_the_same_answers_keeps_both_halves,
    a_closing_flow_gives_way_to_another_vip,
    a_flow_that_timed_out_gives_way_to_another_vip,
    refusals_make_no_flow,
    source_ranges_are_looked_at_first,
    an_address_of_no_service_passes,
    clients_are_classed_in_the_order_of_rule_39,
    affinity_pins_a_client_by_its_address,
    udp_stays_while_its_backend_serves_and_moves_when_it_does_not,
    tcp_stays_whatever_becomes_of_its_backend,
    a_repeated_opener_stays_unless_nobody_listens,
    a_new_connection_ends_a_closing_one,
    what_timed_out_does_not_stand_for_openers,
);

fn a_pod_that_dials_itself_goes_through_lb0<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    for policies in COLUMNS {
        let mut world = world(&config, ends, policies);
        let key = tcp(ends.local, CLIENT_PORT, ends.vip, 80);
        let (outcome, draft) = open(&mut world, key, &[LOCAL, 0]);
        assert_eq!(outcome.made(), CHOSEN);
        let through_lb0 = FlowFlags::SNAT.with(FlowFlags::LB0).with(FlowFlags::LOCAL);
        assert_eq!(draft.val.flags, through_lb0);
        assert_eq!((draft.val.src, draft.val.oif), (ends.lb0, LB0));
        assert_eq!(draft.val.sport, BePort::new(SNAT_LO));
        assert_halves(&world, &key, &draft.val);
    }
}

fn another_nodes_pod_that_dials_itself_sees_this_node<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    let key = tcp(ends.remote, CLIENT_PORT, ends.node, 30_080);
    let (outcome, draft) = open(&mut world, key, &[REMOTE, 0]);
    assert_eq!(outcome.made(), CHOSEN);
    assert_eq!(
        (draft.val.flags, draft.val.src),
        (FlowFlags::SNAT, ends.node)
    );
}

fn without_lb0_a_hairpin_keeps_its_address<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = Config {
        lb0: 0,
        ..config(&ends)
    };
    let mut world = world(&config, ends, Policies::default());
    let key = tcp(ends.local, CLIENT_PORT, ends.vip, 80);
    let (outcome, draft) = open(&mut world, key, &[LOCAL, 0]);
    assert_eq!(outcome.made(), CHOSEN);
    assert_eq!(
        (draft.val.flags, draft.val.src),
        (FlowFlags::LOCAL, ends.local)
    );
}

fn backends_of_this_node_are_masqueraded_through_lb0_on_request<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let mut config = config(&ends);
    config.flags |= Config::MASQUERADE_LOCAL;
    let mut world = world(&config, ends, Policies::default());
    let key = opener(&ends, From::Outside, To::NodePort);
    let (_, draft) = open(&mut world, key, &[LOCAL, 0]);
    let through_lb0 = FlowFlags::SNAT.with(FlowFlags::LB0).with(FlowFlags::LOCAL);
    assert_eq!((draft.val.flags, draft.val.src), (through_lb0, ends.lb0));
    // Where nothing is to be masqueraded, nothing is.
    let key = opener(&ends, From::Pod, To::ClusterIp);
    let (_, draft) = open(&mut world, key, &[LOCAL, 0]);
    assert_eq!(
        (draft.val.flags, draft.val.src),
        (FlowFlags::LOCAL, ends.pod)
    );
}

fn without_redirects_masqueraded_flows_go_through_lb0<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let mut config = config(&ends);
    config.flags |= Config::NO_REDIRECT;
    let mut world = world(&config, ends, Policies::default());
    let key = opener(&ends, From::Outside, To::NodePort);
    let (_, draft) = open(&mut world, key, &[REMOTE, 0]);
    assert_eq!(draft.val.flags, FlowFlags::SNAT.with(FlowFlags::LB0));
    assert_eq!((draft.val.src, draft.val.oif), (ends.lb0, LB0));
    assert_halves(&world, &key, &draft.val);
}

fn a_device_without_an_address_masquerades_nothing<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    world.network.source = A::UNSPECIFIED;
    let key = opener(&ends, From::Outside, To::NodePort);
    let (outcome, draft) = open(&mut world, key, &[REMOTE, 0]);
    assert_eq!(outcome.made(), CHOSEN);
    assert_eq!(
        (draft.val.flags, draft.val.src),
        (FlowFlags::default(), ends.client)
    );
}

fn two_vips_to_one_backend_get_different_ports<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    let first = opener(&ends, From::Outside, To::NodePort);
    let second = opener(&ends, From::Outside, To::LoadBalancer);
    open(&mut world, first, &[LOCAL]);
    let (outcome, draft) = open(&mut world, second, &[LOCAL, 0]);
    assert_eq!(outcome.made(), CHOSEN);
    assert_eq!(draft.val.flags, FlowFlags::LOCAL.with(FlowFlags::PORT));
    assert_eq!(draft.val.src, ends.client);
    assert_eq!(draft.val.sport, BePort::new(49_152));
    assert_eq!(*world.tables.notes.borrow(), [Counter::PortChanged]);
    let flows = world.tables.flows.borrow();
    assert_eq!(flows.len(), 4);
    assert_eq!(flows[&draft.answers].other_key(Proto::TCP), second);
}

fn a_direct_flow_of_the_same_tuple_keeps_its_port<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    let key = opener(&ends, From::Outside, To::NodePort);
    let (_, first) = open(&mut world, key, &[LOCAL]);
    // The same opener once more: its own answers are in nobody's way.
    let (outcome, again) = open(&mut world, key, &[LOCAL]);
    assert_eq!(outcome.made(), CHOSEN);
    assert_eq!(again.val, first.val);
    assert_halves(&world, &key, &again.val);
}

fn a_port_of_a_hosts_socket_is_not_used<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    let taken = tcp(ends.remote, 8080, ends.node, SNAT_LO);
    world.network.taken.borrow_mut().push(taken);
    let key = opener(&ends, From::Outside, To::NodePort);
    let (outcome, draft) = open(&mut world, key, &[REMOTE, 0, 0, 0, REMOTE]);
    assert_eq!(outcome.made(), CHOSEN);
    assert_eq!(draft.val.sport, BePort::new(SNAT_HI));
    assert_halves(&world, &key, &draft.val);
}

fn ports_that_are_all_taken_are_counted_and_leave_nothing<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    world.network.is_all_taken = true;
    let key = opener(&ends, From::Outside, To::NodePort);
    let (outcome, _) = open(&mut world, key, &[REMOTE]);
    assert_eq!(outcome.failed(), Some(Counter::NoSnatPort as u32));
    assert_eq!(world.tables.flows.borrow().len(), 0);
}

fn a_range_without_ports_is_counted<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = Config {
        snat_lo: BePort::new(2),
        snat_hi: BePort::new(1),
        ..config(&ends)
    };
    let mut world = world(&config, ends, Policies::default());
    let key = opener(&ends, From::Outside, To::NodePort);
    let (outcome, _) = open(&mut world, key, &[REMOTE]);
    assert_eq!(outcome.failed(), Some(Counter::NoSnatPort as u32));
    assert_eq!(world.tables.flows.borrow().len(), 0);
}

fn a_port_that_another_flow_has_is_not_used<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = Config {
        snat_hi: BePort::new(SNAT_LO + 1),
        ..config(&ends)
    };
    let mut world = world(&config, ends, Policies::default());
    let from = |port| tcp(ends.client, port, ends.node, 30_080);
    let (_, first) = open(&mut world, from(1), &[REMOTE, 0]);
    assert_eq!(first.val.sport, BePort::new(SNAT_LO));
    let (_, second) = open(&mut world, from(2), &[REMOTE, 0, u32::MAX]);
    assert_eq!(second.val.sport, BePort::new(SNAT_LO + 1));
    let (third, _) = open(&mut world, from(3), &[REMOTE, 0, u32::MAX]);
    assert_eq!(third.failed(), Some(Counter::NoSnatPort as u32));
    assert_eq!(world.tables.flows.borrow().len(), 4);
}

fn without_room_nothing_is_left_behind<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    for throw in [LOCAL, REMOTE] {
        let mut world = world(&config, ends, Policies::default());
        let key = opener(&ends, From::Outside, To::NodePort);
        world.tables.flow_room.set(1);
        let (outcome, _) = open(&mut world, key, &[throw]);
        assert_eq!(outcome.failed(), Some(Counter::FlowTableFull as u32));
        assert_eq!(world.tables.flows.borrow().len(), 0);
        world.tables.flow_room.set(0);
        let (outcome, _) = open(&mut world, key, &[throw]);
        assert!(outcome.failed().is_some());
        assert_eq!(world.tables.flows.borrow().len(), 0);
    }
}

fn an_opener_that_cannot_step_aside_leaves_nothing<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let world = world(&config, ends, Policies::default());
    let mut draft = Draft::opener(tcp(ends.client, CLIENT_PORT, ends.local, 8080));
    draft.val.src = ends.node;
    assert!(world.sidestep(&mut draft, FlowFlags::DIRECT, 50_000, 50_009));
    assert_eq!(
        (draft.val.src, world.tables.flows.borrow().len()),
        (ends.node, 2)
    );
    // The same once more: its own half is there already.
    assert!(!world.sidestep(&mut draft, FlowFlags::DIRECT, 50_010, 50_019));
    assert_eq!(world.tables.flows.borrow().len(), 2);
}

/// Both saw no flow; the other one chose another backend and was first.
fn an_opener_of_another_cpu_wins_and_no_half_is_left<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let key = opener(&ends, From::Outside, To::NodePort);
    let mut first = world(&config, ends, Policies::default());
    let (_, winner) = open(&mut first, key, &[REMOTE, 0]);

    let mut second = world(&config, ends, Policies::default());
    *second.tables.rival.borrow_mut() =
        vec![(key, winner.val), (winner.answers, winner.counterpart)];
    let (outcome, _) = open(&mut second, key, &[LOCAL]);
    assert_eq!(outcome.made(), CHOSEN);
    assert_halves(&second, &key, &winner.val);
}

/// Both saw no flow, and chose the same backend: the answers are the winner's, too.
fn an_opener_of_another_cpu_with_the_same_answers_keeps_both_halves<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let key = opener(&ends, From::Outside, To::NodePort);
    let mut first = world(&config, ends, Policies::default());
    let (_, winner) = open(&mut first, key, &[LOCAL]);

    let mut second = world(&config, ends, Policies::default());
    *second.tables.rival.borrow_mut() =
        vec![(key, winner.val), (winner.answers, winner.counterpart)];
    let (outcome, _) = open(&mut second, key, &[LOCAL]);
    assert_eq!(outcome.made(), CHOSEN);
    assert_halves(&second, &key, &winner.val);
}

/// Opens to one VIP, changes what is in the table, and opens to another one from the same port.
fn second_vip_after<A: Family>(
    ends: Ends<A>,
    change: impl Fn(&mut FlowVal<A>),
) -> (FlowVal<A>, usize)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    open(
        &mut world,
        opener(&ends, From::Outside, To::NodePort),
        &[LOCAL],
    );
    world
        .tables
        .flows
        .borrow_mut()
        .values_mut()
        .for_each(change);
    let second = opener(&ends, From::Outside, To::LoadBalancer);
    let (outcome, draft) = open(&mut world, second, &[LOCAL, 0]);
    assert_eq!(outcome.made(), CHOSEN);
    let flows = world.tables.flows.borrow().len();
    (draft.val, flows)
}

fn a_closing_flow_gives_way_to_another_vip<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let done = FlowFlags::CLIENT_DONE.with(FlowFlags::BACKEND_DONE);
    for state in [FlowFlags::RESET, done] {
        let (val, flows) = second_vip_after(ends, |val| val.flags = val.flags.with(state));
        assert_eq!((val.flags, flows), (FlowFlags::LOCAL, 2));
        assert_eq!(val.sport, BePort::new(CLIENT_PORT));
    }
    let half = |val: &mut FlowVal<A>| val.flags = val.flags.with(FlowFlags::CLIENT_DONE);
    let (val, flows) = second_vip_after(ends, half);
    assert_eq!(
        (val.flags, flows),
        (FlowFlags::LOCAL.with(FlowFlags::PORT), 4)
    );
}

fn a_flow_that_timed_out_gives_way_to_another_vip<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let (val, flows) = second_vip_after(ends, |val| val.seen_s = NOW_S - 61);
    assert_eq!((val.flags, flows), (FlowFlags::LOCAL, 2));
    let (val, flows) = second_vip_after(ends, |val| val.seen_s = NOW_S - 60);
    assert_eq!(
        (val.flags, flows),
        (FlowFlags::LOCAL.with(FlowFlags::PORT), 4)
    );
}

fn refusals_make_no_flow<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let refused = |world: &mut World<'_, A>, key| {
        let (outcome, _) = open(world, key, &[LOCAL]);
        assert_eq!(world.tables.flows.borrow().len(), 0);
        assert_eq!((outcome.made(), outcome.failed()), (None, None));
        outcome.refused()
    };
    let external = Policies {
        external_local: true,
        internal_local: false,
    };
    let mut world = world(&config, ends, external);
    let (cluster_ip, node_port) = (
        opener(&ends, From::Outside, To::ClusterIp),
        opener(&ends, From::Outside, To::NodePort),
    );
    world.tables.service_mut().local = ListRange::empty(Empty::Drop);
    assert_eq!(
        refused(&mut world, node_port),
        Some(Reason::NoLocalEndpoints)
    );
    let list = ListRange::empty(Empty::Reject);
    (
        world.tables.service_mut().local,
        world.tables.service_mut().cluster,
    ) = (list, list);
    assert_eq!(refused(&mut world, node_port), Some(Reason::NoEndpoints));
    assert_eq!(refused(&mut world, cluster_ip), Some(Reason::NoEndpoints));
    world.tables.range = Some((ends.vip, ends.other_vip, OWNED));
    let unknown = tcp(ends.client, 1, ends.vip, 81);
    assert_eq!(
        refused(&mut world, unknown),
        Some(Reason::UnallocatedAddress)
    );
    let any = FrontendKey::any_port(ends.vip);
    world.tables.frontends.insert(any, FrontendVal::any_port());
    assert_eq!(refused(&mut world, unknown), Some(Reason::UnknownPort));
}

fn source_ranges_are_looked_at_first<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    world
        .tables
        .all_frontends(|val| val.with_sources(Class::Outside, SourceRule::Check));
    world.tables.service_mut().cluster = ListRange::empty(Empty::Reject);
    let key = opener(&ends, From::Outside, To::LoadBalancer);
    let (outcome, _) = open(&mut world, key, &[LOCAL]);
    assert_eq!(outcome.refused(), Some(Reason::SourceDenied));
    world.tables.sources.push((SERVICE, ends.client));
    let (outcome, _) = open(&mut world, key, &[LOCAL]);
    assert_eq!(outcome.refused(), Some(Reason::NoEndpoints));
}

fn an_address_of_no_service_passes<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    for key in [
        tcp(ends.client, 1, ends.local, 80),
        tcp(ends.client, 1, ends.node, 80),
        tcp(ends.client, 1, ends.node, 30_081),
        tcp(ends.client, 1, ends.remote, 30_080),
        tcp(ends.client, 1, A::LOCALHOST, 30_080),
        tcp(ends.client, 1, A::UNSPECIFIED, 30_080),
        FlowKey {
            proto: Proto(136),
            ..opener(&ends, From::Outside, To::NodePort)
        },
    ] {
        let (outcome, _) = open(&mut world, key, &[LOCAL]);
        assert_eq!(outcome, Outcome::PASS, "{key:?}");
    }
    assert_eq!(world.tables.flows.borrow().len(), 0);
}

fn clients_are_classed_in_the_order_of_rule_39<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let detecting = config(&ends);
    let mut node = world(&detecting, ends, Policies::default());
    assert_eq!(node.class(&ends.pod), Class::Pod);
    assert_eq!(node.class(&ends.node), Class::Host);
    assert_eq!(node.class(&ends.client), Class::Outside);
    node.tables.node_addrs.push(ends.pod);
    assert_eq!(node.class(&ends.pod), Class::Pod);
    node.network.is_pod_device = true;
    assert_eq!(node.class(&ends.client), Class::Pod);
    let config = without_detector::<A>(detecting);
    let node = world(&config, ends, Policies::default());
    assert_eq!(node.class(&ends.pod), Class::Outside);
}

fn affinity_pins_a_client_by_its_address<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    world.tables.service_mut().affinity_timeout_s = 10;
    let from = |src, port| tcp(src, port, ends.node, 30_080);
    let (first, draft) = open(&mut world, from(ends.client, 1), &[REMOTE, 0]);
    assert_eq!((first.made(), draft.val.backend), (CHOSEN, REMOTE_ID));
    let (second, draft) = open(&mut world, from(ends.client, 2), &[REMOTE]);
    assert_eq!(second.made(), Some(Counter::HitPinned as u32));
    assert_eq!(draft.val.backend, REMOTE_ID);
    let (other, draft) = open(&mut world, from(ends.pod, 1), &[LOCAL]);
    assert_eq!((other.made(), draft.val.backend), (CHOSEN, LOCAL_ID));
}

/// Does the flow still stand, as the given protocol, in this state, for this step?
fn still<A: Family>(
    world: &World<'_, A>,
    proto: Proto,
    state: FlowFlags,
    step: Step,
    idle_s: u32,
) -> bool {
    let key = opener(&world.network.ends, From::Outside, To::NodePort);
    let key = FlowKey { proto, ..key };
    let val = wanted(&world.network.ends, &key, true, Both);
    let val = FlowVal {
        flags: val.flags.with(state),
        seen_s: NOW_S - idle_s,
        ..val
    };
    stands(&world.tables, world.config, &key, &val, step, NOW_S)
}

fn stop_serving<A: Family>(world: &mut World<'_, A>) {
    let backend = world.tables.backends.get_mut(&LOCAL_ID);
    let backend = backend.expect("it is there");
    backend.flags = BackendFlags::TERMINATING;
}

const REPLIED: FlowFlags = FlowFlags::REPLIED;

fn established() -> FlowFlags {
    REPLIED.with(FlowFlags::ESTABLISHED)
}

fn udp_stays_while_its_backend_serves_and_moves_when_it_does_not<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    for state in [FlowFlags::default(), REPLIED, established()] {
        assert!(still(&world, Proto::UDP, state, Step::Datagram, 0));
    }
    // Rule 90: policy, hints and draining do not end it.
    let backend = world.tables.backends.get_mut(&LOCAL_ID);
    backend.expect("it is there").flags = BackendFlags::SERVING;
    assert!(still(&world, Proto::UDP, established(), Step::Datagram, 0));
    stop_serving(&mut world);
    for state in [FlowFlags::default(), REPLIED, established()] {
        assert!(!still(&world, Proto::UDP, state, Step::Datagram, 0));
        assert!(still(
            &world,
            Proto::UDP,
            state.with(FlowFlags::REPLY),
            Step::Datagram,
            0
        ));
    }
    world.tables.backends.remove(&LOCAL_ID);
    assert!(!still(&world, Proto::UDP, established(), Step::Datagram, 0));
}

fn tcp_stays_whatever_becomes_of_its_backend<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    world.tables.backends.clear();
    for proto in [Proto::TCP, Proto::SCTP] {
        for step in [Step::Carry, Step::Done, Step::Reset] {
            assert!(still(&world, proto, established(), step, 900));
            // Out of window or not: rule 97.
            assert!(still(
                &world,
                proto,
                established().with(FlowFlags::RESET),
                step,
                900
            ));
        }
    }
}

fn a_repeated_opener_stays_unless_nobody_listens<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let mut world = world(&config, ends, Policies::default());
    assert!(still(
        &world,
        Proto::TCP,
        FlowFlags::default(),
        Step::Open,
        3
    ));
    stop_serving(&mut world);
    assert!(!still(
        &world,
        Proto::TCP,
        FlowFlags::default(),
        Step::Open,
        3
    ));
    assert!(still(&world, Proto::TCP, REPLIED, Step::Open, 3));
}

fn a_new_connection_ends_a_closing_one<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let world = world(&config, ends, Policies::default());
    let done = established()
        .with(FlowFlags::CLIENT_DONE)
        .with(FlowFlags::BACKEND_DONE);
    assert!(!still(&world, Proto::TCP, done, Step::Open, 0));
    assert!(!still(
        &world,
        Proto::TCP,
        established().with(FlowFlags::RESET),
        Step::Open,
        0
    ));
    assert!(still(&world, Proto::TCP, done, Step::Carry, 0));
    assert!(still(&world, Proto::TCP, established(), Step::Open, 0));
    let half = established().with(FlowFlags::CLIENT_DONE);
    assert!(still(&world, Proto::TCP, half, Step::Open, 0));
}

fn what_timed_out_does_not_stand_for_openers<A: Family>(ends: Ends<A>)
where
    Config: FamilyConfig<A>,
{
    let config = config(&ends);
    let world = world(&config, ends, Policies::default());
    assert!(still(&world, Proto::TCP, REPLIED, Step::Open, 60));
    assert!(!still(&world, Proto::TCP, REPLIED, Step::Open, 61));
    assert!(still(&world, Proto::UDP, REPLIED, Step::Datagram, 30));
    assert!(!still(&world, Proto::UDP, REPLIED, Step::Datagram, 31));
    assert!(still(
        &world,
        Proto::UDP,
        established(),
        Step::Datagram,
        120
    ));
    assert!(!still(
        &world,
        Proto::UDP,
        established(),
        Step::Datagram,
        121
    ));
}

#[test]
fn a_half_is_met_on_one_side_alone() {
    for bits in 0..1 << 12 {
        let flags = FlowFlags { bits };
        let places = [
            flags.is_met_inbound(),
            flags.is_met_outbound(),
            flags.is_met_at_lb0(),
        ];
        // Flows of the host have neither SNAT nor lb0.
        let is_possible = !flags.has(FlowFlags::HOST)
            || flags.bits & (FlowFlags::SNAT.bits | FlowFlags::LB0.bits) == 0;
        let is_masqueraded_lb0 = !flags.has(FlowFlags::LB0) || flags.has(FlowFlags::SNAT);
        if is_possible && is_masqueraded_lb0 {
            assert_eq!(places.iter().filter(|met| **met).count(), 1, "{flags:?}");
        }
    }
}

#[test]
fn outcomes_tell_themselves_apart() {
    assert_eq!(Outcome::PASS.made(), None);
    assert_eq!(Outcome::PASS.failed(), None);
    assert_eq!(Outcome::PASS.refused(), None);
}

fn any_key() -> impl Strategy<Value = FlowKey<Addr6>> {
    let addr = || any::<[u8; 16]>().prop_map(|ip6| Addr6 { ip6 });
    let port = || any::<u16>().prop_map(BePort::new);
    (any::<u8>(), addr(), port(), addr(), port()).prop_map(|(proto, src, sport, dst, dport)| {
        FlowKey::new(Proto(proto), src, sport, dst, dport)
    })
}

proptest! {
    /// Whatever a half says, the other one says the same of it.
    #[test]
    fn each_half_gives_the_other(
        key in any_key(), to in any_key(), bits in any::<u16>(), oifs in any::<[u32; 2]>()
    ) {
        let val = FlowVal {
            src: to.src,
            dst: to.dst,
            via: Addr6::UNSPECIFIED,
            sport: to.sport,
            dport: to.dport,
            service: SERVICE,
            backend: LOCAL_ID,
            generation: 3,
            flags: FlowFlags { bits },
            oif: oifs[0],
            seen_s: NOW_S,
        };
        let other_key = val.other_key(key.proto);
        let other = val.other_val(&key, oifs[1]);
        prop_assert_eq!(other_key, val.translated(key.proto).reversed());
        prop_assert_eq!(other.translated(key.proto), key.reversed());
        prop_assert_eq!(other.other_key(key.proto), key);
        prop_assert_eq!(other.other_val(&other_key, oifs[0]), val);
    }

    /// Ports lie in the range, and both ends of it are reached.
    #[test]
    fn ports_come_from_the_range(throw in any::<u32>(), lo in 1_u16..=u16::MAX, width in 0_u16..500) {
        let ends = ends4();
        let hi = lo.saturating_add(width);
        let config = Config { snat_lo: BePort::new(lo), snat_hi: BePort::new(hi), ..config(&ends) };
        let mut world = world(&config, ends, Policies::default());
        let key = opener(&ends, From::Outside, To::NodePort);
        let (_, draft) = open(&mut world, key, &[REMOTE, throw]);
        prop_assert!((lo..=hi).contains(&draft.val.sport.host()));
        let (_, lowest) = open(&mut world, FlowKey { sport: BePort::new(1), ..key }, &[REMOTE, 0]);
        let (_, highest) = open(&mut world, FlowKey { sport: BePort::new(2), ..key }, &[REMOTE, u32::MAX]);
        let is_free = |port: u16| draft.val.sport != BePort::new(port);
        prop_assert!(!is_free(lo) || lowest.val.sport == BePort::new(lo));
        prop_assert!(!is_free(hi) || lo == hi || highest.val.sport == BePort::new(hi));
    }
}

#[test]
fn ranges_of_pods_may_be_several() {
    let ends = ends4();
    let mut config = config(&ends);
    let mut pods: AddrRanges<Addr4> = config.pods4;
    pods.len = 2;
    pods.ranges[1] = AddrRange {
        lo: ends.client,
        hi: ends.client,
        flags: 0,
    };
    config.pods4 = pods;
    let node = world(&config, ends, Policies::default());
    assert_eq!(node.class(&ends.client), Class::Pod);
    assert_eq!(node.class(&ends.pod), Class::Pod);
}
