//! The Kubernetes source: finds the API server, watches what the agent needs of it, and turns every
//! object into the plain data of [`crate::model`] at once. No other module uses kube.

pub mod convert;
