//! From objects to map changes: [`compile()`] says what one Service should be, [`Planner`] gives ids
//! and finds the ops that make it so, in an order that no reader can trip over.
//!
//! Pure: nothing here does I/O, reads a clock or throws dice. The caller applies the ops through
//! [`crate::maps::LbMaps`] and tells the planner which succeeded.

mod adopt;
mod claims;
mod compile;
mod drift;
mod facts;
mod family;
mod foreign;
mod health_check;
mod ids;
mod image;
mod mirror;
mod no_local;
mod note;
mod outcome;
mod planner;
mod port_plan;
pub mod ranges;

pub use claims::Conflict;
pub use compile::{compile, foreign};
pub use drift::Drift;
pub use facts::{Facts, FamilyFacts};
pub use family::Family;
pub use health_check::{HealthCheck, HealthChecks};
pub use image::{Image, PortImage, PortKey};
pub use no_local::NoLocal;
pub use outcome::{Fill, Plan, PlanError, Refused};
pub use planner::Planner;
