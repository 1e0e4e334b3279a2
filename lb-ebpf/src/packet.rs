//! `__sk_buff`: its bytes, its helpers, and the node's network as a packet program asks for it.
#![expect(
    unsafe_code,
    reason = "packet bytes, context fields and packet helpers are reached here, and only here"
)]

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_fib_lookup,
        bpf_redir_neigh, bpf_sock_tuple,
    },
    btf_maps::PerCpuArray,
    helpers::generated as helpers,
    macros::btf_map,
};
use lb_common::{
    flow::FlowKey,
    net::{Addr4, Addr6, Address, Proto},
    parse::Bytes,
    rewrite::{Csum, Frame},
};

use crate::{stages::lb_crc_change, tc_lb::SHOT};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// BPF_ADJ_ROOM_MAC
const ROOM_BEHIND_LINK: u32 = 1;
const CURRENT_NETNS: u64 = u64::MAX;
/// BPF_FIB_LOOKUP_SRC, Linux 6.7: also choose the source address.
const FIB_SOURCE: u32 = 1 << 4;
const FIB_SUCCESS: i64 = 0;
/// The route is there, the neighbour is not known yet: redirect_neigh asks for it.
const FIB_NO_NEIGH: i64 = 7;
/// The route is there, and this very packet is larger than its device takes: no matter for where the flow goes.
const FIB_FRAG_NEEDED: i64 = 8;
/// A struct of 64 bytes.
const FIB_SIZE: i32 = {
    assert!(size_of::<bpf_fib_lookup>() == 64);
    64
};
const HOP_SIZE: i32 = {
    assert!(size_of::<bpf_redir_neigh>() == 20);
    20
};
/// Tells bpf_check_mtu to look at the segments of a GSO packet.
const MTU_SEGMENTS: u64 = 1;
/// Bytes of an Ethernet header.
const LINK_HEADER: u32 = 14;
/// So many bytes are enough for the headers that we look at.
const HEADERS: u32 = 256;
/// Offsets are cut to this, so that the verifier knows a bound; no header we look at lies beyond.
const MAX_OFFSET: u32 = 0x7ff;

/// A packet in a program on a device.
pub struct Skb {
    pub raw: *mut __sk_buff,
    /// Offset of the network header: the length of the link header.
    pub l3: u32,
}

