//! Behaviour of the whole agent between real sockets in network namespaces (root).
//!
//! Each case builds its nodes, pods and clients (`xtask::lab`), gives the real agent ordinary Kubernetes YAML, and looks
//! at what clients see. Names are the sentences proved; rules are those of the service proxy's behaviour list.

mod affinity;
mod changes;
mod commands;
mod datagrams;
mod families;
mod full;
mod harness;
mod lifecycle;
mod localhost;
mod manifests;
mod nodeport;
mod objects;
mod policies;
mod refusals;
mod sources;

use libtest_mimic::Arguments;

fn main() {
    let arguments = Arguments::from_args();
    if let Some(reason) = xtask::lab::missing() {
        eprintln!("ignored: {reason}");
    }
    let trials = [
        families::trials(),
        datagrams::trials(),
        refusals::trials(),
        sources::trials(),
        nodeport::trials(),
        localhost::trials(),
        policies::trials(),
        affinity::trials(),
        objects::trials(),
        changes::trials(),
        lifecycle::trials(),
        manifests::trials(),
        full::trials(),
        commands::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
