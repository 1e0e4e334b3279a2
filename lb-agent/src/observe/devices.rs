//! Whether the kernel really runs our programs on the node's devices: `LB_DEVICES` says which are served, pins
//! say what was attached, and each device's hook is asked what it runs.

use std::{collections::BTreeMap, fs, io, path::Path};

use lb_common::{device::DeviceVal, net::Address as _};
use serde::Serialize;

use crate::{
    attach::devices::{AT_LB0, How, Place, Running, dir, hook, place_of, running},
    devices::select::LB0,
    maps::{
        pinned::{Pinned, PinnedError},
        sys::{self, bpf_attach_type},
    },
};

/// A device and what it is to us.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// Its name.
    pub device: String,
    /// Its index.
    pub index: u32,
    /// `uplink`, `podSide`, `podDevice`, `lb0`.
    pub roles: Vec<&'static str>,
    /// What packets that leave there are masqueraded with.
    pub masquerade: Vec<String>,
    /// What its hooks run of ours.
    pub programs: Vec<DeviceProgram>,
    /// What is wrong, if anything.
    pub problem: Option<String>,
}

/// A program on a device.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct DeviceProgram {
    /// Its name.
    pub program: &'static str,
    /// `tcx` or `clsact`.
    pub by: &'static str,
    /// Its id.
    pub program_id: u32,
    /// Id of its link; null: a filter.
    pub link_id: Option<u32>,
}

/// Looks at every device that is served. From another network namespace than the agent's there is none to see.
///
/// # Errors
/// The maps cannot be read.
pub fn devices(root: &Path) -> Result<Vec<DeviceStatus>, PinnedError> {
    let pinned = Pinned::open(root)?;
    let config = pinned.config()?;
    if sys::netns_cookie().is_ok_and(|own| own != config.host_netns) {
        return Ok(Vec::new());
    }
    let found = all_running(root);
    let mut vals = pinned.devices()?;
    vals.remove(&config.lb0);
    let mut all: Vec<DeviceStatus> = vals
        .iter()
        .filter_map(|(index, val)| status(*index, val, &found))
        .collect();
    if config.lb0 != 0 {
        all.push(lb0_status(config.lb0, &found));
    }
    Ok(all)
}

fn all_running(root: &Path) -> BTreeMap<Place, io::Result<Option<Running>>> {
    let of = |how| {
        let entries = fs::read_dir(dir(root, how)).into_iter().flatten().flatten();
        entries.filter_map(move |entry| {
            let place = place_of(&entry.path(), how)?;
            Some((place, running(place, &entry.path())))
        })
    };
    of(How::Tcx).chain(of(How::Clsact)).collect()
}

/// `None`: the device has gone, and its entry goes in a moment.
fn status(
    index: u32,
    val: &DeviceVal,
    found: &BTreeMap<Place, io::Result<Option<Running>>>,
) -> Option<DeviceStatus> {
    let device = name(index)?;
    let programs = programs(index, found);
    let runs = |wanted| {
        let mut hooks = programs.iter().filter_map(|p| hook(p.program));
        hooks.any(|hook| hook == wanted)
    };
    let is_met = val.is(DeviceVal::UPLINK) || val.is(DeviceVal::POD_DEVICE);
    let missing = [
        (bpf_attach_type::BPF_TCX_INGRESS, "incoming"),
        (bpf_attach_type::BPF_TCX_EGRESS, "outgoing"),
    ];
    let problem = (missing.into_iter().find(|(hook, _)| is_met && !runs(*hook)))
        .map(|(_, packets)| format!("{packets} packets are not translated: no program runs there"));
    let roles = [
        (DeviceVal::UPLINK, "uplink"),
        (DeviceVal::POD_SIDE, "podSide"),
        (DeviceVal::POD_DEVICE, "podDevice"),
    ];
    let v4 = (!val.masq4.is_unspecified()).then(|| std::net::Ipv4Addr::from(val.masq4).to_string());
    let v6 = (!val.masq6.is_unspecified()).then(|| std::net::Ipv6Addr::from(val.masq6).to_string());
    Some(DeviceStatus {
        device,
        index,
        roles: (roles.iter().filter(|(flag, _)| val.is(*flag)))
            .map(|(_, role)| *role)
            .collect(),
        masquerade: v4.into_iter().chain(v6).collect(),
        programs,
        problem,
    })
}

fn lb0_status(index: u32, found: &BTreeMap<Place, io::Result<Option<Running>>>) -> DeviceStatus {
    let programs = programs(index, found);
    let problem = if name(index).is_none() {
        Some("the device is gone".to_owned())
    } else if programs.iter().any(|p| p.program == AT_LB0) {
        None
    } else {
        Some(format!("{AT_LB0} does not run there"))
    };
    DeviceStatus {
        device: LB0.to_owned(),
        index,
        roles: vec!["lb0"],
        masquerade: Vec::new(),
        programs,
        problem,
    }
}

fn name(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?;
    Some(name.to_string_lossy().into_owned())
}

fn programs(
    index: u32,
    found: &BTreeMap<Place, io::Result<Option<Running>>>,
) -> Vec<DeviceProgram> {
    let here = found.iter().filter(|(place, _)| place.device == index);
    here.filter_map(|(place, running)| {
        let running = running.as_ref().ok()?.as_ref()?;
        Some(DeviceProgram {
            program: place.program,
            by: match place.how {
                How::Tcx => "tcx",
                How::Clsact => "clsact",
            },
            program_id: running.program,
            link_id: running.link,
        })
    })
    .collect()
}
