//! The names behind service ids, so that maps can be read without an API server.

use crate::net::Proto;

/// Value of `LB4_NAMES` and `LB6_NAMES`, keyed by [`crate::id::ServiceId`]: Kubernetes names (at most 63 bytes each), zero-filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct ServiceName {
    /// `metadata.namespace`
    pub namespace: [u8; 64],
    /// `metadata.name`
    pub name: [u8; 64],
    /// `spec.ports[].name`, may be empty.
    pub port: [u8; 63],
    /// `spec.ports[].protocol`
    pub proto: Proto,
}

impl ServiceName {
    /// `None` where a name is longer than Kubernetes allows.
    pub fn new(namespace: &str, name: &str, port: &str, proto: Proto) -> Option<Self> {
        Some(Self {
            namespace: fill(namespace)?,
            name: fill(name)?,
            port: fill(port)?,
            proto,
        })
    }

    /// Namespace, name and port name.
    pub fn parts(&self) -> (&str, &str, &str) {
        (text(&self.namespace), text(&self.name), text(&self.port))
    }
}

fn fill<const N: usize>(name: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    bytes
        .get_mut(..name.len())?
        .copy_from_slice(name.as_bytes());
    Some(bytes)
}

fn text(bytes: &[u8]) -> &str {
    let len = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes
        .get(..len)
        .and_then(|b| core::str::from_utf8(b).ok())
        .unwrap_or("")
}
