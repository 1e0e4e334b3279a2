//! The laboratory itself: its servers, clients and routes do what the tests built on it take for granted.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::errno::Errno;
use xtask::lab::traffic::Dial;
use xtask::lab::{ELSEWHERE, Lab, ServeOptions, missing, mounts_below, remove_stale};

fn main() {
    let arguments = Arguments::from_args();
    let reason = missing();
    if let Some(reason) = &reason {
        eprintln!("ignored: {reason}");
    }
    let trial = |name: &str, test: fn() -> Result<()>| {
        let run = move || test().map_err(|error| Failed::from(format!("{error:#}")));
        Trial::test(name, run).with_ignored_flag(reason.is_some())
    };
    let trials = vec![
        trial(
            "pods_of_two_nodes_reach_each_other_over_every_protocol",
            pods_reach_each_other,
        ),
        trial(
            "host_processes_and_clients_outside_reach_pods",
            hosts_reach_pods,
        ),
        trial("a_pod_is_made_in_150_ms", pods_are_made_fast),
        trial(
            "a_panic_and_a_timeout_of_a_closure_reach_the_test_in_words",
            failures_have_words,
        ),
        trial("a_closed_port_refuses", closed_ports_refuse),
        trial("a_server_may_answer_from_elsewhere", answers_from_elsewhere),
        trial("a_task_is_told_heard_and_stopped", tasks_talk),
        trial(
            "a_closure_runs_in_the_cgroup_and_namespace_of_its_place",
            closures_are_in_place,
        ),
        trial("a_dropped_laboratory_leaves_nothing", nothing_is_left),
        trial("what_a_killed_run_left_behind_is_removed", stale_is_removed),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn pods_reach_each_other() -> Result<()> {
    let lab = Lab::new()?;
    let (node_a, node_b) = (lab.node("node-a")?, lab.node("node-b")?);
    let (client, server) = (node_a.pod("client")?, node_b.pod("server")?);
    let options = ServeOptions::new(&[server.v4(80), server.v6(80)])
        .udp_lite()
        .mptcp();
    let _server = server.serve_with(&options)?;
    for to in [server.v4(80), server.v6(80)] {
        for dial in [
            Dial::tcp(to),
            Dial::tcp(to).fast_open(),
            Dial::tcp(to).bound_to(client.addresses[usize::from(to.is_ipv6())]),
            Dial::mptcp(to),
            Dial::udp(to),
            Dial::udp(to).unconnected(),
            Dial::udp_lite(to),
            Dial::tcp(to).mapped(),
            Dial::udp(to).mapped(),
            Dial::udp(to).unconnected().mapped(),
        ] {
            let answer = client.ask(&dial)??;
            assert_eq!((answer.by.as_str(), answer.peer), ("server", to), "{dial}");
            assert_eq!(
                answer.client.ip(),
                client.addresses[usize::from(to.is_ipv6())],
                "{dial}"
            );
        }
    }
    Ok(())
}

fn hosts_reach_pods() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.node("node-a")?;
    let outside = lab.outside("outside")?;
    let pod = node.pod("server")?;
    let _server = pod.serve(80)?;
    for (place, addresses) in [
        (&node.host, node.host.addresses),
        (&outside, outside.addresses),
    ] {
        for (to, from) in [(pod.v4(80), addresses[0]), (pod.v6(80), addresses[1])] {
            let answer = place.ask(&Dial::tcp(to))??;
            assert_eq!((answer.by.as_str(), answer.client.ip()), ("server", from));
        }
    }
    Ok(())
}

fn pods_are_made_fast() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.node("node-a")?;
    let start = Instant::now();
    let pods: Result<Vec<_>> = (0..10)
        .map(|number| node.pod(&format!("pod-{number}")))
        .collect();
    let each = start.elapsed() / u32::try_from(pods?.len())?;
    assert!(each < Duration::from_millis(150), "{each:?} per pod");
    Ok(())
}

