//! When what a slice tells came to pass, so that it can be said how long it took to reach the data plane (rule 128).

use jiff::Timestamp;

use super::{ObjectKey, Slice};

/// One change of a slice that says when it came to pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trigger {
    /// Whose slice.
    pub service: ObjectKey,
    /// Family of its endpoints, else IPv6.
    pub is_ipv4: bool,
    /// The annotation.
    pub at: Timestamp,
}

impl Trigger {
    /// A slice has become `new`; `None`: it does not say when, or holds no endpoint, before and after.
    pub fn of(new: &Slice, old: Option<&Slice>) -> Option<Self> {
        let mut slices = std::iter::once(new).chain(old);
        let endpoint = slices.find_map(|slice| slice.endpoints.first())?;
        Some(Self {
            service: new.service_key(),
            is_ipv4: endpoint.addr.is_ipv4(),
            at: new.triggered?,
        })
    }
}
