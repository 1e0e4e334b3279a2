//! Addresses, ports and ranges against the standard library's arithmetic.

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_common::{
    config::{AddrRange, AddrRanges, MAX_RANGES, OWNED},
    list::{Empty, ListRange},
    name::ServiceName,
    net::{Addr4, Addr6, Address, BePort, Proto},
};
use proptest::prelude::*;

fn cases() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 512 })
    }
}

fn number4(addr: Addr4) -> u128 {
    u128::from(Ipv4Addr::from(addr).to_bits())
}

fn number6(addr: Addr6) -> u128 {
    Ipv6Addr::from(addr).to_bits()
}

/// Addresses near each other, so that edges are met.
fn near6() -> impl Strategy<Value = Addr6> {
    let high = prop::sample::select(vec![0_u128, 1, u128::from(u64::MAX), 1 << 63]);
    (high, 0..4_u64)
        .prop_map(|(high, low)| Ipv6Addr::from_bits(high << 64 | u128::from(low)).into())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn ports_travel_in_network_order(port: u16) {
        prop_assert_eq!(BePort::new(port).host(), port);
        prop_assert_eq!(BePort::new(port).be, port.to_be_bytes());
        prop_assert_eq!(BePort::from_ctx(BePort::new(port).to_ctx()), BePort::new(port));
        prop_assert_eq!(BePort::new(port).to_ctx(), u32::from(port.to_be()));
    }

    #[test]
    fn addresses_keep_their_bytes(v4: [u8; 4], v6: [u8; 16]) {
        let addr = Addr4 { ip4: v4 };
        prop_assert_eq!(Addr4::from_ctx(addr.to_ctx()), addr);
        prop_assert_eq!(addr.to_ctx().to_ne_bytes(), v4);
        prop_assert_eq!(addr.words(), [0, u64::from(u32::from_be_bytes(v4))]);
        prop_assert_eq!(addr.mapped().ip6, Ipv4Addr::from(v4).to_ipv6_mapped().octets());
        prop_assert_eq!(addr.mapped().as_mapped(), Some(addr));

        let addr = Addr6 { ip6: v6 };
        prop_assert_eq!(Addr6::from_ctx(addr.ne_words()), addr);
        let [high, low] = addr.words();
        prop_assert_eq!(u128::from(high) << 64 | u128::from(low), number6(addr));
        let mapped = Ipv6Addr::from(v6).to_ipv4_mapped().map(Addr4::from);
        prop_assert_eq!(addr.as_mapped(), mapped);
    }

    #[test]
    fn equality_by_words_is_equality_by_bytes(a: [u8; 16], i in 0..16_usize, flip: u8) {
        let mut b = a;
        b[i] ^= flip;
        prop_assert_eq!(Addr6 { ip6: a } == Addr6 { ip6: b }, a == b);
    }

    #[test]
    fn within_is_comparison_of_numbers(a in near6(), lo in near6(), hi in near6(), b: u32, l: u32, h: u32) {
        let expected = (number6(lo)..=number6(hi)).contains(&number6(a));
        prop_assert_eq!(a.within(&lo, &hi), expected);
        let four = |bits: u32| Addr4::from(Ipv4Addr::from_bits(bits));
        let expected = (number4(four(l))..=number4(four(h))).contains(&number4(four(b)));
        prop_assert_eq!(four(b).within(&four(l), &four(h)), expected);
    }

    #[test]
    fn a_range_is_found_as_a_walk_over_all_would_find_it(
        bounds in prop::collection::vec((0..40_u32, 0..8_u32, any::<bool>()), 0..=MAX_RANGES),
        len in 0..=MAX_RANGES,
        addr in 0..48_u32,
    ) {
        let four = |bits: u32| Addr4::from(Ipv4Addr::from_bits(bits));
        let mut all = AddrRanges::<Addr4> {
            len: u32::try_from(len.min(bounds.len())).unwrap(),
            ..AddrRanges::default()
        };
        for (place, (lo, more, owned)) in all.ranges.iter_mut().zip(&bounds) {
            let flags = if *owned { OWNED } else { 0 };
            *place = AddrRange { lo: four(*lo), hi: four(lo + more), flags };
        }
        let counted = bounds.iter().take(len);
        let mut holding = counted.filter(|(lo, more, _)| (*lo..=lo + more).contains(&addr));
        let expected = holding.next().map(|(_, _, owned)| u32::from(*owned));
        prop_assert_eq!(all.find(&four(addr)), expected);
    }

    #[test]
    fn a_list_keeps_base_and_length(base: u32, len in 1..u32::MAX) {
        let list = ListRange::new(base, len);
        prop_assert_eq!((list.base(), list.len(), list.is_empty()), (base, len, false));
    }

    #[test]
    fn names_come_back_as_they_went_in(ns in "[a-z0-9-]{1,63}", name in "[a-z0-9-]{1,63}", port in "[a-z0-9-]{0,63}") {
        let made = ServiceName::new(&ns, &name, &port, Proto::UDP).unwrap();
        prop_assert_eq!(made.parts(), (ns.as_str(), name.as_str(), port.as_str()));
    }
}

#[test]
fn loopback_is_a_network_in_ipv4_and_one_address_in_ipv6() {
    let four = |text: &str| Addr4::from(text.parse::<Ipv4Addr>().unwrap()).is_loopback();
    let six = |text: &str| Addr6::from(text.parse::<Ipv6Addr>().unwrap()).is_loopback();
    assert_eq!(
        ["127.0.0.1", "127.255.0.9", "128.0.0.1", "0.0.0.0"].map(four),
        [true, true, false, false]
    );
    assert_eq!(
        ["::1", "::", "::2", "::ffff:127.0.0.1"].map(six),
        [true, false, false, false]
    );
    assert!(Addr4::LOCALHOST.is_loopback() && Addr6::LOCALHOST.is_loopback());
    assert!(Addr4::UNSPECIFIED.is_unspecified() && Addr6::UNSPECIFIED.is_unspecified());
    assert!(!Addr4::LOCALHOST.is_unspecified() && !Addr6::LOCALHOST.is_unspecified());
}

#[test]
fn an_empty_list_keeps_its_verdict() {
    for verdict in [Empty::Reject, Empty::Drop] {
        let list = ListRange::empty(verdict);
        assert!(list.is_empty());
        assert_eq!(list.verdict(), verdict);
    }
    assert_eq!(
        ListRange::default().verdict(),
        Empty::Reject,
        "a zeroed service rejects"
    );
}

#[test]
fn a_name_longer_than_kubernetes_allows_does_not_fit() {
    let long = "x".repeat(65);
    assert!(ServiceName::new(&long, "web", "", Proto::TCP).is_none());
    assert!(ServiceName::new("shop", "web", &"x".repeat(64), Proto::TCP).is_none());
    assert!(ServiceName::new("shop", &"x".repeat(63), &"x".repeat(63), Proto::TCP).is_some());
}