impl Skb {
    /// `raw` is the context of the running program.
    #[inline(always)]
    pub fn new(raw: *mut __sk_buff, l3: u32) -> Self {
        Self { raw, l3 }
    }

    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.raw
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the kernel passes a valid context for the whole run of the program.
        unsafe { (*self.raw).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.raw).data_end as usize }
    }

    /// The protocol of the network header, native: 0x0800 or 0x86dd.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel uses the low half only"
    )]
    pub fn protocol(&self) -> u16 {
        // SAFETY: the kernel passes a valid context for the whole run of the program.
        u16::from_be(unsafe { (*self.raw()).protocol } as u16)
    }

    /// Has it a VLAN tag beside its bytes?
    #[inline(always)]
    pub fn has_vlan_tag(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.raw()).vlan_present != 0 }
    }

    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw()).ifindex }
    }

    #[inline(always)]
    pub fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw()).mark }
    }

    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        // SAFETY: as above; the field is writable in classifiers.
        unsafe { (*self.raw()).mark = mark }
    }

    /// Where `N` bytes at an offset are, if they lie in the linear part.
    #[inline(always)]
    fn direct<const N: usize>(&self, at: u32) -> Option<*mut [u8; N]> {
        let from = self.data() + (at & MAX_OFFSET) as usize;
        const { assert!(N.is_multiple_of(2), "read and written by words and halves") };
        (from + N <= self.data_end()).then_some(from as *mut [u8; N])
    }

    /// Brings the headers into the linear part, where they usually are.
    #[inline(always)]
    pub fn pull_headers(&self) {
        let wanted = if self.size() < HEADERS {
            self.size()
        } else {
            HEADERS
        };
        if self.data() + wanted as usize > self.data_end() {
            // What cannot be had is not read, later.
            // SAFETY: the context of this program type.
            let _done = unsafe { helpers::bpf_skb_pull_data(self.raw(), wanted) };
        }
    }

    /// Cuts or grows the packet; offloads of the old one are forgotten.
    #[inline(always)]
    pub fn resize(&self, len: u32) -> bool {
        // SAFETY: the context of this program type.
        unsafe { helpers::bpf_skb_change_tail(self.raw(), len, 0) == 0 }
    }

    /// Makes room behind the link header.
    #[inline(always)]
    pub fn make_room(&self, len: u32) -> bool {
        self.adjust_room(len.cast_signed())
    }

    /// Takes bytes away from behind the link header.
    #[inline(always)]
    pub fn take_room(&self, len: u32) -> bool {
        self.adjust_room(-len.cast_signed())
    }

    #[inline(always)]
    fn adjust_room(&self, change: i32) -> bool {
        // SAFETY: the context of this program type.
        unsafe { helpers::bpf_skb_adjust_room(self.raw(), change, ROOM_BEHIND_LINK, 0) == 0 }
    }

    /// Sends the link header back to where it came from; nothing to do without one.
    #[inline(always)]
    pub fn swap_macs(&self) -> bool {
        if self.l3 == 0 {
            return true;
        }
        let Some([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]) = self.load::<12>(0) else {
            return false;
        };
        self.store(0, &[s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5])
    }

    /// Addresses the packet to `mac`; one without a link header gets one, as devices that have them drop others.
    #[inline(always)]
    pub fn send_to_mac(&self, mac: &[u8; 6], protocol: u16) -> bool {
        if self.l3 != 0 {
            return self.store(0, mac);
        }
        self.make_link_header()
            && self.store(0, mac)
            && self.store(LINK_HEADER - 2, &protocol.to_be_bytes())
    }

    #[inline(always)]
    fn make_link_header(&self) -> bool {
        // SAFETY: the context of this program type.
        unsafe { helpers::bpf_skb_change_head(self.raw(), LINK_HEADER, 0) == 0 }
    }

    /// Sends it out of a device, with the hardware address of the next hop; the kernel looks an unspecified one up.
    #[inline(always)]
    pub fn redirect_neigh<A: Routed>(&self, oif: u32, via: &A) -> i32 {
        // The kernel takes a link header off, and drops what has none (Linux 6.18, net/core/filter.c).
        if self.l3 == 0 && !self.make_link_header() {
            return SHOT;
        }
        if via.is_unspecified() {
            // SAFETY: no parameters.
            return verdict(unsafe { helpers::bpf_redirect_neigh(oif, ptr::null_mut(), 0, 0) });
        }
        let mut hop = via.hop();
        // SAFETY: a struct of the size given.
        verdict(unsafe { helpers::bpf_redirect_neigh(oif, &raw mut hop, HOP_SIZE, 0) })
    }

    /// Lets it arrive at another device.
    #[inline(always)]
    pub fn redirect_into(&self, ifindex: u32) -> i32 {
        // SAFETY: plain numbers.
        verdict(unsafe { helpers::bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) })
    }

    /// Sends it out of a device as it is.
    #[inline(always)]
    pub fn redirect_out(&self, ifindex: u32) -> i32 {
        // SAFETY: plain numbers.
        verdict(unsafe { helpers::bpf_redirect(ifindex, 0) })
    }

    /// The largest network packet that may leave by `oif`, where this one is larger.
    #[inline(always)]
    pub fn too_big_for(&self, oif: u32) -> Option<u32> {
        let mut mtu = 0;
        // SAFETY: the context of this program type, and a place for the answer.
        let over = unsafe {
            helpers::bpf_check_mtu(self.raw().cast(), oif, &raw mut mtu, 0, MTU_SEGMENTS)
        };
        (over > 0).then_some(mtu)
    }

    /// The route for a packet that came in by this device: the next device, and the address to send from there
    /// where the kernel tells (Linux 6.7).
    #[inline(always)]
    pub fn route<A: Routed>(&self, to: &A) -> Option<(u32, A)> {
        let fib = question::<bpf_fib_lookup>()?;
        let mut answer = self.ask_route(fib, to, FIB_SOURCE);
        if answer < 0 {
            // A kernel that does not know the flag.
            answer = self.ask_route(fib, to, 0);
        }
        matches!(answer, FIB_SUCCESS | FIB_NO_NEIGH | FIB_FRAG_NEEDED)
            .then(|| (fib.ifindex, A::source(fib)))
    }

    /// The next device towards `to`, and the next hop there: unspecified where it is of the other family. `None` without a
    /// route.
    #[inline(always)]
    pub fn next_hop<A: Routed>(&self, to: &A) -> Option<(u32, A)> {
        let fib = question::<bpf_fib_lookup>()?;
        let answer = self.ask_route(fib, to, 0);
        matches!(answer, FIB_SUCCESS | FIB_NO_NEIGH | FIB_FRAG_NEEDED)
            .then(|| (fib.ifindex, A::next_hop(fib)))
    }

    #[inline(always)]
    fn ask_route<A: Routed>(&self, fib: &mut bpf_fib_lookup, to: &A, flags: u32) -> i64 {
        // SAFETY: every bit pattern is valid for this plain struct of the kernel's.
        *fib = unsafe { core::mem::zeroed() };
        fib.ifindex = self.ifindex();
        to.ask(fib);
        // SAFETY: the context of this program type, and a struct of the size given.
        unsafe { helpers::bpf_fib_lookup(self.raw().cast(), fib, FIB_SIZE, flags) }
    }

    /// Does a socket of this network namespace own the tuple?
    #[inline(always)]
    pub fn has_socket<A: Routed>(&self, tuple: &FlowKey<A>) -> bool {
        let Some(asked) = question::<bpf_sock_tuple>() else {
            return false;
        };
        let size = A::tuple(tuple, asked);
        // SAFETY: the context of this program type, a struct of the size given, and a reference that is
        // given back at once.
        unsafe {
            let socket = if tuple.proto == Proto::TCP {
                helpers::bpf_skc_lookup_tcp(self.raw().cast(), asked, size, CURRENT_NETNS, 0)
            } else if tuple.proto == Proto::UDP {
                helpers::bpf_sk_lookup_udp(self.raw().cast(), asked, size, CURRENT_NETNS, 0)
            } else {
                return false;
            };
            if socket.is_null() {
                return false;
            }
            helpers::bpf_sk_release(socket.cast());
        }
        true
    }
}

