//! Services, endpoints and this node as plain data, after all reading of Kubernetes objects and
//! before all thought of maps. Knows neither kube, aya nor tokio.

mod endpoint;
mod event;
mod foreign;
mod node;
mod service;
mod store;
mod trigger;

pub use endpoint::{Endpoint, Slice, SlicePort};
pub use event::{Event, Kind, Object, ObjectRef, Skip};
pub use foreign::{Foreign, Label};
pub use node::{Node, ServiceCidr};
pub use service::{ObjectKey, Service, ServicePort, ServiceType};
pub use store::{Changes, Store};
pub use trigger::Trigger;
