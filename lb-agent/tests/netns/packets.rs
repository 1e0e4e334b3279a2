//! What clients outside see of Services, and what backends see of them: the table after rule 82, refusals, and
//! packets that are not quite ordinary.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::manifest::{Document, ServiceManifest, endpoint, slices, svc};
use xtask::lab::traffic::{Dial, Failure, exchange, read_line};
use xtask::lab::{CLUSTER_CIDR, Lab, Node, Place};

use crate::harness::{SOON, Server, case, counted, eventually, servers};
use crate::load::{load, settle};

pub const VIP: [&str; 2] = ["203.0.113.10", "fd00:113::10"];
pub const EXTERNAL: [&str; 2] = ["198.51.100.7", "fd00:100::7"];
pub const CLUSTER_IP: [&str; 2] = ["10.96.0.10", "fd00:96::a"];
/// The address that nobody has, behind which clients of `lb0` hide.
pub const HIDDEN: [&str; 2] = ["169.254.42.1", "fd00:6c62::2a01"];
pub const SHORT: Duration = Duration::from_millis(700);

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("packets", name, test);
    vec![
        case(
            "policy_cluster_reaches_both_nodes_and_only_the_other_one_sees_the_node",
            policy_cluster,
        ),
        case(
            "policy_local_reaches_this_node_alone_with_the_clients_address",
            policy_local,
        ),
        case(
            "policy_local_without_an_endpoint_here_drops",
            local_elsewhere,
        ),
        case("no_endpoint_at_all_is_refused_at_once", no_endpoints),
        case("a_syn_with_options_is_refused_at_once", syn_with_options),
        case(
            "a_routed_cluster_ip_serves_clients_outside_and_refuses_other_ports",
            routed_cluster_ip,
        ),
        case("source_ranges_let_in_whom_they_name", source_ranges),
        case(
            "masquerade_local_backends_hides_the_client_behind_lb0",
            masquerade_local,
        ),
        case(
            "one_client_port_reaches_one_backend_by_two_vips",
            same_client_two_vips,
        ),
        case(
            "an_established_connection_outlives_its_service",
            outlives_service,
        ),
        case("a_udp_flow_moves_when_its_backend_leaves", udp_moves),
        case(
            "restarts_of_the_agent_cost_no_client_outside_a_connection",
            restarts,
        ),
        case("large_transfers_and_fragments_arrive_whole", large),
        case("hops_that_are_used_up_are_told", hops),
        case("a_smaller_mtu_behind_the_node_is_told", narrow),
    ]
}

/// Two nodes with a backend each, and a client outside that reaches VIPs through the first.
pub struct Scene {
    pub node: Node,
    _other: Node,
    pub local: [Server; 1],
    pub remote: [Server; 1],
    pub outside: Place,
}

pub fn addresses(texts: [&str; 2]) -> Result<[IpAddr; 2]> {
    Ok([texts[0].parse()?, texts[1].parse()?])
}

pub fn service() -> ServiceManifest {
    let mut service = svc("ns/web");
    for address in CLUSTER_IP {
        service = service.cluster_ip(address);
    }
    for address in VIP {
        service = service.ingress(address);
    }
    for address in EXTERNAL {
        service = service.external_ip(address);
    }
    service
        .port("tcp", "TCP", 80)
        .node_port(30080)
        .port("udp", "UDP", 80)
        .node_port(30081)
}

impl Scene {
    pub fn new(lab: &Lab) -> Result<Self> {
        let node = lab.node("node-a")?;
        let other = lab.node("node-b")?;
        let local = servers(&node, ["local"], 8080)?;
        let remote = servers(&other, ["remote"], 8080)?;
        let outside = lab.outside("outside")?;
        let [v4, v6] = node.host.addresses;
        let mut routes = String::new();
        for texts in [VIP, EXTERNAL, CLUSTER_IP, ["10.96.0.99", "fd00:96::99"]] {
            routes += &format!(
                "route add {} via {v4}\nroute add {} via {v6}\n",
                texts[0], texts[1]
            );
        }
        outside.netns.ip(&routes)?;
        Ok(Self {
            node,
            _other: other,
            local,
            remote,
            outside,
        })
    }

