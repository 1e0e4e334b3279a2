//! What the watches of different kinds of objects do differently.

use k8s_openapi::api::{
    core::v1::{Endpoints, Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use kube::Resource;

use super::convert::{self, Converted};
use crate::model::{Kind, Object};

/// A kind of objects that is watched.
pub(super) trait Watched:
    Resource<DynamicType = ()>
    + Clone
    + std::fmt::Debug
    + serde::de::DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// What it becomes, unless the watch selects another.
    const KIND: Kind;
    /// The API may lack it, or keep it from us: then there are none.
    const IS_OPTIONAL: bool = false;

    /// What an object becomes; empty: it is not ours.
    fn convert(&self) -> Converted<Vec<Object>>;
}

impl Watched for Service {
    const KIND: Kind = Kind::Service;

    fn convert(&self) -> Converted<Vec<Object>> {
        convert::any_service(self)
    }
}

impl Watched for EndpointSlice {
    const KIND: Kind = Kind::Slice;

    fn convert(&self) -> Converted<Vec<Object>> {
        one(convert::slice(self), Object::Slice)
    }
}

impl Watched for Endpoints {
    const KIND: Kind = Kind::Slice;

    fn convert(&self) -> Converted<Vec<Object>> {
        let Converted { object, faults } = convert::endpoints(self);
        let slices = object.unwrap_or_default().into_iter();
        Converted {
            object: Some(slices.map(Object::Slice).collect()),
            faults,
        }
    }
}

impl Watched for Node {
    const KIND: Kind = Kind::Node;

    fn convert(&self) -> Converted<Vec<Object>> {
        one(convert::node(self), Object::Node)
    }
}

/// Stable since Kubernetes 1.33; only unallocated addresses of Services need it (rule 84).
impl Watched for ServiceCIDR {
    const KIND: Kind = Kind::ServiceCidr;
    const IS_OPTIONAL: bool = true;

    fn convert(&self) -> Converted<Vec<Object>> {
        one(convert::service_cidr(self), Object::ServiceCidr)
    }
}

fn one<T>(found: Converted<T>, wrap: fn(T) -> Object) -> Converted<Vec<Object>> {
    Converted {
        object: Some(found.object.map(wrap).into_iter().collect()),
        faults: found.faults,
    }
}
