//! Programs on devices: made and pinned once for each device, afterwards only given new programs.
//!
//! Pins are `links/devices/<index>-<name>-<program>`. A device keeps its index for life, and the kernel ends
//! its links with it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, Program, SchedClassifier,
    links::FdLink,
    tc::{TcAttach, TcAttachType},
};
use lb_common::{device::DeviceVal, map_table::PACKET_PROGRAMS};

use super::{Plane, object::chain};
use crate::{
    devices::{link::Layer, select::Roles},
    maps::{
        kernel::Map,
        pinned::device_links_dir,
        sys::{self, bpf_attach_type},
    },
};

/// The program at the egress of `lb0`.
const AT_LB0: [&str; 1] = ["lb_lb0_out"];

/// Why a device is not served.
#[derive(thiserror::Error, Debug)]
#[error("{program} on device {device}: {error}")]
pub struct DeviceError {
    /// Which program.
    pub program: &'static str,
    /// Where.
    pub device: String,
    /// Why.
    pub error: String,
}

/// A program's place.
type Place = (u32, &'static str);

/// All programs on devices of one agent, and `LB_DEVICES`.
pub struct DeviceLinks {
    dir: PathBuf,
    map: Map<u32, DeviceVal>,
    pins: BTreeMap<Place, PathBuf>,
    vals: BTreeMap<u32, DeviceVal>,
}

impl DeviceLinks {
    /// Takes over what is pinned below `root`: every link whose device is still there gets its new program.
    ///
    /// # Errors
    /// The folder or the map cannot be opened.
    pub fn adopt(plane: &Plane, root: &Path) -> anyhow::Result<Self> {
        let dir = device_links_dir(root);
        fs::create_dir_all(&dir)?;
        let map = Map::open(root, "LB_DEVICES")?;
        let mut links = Self {
            vals: map.entries()?.into_iter().collect(),
            pins: BTreeMap::new(),
            dir,
            map,
        };
        for entry in fs::read_dir(&links.dir)? {
            links.take_over(plane, entry?.path());
        }
        Ok(links)
    }

    /// How many links there are.
    pub fn len(&self) -> usize {
        self.pins.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    fn take_over(&mut self, plane: &Plane, pin: PathBuf) {
        match replace(plane, &pin) {
            Ok(Some(place)) => {
                self.pins.insert(place, pin);
            }
            Ok(None) => unpin(&pin),
            Err(error) => {
                tracing::warn!(pin = %pin.display(), error, "a link is made anew");
                unpin(&pin);
            }
        }
    }

    /// Serves exactly the devices that have a role, and `lb0` if it is not 0. A device's entry is written before its
    /// programs run, and goes after them. One device's failure is no other's.
    pub fn put(&mut self, plane: &mut Plane, roles: &Roles, lb0: u32) -> Vec<DeviceError> {
        let mut errors = Vec::new();
        let mut wanted: BTreeMap<Place, &str> = BTreeMap::new();
        for (index, role) in roles {
            let programs = role.programs.map(programs).unwrap_or_default();
            wanted.extend(programs.iter().map(|p| ((*index, *p), role.name.as_str())));
        }
        if lb0 != 0 {
            wanted.extend(AT_LB0.map(|program| ((lb0, program), "lb0")));
        }
        let stale = self.pins.keys().filter(|place| !wanted.contains_key(place));
        for place in stale.copied().collect::<Vec<_>>() {
            self.detach(place);
        }
        errors.extend(self.put_vals(roles));
        for (place, name) in wanted {
            if !self.pins.contains_key(&place)
                && let Err(error) = self.attach(plane, place, name)
            {
                errors.push(error);
            }
        }
        errors
    }

    fn put_vals(&mut self, roles: &Roles) -> Option<DeviceError> {
        let mut failed = None;
        let mut note = |index: u32, error: String| {
            failed.get_or_insert(DeviceError {
                program: "LB_DEVICES",
                device: index.to_string(),
                error,
            });
        };
        for (index, role) in roles {
            if self.vals.get(index) == Some(&role.val) {
                continue;
            }
            match self.map.put(index, &role.val, || index.to_string()) {
                Ok(()) => {
                    self.vals.insert(*index, role.val);
                }
                Err(error) => note(*index, error.to_string()),
            }
        }
        let gone: Vec<u32> = (self.vals.keys().copied())
            .filter(|index| !roles.contains_key(index))
            .collect();
        for index in gone {
            match self.map.delete(&index, || index.to_string()) {
                Ok(()) => {
                    self.vals.remove(&index);
                }
                Err(error) => note(index, error.to_string()),
            }
        }
        failed
    }

    fn detach(&mut self, place: Place) {
        let Some(pin) = self.pins.remove(&place) else {
            return;
        };
        // The link of a device that has gone is detached already.
        if let Ok(link) = sys::open_pin(&pin) {
            let _done = sys::link_detach(link.as_fd());
        }
        unpin(&pin);
        let (index, program) = place;
        tracing::info!(device = index, program, "detached");
    }

    fn attach(
        &mut self,
        plane: &mut Plane,
        (index, program): Place,
        name: &str,
    ) -> Result<(), DeviceError> {
        let broken = |error: String| DeviceError {
            program,
            device: name.to_owned(),
            error,
        };
        // A BPF file system takes no dots.
        let pin = self
            .dir
            .join(format!("{index}-{}-{program}", name.replace('.', "_")));
        // The device's name may have been another's.
        if pin.exists() {
            unpin(&pin);
        }
        make(plane, index, program, &pin).map_err(broken)?;
        self.pins.insert((index, program), pin);
        tracing::info!(device = name, program, "attached");
        Ok(())
    }
}

/// Out before in: a reply finds its way before anything is translated.
fn programs(layer: Layer) -> &'static [&'static str] {
    match layer {
        Layer::Ethernet => &["lb_tc_out", "lb_tc_in"],
        Layer::Network => &["lb_tc_out_l3", "lb_tc_in_l3"],
        Layer::Other => &[],
    }
}

fn unpin(pin: &Path) {
    if let Err(error) = fs::remove_file(pin)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(pin = %pin.display(), %error, "a pin stays");
    }
}