    pub fn publish(&self, service: ServiceManifest, local: bool, remote: bool) -> Result<()> {
        self.publish_at(8080, service, local, remote)
    }

    /// With endpoints on `port`, where nobody listens unless it is 8080.
    pub fn publish_at(
        &self,
        port: u16,
        service: ServiceManifest,
        local: bool,
        remote: bool,
    ) -> Result<()> {
        let mut listed = slices("ns/web")
            .port("tcp", "TCP", port)
            .port("udp", "UDP", port);
        if local {
            listed = listed.endpoint(endpoint(&self.local[0].pod, "node-a"));
        }
        if remote {
            listed = listed.endpoint(endpoint(&self.remote[0].pod, "node-b"));
        }
        self.node
            .publish::<Document>("web", [service.into(), listed.into()])
    }

    /// What a client outside may dial: NodePort, LoadBalancer IP and externalIP, TCP and UDP, of both families.
    pub fn dials(&self) -> Result<Vec<Dial>> {
        let mut dials = Vec::new();
        for family in [0, 1] {
            let node = self.node.host.addresses[family];
            dials.push(Dial::tcp(SocketAddr::new(node, 30080)));
            dials.push(Dial::udp(SocketAddr::new(node, 30081)));
            for address in [addresses(VIP)?[family], addresses(EXTERNAL)?[family]] {
                let to = SocketAddr::new(address, 80);
                dials.push(Dial::tcp(to));
                dials.push(Dial::udp(to));
                dials.push(Dial::udp(to).unconnected());
            }
        }
        Ok(dials)
    }

    /// Dials often enough to meet both backends (all but once in eight million); each answer must come from what was dialled, and the backend must
    /// see the client as `client` says.
    pub fn check(&self, dial: &Dial, to: SocketAddr, expected: &[(&str, IpAddr)]) -> Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        for asked in self.outside.ask_many(dial, 24)? {
            let answer = asked.map_err(|failure| anyhow!("{dial}: {failure}"))?;
            ensure!(answer.peer == to, "{dial} was answered by {}", answer.peer);
            seen.insert((answer.by, answer.client.ip()));
        }
        let wanted: std::collections::BTreeSet<(String, IpAddr)> = expected
            .iter()
            .map(|(by, ip)| ((*by).to_owned(), *ip))
            .collect();
        ensure!(seen == wanted, "{dial}: {seen:?}, not {wanted:?}");
        Ok(())
    }

    pub fn family(&self, to: IpAddr) -> (IpAddr, IpAddr) {
        let at = usize::from(to.is_ipv6());
        (self.outside.addresses[at], self.node.host.addresses[at])
    }
}

pub fn answered(place: &Place, dial: &Dial) -> Result<IpAddr> {
    let answer = place
        .ask(dial)?
        .map_err(|failure| anyhow!("{dial}: {failure}"))?;
    Ok(answer.client.ip())
}

pub fn failed(place: &Place, dial: &Dial) -> Result<Failure> {
    match place.ask(dial)? {
        Ok(answer) => Err(anyhow!("{dial} was answered: {answer:?}")),
        Err(failure) => Ok(failure),
    }
}

fn policy_cluster(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), true, true)?;
    let _agent = scene.node.agent(&["--cluster-cidr", CLUSTER_CIDR])?;
    for dial in scene.dials()? {
        let to = dial.to();
        let (client, node) = scene.family(to.ip());
        scene.check(&dial, to, &[("local", client), ("remote", node)])?;
    }
    Ok(())
}

fn policy_local(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service().external_local(), true, true)?;
    let _agent = scene.node.agent(&["--cluster-cidr", CLUSTER_CIDR])?;
    for dial in scene.dials()? {
        let to = dial.to();
        let (client, _) = scene.family(to.ip());
        scene.check(&dial, to, &[("local", client)])?;
    }
    Ok(())
}

fn local_elsewhere(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service().external_local(), false, true)?;
    let agent = scene.node.agent(&[])?;
    for dial in scene.dials()? {
        let failure = failed(&scene.outside, &dial.clone().within(SHORT))?;
        ensure!(failure.is(Errno::ETIMEDOUT), "{dial}: {failure}");
    }
    ensure!(counted(&agent, "no_local_endpoints")? > 0);
    Ok(())
}

