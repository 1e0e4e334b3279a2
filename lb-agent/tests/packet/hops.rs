//! Next hops of masqueraded flows: looked up once a second, and kept in both halves.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Result, ensure};
use bytemuck::Pod;
use lb_agent::maps::family::Family;
use lb_common::{
    flow::{FlowKey, FlowVal},
    net::{Addr4, Addr6},
    reason::Counter,
};

use crate::fixture::{Conversation, Device, Fixture, Step};
use crate::packet::{Transport, packet};
use crate::rig::Rig;
use crate::world::{Place, SNAT_PORT, Svc, To, places};

pub fn fixtures() -> Vec<Fixture> {
    places().iter().map(learned).collect()
}

/// There by one gateway, back by another. A flow that is new leaves the search to the kernel.
fn learned(place: &Place) -> Fixture {
    let vip = place.dial(Svc::Narrow, To::NodePort);
    let opener = packet(Transport::Udp, place.client_at(), vip);
    let source = std::net::SocketAddr::new(place.nodes[1], SNAT_PORT);
    let backend = place.target(place.narrow);
    let sent = opener.clone().from(source).to(backend).ttl(opener.ttl - 1);
    let again = || Step::inbound(&opener).leaves_as(&sent);
    let is_v4 = place.family == 4;
    let (none, gateways) = if is_v4 {
        (["0.0.0.0"; 2], ["192.0.2.2", "192.0.3.2"])
    } else {
        (["::"; 2], ["2001:db8:2::2", "2001:db8:3::2"])
    };
    let steps = [
        again(),
        again().after(move |rig| of_family(rig, is_v4, none)),
        again().after(move |rig| of_family(rig, is_v4, gateways)),
    ];
    Fixture::new(
        format!("hops/looked up once a second IPv{}", place.family),
        steps,
    )
    .counts(Counter::HitChosen, 1)
    .flow(Conversation::of(&opener, backend).masqueraded(source, Device::Up1, Device::Up0))
}

fn of_family(rig: &Rig, is_v4: bool, wanted: [&str; 2]) -> Result<()> {
    if is_v4 {
        check_and_age::<Addr4>(rig, wanted)
    } else {
        check_and_age::<Addr6>(rig, wanted)
    }
}

/// Compares the next hops of all halves, and lets a second pass.
fn check_and_age<A: Family>(rig: &Rig, wanted: [&str; 2]) -> Result<()>
where
    FlowKey<A>: Pod,
    FlowVal<A>: Pod,
{
    let wanted: BTreeSet<IpAddr> = wanted
        .iter()
        .map(|ip| ip.parse())
        .collect::<Result<_, _>>()?;
    let mut halves = rig.entries::<FlowKey<A>, FlowVal<A>>(A::MAPS.embryos)?;
    let hops: BTreeSet<IpAddr> = halves.iter().map(|(_, val)| val.via.ip()).collect();
    ensure!(
        halves.len() == 2 && hops == wanted,
        "next hops {hops:?}, not {wanted:?}"
    );
    for (key, val) in &mut halves {
        val.seen_s = val.seen_s.saturating_sub(1);
        rig.put(A::MAPS.embryos, key, val)?;
    }
    Ok(())
}
