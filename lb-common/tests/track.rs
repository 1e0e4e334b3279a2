//! What packets do to a connection's state, and how long it lives then.

use lb_common::{
    flow::FlowFlags,
    net::Proto,
    track::{Step, Timeouts, after},
};

const CLIENT: FlowFlags = FlowFlags { bits: 0 };
const BACKEND: FlowFlags = FlowFlags::REPLY;
const TIMES: Timeouts = Timeouts::DEFAULT;

/// State after packets, each from one side.
fn run(packets: &[(FlowFlags, Step)]) -> FlowFlags {
    packets
        .iter()
        .fold(FlowFlags::default(), |state, (side, step)| {
            after(state.with(*side), *step).without(FlowFlags::REPLY)
        })
}

fn flags(all: &[FlowFlags]) -> FlowFlags {
    all.iter()
        .fold(FlowFlags::default(), |sum, one| sum.with(*one))
}

const OPENED: &[(FlowFlags, Step)] = &[(CLIENT, Step::Open)];
const ANSWERED: &[(FlowFlags, Step)] = &[(CLIENT, Step::Open), (BACKEND, Step::Carry)];
const TAKEN_UP: &[(FlowFlags, Step)] = &[
    (CLIENT, Step::Open),
    (BACKEND, Step::Carry),
    (CLIENT, Step::Carry),
];

fn with(begin: &[(FlowFlags, Step)], more: &[(FlowFlags, Step)]) -> FlowFlags {
    run(&[begin, more].concat())
}

#[test]
fn a_connection_is_established_when_the_client_took_an_answer_up() {
    assert_eq!(run(OPENED), FlowFlags::default());
    assert_eq!(run(ANSWERED), FlowFlags::REPLIED);
    let both = flags(&[FlowFlags::REPLIED, FlowFlags::ESTABLISHED]);
    assert_eq!(run(TAKEN_UP), both);
}

#[test]
fn whoever_only_sends_openers_never_establishes() {
    let flood = [(CLIENT, Step::Open), (BACKEND, Step::Carry)].repeat(5);
    assert_eq!(run(&flood), FlowFlags::REPLIED);
    let acks_without_answer = [(CLIENT, Step::Open), (CLIENT, Step::Carry)].repeat(5);
    assert_eq!(run(&acks_without_answer), FlowFlags::default());
}

#[test]
fn udp_is_established_by_its_second_exchange() {
    let first = [(CLIENT, Step::Datagram), (BACKEND, Step::Datagram)];
    assert_eq!(run(&first), FlowFlags::REPLIED);
    let both = flags(&[FlowFlags::REPLIED, FlowFlags::ESTABLISHED]);
    assert_eq!(with(&first, &[(CLIENT, Step::Datagram)]), both);
}

#[test]
fn a_connection_closes_when_both_sides_sent_their_last() {
    let half = with(TAKEN_UP, &[(CLIENT, Step::Done)]);
    assert!(half.has(FlowFlags::CLIENT_DONE) && !half.is_closing());
    let other_half = with(TAKEN_UP, &[(BACKEND, Step::Done)]);
    assert!(other_half.has(FlowFlags::BACKEND_DONE) && !other_half.is_closing());
    let both = with(
        TAKEN_UP,
        &[
            (CLIENT, Step::Done),
            (BACKEND, Step::Carry),
            (BACKEND, Step::Done),
            (CLIENT, Step::Carry),
        ],
    );
    assert!(both.is_closing() && !both.has(FlowFlags::RESET));
}

#[test]
fn a_reset_is_believed_until_something_else_comes() {
    for side in [CLIENT, BACKEND] {
        let reset = with(TAKEN_UP, &[(side, Step::Reset)]);
        assert!(reset.has(FlowFlags::RESET) && reset.is_closing());
        for other in [CLIENT, BACKEND] {
            let alive = with(TAKEN_UP, &[(side, Step::Reset), (other, Step::Carry)]);
            assert_eq!(alive, run(TAKEN_UP));
        }
        let retried = with(TAKEN_UP, &[(side, Step::Reset), (CLIENT, Step::Open)]);
        assert!(
            retried.has(FlowFlags::RESET),
            "an opener is no sign of life"
        );
    }
}

#[test]
fn no_packet_changes_what_is_no_state() {
    let way = flags(&[
        FlowFlags::SNAT,
        FlowFlags::LB0,
        FlowFlags::PORT,
        FlowFlags::LOCAL,
    ]);
    for side in [CLIENT, BACKEND] {
        for step in [
            Step::Open,
            Step::Datagram,
            Step::Carry,
            Step::Done,
            Step::Reset,
        ] {
            let changed = after(way.with(side), step).bits ^ way.with(side).bits;
            assert_eq!(changed & !FlowFlags::STATE.bits, 0, "{step:?}");
        }
    }
}

#[test]
fn state_only_grows_but_for_a_reset_that_is_taken_back() {
    for bits in 0..=FlowFlags::STATE.bits {
        let state = FlowFlags {
            bits: bits & (FlowFlags::STATE.bits | 1),
        };
        for step in [
            Step::Open,
            Step::Datagram,
            Step::Carry,
            Step::Done,
            Step::Reset,
        ] {
            let lost = state.without(after(state, step));
            assert_eq!(
                lost.without(FlowFlags::RESET),
                FlowFlags::default(),
                "{state:?} {step:?}"
            );
        }
    }
}

#[test]
fn every_state_has_the_timeout_of_the_table() {
    let (replied, established) = (FlowFlags::REPLIED, FlowFlags::ESTABLISHED);
    let (client_done, backend_done) = (FlowFlags::CLIENT_DONE, FlowFlags::BACKEND_DONE);
    let table: [(&[FlowFlags], u32); 9] = [
        (&[], 60),
        (&[replied], 60),
        (&[replied, established], 86_400),
        (&[replied, established, client_done], 3_600),
        (&[replied, established, backend_done], 3_600),
        (&[replied, established, client_done, backend_done], 120),
        (&[replied, client_done], 60),
        (&[replied, established, FlowFlags::RESET], 10),
        (&[FlowFlags::RESET], 10),
    ];
    for (state, seconds) in table {
        for proto in [Proto::TCP, Proto::SCTP] {
            assert_eq!(TIMES.of(proto, flags(state)), seconds, "{proto} {state:?}");
        }
    }
    for (state, seconds) in [
        (&[][..], 30),
        (&[replied], 30),
        (&[replied, established], 120),
    ] {
        assert_eq!(TIMES.of(Proto::UDP, flags(state)), seconds, "UDP {state:?}");
    }
}

#[test]
fn a_flow_is_over_after_its_timeout_and_not_before() {
    let over = |seen_s, now_s| TIMES.is_over(Proto::UDP, FlowFlags::default(), seen_s, now_s);
    assert!(!over(100, 130));
    assert!(over(100, 131));
    // Another CPU's clock, a moment behind.
    assert!(!over(100, 99));
    assert!(!over(u32::MAX, 0));
}

#[test]
fn a_step_survives_being_a_number() {
    for step in [
        Step::Open,
        Step::Datagram,
        Step::Carry,
        Step::Done,
        Step::Reset,
    ] {
        assert_eq!(Step::from_index(step as u32), step);
    }
    assert_eq!(Step::from_index(99), Step::Carry);
}