fn no_endpoints(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), false, false)?;
    let agent = scene.node.agent(&[])?;
    for dial in scene.dials()? {
        if dial.is_unconnected() {
            // A socket without a peer is not told of errors.
            continue;
        }
        let failure = failed(&scene.outside, &dial.clone().within(SHORT))?;
        ensure!(failure.is(Errno::ECONNREFUSED), "{dial}: {failure}");
    }
    ensure!(counted(&agent, "reject_sent")? > 0);
    Ok(())
}

/// Four bytes of padding options, in the header of IPv4 or a destination header of IPv6.
fn syn_with_options(lab: &Lab) -> Result<()> {
    const IPV6_DSTOPTS: i32 = 59;
    let scene = Scene::new(lab)?;
    scene.publish(service(), false, false)?;
    let agent = scene.node.agent(&[])?;
    for node in scene.node.host.addresses {
        let to = SocketAddr::new(node, 30080);
        let errno: i32 = scene.outside.exec(|| {
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(to),
                socket2::Type::STREAM,
                None,
            )?;
            let (level, name, options) = match node {
                IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_OPTIONS, &[1_u8, 1, 1, 1][..]),
                IpAddr::V6(_) => {
                    let header = &[0_u8, 0, 1, 4, 0, 0, 0, 0][..];
                    (libc::IPPROTO_IPV6, IPV6_DSTOPTS, header)
                }
            };
            // SAFETY: the pointer and the length describe `options`, which outlives the call.
            let done = unsafe {
                libc::setsockopt(
                    std::os::fd::AsRawFd::as_raw_fd(&socket),
                    level,
                    name,
                    options.as_ptr().cast(),
                    libc::socklen_t::try_from(options.len())?,
                )
            };
            ensure!(done == 0, "{}", std::io::Error::last_os_error());
            let refused = socket.connect_timeout(&to.into(), SHORT).err();
            Ok(refused.context("answered")?.raw_os_error().unwrap_or(0))
        })?;
        let errno = Errno::from_raw(errno);
        ensure!(errno == Errno::ECONNREFUSED, "{to}: {errno}");
    }
    ensure!(counted(&agent, "reject_sent")? >= 2);
    Ok(())
}

fn routed_cluster_ip(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), true, true)?;
    scene.node.publish_text(
        "cidr",
        "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: all}\n\
         spec: {cidrs: [10.96.0.0/16, \"fd00:96::/112\"]}\n",
    )?;
    let agent = scene.node.agent(&["--cluster-cidr", CLUSTER_CIDR])?;
    for ip in addresses(CLUSTER_IP)? {
        let to = SocketAddr::new(ip, 80);
        let (client, node) = scene.family(ip);
        for dial in [Dial::tcp(to), Dial::udp(to)] {
            scene.check(&dial, to, &[("local", client), ("remote", node)])?;
        }
        let other = SocketAddr::new(ip, 81);
        for dial in [Dial::tcp(other), Dial::udp(other)] {
            let failure = failed(&scene.outside, &dial.clone().within(SHORT))?;
            ensure!(
                failure.is(Errno::ECONNREFUSED),
                "rule 83, {dial}: {failure}"
            );
        }
    }
    for ip in addresses(["10.96.0.99", "fd00:96::99"])? {
        let dial = Dial::tcp(SocketAddr::new(ip, 80)).within(SHORT);
        let failure = failed(&scene.outside, &dial)?;
        ensure!(failure.is(Errno::ETIMEDOUT), "rule 84, {dial}: {failure}");
    }
    ensure!(counted(&agent, "unallocated_address")? > 0);
    Ok(())
}