/// Room for a struct that the kernel is asked with: too large for the stack.
#[inline(always)]
fn question<T: Question>() -> Option<&'static mut T> {
    const { assert!(size_of::<T>() <= size_of::<Room>() && align_of::<T>() <= align_of::<Room>()) };
    // SAFETY: the map's value, a CPU's own, large enough, and any bits are valid for the structs named
    // below; programs on devices run with softirqs off, so one question at a time.
    LB_QUESTION
        .get_ptr_mut(0)
        .map(|at| unsafe { &mut *at.cast::<T>() })
}

/// Plain structs of the kernel's.
trait Question {}
impl Question for bpf_fib_lookup {}
impl Question for bpf_sock_tuple {}

/// 64 bytes.
type Room = [u64; 8];

#[btf_map]
static LB_QUESTION: PerCpuArray<Room, 1> = PerCpuArray::new();

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel returns a verdict of 32 bits"
)]
const fn verdict(from: i64) -> i32 {
    from as i32
}

impl Bytes for Skb {
    #[inline(always)]
    fn size(&self) -> u32 {
        // SAFETY: the kernel passes a valid context for the whole run of the program.
        unsafe { (*self.raw()).len }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let from = self.direct::<N>(at)?.cast::<u8>();
        let mut bytes = [0; N];
        for (i, word) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            // SAFETY: between the packet's start and end.
            *word = unsafe { load_word(from.add(4 * i)) }.to_ne_bytes();
        }
        if N % 4 == 2 {
            // SAFETY: as above.
            let half = unsafe { load_half(from.add(N - 2)) }.to_ne_bytes();
            bytes[N - 2] = half[0];
            bytes[N - 1] = half[1];
        }
        Some(bytes)
    }
}

// Headers lie at any address. The verifier knows which machines read words from there, the compiler does not, and
// would put each word together from its bytes.

/// # Safety
/// `at` points to four bytes of the packet.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "loaded as a word")]
unsafe fn load_word(at: *const u8) -> u32 {
    let word: u64;
    // SAFETY: by contract.
    unsafe { asm!("{v} = *(u32 *)({p} + 0)", p = in(reg) at, v = out(reg) word) };
    word as u32
}

/// # Safety
/// `at` points to two bytes of the packet.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "loaded as a half word")]
unsafe fn load_half(at: *const u8) -> u16 {
    let half: u64;
    // SAFETY: by contract.
    unsafe { asm!("{v} = *(u16 *)({p} + 0)", p = in(reg) at, v = out(reg) half) };
    half as u16
}

/// # Safety
/// `at` points to four writable bytes of the packet.
#[inline(always)]
unsafe fn store_word(at: *mut u8, word: u32) {
    // SAFETY: by contract.
    unsafe { asm!("*(u32 *)({p} + 0) = {v}", p = in(reg) at, v = in(reg) u64::from(word)) };
}

/// # Safety
/// `at` points to two writable bytes of the packet.
#[inline(always)]
unsafe fn store_half(at: *mut u8, half: u16) {
    // SAFETY: by contract.
    unsafe { asm!("*(u16 *)({p} + 0) = {v}", p = in(reg) at, v = in(reg) u64::from(half)) };
}

impl Frame for Skb {
    #[inline(always)]
    fn store<const N: usize>(&self, at: u32, bytes: &[u8; N]) -> bool {
        let Some(to) = self.direct::<N>(at) else {
            return false;
        };
        let to = to.cast::<u8>();
        for (i, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let word = u32::from_ne_bytes(*word);
            // SAFETY: between the packet's start and end; the kernel makes the bytes the program's own before
            // it runs.
            unsafe { store_word(to.add(4 * i), word) };
        }
        if N % 4 == 2 {
            let half = u16::from_ne_bytes([bytes[N - 2], bytes[N - 1]]);
            // SAFETY: as above.
            unsafe { store_half(to.add(N - 2), half) };
        }
        true
    }

