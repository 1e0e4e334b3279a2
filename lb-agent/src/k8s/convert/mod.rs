//! Kubernetes objects to the plain data of [`crate::model`]: pure functions, one file per kind.
//!
//! An object is ours, not ours (rules 2, 4, 5, 8 and 9), or ours with some parts that make no sense.
//! Those parts are left out, each with a [`Fault`]; the rest counts. Nothing here relies on what an
//! API server would have refused or filled in, for objects also come from files, and old objects
//! were checked by old servers.

mod address;
mod endpoints;
mod fault;
mod foreign;
mod node;
mod service;
mod service_ports;
mod slice;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lb_common::net::Proto;

pub use address::{parse_ip, parse_net};
pub use endpoints::endpoints;
pub use fault::{Fault, Faults};
pub use foreign::any_service;
pub use node::{node, service_cidr};
pub use service::{ALGORITHM, service};
pub use slice::slice;

use crate::model::ObjectKey;

/// Labels that take a Service or its endpoints away from us; presence counts, not the value (rule 2).
pub const FOREIGN_LABELS: [&str; 2] = [
    "service.kubernetes.io/service-proxy-name",
    "service.kubernetes.io/headless",
];

/// What became of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Converted<T> {
    /// `None`: not ours.
    pub object: Option<T>,
    /// What was left out of it.
    pub faults: Vec<Fault>,
}

impl<T> Converted<T> {
    /// An object that is none of our business.
    pub fn not_ours() -> Self {
        Self {
            object: None,
            faults: Vec::new(),
        }
    }

    fn ours(object: T, faults: Faults) -> Self {
        Self {
            object: Some(object),
            faults: faults.into_vec(),
        }
    }
}

/// Namespace and name as they stand.
pub fn object_key(meta: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

fn label<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    value(meta.labels.as_ref(), name)
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    value(meta.annotations.as_ref(), name)
}

fn value<'a>(values: Option<&'a BTreeMap<String, String>>, name: &str) -> Option<&'a str> {
    values?.get(name).map(String::as_str)
}

/// Carries one of [`FOREIGN_LABELS`].
pub fn is_foreign(meta: &ObjectMeta) -> bool {
    FOREIGN_LABELS
        .iter()
        .any(|name| label(meta, name).is_some())
}

/// `None` means TCP, as in the API.
fn protocol(name: Option<&str>) -> Option<Proto> {
    match name {
        None | Some("TCP") => Some(Proto::TCP),
        Some("UDP") => Some(Proto::UDP),
        Some("SCTP") => Some(Proto::SCTP),
        Some(_) => None,
    }
}

const PROTOCOLS: (&str, &str) = ("is no protocol of a Service", "write TCP, UDP or SCTP");

/// A port that must be there: 1 to 65535.
fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

const PORTS: (&str, &str) = ("is not a port", "write a number from 1 to 65535");

#[cfg(test)]
pub(crate) mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::Fault;

    /// A Kubernetes object out of JSON.
    pub(crate) fn object<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("the test's object deserializes")
    }

    pub(crate) fn texts(faults: &[Fault]) -> Vec<String> {
        faults.iter().map(Fault::to_string).collect()
    }
}
