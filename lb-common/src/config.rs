//! Run-time settings of the programs.

use crate::{
    net::{Addr4, Addr6, Address, BePort},
    track::Timeouts,
};

/// How many ranges a family may have.
pub const MAX_RANGES: usize = 8;
/// No range's flags.
const NOT_FOUND: u32 = u32::MAX;

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
        match self.search(addr) {
            NOT_FOUND => None,
            flags => Some(flags),
        }
    }

    /// Is `addr` in one of them?
    #[inline(always)]
    pub fn contains(&self, addr: &A) -> bool {
        self.len != 0 && self.search(addr) != NOT_FOUND
    }

    /// Flags of the range that holds `addr`, or [`NOT_FOUND`]. Out of line, for the comparisons are long; and what
    /// it returns is read from the map, for each number that the verifier knows it follows on its own.
    #[inline(never)]
    fn search(&self, addr: &A) -> u32 {
        for (_, range) in (0..self.len).zip(&self.ranges) {
            if addr.within(&range.lo, &range.hi) {
                return range.flags;
            }
        }
        NOT_FOUND
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
    /// Addresses that the local-traffic detector takes for pods' (rule 81), IPv4.
    pub pods4: AddrRanges<Addr4>,
    /// Likewise, IPv6.
    pub pods6: AddrRanges<Addr6>,
    /// The address that nobody has, by which backends answer through `lb0`; unspecified: no `lb0`.
    pub lb0_addr4: Addr4,
    /// Likewise, IPv6.
    pub lb0_addr6: Addr6,
    /// Index of `lb0`; 0: none.
    pub lb0: u32,
    /// Its hardware address.
    pub lb0_mac: [u8; 6],
    /// Lowest port for masqueraded flows, network order.
    pub snat_lo: BePort,
    /// Highest port for masqueraded flows, network order.
    pub snat_hi: BePort,
    /// Zero.
    pub pad: [u8; 6],
    /// The bit of a packet's mark that says it is ours already.
    pub mark: u32,
    /// How long idle flows live.
    pub timeouts: Timeouts,
}

impl Config {
    /// NodePorts answer on 127.0.0.0/8 in the host's network namespace.
    pub const LOCALHOST4: u32 = 1;
    /// NodePorts answer on ::1 in the host's network namespace.
    pub const LOCALHOST6: u32 = 1 << 1;
    /// Host sockets may not bind a NodePort that is served.
    pub const PROTECT_NODE_PORTS: u32 = 1 << 2;
    /// `--masquerade-all`: every packet to a ClusterIP is masqueraded (rule 77).
    pub const MASQUERADE_ALL: u32 = 1 << 3;
    /// `--masquerade-local-backends`: towards backends of this node, too.
    pub const MASQUERADE_LOCAL: u32 = 1 << 4;
    /// `--no-redirect`: masqueraded packets go through `lb0` and the stack.
    pub const NO_REDIRECT: u32 = 1 << 5;
    /// A local-traffic detector is in force for IPv4 (rule 81).
    pub const DETECTOR4: u32 = 1 << 6;
    /// Likewise, IPv6.
    pub const DETECTOR6: u32 = 1 << 7;

    /// Is it one of the ports that masqueraded flows use?
    #[inline(always)]
    pub const fn is_snat_port(&self, port: BePort) -> bool {
        let port = port.host();
        self.snat_lo.host() <= port && port <= self.snat_hi.host()
    }

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
    /// The detector's pod addresses.
    fn pods(&self) -> &AddrRanges<A>;
    /// Is a detector in force?
    fn has_detector(&self) -> bool;
    /// The address of `lb0`.
    fn lb0_addr(&self) -> A;
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

    #[inline(always)]
    fn pods(&self) -> &AddrRanges<Addr4> {
        &self.pods4
    }

    #[inline(always)]
    fn has_detector(&self) -> bool {
        self.flags & Self::DETECTOR4 != 0
    }

    #[inline(always)]
    fn lb0_addr(&self) -> Addr4 {
        self.lb0_addr4
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

    #[inline(always)]
    fn pods(&self) -> &AddrRanges<Addr6> {
        &self.pods6
    }

    #[inline(always)]
    fn has_detector(&self) -> bool {
        self.flags & Self::DETECTOR6 != 0
    }

    #[inline(always)]
    fn lb0_addr(&self) -> Addr6 {
        self.lb0_addr6
    }
}