fn failures_have_words() -> Result<()> {
    let lab = Lab::new()?;
    let pod = lab.node("node-a")?.pod("pod")?;
    let panicked = pod
        .exec(|| -> Result<()> { panic!("on purpose") })
        .expect_err("a failure");
    assert_eq!(format!("{panicked:#}"), "panicked: on purpose");
    let failed = pod
        .exec(|| -> Result<()> { bail!("no luck") })
        .expect_err("a failure");
    assert_eq!(format!("{failed:#}"), "no luck");
    let slow = pod.spawn("sleeper", |_| {
        std::thread::sleep(Duration::from_secs(5));
        Ok(())
    })?;
    let slow = slow.join(Duration::from_millis(50)).expect_err("a failure");
    assert_eq!(
        format!("{slow:#}"),
        "sleeper in pod did not end within 50ms"
    );
    Ok(())
}

fn closed_ports_refuse() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.node("node-a")?;
    let (client, server) = (node.pod("client")?, node.pod("server")?);
    for to in [server.v4(81), server.v6(81)] {
        for dial in [Dial::tcp(to), Dial::udp(to)] {
            let failure = client.ask(&dial)?.expect_err("a failure");
            assert!(failure.is(Errno::ECONNREFUSED), "{dial}: {failure}");
        }
    }
    Ok(())
}

fn answers_from_elsewhere() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.node("node-a")?;
    let (client, server) = (node.pod("client")?, node.pod("server")?);
    let _server = server.serve(53)?;
    let answer = client.ask(&Dial::udp(server.v4(53)).unconnected().saying(ELSEWHERE))??;
    assert_eq!(answer.peer.ip(), server.addresses[0]);
    assert_ne!(answer.peer.port(), 53);
    Ok(())
}

fn tasks_talk() -> Result<()> {
    let lab = Lab::new()?;
    let pod = lab.node("node-a")?.pod("pod")?;
    let task = pod.spawn("counter", |control| {
        let mut count: u32 = control.hear(Duration::from_secs(2))?;
        control.say(&format!("from {count}"))?;
        while !control.stop_asked() {
            count += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(count)
    })?;
    task.tell(&7)?;
    assert_eq!(task.hear::<String>(Duration::from_secs(2))?, "from 7");
    std::thread::sleep(Duration::from_millis(20));
    assert!(task.finish(Duration::from_secs(2))? > 7);
    Ok(())
}

fn closures_are_in_place() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.node("node-a")?;
    let pod = node.pod("pod")?;
    let unified = pod.exec(|| {
        let table = std::fs::read_to_string("/proc/self/cgroup")?;
        Ok(table
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap_or_default()
            .to_owned())
    })?;
    assert!(
        pod.cgroup.ends_with(unified.trim_start_matches('/')),
        "{unified}"
    );
    let address = pod.exec(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("10.244.1.200:9")?;
        Ok(socket.local_addr()?.ip())
    })?;
    assert_eq!(address, "10.244.1.1".parse::<IpAddr>()?);
    Ok(())
}

fn nothing_is_left() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.node("node-a")?;
    let pod = node.pod("pod")?;
    let _server = pod.serve(80)?;
    let mounted = node.bpffs.clone();
    nix::mount::mount(
        Some("bpf"),
        &mounted,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )?;
    let (dir, cgroup) = (lab.dir().to_owned(), node.cgroup.clone());
    assert_eq!(mounts_below(&dir)?, [mounted]);
    drop(lab);
    assert!(!dir.exists() && !cgroup.exists());
    assert_eq!(mounts_below(&dir)?, Vec::<std::path::PathBuf>::new());
    Ok(())
}

/// The inner laboratory belongs to a process that ends without dropping it, while its pod's first process lives on.
fn stale_is_removed() -> Result<()> {
    let lab = Lab::new()?;
    let pod = lab.node("node-a")?.pod("pod")?;
    let (dir, cgroup): (std::path::PathBuf, std::path::PathBuf) = pod.exec(|| {
        let inner = Lab::new()?;
        let node = inner.node("inner")?;
        let left = (inner.dir().to_owned(), node.cgroup.clone());
        std::mem::forget((node.pod("pod")?, inner));
        Ok(left)
    })?;
    assert!(dir.exists() && cgroup.exists());
    remove_stale();
    assert!(!dir.exists() && !cgroup.exists());
    Ok(())
}
