//! `explain --dev`: packets that arrive on a device of the node. Class, frontend, backend and way come from the functions
//! that the kernel runs, over the pinned maps and the host's own routes.

pub mod host;

use std::collections::BTreeMap;

use lb_common::{
    config::{Config, FamilyConfig},
    decide::Fixed,
    device::{DeviceVal, MasqAddr},
    flow::{FlowFlags, FlowKey},
    frontend::{Class, FrontendVal},
    id::BackendId,
    nat::{Draft, Network, Opening, Route, masquerades},
    net::BePort,
};

use super::{
    client::Who,
    dial::Target,
    explain::{self, frontend_of},
    explanation::{Candidate, Explanation, Verdict},
};
use crate::maps::{family::Family, snapshot::Snapshot};

/// A device of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
}

/// Where the host sends packets: the device, and the source address that the route prefers.
pub trait Routes {
    /// `None`: nowhere.
    fn route(&self, to: std::net::IpAddr) -> Option<(Device, Option<std::net::IpAddr>)>;
}

/// The node's network, for a packet on `device`.
struct Arrival<'a, R> {
    devices: &'a BTreeMap<u32, DeviceVal>,
    routes: &'a R,
    device: &'a Device,
}

impl<A: Family + MasqAddr, R: Routes> Network<A> for Arrival<'_, R> {
    fn route(&self, to: &A) -> Route<A> {
        let mut route = Route {
            oif: 0,
            source: A::UNSPECIFIED,
            is_uplink: false,
        };
        let Some((device, source)) = self.routes.route(to.ip()) else {
            return route;
        };
        route.oif = device.index;
        let entry = self.devices.get(&device.index);
        if let Some(entry) = entry.filter(|entry| entry.is(DeviceVal::UPLINK)) {
            route.is_uplink = true;
            route.source = source
                .and_then(A::from_ip)
                .unwrap_or_else(|| A::masq(entry));
        }
        route
    }

    /// A port is not asked for here.
    fn is_port_taken(&self, _: &FlowKey<A>) -> bool {
        false
    }

    fn is_pod_device(&self) -> bool {
        let entry = self.devices.get(&self.device.index);
        entry.is_some_and(|entry| entry.is(DeviceVal::POD_SIDE))
    }
}

/// Explains the first packet of a connection on a snapshot, at a moment in nanoseconds since boot.
pub fn explain<A: Family + MasqAddr, R: Routes>(
    snapshot: Snapshot<A>,
    devices: &BTreeMap<u32, DeviceVal>,
    routes: &R,
    device: &Device,
    from: A,
    to: &Target,
    now_ns: u64,
) -> Explanation
where
    Config: FamilyConfig<A>,
{
    let network = Arrival {
        devices,
        routes,
        device,
    };
    let config = snapshot.config;
    let opening = Opening {
        tables: snapshot,
        network,
        config: &config,
        chance: Fixed { now_ns, random: 0 },
        now_s: 0,
    };
    let class = opening.class(&from);
    let who = Who {
        class,
        netns: None,
        addr: Some(from.ip()),
        note: format!("{}: {}", from.ip(), why(class)),
    };
    let mut explanation = explain::decided(&opening.tables, to, &who, now_ns);
    explanation.device = Some(device.name.clone());
    explanation.verdict.errno = None;
    if !is_served(devices.get(&device.index)) {
        return Explanation {
            verdict: unserved(device),
            service: None,
            frontend: None,
            list: None,
            affinity: None,
            candidates: Vec::new(),
            ..explanation
        };
    }
    let Some(frontend) = frontend_of(&opening.tables, to, &who) else {
        return explanation;
    };
    for candidate in &mut explanation.candidates {
        if candidate.probability > 0.0 {
            let draft = draft(from, to, candidate, &frontend);
            candidate.way = draft.map(|draft| way(&opening, draft, class, routes));
        }
    }
    explanation
}

fn why(class: Class) -> &'static str {
    match class {
        Class::Pod => "in the pods' range, or met on a device of pods",
        Class::Host => "one of this node's addresses",
        Class::Outside => "neither a pod nor this node",
    }
}

fn is_served(entry: Option<&DeviceVal>) -> bool {
    entry.is_some_and(|entry| entry.is(DeviceVal::UPLINK | DeviceVal::POD_DEVICE))
}

fn unserved(device: &Device) -> Verdict {
    Verdict {
        kind: "pass",
        errno: None,
        reason: None,
        rule: format!(
            "no program of ours is on {}: it is neither an uplink nor among --pod-devices (see `lb-agent status`)",
            device.name
        ),
    }
}

/// The opener, its backend chosen.
fn draft<A: Family>(
    from: A,
    to: &Target,
    candidate: &Candidate,
    frontend: &FrontendVal,
) -> Option<Draft<A>> {
    let dialled = A::from_ip(to.addr)?;
    let anywhere = BePort::new(0);
    let mut draft = Draft::opener(FlowKey::new(
        to.proto,
        from,
        anywhere,
        dialled,
        BePort::new(to.port),
    ));
    draft.frontend = *frontend;
    draft.val.dst = A::from_ip(candidate.address.parse().ok()?)?;
    draft.val.dport = BePort::new(candidate.port);
    draft.val.service = frontend.service;
    draft.val.backend = BackendId(candidate.id);
    Some(draft)
}

/// How the packet gets to its backend (rules 77 to 82).
fn way<A: Family + MasqAddr, R: Routes>(
    opening: &Opening<'_, Snapshot<A>, Arrival<'_, R>, Fixed>,
    mut draft: Draft<A>,
    class: Class,
    routes: &R,
) -> String
where
    Config: FamilyConfig<A>,
{
    let wants_masquerade = masquerades(opening.config, &draft.frontend, class);
    opening.put_way(&mut draft, wants_masquerade);
    let (flags, source) = (draft.val.flags, draft.val.src.ip());
    if flags.has(FlowFlags::LB0) {
        let beyond = if flags.has(FlowFlags::LOCAL) {
            ""
        } else {
            ", and masqueraded where it leaves (--no-redirect)"
        };
        return format!("through lb0 from {source}{beyond}");
    }
    if flags.has(FlowFlags::SNAT) {
        let device = routes.route(draft.val.dst.ip());
        let device = device.map_or_else(|| "nowhere".to_owned(), |(device, _)| device.name);
        return format!("out of {device}, masqueraded as {source} (rule 79)");
    }
    format!("up the stack from {source}, as the client sent it")
}