fn source_ranges(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let stranger = lab.outside("stranger")?;
    let [v4, v6] = scene.node.host.addresses;
    stranger.netns.ip(&format!(
        "route add {} via {v4}\nroute add {} via {v6}\n",
        VIP[0], VIP[1]
    ))?;
    let [in4, in6] = scene.outside.addresses;
    let filtered = service()
        .source_range(&format!("{in4}/32"))
        .source_range(&format!("{in6}/128"));
    scene.publish(filtered, true, false)?;
    let agent = scene.node.agent(&[])?;
    for ip in addresses(VIP)? {
        for dial in [
            Dial::tcp(SocketAddr::new(ip, 80)),
            Dial::udp(SocketAddr::new(ip, 80)),
        ] {
            answered(&scene.outside, &dial)?;
            let failure = failed(&stranger, &dial.clone().within(SHORT))?;
            ensure!(failure.is(Errno::ETIMEDOUT), "rule 63, {dial}: {failure}");
        }
    }
    for node in scene.node.host.addresses {
        answered(&stranger, &Dial::tcp(SocketAddr::new(node, 30080))).context("rule 54")?;
    }
    ensure!(counted(&agent, "source_denied")? > 0);
    Ok(())
}

fn masquerade_local(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), true, false)?;
    let _agent = scene.node.agent(&["--masquerade-local-backends"])?;
    for dial in scene.dials()? {
        let to = dial.to();
        let hidden = addresses(HIDDEN)?[usize::from(to.is_ipv6())];
        scene.check(&dial, to, &[("local", hidden)])?;
    }
    Ok(())
}

/// One client port, two VIPs, one backend: the answers of both have one tuple, so one of them gets another port.
fn same_client_two_vips(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), true, false)?;
    let agent = scene.node.agent(&[])?;
    for family in [0, 1] {
        let from = SocketAddr::new(scene.outside.addresses[family], 45_000);
        let vips = [addresses(VIP)?[family], addresses(EXTERNAL)?[family]];
        let names: Vec<String> = scene.outside.exec(|| {
            let mut open = Vec::new();
            for vip in vips {
                let socket = socket2::Socket::new(
                    socket2::Domain::for_address(from),
                    socket2::Type::STREAM,
                    None,
                )?;
                socket.set_reuse_address(true)?;
                socket.set_read_timeout(Some(Duration::from_secs(3)))?;
                socket.bind(&from.into())?;
                socket.connect_timeout(&SocketAddr::new(vip, 80).into(), Duration::from_secs(3))?;
                open.push(socket);
            }
            open.iter()
                .map(|socket| read_line(socket).map_err(|failure| anyhow!("{failure}")))
                .collect()
        })?;
        ensure!(names.len() == 2, "{names:?}");
    }
    ensure!(counted(&agent, "port_changed")? >= 2);
    Ok(())
}

fn outlives_service(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), false, true)?;
    let agent = scene.node.agent(&[])?;
    let to = SocketAddr::new(scene.node.host.addresses[0], 30080);
    let held = scene.outside.spawn("held", move |control| {
        let socket = Dial::tcp(to)
            .open()
            .map_err(|failure| anyhow!("{failure}"))?;
        let line = || read_line(&socket).map_err(|failure| anyhow!("{failure}"));
        let name = line()?;
        control.say(&name)?;
        let _told: bool = control.hear(Duration::from_secs(15))?;
        socket.send(b"still here\n")?;
        line()
    })?;
    let name: String = held.hear(Duration::from_secs(5))?;
    ensure!(name.starts_with("remote"), "{name}");
    scene.node.withdraw("web")?;
    eventually(SOON, || {
        let failure = failed(&scene.outside, &Dial::tcp(to).within(SHORT))?;
        ensure!(failure.is(Errno::ECONNREFUSED), "{failure}");
        Ok(())
    })?;
    let output = scene.node.cli(&["flows", "list", "-o", "json"])?;
    let flows: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let [client, _] = scene.outside.addresses;
    let listed = flows.as_array().into_iter().flatten().find(|flow| {
        flow["state"] == "established"
            && flow["client"]
                .as_str()
                .is_some_and(|at| at.starts_with(&client.to_string()))
    });
    let listed = listed.with_context(|| format!("no established flow in {flows}"))?;
    ensure!(
        listed["destination"] == to.to_string() && listed["way"] == "redirect",
        "{listed}"
    );
    held.tell(&true)?;
    let echoed = held.join(Duration::from_secs(10))?;
    ensure!(echoed == "still here", "rule 88: {echoed}");
    drop(agent);
    Ok(())
}

