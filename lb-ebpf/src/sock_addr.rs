//! `bpf_sock_addr` with its fields as values.
#![expect(
    unsafe_code,
    reason = "context fields, socket fields and socket helpers are reached here, and only here"
)]

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated as helpers,
    programs::SockAddrContext,
};
use lb_common::{
    decide::Chance,
    net::{Addr4, Addr6, Address, BePort},
    socket::SocketVal,
};

use crate::maps::{LB_SOCKETS, Place};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_UDPLITE: u32 = 136;
const TCP_ESTABLISHED: u32 = 1;

/// What kind of socket called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    /// UDP, and UDP-Lite, for which Kubernetes has no other name.
    Udp,
}

/// The context of connect, sendmsg, recvmsg and getpeername.
pub struct SockAddr<'a> {
    ctx: &'a SockAddrContext,
}

/// Reads one field of the context. Each is a load that the verifier rewrites: whole arrays cannot
/// be copied ("dereference of modified ctx ptr").
macro_rules! field {
    ($self:ident . $($path:tt)+) => {
        // SAFETY: the kernel passes a valid context for the whole run of the program.
        unsafe { (*$self.ctx.sock_addr).$($path)+ }
    };
}

impl<'a> SockAddr<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a SockAddrContext) -> Self {
        Self { ctx }
    }

    /// `None`: a ping socket, a raw socket or another protocol, none of our business.
    #[inline(always)]
    pub fn transport(&self) -> Option<Transport> {
        let kind = field!(self.type_);
        match field!(self.protocol) {
            IPPROTO_TCP if kind == SOCK_STREAM => Some(Transport::Tcp),
            IPPROTO_UDP | IPPROTO_UDPLITE if kind == SOCK_DGRAM => Some(Transport::Udp),
            _ => None,
        }
    }

    /// Destination or source, as the hook has it.
    #[inline(always)]
    pub fn addr4(&self) -> (Addr4, BePort) {
        (
            Addr4::from_ctx(field!(self.user_ip4)),
            BePort::from_ctx(field!(self.user_port)),
        )
    }

    /// Destination or source, as the hook has it.
    #[inline(always)]
    pub fn addr6(&self) -> (Addr6, BePort) {
        let words = [
            field!(self.user_ip6[0]),
            field!(self.user_ip6[1]),
            field!(self.user_ip6[2]),
            field!(self.user_ip6[3]),
        ];
        (
            Addr6::from_ctx(words),
            BePort::from_ctx(field!(self.user_port)),
        )
    }

    #[inline(always)]
    pub fn set_addr4(&self, addr: Addr4, port: BePort) {
        let to: *mut bpf_sock_addr = self.ctx.sock_addr;
        // SAFETY: both fields are writable in every hook that calls this.
        unsafe {
            (*to).user_ip4 = addr.to_ctx();
            (*to).user_port = port.to_ctx();
        }
    }

    #[inline(always)]
    pub fn set_addr6(&self, addr: Addr6, port: BePort) {
        let to: *mut bpf_sock_addr = self.ctx.sock_addr;
        let words = addr.ne_words();
        // SAFETY: the fields are writable in every hook that calls this.
        unsafe {
            (*to).user_ip6[0] = words[0];
            (*to).user_ip6[1] = words[1];
            (*to).user_ip6[2] = words[2];
            (*to).user_ip6[3] = words[3];
            (*to).user_port = port.to_ctx();
        }
    }

    #[inline(always)]
    fn sk(&self) -> *mut bpf_sock {
        field!(self.__bindgen_anon_1.sk)
    }

    /// The IPv4 address that the socket is bound to, or got with an earlier connect.
    #[inline(always)]
    pub fn bound4(&self) -> Option<Addr4> {
        // SAFETY: the context's socket is never null in these hooks.
        let addr = Addr4::from_ctx(unsafe { (*self.sk()).src_ip4 });
        (!addr.is_unspecified()).then_some(addr)
    }

    /// The IPv6 address that the socket is bound to, or got with an earlier connect.
    #[inline(always)]
    pub fn bound6(&self) -> Option<Addr6> {
        let sk = self.sk();
        // SAFETY: as above.
        let words = unsafe {
            [
                (*sk).src_ip6[0],
                (*sk).src_ip6[1],
                (*sk).src_ip6[2],
                (*sk).src_ip6[3],
            ]
        };
        (words[0] | words[1] | words[2] | words[3] != 0).then_some(Addr6::from_ctx(words))
    }

    /// A UDP socket with a peer of its own.
    #[inline(always)]
    pub fn is_connected(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.sk()).state == TCP_ESTABLISHED }
    }

    #[inline(always)]
    pub fn cookie(&self) -> u64 {
        // SAFETY: the helper takes the context of this program type.
        unsafe { helpers::bpf_get_socket_cookie(self.ctx.sock_addr.cast()) }
    }

    #[inline(always)]
    pub fn netns(&self) -> u64 {
        // SAFETY: the helper takes the context of this program type.
        unsafe { helpers::bpf_get_netns_cookie(self.ctx.sock_addr.cast()) }
    }

    /// What the socket dialled and got.
    #[inline(always)]
    pub fn state(&self) -> Option<SocketVal> {
        let place = Place::of(self.cookie())?;
        let at = match place.held() {
            Some(at) => at,
            None if place.has_spilled() => LB_SOCKETS.get_ptr_mut(self.ctx),
            None => return None,
        };
        // SAFETY: null or a value that lives as long as the socket; copied at once.
        unsafe { at.as_ref() }.copied()
    }

    /// Notes it; false without memory for it. Storage is created zeroed and written in place: a value on the
    /// stack would be copied twice. Flags stay.
    #[inline(always)]
    pub fn set_state(&self, mut val: SocketVal) -> bool {
        let Some(place) = Place::of(self.cookie()) else {
            return false;
        };
        let at = match place.take() {
            Some(at) => at,
            None => {
                place.note_spill();
                LB_SOCKETS.get_or_insert_ptr_mut(self.ctx, None)
            }
        };
        if at.is_null() {
            return false;
        }
        // SAFETY: not null; the value lives as long as the socket, and a socket's calls take its lock.
        unsafe {
            val.flags |= (*at).flags;
            at.write(val);
        }
        true
    }

    /// Forgets it, if there is any.
    #[inline(always)]
    pub fn clear_state(&self) {
        let Some(place) = Place::of(self.cookie()) else {
            return;
        };
        place.leave();
        if !place.has_spilled() || LB_SOCKETS.get_ptr_mut(self.ctx).is_null() {
            return;
        }
        // A socket without state is what is wanted. Looked for above, for a delete takes and drops a reference.
        let _none = LB_SOCKETS.delete(self.sk());
    }
}

/// Sets the error that the refused call returns. Linux 5.18.
#[inline(always)]
pub fn set_errno(errno: i32) {
    // SAFETY: the helper takes a plain number.
    unsafe { helpers::bpf_set_retval(-errno) };
}

/// Nanoseconds since boot.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { helpers::bpf_ktime_get_boot_ns() }
}

/// Seconds since boot (CLOCK_MONOTONIC), by the clock that ticks: cheap, and a few milliseconds late.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "136 years")]
pub fn now_s() -> u32 {
    // SAFETY: the helper takes nothing.
    (unsafe { helpers::bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

/// Uniform.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: the helper takes nothing.
    unsafe { helpers::bpf_get_prandom_u32() }
}

/// The kernel's clock and dice.
pub struct KernelChance;

impl Chance for KernelChance {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        now_ns()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        random()
    }
}

/// Process id of the caller, in the init pid namespace.
#[inline(always)]
pub fn pid() -> u32 {
    // SAFETY: the helper takes nothing.
    (unsafe { helpers::bpf_get_current_pid_tgid() } >> 32) as u32
}
