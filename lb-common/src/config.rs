//! Run-time settings of the programs.

use crate::net::{Addr4, Addr6, Address, BePort};

/// How many ranges a family may have.
pub const MAX_RANGES: usize = 8;
const NOWHERE: u32 = 8;

/// A range of addresses that belong to Services: both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct AddrRange<A> {
    /// First address.
    pub lo: A,
    /// Last address.
    pub hi: A,
    /// [`OWNED`], or 0.
    pub flags: u32,
}

/// The range is a ServiceCIDR: an address in it that no Service owns is dropped (rule 84). Without
/// it the range only spans known ClusterIPs, and an unknown address passes.
pub const OWNED: u32 = 1;

/// The ranges of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct AddrRanges<A> {
    /// How many of them count.
    pub len: u32,
    /// The ranges.
    pub ranges: [AddrRange<A>; MAX_RANGES],
}

impl<A: Address> AddrRanges<A> {
    /// Flags of the range that holds `addr`. One range is the usual number, and compared in line.
    #[inline(always)]
    pub fn find(&self, addr: &A) -> Option<u32> {
        let [first, ..] = &self.ranges;
        if self.len <= 1 {
            let is_in = self.len == 1 && addr.within(&first.lo, &first.hi);
            return is_in.then_some(first.flags);
        }
        self.ranges
            .get(self.position(addr) as usize)
            .map(|range| range.flags)
    }

    /// Index of the range that holds `addr`; [`MAX_RANGES`] where none does. Out of line, for the
    /// comparisons are long.
    #[inline(never)]
    fn position(&self, addr: &A) -> u32 {
        for (i, range) in (0..self.len).zip(&self.ranges) {
            if addr.within(&range.lo, &range.hi) {
                return i;
            }
        }
        NOWHERE
    }
}

/// A value of `LB_CONFIG`. Two of them: the one in force is named by `LB_AGENT`, so that a change
/// is seen whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Config {
    /// Cookie of the agent's network namespace: the node's own.
    pub host_netns: u64,
    /// A set of the constants below.
    pub flags: u32,
    /// Lowest NodePort served, network order.
    pub nodeport_lo: BePort,
    /// Highest NodePort served, network order; below the lowest: none.
    pub nodeport_hi: BePort,
    /// Service ranges, IPv4.
    pub ranges4: AddrRanges<Addr4>,
    /// Service ranges, IPv6.
    pub ranges6: AddrRanges<Addr6>,
}

impl Config {
    /// NodePorts answer on 127.0.0.0/8 in the host's network namespace.
    pub const LOCALHOST4: u32 = 1;
    /// NodePorts answer on ::1 in the host's network namespace.
    pub const LOCALHOST6: u32 = 1 << 1;
    /// Host sockets may not bind a NodePort that is served.
    pub const PROTECT_NODE_PORTS: u32 = 1 << 2;

    /// May this be a NodePort?
    #[inline(always)]
    pub const fn is_node_port(&self, port: BePort) -> bool {
        let port = port.host();
        self.nodeport_lo.host() <= port && port <= self.nodeport_hi.host()
    }
}

/// Picks a family's part of the configuration.
pub trait FamilyConfig<A> {
    /// Service ranges.
    fn ranges(&self) -> &AddrRanges<A>;
    /// Do NodePorts answer on loopback?
    fn localhost(&self) -> bool;
}

impl FamilyConfig<Addr4> for Config {
    #[inline(always)]
    fn ranges(&self) -> &AddrRanges<Addr4> {
        &self.ranges4
    }

    #[inline(always)]
    fn localhost(&self) -> bool {
        self.flags & Self::LOCALHOST4 != 0
    }
}

impl FamilyConfig<Addr6> for Config {
    #[inline(always)]
    fn ranges(&self) -> &AddrRanges<Addr6> {
        &self.ranges6
    }

    #[inline(always)]
    fn localhost(&self) -> bool {
        self.flags & Self::LOCALHOST6 != 0
    }
}
