//! Interface addresses, in a network namespace of the test's own.

use std::{process::Command, time::Duration};

use lb_agent::{host_addrs::HostAddrs, model::Event};
use libtest_mimic::{Arguments, Trial};
use nix::sched::{CloneFlags, unshare};
use tokio::{sync::mpsc, time::timeout};

fn main() {
    let is_root = nix::unistd::geteuid().is_root();
    let name = if is_root {
        "changes_of_the_own_network_namespace_are_told"
    } else {
        "changes_of_the_own_network_namespace_are_told (needs root for a network namespace)"
    };
    let trial = Trial::test(name, || {
        in_own_namespace();
        Ok(())
    });
    let trials = vec![trial.with_ignored_flag(!is_root)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The namespace is the thread's, and ends with it.
fn in_own_namespace() {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(follow());
    });
    thread.join().expect("the thread's word is above");
}

async fn follow() {
    ip("link set lo up");
    ip("address add 192.0.2.1/32 dev lo");
    let host = HostAddrs::open().expect("netlink");
    assert_eq!(host.news(), addresses(["192.0.2.1"]));
    let (sender, mut events) = mpsc::channel(8);
    tokio::spawn(host.run(sender));
    let mut next = async || timeout(Duration::from_secs(10), events.recv()).await;

    ip("link add veth-a type veth peer veth-b");
    ip("address add 2001:db8::1/64 dev veth-a");
    let expected = addresses(["192.0.2.1", "2001:db8::1"]);
    assert_eq!(next().await, Ok(Some(expected)));

    // changes nothing that counts, so what comes next is told next
    ip("address add 169.254.0.9/32 dev lo");
    tokio::time::sleep(Duration::from_millis(300)).await;
    ip("address del 192.0.2.1/32 dev lo");
    assert_eq!(next().await, Ok(Some(addresses(["2001:db8::1"]))));
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status();
    assert!(done.expect("the program ip").success(), "ip {arguments}");
}

fn addresses<const N: usize>(texts: [&str; N]) -> Event {
    Event::HostAddrs(texts.map(|t| t.parse().expect("an address")).into())
}
