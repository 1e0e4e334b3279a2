//! Identifiers: nonzero, host order, given by the agent.

/// Names a service port in one address family. 0 means none; index into `LB4_SERVICES` or
/// `LB6_SERVICES`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct ServiceId(pub u32);

/// Names one endpoint of one service port. 0 means none; index into `LB4_BACKENDS` or
/// `LB6_BACKENDS`. Two service ports never share a backend, so that a backend's flags can say
/// which lists of its service hold it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct BackendId(pub u32);

impl ServiceId {
    /// Length in bits, for keys of longest-prefix maps.
    pub const BITS: u32 = u32::BITS;
    /// No service.
    pub const NONE: Self = Self(0);

    /// Is it one?
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
}

impl BackendId {
    /// No backend.
    pub const NONE: Self = Self(0);
}
