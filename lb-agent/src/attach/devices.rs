//! Programs on devices: made and pinned once for each device, afterwards only given new programs.
//!
//! Pins are `links/devices/<index>-<name>-<program>`: links where the kernel has TCX. Where it has none they are
//! `links/filters/...`, and what is pinned is the program that a filter of the clsact qdisc runs, for a filter
//! itself cannot be. A device keeps its index for life, and the kernel ends what runs there with it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, SchedClassifier,
    links::FdLink,
    tc::{TcAttach, TcAttachType},
};
use lb_common::{device::DeviceVal, map_table::PACKET_PROGRAMS};

use super::{Plane, clsact, object::chain};
use crate::{
    config::PacketHook,
    devices::{
        link::Layer,
        select::{LB0, Roles},
    },
    maps::{
        kernel::Map,
        pinned::{device_filters_dir, device_links_dir},
        sys::{self, bpf_attach_type},
    },
};

/// The program at the egress of `lb0`.
pub const AT_LB0: &str = "lb_lb0_out";
/// The loopback device, the first of every network namespace.
const LOOPBACK: u32 = 1;

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

/// How a program runs on a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum How {
    /// A link.
    Tcx,
    /// A filter.
    Clsact,
}

/// A program's place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Index of the device.
    pub device: u32,
    /// The program.
    pub program: &'static str,
    /// By what.
    pub how: How,
}

/// All programs on devices of one agent, and `LB_DEVICES`.
pub struct DeviceLinks {
    root: PathBuf,
    how: How,
    map: Map<u32, DeviceVal>,
    pins: BTreeMap<Place, PathBuf>,
    vals: BTreeMap<u32, DeviceVal>,
}

impl DeviceLinks {
    /// Takes over what is pinned below `root`: whatever runs on a device that is still there gets its new program.
    ///
    /// # Errors
    /// A folder or the map cannot be opened.
    pub fn adopt(plane: &mut Plane, root: &Path, hook: PacketHook) -> anyhow::Result<Self> {
        let how = match hook {
            PacketHook::Tcx => How::Tcx,
            PacketHook::Clsact => How::Clsact,
            PacketHook::Auto if sys::tcx_query(LOOPBACK).is_ok() => How::Tcx,
            PacketHook::Auto => How::Clsact,
        };
        let map = Map::open(root, "LB_DEVICES")?;
        let mut links = Self {
            root: root.to_owned(),
            how,
            vals: map.entries()?.into_iter().collect(),
            pins: BTreeMap::new(),
            map,
        };
        for how in [How::Tcx, How::Clsact] {
            let dir = dir(root, how);
            fs::create_dir_all(&dir)?;
            for entry in fs::read_dir(&dir)? {
                links.take_over(plane, how, entry?.path());
            }
        }
        Ok(links)
    }

    fn take_over(&mut self, plane: &mut Plane, how: How, pin: PathBuf) {
        let replaced = match how {
            How::Tcx => replace_link(plane, &pin),
            How::Clsact => replace_filter(plane, &pin),
        };
        match replaced {
            Ok(Some(place)) => {
                self.pins.insert(place, pin);
            }
            Ok(None) => unpin(&pin),
            Err(error) => {
                tracing::warn!(pin = %pin.display(), error, "what runs on a device is made anew");
                unpin(&pin);
            }
        }
    }

    /// Serves exactly the devices that have a role, and `lb0` if it is not 0. A device's entry is written before its
    /// programs run, and goes after them. One device's failure is no other's.
    pub fn put(&mut self, plane: &mut Plane, roles: &Roles, lb0: u32) -> Vec<DeviceError> {
        let wanted = self.wanted(roles, lb0);
        self.forget_lost();
        let mut errors = Vec::new();
        let is_wanted = |place: &Place| {
            let how = self.how;
            wanted.contains_key(&Place { how, ..*place })
        };
        let stale: Vec<Place> = (self.pins.keys().copied())
            .filter(|place| !is_wanted(place))
            .collect();
        stale.into_iter().for_each(|place| self.detach(place));
        errors.extend(self.put_vals(roles));
        // Out before in, by name: a reply finds its way before anything is translated.
        for (place, name) in wanted.iter().rev() {
            if !self.pins.contains_key(place)
                && let Err(error) = self.attach(plane, *place, name)
            {
                errors.push(error);
            }
        }
        // What runs by the other way goes when this one's is in place.
        let doubled: Vec<Place> = (self.pins.keys().copied())
            .filter(|place| !wanted.contains_key(place))
            .collect();
        doubled.into_iter().for_each(|place| self.detach(place));
        errors
    }

