//! Addresses, ports and protocols with their byte order in the type.
//!
//! What travels on the wire is a byte array in network order; `host` and `words` are the only ways
//! to numbers. No other file of the project swaps bytes.

use core::fmt;

/// A port in network byte order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C, align(2))]
pub struct BePort {
    /// Big endian, as on the wire.
    pub be: [u8; 2],
}

impl BePort {
    /// From a number in host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self {
            be: host.to_be_bytes(),
        }
    }

    /// From the kernel's `user_port`: network order in the low 16 bits of a native u32.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel uses the low half only"
    )]
    pub const fn from_ctx(word: u32) -> Self {
        Self {
            be: (word as u16).to_ne_bytes(),
        }
    }

    /// For the kernel's `user_port`.
    #[inline(always)]
    pub const fn to_ctx(self) -> u32 {
        u16::from_ne_bytes(self.be) as u32
    }

    /// The number.
    #[inline(always)]
    pub const fn host(self) -> u16 {
        u16::from_be_bytes(self.be)
    }
}

impl fmt::Debug for BePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host())
    }
}

/// An IP protocol number (IANA); any value is valid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Proto(pub u8);

impl Proto {
    /// No protocol: the key of a VIP as such (rule 83).
    pub const ANY: Self = Self(0);
    /// Transmission Control Protocol.
    pub const TCP: Self = Self(6);
    /// User Datagram Protocol.
    pub const UDP: Self = Self(17);
    /// Stream Control Transmission Protocol.
    pub const SCTP: Self = Self(132);

    /// The name that Kubernetes uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TCP => "TCP",
            Self::UDP => "UDP",
            Self::SCTP => "SCTP",
            Self(_) => "any",
        }
    }
}

impl fmt::Debug for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the two address families have in common. Implemented by [`Addr4`] and [`Addr6`].
pub trait Address: Copy + Eq + Ord + fmt::Debug + core::hash::Hash + bytemuck::Pod {
    /// 4 or 6.
    const FAMILY: u8;
    /// Length in bits.
    const BITS: u32;
    /// 0.0.0.0 or ::
    const UNSPECIFIED: Self;
    /// 127.0.0.1 or ::1
    const LOCALHOST: Self;

    /// As a number in host order, most significant half first; IPv4 uses the second half only.
    fn words(&self) -> [u64; 2];

    /// In the one form that maps of both families share: IPv4 as ::ffff:a.b.c.d.
    fn mapped(&self) -> Addr6;

    /// In 127.0.0.0/8, or ::1.
    fn is_loopback(&self) -> bool;

    /// 0.0.0.0 or ::
    #[inline(always)]
    fn is_unspecified(&self) -> bool {
        let [high, low] = self.words();
        high | low == 0
    }

    /// `lo <= self <= hi`, as numbers.
    #[inline(always)]
    fn within(&self, lo: &Self, hi: &Self) -> bool {
        let (a, l, h) = (self.words(), lo.words(), hi.words());
        let above = a[0] > l[0] || (a[0] == l[0] && a[1] >= l[1]);
        let below = a[0] < h[0] || (a[0] == h[0] && a[1] <= h[1]);
        above && below
    }
}

/// An IPv4 address in network byte order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C, align(4))]
pub struct Addr4 {
    /// The four octets.
    pub ip4: [u8; 4],
}

/// An IPv6 address in network byte order. Aligned, so that it is compared by words: `==` on a byte
/// array is a compare loop in BPF (118 verified instructions for 16 bytes).
#[expect(
    clippy::derived_hash_with_manual_eq,
    reason = "the manual comparison is the derived one, by words"
)]
#[derive(Clone, Copy, PartialOrd, Ord, Hash, Default)]
#[repr(C, align(4))]
pub struct Addr6 {
    /// The sixteen octets.
    pub ip6: [u8; 16],
}

impl PartialEq for Addr6 {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.ne_words(), other.ne_words());
        ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3])) == 0
    }
}

