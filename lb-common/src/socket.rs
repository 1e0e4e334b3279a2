//! What a socket dialled and got: socket storage, freed with the socket.

use crate::{
    id::{BackendId, ServiceId},
    net::{Addr6, BePort},
};

/// Value of `LB_SOCKETS`. Valid only while `backend` is the socket's peer: no hook runs on an
/// AF_UNSPEC disconnect, so every reader compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SocketVal {
    /// The address dialled; IPv4 as ::ffff:a.b.c.d.
    pub vip: Addr6,
    /// The address it was translated to, in the same form.
    pub backend: Addr6,
    /// The port dialled.
    pub vip_port: BePort,
    /// The port it was translated to.
    pub backend_port: BePort,
    /// The service port.
    pub service: ServiceId,
    /// The backend.
    pub backend_id: BackendId,
    /// Generation of its id.
    pub generation: u16,
    /// [`SocketVal::HAS_SESSION`], or 0.
    pub flags: u8,
    /// 4 or 6: which family's ids; 0: nothing is stored.
    pub family: u8,
}

impl SocketVal {
    /// A datagram of the socket was sent unconnected: its release looks for a session to free.
    pub const HAS_SESSION: u8 = 1;

    /// Is this the peer that the socket was translated to?
    #[inline(always)]
    pub fn is_peer(&self, addr: &Addr6, port: BePort) -> bool {
        self.backend == *addr && self.backend_port == port && self.family != 0
    }
}