/// The hook of a program: TCX ingress or egress.
pub fn hook(program: &str) -> Option<bpf_attach_type> {
    let (_, hook) = PACKET_PROGRAMS.iter().find(|(name, _)| *name == program)?;
    match *hook {
        "tcx/ingress" => Some(bpf_attach_type::BPF_TCX_INGRESS),
        "tcx/egress" => Some(bpf_attach_type::BPF_TCX_EGRESS),
        _ => None,
    }
}

/// The program that a pin is named after.
pub fn program_of(pin: &Path) -> Option<&'static str> {
    let (_, program) = pin.file_name()?.to_str()?.rsplit_once('-')?;
    let known = PACKET_PROGRAMS.iter().find(|(name, _)| *name == program);
    known.map(|(name, _)| *name)
}

/// Puts the new program behind a link; `None`: its device is gone from this network namespace.
fn replace(plane: &Plane, pin: &Path) -> Result<Option<Place>, String> {
    let program = program_of(pin).ok_or("no program of this version")?;
    let hook = hook(program).ok_or("no hook")?;
    let link = sys::open_pin(pin).map_err(|e| e.to_string())?;
    let Some(Program::SchedClassifier(new)) = plane.ebpf.program(program) else {
        return Err("not in the object".into());
    };
    let new = new.fd().map_err(|e| chain(&e))?;
    match sys::link_update(link.as_fd(), new.as_fd(), None) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => return Ok(None),
        Err(error) => return Err(format!("replacing the program: {error}")),
    }
    let shape = sys::device_link_shape(link.as_fd()).map_err(|e| e.to_string())?;
    // An index says nothing in another network namespace: the device there must run this very link.
    let links = sys::device_links(shape.device, hook).map_err(|e| e.to_string())?;
    Ok((links.iter().any(|found| found.link == shape.id)).then_some((shape.device, program)))
}

fn classifier<'a>(plane: &'a mut Plane, program: &str) -> Result<&'a mut SchedClassifier, String> {
    match plane.ebpf.program_mut(program) {
        Some(Program::SchedClassifier(classifier)) => Ok(classifier),
        Some(_) | None => Err("not in the object".into()),
    }
}

/// First in the hook: what others do there, policies too, they do to translated packets, as after netfilter's
/// prerouting.
fn make(plane: &mut Plane, index: u32, program: &'static str, pin: &Path) -> Result<(), String> {
    let attach_type = match hook(program) {
        Some(bpf_attach_type::BPF_TCX_INGRESS) => TcAttachType::Ingress,
        Some(_) => TcAttachType::Egress,
        None => return Err("no hook".into()),
    };
    let classifier = classifier(plane, program)?;
    let how = TcAttach::Tcx {
        attach_type,
        order: LinkOrder::first(),
    };
    let id = classifier.attach(index, how).map_err(|e| chain(&e))?;
    let link = classifier.take_link(id).map_err(|e| chain(&e))?;
    let link: FdLink = link.try_into().map_err(|e| chain(&e))?;
    link.pin(pin).map(drop).map_err(|e| chain(&e))
}
