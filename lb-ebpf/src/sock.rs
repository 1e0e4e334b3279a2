//! `bpf_sock` with its fields as values: the context of post_bind and sock_release.
#![expect(unsafe_code, reason = "socket fields and helpers are reached here")]

use core::ptr;

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE, helpers::generated as helpers, programs::SockContext,
};
use lb_common::{
    net::{Addr4, Addr6, BePort, Proto},
    socket::{BoundPort, SocketVal},
};

use crate::maps::{LB_BOUND, LB_SOCKETS, Place};

/// Makes the storage if there is none.
const CREATE: u64 = BPF_SK_STORAGE_GET_F_CREATE as u64;

/// The context of post_bind and sock_release.
pub struct Sock<'a> {
    ctx: &'a SockContext,
}

macro_rules! field {
    ($self:ident . $($path:tt)+) => {
        // SAFETY: the kernel passes a valid context for the whole run of the program.
        unsafe { (*$self.ctx.sock).$($path)+ }
    };
}

impl<'a> Sock<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a SockContext) -> Self {
        Self { ctx }
    }

    /// The protocol as frontends have it; UDP-Lite is UDP.
    #[inline(always)]
    pub fn proto(&self) -> Option<Proto> {
        match field!(self.protocol) {
            6 => Some(Proto::TCP),
            17 | 136 => Some(Proto::UDP),
            _ => None,
        }
    }

    /// The port bound; `src_port` is in host order.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel uses the low half only"
    )]
    pub fn port(&self) -> BePort {
        BePort::new(field!(self.src_port) as u16)
    }

    #[inline(always)]
    pub fn addr4(&self) -> Addr4 {
        Addr4::from_ctx(field!(self.src_ip4))
    }

    #[inline(always)]
    pub fn addr6(&self) -> Addr6 {
        Addr6::from_ctx([
            field!(self.src_ip6[0]),
            field!(self.src_ip6[1]),
            field!(self.src_ip6[2]),
            field!(self.src_ip6[3]),
        ])
    }

    #[inline(always)]
    pub fn netns(&self) -> u64 {
        // SAFETY: the helper takes the context of this program type.
        unsafe { helpers::bpf_get_netns_cookie(self.ctx.sock.cast()) }
    }

    #[inline(always)]
    pub fn cookie(&self) -> u64 {
        // SAFETY: the helper takes the context of this program type.
        unsafe { helpers::bpf_get_socket_cookie(self.ctx.sock.cast()) }
    }

    /// What the socket dialled and got. aya's own method for storage takes another context only.
    #[inline(always)]
    pub fn state(&self, place: &Place) -> Option<SocketVal> {
        let map = (&raw const LB_SOCKETS).cast_mut().cast();
        let at = match place.held() {
            Some(at) => at,
            // SAFETY: a map of socket storage and this program's socket; no value to create.
            None if place.has_spilled() => unsafe {
                helpers::bpf_sk_storage_get(map, self.ctx.sock.cast(), ptr::null_mut(), 0).cast()
            },
            None => return None,
        };
        // SAFETY: null or a value that lives as long as the socket; copied at once.
        unsafe { at.as_ref() }.copied()
    }

    /// Notes the port that the socket was bound to, for its end, which does not show it; false where that is noted
    /// already, or there is no memory.
    #[inline(always)]
    pub fn note_bound(&self, port: BePort) -> bool {
        if self.bound().is_some() {
            return false;
        }
        let map = (&raw const LB_BOUND).cast_mut().cast();
        let mut val = BoundPort { port, pad: [0; 2] };
        // SAFETY: a map of socket storage, this program's socket, and a value of the map's type.
        let at = unsafe {
            helpers::bpf_sk_storage_get(map, self.ctx.sock.cast(), (&raw mut val).cast(), CREATE)
        };
        !at.is_null()
    }

    /// The port that [`Sock::note_bound`] noted.
    #[inline(always)]
    pub fn bound(&self) -> Option<BePort> {
        let map = (&raw const LB_BOUND).cast_mut().cast();
        // SAFETY: as in `state`.
        let at =
            unsafe { helpers::bpf_sk_storage_get(map, self.ctx.sock.cast(), ptr::null_mut(), 0) };
        // SAFETY: as in `state`.
        unsafe { at.cast::<BoundPort>().as_ref() }.map(|val| val.port)
    }
}