impl Eq for Addr6 {}

impl Addr4 {
    /// From the kernel's `user_ip4`: network order in a native u32.
    #[inline(always)]
    pub const fn from_ctx(word: u32) -> Self {
        Self {
            ip4: word.to_ne_bytes(),
        }
    }

    /// For the kernel's `user_ip4`.
    #[inline(always)]
    pub const fn to_ctx(self) -> u32 {
        u32::from_ne_bytes(self.ip4)
    }
}

impl Addr6 {
    /// From the kernel's `user_ip6`: network order in four native u32.
    #[inline(always)]
    pub const fn from_ctx(w: [u32; 4]) -> Self {
        let (a, b, c, d) = (
            w[0].to_ne_bytes(),
            w[1].to_ne_bytes(),
            w[2].to_ne_bytes(),
            w[3].to_ne_bytes(),
        );
        Self {
            ip6: [
                a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
                d[2], d[3],
            ],
        }
    }

    /// For the kernel's `user_ip6`; also a cheap form to compare.
    #[inline(always)]
    pub const fn ne_words(&self) -> [u32; 4] {
        let b = &self.ip6;
        [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ]
    }

    /// The IPv4 address of ::ffff:a.b.c.d, else `None`.
    #[inline(always)]
    pub const fn as_mapped(&self) -> Option<Addr4> {
        let w = self.ne_words();
        if w[0] | w[1] == 0 && w[2] == u32::from_ne_bytes([0, 0, 0xff, 0xff]) {
            return Some(Addr4::from_ctx(w[3]));
        }
        None
    }
}

impl Address for Addr4 {
    const FAMILY: u8 = 4;
    const BITS: u32 = 32;
    const UNSPECIFIED: Self = Self { ip4: [0; 4] };
    const LOCALHOST: Self = Self {
        ip4: [127, 0, 0, 1],
    };

    #[inline(always)]
    fn words(&self) -> [u64; 2] {
        [0, u32::from_be_bytes(self.ip4) as u64]
    }

    #[inline(always)]
    fn mapped(&self) -> Addr6 {
        Addr6::from_ctx([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), self.to_ctx()])
    }

    #[inline(always)]
    fn is_loopback(&self) -> bool {
        self.ip4[0] == 127
    }
}

impl Address for Addr6 {
    const FAMILY: u8 = 6;
    const BITS: u32 = 128;
    const UNSPECIFIED: Self = Self { ip6: [0; 16] };
    const LOCALHOST: Self = Self {
        ip6: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    };

    #[inline(always)]
    fn words(&self) -> [u64; 2] {
        let w = self.ne_words();
        let join = |a: u32, b: u32| (u32::from_be(a) as u64) << 32 | u32::from_be(b) as u64;
        [join(w[0], w[1]), join(w[2], w[3])]
    }

    #[inline(always)]
    fn mapped(&self) -> Addr6 {
        *self
    }

    #[inline(always)]
    fn is_loopback(&self) -> bool {
        *self == Self::LOCALHOST
    }
}

impl fmt::Debug for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&core::net::Ipv4Addr::from(*self), f)
    }
}

impl fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&core::net::Ipv6Addr::from(*self), f)
    }
}

impl From<core::net::Ipv4Addr> for Addr4 {
    fn from(ip: core::net::Ipv4Addr) -> Self {
        Self { ip4: ip.octets() }
    }
}

impl From<core::net::Ipv6Addr> for Addr6 {
    fn from(ip: core::net::Ipv6Addr) -> Self {
        Self { ip6: ip.octets() }
    }
}

impl From<Addr4> for core::net::Ipv4Addr {
    fn from(addr: Addr4) -> Self {
        Self::from(addr.ip4)
    }
}

impl From<Addr6> for core::net::Ipv6Addr {
    fn from(addr: Addr6) -> Self {
        Self::from(addr.ip6)
    }
}