    fn wanted(&self, roles: &Roles, lb0: u32) -> BTreeMap<Place, String> {
        let how = self.how;
        let place = |device, program| Place {
            device,
            program,
            how,
        };
        let mut wanted = BTreeMap::new();
        for (index, role) in roles {
            let programs = role.programs.map(programs).unwrap_or_default();
            wanted.extend(
                programs
                    .iter()
                    .map(|p| (place(*index, *p), role.name.clone())),
            );
        }
        if lb0 != 0 {
            wanted.insert(place(lb0, AT_LB0), LB0.to_owned());
        }
        wanted
    }

    /// Others may delete a clsact qdisc with all that is in it, or detach a link.
    fn forget_lost(&mut self) {
        self.pins.retain(|place, pin| {
            let runs = runs(*place, pin).unwrap_or(false);
            if !runs {
                unpin(pin);
            }
            runs
        });
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
        detach(place.how, &pin);
        unpin(&pin);
        let Place {
            device, program, ..
        } = place;
        tracing::info!(device, program, "detached");
    }

    fn attach(&mut self, plane: &mut Plane, place: Place, name: &str) -> Result<(), DeviceError> {
        let broken = |error: String| DeviceError {
            program: place.program,
            device: name.to_owned(),
            error,
        };
        // A BPF file system takes no dots.
        let file = format!(
            "{}-{}-{}",
            place.device,
            name.replace('.', "_"),
            place.program
        );
        let pin = dir(&self.root, place.how).join(file);
        // What a device of the same index and name left, in another network namespace.
        if pin.exists() {
            unpin(&pin);
        }
        let made = match place.how {
            How::Tcx => make_link(plane, place, &pin),
            How::Clsact => put_filter(plane, place, &pin),
        };
        made.map_err(broken)?;
        self.pins.insert(place, pin);
        tracing::info!(device = name, program = place.program, how = ?place.how, "attached");
        Ok(())
    }
}

/// Where pins are.
pub fn dir(root: &Path, how: How) -> PathBuf {
    match how {
        How::Tcx => device_links_dir(root),
        How::Clsact => device_filters_dir(root),
    }
}

/// The programs of a device.
pub fn programs(layer: Layer) -> &'static [&'static str] {
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

/// The place that a pin is named after.
pub fn place_of(pin: &Path, how: How) -> Option<Place> {
    let (rest, program) = pin.file_name()?.to_str()?.rsplit_once('-')?;
    let (device, _) = rest.split_once('-')?;
    let (program, _) = PACKET_PROGRAMS.iter().find(|(name, _)| *name == program)?;
    Some(Place {
        device: device.parse().ok()?,
        program,
        how,
    })
}

/// What a device runs of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Running {
    /// Id of the program.
    pub program: u32,
    /// Id of the link; `None`: a filter.
    pub link: Option<u32>,
}

/// What a pin put on its device; `None`: the device no longer runs it, or is not in this network namespace, where
/// an index says nothing.
///
/// # Errors
/// The pin cannot be opened, or the kernel does not answer.
pub fn running(place: Place, pin: &Path) -> io::Result<Option<Running>> {
    let Some(hook) = hook(place.program) else {
        return Ok(None);
    };
    let object = sys::open_pin(pin)?;
    match place.how {
        How::Tcx => {
            let shape = sys::device_link_shape(object.as_fd())?;
            if shape.device != place.device {
                return Ok(None);
            }
            let links = match sys::device_links(place.device, hook) {
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
                links => links?,
            };
            let found = links.iter().find(|found| found.link == shape.id);
            Ok(found.map(|found| Running {
                program: found.program,
                link: Some(found.link),
            }))
        }
        How::Clsact => {
            let id = sys::program_id(object.as_fd())?;
            let found = clsact::programs(place.device, hook)?;
            Ok(found.contains(&id).then_some(Running {
                program: id,
                link: None,
            }))
        }
    }
}

