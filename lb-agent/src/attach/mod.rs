//! From an object to a running data plane: bpffs, maps, programs and their links.
//!
//! Everything is pinned below `--bpffs-root`, in a folder that carries the layout's version. An agent
//! that finds pins takes them over: maps keep their content, and each program is replaced in place
//! on its link, so that no call ever runs without one.

mod bpffs;
pub mod clsact;
pub mod devices;
mod links;
mod object;

pub use bpffs::{BpffsError, Lock, prepare};
pub use links::{Attached, LinkError, attach};
pub use object::{LoadError, LoadedProgram, Plane, measure};
