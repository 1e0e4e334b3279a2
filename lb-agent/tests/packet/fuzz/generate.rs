//! Packets that are likely to mean something, and mutations of them.

use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
};

use crate::packet::{Extension, Link, Packet, Transport, packet};
use crate::rig::Rig;
use crate::world::{ALL_TO, Place, SNAT_PORT, Svc, TARGET, places};

/// splitmix64: as good as needed, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    pub fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

/// Where a packet is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Inbound,
    Outbound,
    Lb0,
}

impl Side {
    pub fn program(self) -> &'static str {
        match self {
            Self::Inbound => "lb_tc_in",
            Self::Outbound => "lb_tc_out",
            Self::Lb0 => "lb_lb0_out",
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct Shot {
    pub side: Side,
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Shot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for byte in &self.bytes {
            write!(text, "{byte:02x}")?;
        }
        write!(f, "{:?} {text}", self.side)
    }
}

/// A flow's key as packets carry it: protocol, sender, receiver.
pub type Key = (u8, SocketAddr, SocketAddr);

impl Shot {
    /// Sometimes a packet of a flow that is there.
    pub fn any(random: &mut Random, keys4: &[Key], keys6: &[Key]) -> Self {
        let side = random.pick(&[Side::Inbound, Side::Inbound, Side::Outbound, Side::Lb0]);
        let place = random.pick(&places());
        let keys = if place.family == 4 { keys4 } else { keys6 };
        let (transport, src, dst) = if !keys.is_empty() && random.once_in(2) {
            let (proto, src, dst) = random.pick(keys);
            (transport_of(random, proto), src, dst)
        } else {
            let proto = random.pick(&[6, 17, 132, 6, 17, 132, 1, 58, 47]);
            (
                transport_of(random, proto),
                sender(random, &place),
                receiver(random, &place),
            )
        };
        let packet = dressed(random, packet(transport, src, dst));
        let mut bytes = packet.bytes();
        if random.once_in(3) {
            mutate(random, &mut bytes);
        }
        Self { side, bytes }
    }

    pub fn device(&self, rig: &Rig) -> u32 {
        match self.side {
            Side::Inbound | Side::Outbound => rig.devices.up0,
            Side::Lb0 => rig.devices.lb0,
        }
    }
}

fn transport_of(random: &mut Random, proto: u8) -> Transport {
    match proto {
        6 => Transport::Tcp(random.pick(&[2, 2, 0x12, 0x10, 0x11, 4, 0x14, 0, 0x17])),
        17 => random.pick(&[Transport::Udp, Transport::Udp, Transport::UdpUnsummed]),
        132 => {
            let chunk = random.pick(&[0, 1, 1, 2, 6, 7, 8, 14, 10]);
            random.pick(&[
                Transport::Sctp(chunk),
                Transport::Sctp(chunk),
                Transport::SctpUnsummed(chunk),
            ])
        }
        other => Transport::Other(other),
    }
}

fn sender(random: &mut Random, place: &Place) -> SocketAddr {
    let ip = random.pick(&[
        place.client,
        place.client,
        place.stranger,
        place.pod,
        place.local,
        place.remote,
        place.narrow,
        place.nodes[0],
        place.lb0,
    ]);
    let port = random.pick(&[33_000, 33_001, 33_002, TARGET, SNAT_PORT]);
    SocketAddr::new(ip, port)
}

const SVCS: [Svc; 9] = [
    Svc::Stack,
    Svc::Redirect,
    Svc::Local,
    Svc::Empty,
    Svc::Elsewhere,
    Svc::Ranged,
    Svc::Twin,
    Svc::Narrow,
    Svc::Both,
];

fn receiver(random: &mut Random, place: &Place) -> SocketAddr {
    if random.once_in(5) {
        let ip = random.pick(&[
            place.client,
            place.local,
            place.nodes[0],
            place.lb0,
            place.vip(Svc::Stack),
            place.lb(Svc::Stack),
        ]);
        let port = random.pick(&[80, 81, TARGET, 30_010, SNAT_PORT, 9]);
        return SocketAddr::new(ip, port);
    }
    let (svc, to) = (random.pick(&SVCS), random.pick(&ALL_TO));
    place.dial(svc, to)
}

fn dressed(random: &mut Random, mut packet: Packet) -> Packet {
    use Extension::{Authentication, Destination, HopByHop, Routing};
    packet.ttl = random.pick(&[64, 64, 64, 255, 2, 1, 0]);
    packet.tos = random.pick(&[0, 0, 0xb8, 3]);
    if random.once_in(4) {
        packet = packet.options(random.below(11));
        let count = random.below(5);
        packet.extensions = (0..count)
            .map(|_| {
                random.pick(&[
                    HopByHop,
                    Destination(0),
                    Destination(3),
                    Routing,
                    Authentication,
                ])
            })
            .collect();
    }
    if random.once_in(8) {
        let offset = random.pick(&[0, 0, 1, 100]);
        packet = packet.fragment(random.pick(&[1, 2]), offset, random.once_in(2));
    }
    if random.once_in(30) {
        packet.link = Link::Vlan(9);
    }
    let len = if random.once_in(20) {
        random.below(1_400)
    } else {
        random.below(80)
    };
    packet.payload((0..len).map(|_| random.byte()).collect())
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        if bytes.len() < 36 {
            return;
        }
        // Mostly among the headers.
        let end = bytes.len().min(if random.once_in(4) { 2_000 } else { 80 });
        let at = 12 + random.below(end - 12);
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.byte(),
            2 => bytes[at] = random.pick(&[0, 0xff, 0x7f, 0x80, 1]),
            3 => bytes.truncate(at.max(34)),
            4 => bytes.insert(at, random.byte()),
            _ => {
                let value = random.byte();
                bytes.extend(std::iter::repeat_n(value, random.below(20)));
            }
        }
    }
}