fn udp_moves(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), true, false)?;
    let agent = scene.node.agent(&[])?;
    let to = SocketAddr::new(addresses(VIP)?[0], 80);
    let asker = scene.outside.spawn("asker", move |control| {
        let socket = Dial::udp(to)
            .unconnected()
            .open()
            .map_err(|failure| anyhow!("{failure}"))?;
        let ask = || exchange(&socket, to).map_err(|failure| anyhow!("{failure}"));
        let first = ask()?;
        control.say(&first.by)?;
        let _told: bool = control.hear(Duration::from_secs(15))?;
        let mut last = ask();
        for _ in 0..20 {
            if last.as_ref().is_ok_and(|answer| answer.by == "remote") {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            last = ask();
        }
        Ok(last?.by)
    })?;
    let first: String = asker.hear(Duration::from_secs(5))?;
    ensure!(first == "local");
    scene.publish(service(), false, true)?;
    asker.tell(&true)?;
    let last = asker.join(Duration::from_secs(15))?;
    ensure!(last == "remote", "rule 89: {last}");
    ensure!(counted(&agent, "flow_moved")? > 0);
    Ok(())
}

fn restarts(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), true, true)?;
    let mut agent = scene.node.agent(&[])?;
    let busy = load(&scene.outside, scene.dials()?)?;
    for _ in 0..3 {
        agent.kill9()?;
        agent.restart()?;
        agent.wait_ready()?;
    }
    settle(busy)?;
    Ok(())
}

fn large(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), true, true)?;
    let _agent = scene.node.agent(&[])?;
    let text: Vec<u8> = b"x".repeat(8_000);
    for family in [0, 1] {
        let to = SocketAddr::new(addresses(VIP)?[family], 80);
        for asked in scene.outside.ask_many(&Dial::udp(to).saying(&text), 8)? {
            asked.map_err(|failure| anyhow!("a datagram of 8 kB to {to}: {failure}"))?;
        }
    }
    Ok(())
}

/// A client whose packets arrive with one hop left: what goes on to another node is answered, as any router does.
fn hops(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), false, true)?;
    let agent = scene.node.agent(&[])?;
    for (family, node) in scene.node.host.addresses.into_iter().enumerate() {
        let to = SocketAddr::new(node, 30081);
        let errno: i32 = scene.outside.exec(|| {
            let socket = Dial::udp(to)
                .open()
                .map_err(|failure| anyhow!("{failure}"))?;
            if family == 0 {
                socket.set_ttl_v4(1)?;
            } else {
                socket.set_unicast_hops_v6(1)?;
            }
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv4RecvErr, &true)
                .ok();
            if family == 1 {
                nix::sys::socket::setsockopt(
                    &socket,
                    nix::sys::socket::sockopt::Ipv6RecvErr,
                    &true,
                )?;
            }
            socket.send(b"hello")?;
            let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
            let error = socket.recv(&mut buffer).err().context("answered")?;
            Ok(error.raw_os_error().unwrap_or(0))
        })?;
        ensure!(
            Errno::from_raw(errno) == Errno::EHOSTUNREACH
                || Errno::from_raw(errno) == Errno::ENETUNREACH,
            "{to}: {}",
            Errno::from_raw(errno)
        );
    }
    ensure!(counted(&agent, "hops_exceeded")? >= 2);
    Ok(())
}

/// The way on takes less than the client's link: the client is told, and adapts. A veth lets in 4 bytes more than its
/// MTU (room for a VLAN tag), which is how a packet gets here that is too large to go on.
fn narrow(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), false, true)?;
    let agent = scene.node.agent(&[])?;
    scene.node.host.netns.ip("link set eth0 mtu 1400\n")?;
    for (family, headers) in [(0, 28), (1, 48)] {
        let text: Vec<u8> = b"y".repeat(1_404 - headers);
        let to = SocketAddr::new(addresses(VIP)?[family], 80);
        let dial = Dial::udp(to).saying(&text).within(SHORT);
        eventually(SOON, || {
            scene
                .outside
                .ask(&dial)?
                .map_err(|failure| anyhow!("{dial}: {failure}"))
        })?;
    }
    ensure!(counted(&agent, "too_big")? >= 2);
    Ok(())
}
