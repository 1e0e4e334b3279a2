//! The node's devices, as the packet programs know them.

use crate::net::{Addr4, Addr6, Address};

/// Value of `LB_DEVICES`, by interface index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct DeviceVal {
    /// A set of the constants below.
    pub flags: u32,
    /// The address that packets leaving here are masqueraded with (rule 79); unspecified: none.
    pub masq4: Addr4,
    /// Likewise, IPv6.
    pub masq6: Addr6,
}

impl DeviceVal {
    /// Packets go through our programs here, and lead out of the node.
    pub const UPLINK: u32 = 1;
    /// The detector counts what arrives here as a pod's (BridgeInterface, InterfaceNamePrefix; rule 81).
    pub const POD_SIDE: u32 = 1 << 1;
    /// `--pod-devices`: our programs serve a workload whose sockets are not this kernel's.
    pub const POD_DEVICE: u32 = 1 << 2;

    /// Is it marked so?
    #[inline(always)]
    pub const fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// Picks a family's address of a device.
pub trait MasqAddr: Address {
    /// The address to masquerade with.
    fn masq(device: &DeviceVal) -> Self;
}

impl MasqAddr for Addr4 {
    #[inline(always)]
    fn masq(device: &DeviceVal) -> Self {
        device.masq4
    }
}

impl MasqAddr for Addr6 {
    #[inline(always)]
    fn masq(device: &DeviceVal) -> Self {
        device.masq6
    }
}