fn runs(place: Place, pin: &Path) -> io::Result<bool> {
    running(place, pin).map(|found| found.is_some())
}

/// Takes off its device what a pin put there. What has gone with its device is gone already.
pub fn detach(how: How, pin: &Path) {
    let Ok(object) = sys::open_pin(pin) else {
        return;
    };
    let done = match (how, place_of(pin, how)) {
        (How::Tcx, _) => sys::link_detach(object.as_fd()),
        (How::Clsact, Some(place)) => {
            match (hook(place.program), sys::program_id(object.as_fd())) {
                (Some(hook), Ok(id)) => clsact::remove(place.device, hook, id),
                (_, id) => id.map(drop),
            }
        }
        (How::Clsact, None) => Ok(()),
    };
    if let Err(error) = done {
        tracing::debug!(pin = %pin.display(), %error, "not detached by itself");
    }
}

fn classifier<'a>(
    plane: &'a mut Plane,
    program: &'static str,
) -> Result<&'a mut SchedClassifier, String> {
    plane
        .load_packet_program(program)
        .map_err(|e| e.to_string())
}

/// Puts the new program behind a link; `None`: its device is gone from this network namespace.
fn replace_link(plane: &mut Plane, pin: &Path) -> Result<Option<Place>, String> {
    let place = place_of(pin, How::Tcx).ok_or("no program of this version")?;
    let link = sys::open_pin(pin).map_err(|e| e.to_string())?;
    let new = classifier(plane, place.program)?;
    let new = new.fd().map_err(|e| chain(&e))?;
    match sys::link_update(link.as_fd(), new.as_fd(), None) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => return Ok(None),
        Err(error) => return Err(format!("replacing the program: {error}")),
    }
    let runs = runs(place, pin).map_err(|e| e.to_string())?;
    Ok(runs.then_some(place))
}

fn replace_filter(plane: &mut Plane, pin: &Path) -> Result<Option<Place>, String> {
    let place = place_of(pin, How::Clsact).ok_or("no program of this version")?;
    if !runs(place, pin).map_err(|e| e.to_string())? {
        return Ok(None);
    }
    put_filter(plane, place, pin)?;
    Ok(Some(place))
}

/// First in the hook: what others do there, policies too, they do to translated packets, as after netfilter's
/// prerouting.
fn make_link(plane: &mut Plane, place: Place, pin: &Path) -> Result<(), String> {
    let attach_type = match hook(place.program) {
        Some(bpf_attach_type::BPF_TCX_INGRESS) => TcAttachType::Ingress,
        Some(_) => TcAttachType::Egress,
        None => return Err("no hook".into()),
    };
    let classifier = classifier(plane, place.program)?;
    let how = TcAttach::Tcx {
        attach_type,
        order: LinkOrder::first(),
    };
    let id = classifier
        .attach(place.device, how)
        .map_err(|e| chain(&e))?;
    let link = classifier.take_link(id).map_err(|e| chain(&e))?;
    let link: FdLink = link.try_into().map_err(|e| chain(&e))?;
    link.pin(pin).map(drop).map_err(|e| chain(&e))
}

/// Makes the filter or gives it the new program, and pins that in one step: whoever finds the pin finds the filter.
fn put_filter(plane: &mut Plane, place: Place, pin: &Path) -> Result<(), String> {
    let hook = hook(place.program).ok_or("no hook")?;
    let classifier = classifier(plane, place.program)?;
    let mut new = pin.as_os_str().to_owned();
    new.push("-new");
    let new = PathBuf::from(new);
    unpin(&new);
    classifier.pin(&new).map_err(|e| chain(&e))?;
    let program = classifier.fd().map_err(|e| chain(&e))?;
    let put = clsact::put(place.device, hook, program.as_fd(), place.program);
    put.map_err(|e| format!("filter of the clsact qdisc: {e}"))?;
    fs::rename(&new, pin).map_err(|e| format!("pin {}: {e}", pin.display()))
}
