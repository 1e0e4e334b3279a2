//! Behaviour of the whole agent between real sockets in network namespaces (root).
//!
//! Each case builds its nodes, pods and clients (`xtask::lab`), gives the real agent ordinary Kubernetes YAML, and looks
//! at what clients see. Names are the sentences proved; rules are those of the service proxy's behaviour list.

mod affinity;
mod changes;
mod coexist;
mod colliders;
mod commands;
mod configuration;
mod container;
mod datagrams;
mod devices;
mod families;
mod flood;
mod forwarding;
mod full;
mod harness;
mod health_check;
mod lifecycle;
mod load;
mod localhost;
mod manifests;
mod nodeport;
mod objects;
mod observe;
mod overlay;
mod packets;
mod policies;
mod refusals;
mod sandboxes;
mod sessions;
mod sources;
mod start;
mod topology;
mod transfer;
mod tun;
mod udp_ends;
mod uplinks;

use libtest_mimic::Arguments;

fn main() {
    let mut arguments = Arguments::from_args();
    // Cases wait more than they compute.
    arguments.test_threads.get_or_insert(6);
    if let Some(reason) = xtask::lab::missing() {
        eprintln!("ignored: {reason}");
    }
    let trials = [
        families::trials(),
        datagrams::trials(),
        sessions::trials(),
        udp_ends::trials(),
        refusals::trials(),
        sources::trials(),
        nodeport::trials(),
        devices::trials(),
        packets::trials(),
        forwarding::trials(),
        uplinks::trials(),
        colliders::trials(),
        flood::trials(),
        overlay::trials(),
        transfer::trials(),
        sandboxes::trials(),
        localhost::trials(),
        health_check::trials(),
        policies::trials(),
        topology::trials(),
        affinity::trials(),
        objects::trials(),
        changes::trials(),
        lifecycle::trials(),
        start::trials(),
        coexist::trials(),
        manifests::trials(),
        full::trials(),
        commands::trials(),
        container::trials(),
        configuration::trials(),
        observe::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
