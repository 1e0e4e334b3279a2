//! Packet flows: who talks to whom, seen from both ends.
//!
//! A flow is two entries, its halves: one under the packets of the client, one under those of the
//! backend. A half says what its packets look like once translated, which is the other half's key
//! turned round: so either half can be rebuilt from the other.

use crate::{
    id::{BackendId, ServiceId},
    net::{Address, BePort, Proto},
};

/// Key of the flow tables: addresses and ports as a packet of this half carries them on arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Sender.
    pub src: A,
    /// Receiver.
    pub dst: A,
    /// The sender's port.
    pub sport: BePort,
    /// The receiver's port.
    pub dport: BePort,
    /// TCP, UDP or SCTP.
    pub proto: Proto,
    /// Zero.
    pub pad: [u8; 3],
}

impl<A: Address> FlowKey<A> {
    /// One direction of a conversation.
    #[inline(always)]
    pub const fn new(proto: Proto, src: A, sport: BePort, dst: A, dport: BePort) -> Self {
        Self {
            src,
            dst,
            sport,
            dport,
            proto,
            pad: [0; 3],
        }
    }

    /// The answers to it.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(self.proto, self.dst, self.dport, self.src, self.sport)
    }
}

/// Value of the flow tables. `LB4_FLOWS`, `LB6_FLOWS`: flows that were answered and taken up;
/// `LB4_EMBRYOS`, `LB6_EMBRYOS`: those that were not, yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FlowVal<A> {
    /// Sender once translated.
    pub src: A,
    /// Receiver once translated.
    pub dst: A,
    /// The next hop beyond `oif`, looked up once a second; unspecified: the kernel looks it up for each packet.
    pub via: A,
    /// The sender's port once translated.
    pub sport: BePort,
    /// The receiver's port once translated.
    pub dport: BePort,
    /// The service port.
    pub service: ServiceId,
    /// The backend.
    pub backend: BackendId,
    /// Generation of the backend id.
    pub generation: u16,
    /// Direction, way and state.
    pub flags: FlowFlags,
    /// Index of the device that packets of this half leave by; 0: the stack routes them.
    pub oif: u32,
    /// When a packet of either half was seen: seconds since boot (CLOCK_MONOTONIC), within a second.
    pub seen_s: u32,
}

/// A set of bits of a flow. State bits are written to both halves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(C)]
pub struct FlowFlags {
    /// See the constants.
    pub bits: u16,
}

impl FlowFlags {
    /// The half of the backend's packets.
    pub const REPLY: Self = Self { bits: 1 };
    /// The client's address is replaced by one of ours, so answers come to us.
    pub const SNAT: Self = Self { bits: 1 << 1 };
    /// Through `lb0`, where the stack forwards with an address of ours as the source.
    pub const LB0: Self = Self { bits: 1 << 2 };
    /// The client's address is kept, its port is not: another flow has the same answers.
    pub const PORT: Self = Self { bits: 1 << 3 };
    /// The backend is on this node.
    pub const LOCAL: Self = Self { bits: 1 << 4 };
    /// The backend answered.
    pub const REPLIED: Self = Self { bits: 1 << 5 };
    /// The client took the answer up.
    pub const ESTABLISHED: Self = Self { bits: 1 << 6 };
    /// The client sent its last.
    pub const CLIENT_DONE: Self = Self { bits: 1 << 7 };
    /// The backend sent its last.
    pub const BACKEND_DONE: Self = Self { bits: 1 << 8 };
    /// Broken off by either side.
    pub const RESET: Self = Self { bits: 1 << 9 };
    /// No Service's: a direct connection whose port had to give way to a flow's answers.
    pub const DIRECT: Self = Self { bits: 1 << 10 };

    /// Made by a packet of this node's own on its way out: its halves are met on the other side.
    pub const HOST: Self = Self { bits: 1 << 11 };

    /// The bits that both halves hold alike.
    pub const STATE: Self = Self {
        bits: Self::REPLIED.bits
            | Self::ESTABLISHED.bits
            | Self::CLIENT_DONE.bits
            | Self::BACKEND_DONE.bits
            | Self::RESET.bits,
    };

    /// All of `other`'s bits set?
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.bits & other.bits == other.bits
    }

    /// Both.
    #[inline(always)]
    pub const fn with(self, other: Self) -> Self {
        Self {
            bits: self.bits | other.bits,
        }
    }

    /// Without `other`'s bits.
    #[inline(always)]
    pub const fn without(self, other: Self) -> Self {
        Self {
            bits: self.bits & !other.bits,
        }
    }

    /// Is this half translated where packets arrive on an uplink?
    #[inline(always)]
    pub const fn is_met_inbound(self) -> bool {
        if self.has(Self::REPLY) {
            self.has(Self::HOST) || (self.has(Self::SNAT) && !self.has(Self::LB0))
        } else {
            !self.has(Self::HOST)
        }
    }

    /// Is this half translated where packets leave by an uplink?
    #[inline(always)]
    pub const fn is_met_outbound(self) -> bool {
        if self.has(Self::REPLY) {
            !self.has(Self::HOST) && !self.has(Self::SNAT)
        } else {
            self.has(Self::HOST)
        }
    }

    /// Is this half translated where packets leave by `lb0`?
    #[inline(always)]
    pub const fn is_met_at_lb0(self) -> bool {
        self.has(Self::REPLY) && self.has(Self::LB0)
    }

    /// The connection has ended, or is about to: both sides sent their last, or one broke it off.
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        self.has(Self::RESET) || self.has(Self::CLIENT_DONE.with(Self::BACKEND_DONE))
    }
}

impl<A: Address> FlowVal<A> {
    /// The key of the other half.
    #[inline(always)]
    pub const fn other_key(&self, proto: Proto) -> FlowKey<A> {
        FlowKey::new(proto, self.dst, self.dport, self.src, self.sport)
    }

    /// The value of the other half, given the key of this one; `oif` is the other half's own. Its next hop is not known
    /// here.
    #[inline(always)]
    pub const fn other_val(&self, key: &FlowKey<A>, oif: u32) -> Self {
        Self {
            src: key.dst,
            dst: key.src,
            via: A::UNSPECIFIED,
            sport: key.dport,
            dport: key.sport,
            service: self.service,
            backend: self.backend,
            generation: self.generation,
            flags: FlowFlags {
                bits: self.flags.bits ^ FlowFlags::REPLY.bits,
            },
            oif,
            seen_s: self.seen_s,
        }
    }

    /// The tuple that its packets carry once translated.
    #[inline(always)]
    pub const fn translated(&self, proto: Proto) -> FlowKey<A> {
        FlowKey::new(proto, self.src, self.sport, self.dst, self.dport)
    }
}