    #[inline(always)]
    fn crc_change(&self, delta: u32, after: u32) -> u32 {
        lb_crc_change(delta, after)
    }

    #[inline(always)]
    fn l4_csum(&self, at: u32, diff: u32, how: Csum) -> bool {
        let mut flags = 0;
        if how.is_pseudo {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if how.zero_is_none {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        // SAFETY: the context of this program type; size 0 in the flags means that `diff` is a difference.
        unsafe {
            helpers::bpf_l4_csum_replace(self.raw(), at & MAX_OFFSET, 0, u64::from(diff), flags)
                == 0
        }
    }
}

#[inline(always)]
fn no_hop(family: u8) -> bpf_redir_neigh {
    // SAFETY: every bit pattern is valid for this plain struct of the kernel's.
    let mut hop: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    hop.nh_family = u32::from(family);
    hop
}

/// A family in the kernel's own structs.
pub trait Routed: Address {
    fn ask(&self, fib: &mut bpf_fib_lookup);
    fn source(fib: &bpf_fib_lookup) -> Self;
    /// The next hop of an answer: the gateway, or the destination itself.
    fn next_hop(fib: &bpf_fib_lookup) -> Self;
    /// As the redirect wants a next hop.
    fn hop(&self) -> bpf_redir_neigh;
    /// Fills in the tuple, and says how many bytes of it count.
    fn tuple(key: &FlowKey<Self>, to: &mut bpf_sock_tuple) -> u32;
}

impl Routed for Addr4 {
    #[inline(always)]
    fn ask(&self, fib: &mut bpf_fib_lookup) {
        fib.family = AF_INET;
        fib.__bindgen_anon_4.ipv4_dst = self.to_ctx();
    }

    #[inline(always)]
    fn source(fib: &bpf_fib_lookup) -> Self {
        // SAFETY: the family says which member of the union is meant.
        Self::from_ctx(unsafe { fib.__bindgen_anon_3.ipv4_src })
    }

    #[inline(always)]
    fn next_hop(fib: &bpf_fib_lookup) -> Self {
        if fib.family != AF_INET {
            return Self::UNSPECIFIED;
        }
        // SAFETY: as above.
        Self::from_ctx(unsafe { fib.__bindgen_anon_4.ipv4_dst })
    }

    #[inline(always)]
    fn hop(&self) -> bpf_redir_neigh {
        let mut hop = no_hop(AF_INET);
        hop.__bindgen_anon_1.ipv4_nh = self.to_ctx();
        hop
    }

    #[inline(always)]
    fn tuple(key: &FlowKey<Self>, to: &mut bpf_sock_tuple) -> u32 {
        // SAFETY: a plain union; all of its members are integers.
        let tuple = unsafe { &mut to.__bindgen_anon_1.ipv4 };
        tuple.saddr = key.src.to_ctx();
        tuple.daddr = key.dst.to_ctx();
        tuple.sport = u16::from_ne_bytes(key.sport.be);
        tuple.dport = u16::from_ne_bytes(key.dport.be);
        12
    }
}

impl Routed for Addr6 {
    #[inline(always)]
    fn ask(&self, fib: &mut bpf_fib_lookup) {
        fib.family = AF_INET6;
        fib.__bindgen_anon_4.ipv6_dst = self.ne_words();
    }

    #[inline(always)]
    fn source(fib: &bpf_fib_lookup) -> Self {
        // SAFETY: the family says which member of the union is meant.
        Self::from_ctx(unsafe { fib.__bindgen_anon_3.ipv6_src })
    }

    #[inline(always)]
    fn next_hop(fib: &bpf_fib_lookup) -> Self {
        // SAFETY: as above.
        Self::from_ctx(unsafe { fib.__bindgen_anon_4.ipv6_dst })
    }

    #[inline(always)]
    fn hop(&self) -> bpf_redir_neigh {
        let mut hop = no_hop(AF_INET6);
        hop.__bindgen_anon_1.ipv6_nh = self.ne_words();
        hop
    }

    #[inline(always)]
    fn tuple(key: &FlowKey<Self>, to: &mut bpf_sock_tuple) -> u32 {
        // SAFETY: a plain union; all of its members are integers.
        let tuple = unsafe { &mut to.__bindgen_anon_1.ipv6 };
        tuple.saddr = key.src.ne_words();
        tuple.daddr = key.dst.ne_words();
        tuple.sport = u16::from_ne_bytes(key.sport.be);
        tuple.dport = u16::from_ne_bytes(key.dport.be);
        36
    }
}
