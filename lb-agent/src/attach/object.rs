//! Loading the object: maps taken over from their pins or made, programs checked by the kernel.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, SchedClassifier},
};
use lb_common::map_table::{Capacity, FLOWS_PER_EMBRYO, MAPS, MapSpec, PACKET_PROGRAMS, PROGRAMS};

use crate::maps::{
    Capacities,
    pinned::maps_dir,
    sys::{self, Access},
};
use std::os::fd::AsFd;

#[cfg(feature = "embed")]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb"));
#[cfg(not(feature = "embed"))]
static OBJECT: &[u8] = &[];

/// Why the data plane cannot be loaded.
#[derive(thiserror::Error, Debug)]
pub enum LoadError {
    /// Built without the feature `embed`.
    #[error(
        "this binary was built without BPF programs; build it with the feature embed, which is on by default"
    )]
    NoObject,
    /// A pinned map has another shape.
    #[error(
        "pinned maps do not fit this version: {0}; remove them with `lb-agent cleanup` (new connections go untranslated until the next start)"
    )]
    Incompatible(String),
    /// The object as a whole.
    #[error("loading the BPF object: {0}; `lb-agent check` tells what the kernel lacks")]
    Object(String),
    /// One program.
    #[error("loading the program {name}: {error}; `lb-agent check` tells what the kernel lacks")]
    Program {
        /// Which one.
        name: &'static str,
        /// What the verifier says.
        error: String,
    },
}

/// The loaded object.
pub struct Plane {
    pub(super) ebpf: Ebpf,
}

/// A program as the kernel took it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct LoadedProgram {
    /// Its name.
    pub name: &'static str,
    /// Its hook.
    pub hook: &'static str,
    /// Instructions after the kernel's rewriting.
    pub instructions: u32,
    /// Instructions that the verifier walked through.
    pub verified: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
}

impl Plane {
    /// Loads the object over the pins below `root`; `host_netns` is the cookie of the namespace whose
    /// sockets count as the node's own.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(root: &Path, capacities: &Capacities, host_netns: u64) -> Result<Self, LoadError> {
        let dir = maps_dir(root);
        Self::load_with(host_netns, |loader| {
            for spec in MAPS {
                // Socket storage and the ring are pinned, too: what one hook writes another reads, and
                // an unpinned map is a new one at each load.
                loader.map_pin_path(spec.name, dir.join(spec.name));
                if let Some(entries) = entries(&dir, spec, capacities) {
                    loader.map_max_entries(spec.name, entries);
                }
            }
        })
    }

    /// A program on devices that is loaded, for runs that attach it to none.
    #[must_use]
    pub fn packet_program(&self, name: &str) -> Option<&SchedClassifier> {
        if let Program::SchedClassifier(program) = self.ebpf.program(name)? {
            Some(program)
        } else {
            None
        }
    }

    /// Loads a program on devices, unless it is: those that few hosts need are loaded when they are asked for,
    /// for the kernel checks each of them a while.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load_packet_program(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, LoadError> {
        let broken = |error: String| LoadError::Program { name, error };
        let Some(Program::SchedClassifier(program)) = self.ebpf.program_mut(name) else {
            return Err(broken("not in the object".into()));
        };
        if program.fd().is_err() {
            program.load().map_err(|e| broken(chain(&e)))?;
        }
        Ok(program)
    }

    fn load_with(
        host_netns: u64,
        set_up: impl FnOnce(&mut EbpfLoader<'_>),
    ) -> Result<Self, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NoObject);
        }
        let mut loader = EbpfLoader::new();
        loader.override_global("HOST_NETNS", &host_netns, true);
        set_up(&mut loader);
        let mut ebpf = loader.load(OBJECT).map_err(refused)?;
        for (name, _) in PROGRAMS {
            load_program(&mut ebpf, name)?;
        }
        let mut plane = Self { ebpf };
        for (name, _) in PACKET_PROGRAMS.iter().filter(|(name, _)| !is_rare(name)) {
            plane.load_packet_program(name)?;
        }
        Ok(plane)
    }
}

/// For devices without a link header alone.
fn is_rare(program: &str) -> bool {
    program.ends_with("_l3")
}

/// Loads everything without pins or links, and tells what the kernel made of it.
///
/// # Errors
/// See [`LoadError`].
pub fn measure() -> Result<Vec<LoadedProgram>, LoadError> {
    let mut plane = Plane::load_with(0, |_| {})?;
    for (name, _) in PACKET_PROGRAMS {
        plane.load_packet_program(name)?;
    }
    PROGRAMS
        .iter()
        .chain(PACKET_PROGRAMS)
        .map(|(name, hook)| describe(&plane, name, hook))
        .collect()
}

fn describe(
    plane: &Plane,
    name: &'static str,
    hook: &'static str,
) -> Result<LoadedProgram, LoadError> {
    let broken = |error: String| LoadError::Program { name, error };
    let program = plane
        .ebpf
        .program(name)
        .ok_or_else(|| broken("not in the object".into()))?;
    let info = if let Program::CgroupSockAddr(p) = program {
        p.info()
    } else if let Program::SchedClassifier(p) = program {
        p.info()
    } else if let Program::CgroupSock(p) = program {
        p.info()
    } else {
        return Err(broken(format!("unexpected type {:?}", program.prog_type())));
    };
    let info = info.map_err(|e| broken(chain(&e)))?;
    Ok(LoadedProgram {
        name,
        hook,
        instructions: info.size_translated().unwrap_or(0) / 8,
        verified: info.verified_instruction_count().unwrap_or(0),
        jited_bytes: info.size_jitted(),
    })
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let broken = |error: String| LoadError::Program { name, error };
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| broken("not in the object".into()))?;
    let loaded = if let Program::CgroupSockAddr(p) = program {
        p.load()
    } else if let Program::CgroupSock(p) = program {
        p.load()
    } else {
        return Err(broken(format!("unexpected type {:?}", program.prog_type())));
    };
    loaded.map_err(|e| broken(chain(&e)))
}

/// Size of a map: that of its pin, for programs' state lives in it, else the flag's.
fn entries(dir: &Path, spec: &MapSpec, capacities: &Capacities) -> Option<u32> {
    let wanted = match spec.capacity {
        Capacity::Frontends => capacities.frontends,
        Capacity::Services => capacities.services,
        Capacity::Slots => capacities.slots,
        Capacity::Backends => capacities.backends,
        Capacity::Sources => capacities.sources,
        Capacity::Flows => capacities.flows,
        Capacity::Embryos => (capacities.flows / FLOWS_PER_EMBRYO).max(1),
        Capacity::Fixed(_) => return None,
    };
    let Ok(pin) = sys::open_map(&dir.join(spec.name), Access::Read) else {
        return Some(wanted);
    };
    let Ok(shape) = sys::map_shape(pin.as_fd()) else {
        return Some(wanted);
    };
    if shape.max_entries != wanted {
        tracing::warn!(
            map = spec.name,
            capacity = shape.max_entries,
            wanted,
            flag = spec.capacity.flag(),
            "a pinned map keeps its size; `lb-agent cleanup` before the next start lets the flag take effect"
        );
    }
    Some(shape.max_entries)
}

fn refused(error: aya::EbpfError) -> LoadError {
    if let aya::EbpfError::MapError(aya::maps::MapError::IncompatiblePinnedMap { .. }) = &error {
        return LoadError::Incompatible(chain(&error));
    }
    LoadError::Object(chain(&error))
}

/// An error with all that is behind it, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        let said = inner.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = inner.source();
    }
    text
}
