//! Fragments: all follow the first, which alone has ports (rule 98).

use crate::{
    flow::FlowKey,
    net::{Address, BePort, Proto},
};

/// Key of `LB4_FRAGMENTS` and `LB6_FRAGMENTS`: what the fragments of a datagram share (RFC 791, RFC 8200).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Sender.
    pub src: A,
    /// Receiver.
    pub dst: A,
    /// Identification.
    pub id: u32,
    /// Protocol.
    pub proto: Proto,
    /// Zero.
    pub pad: [u8; 3],
}

/// Value of `LB4_FRAGMENTS` and `LB6_FRAGMENTS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FragmentVal {
    /// The sender's port.
    pub sport: BePort,
    /// The receiver's port.
    pub dport: BePort,
}

impl<A: Address> FragmentKey<A> {
    /// Of a datagram.
    #[inline(always)]
    pub const fn new(proto: Proto, src: A, dst: A, id: u32) -> Self {
        Self {
            src,
            dst,
            id,
            proto,
            pad: [0; 3],
        }
    }

    /// The tuple of the datagram.
    #[inline(always)]
    pub const fn tuple(&self, ports: &FragmentVal) -> FlowKey<A> {
        FlowKey::new(self.proto, self.src, ports.sport, self.dst, ports.dport)
    }
}
