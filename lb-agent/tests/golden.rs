//! What the command line prints, word for word: the texts in `golden/` are what operators see.
//!
//! `BLESS=1 cargo test -p lb-agent --test golden` writes them anew; read the difference before you
//! commit it.

use std::{collections::BTreeMap, env, fs, net::IpAddr, path::Path};

use lb_agent::{
    cli::{
        Args,
        args::Command,
        arrival::{self, Device, Routes},
        client::Who,
        config,
        explain::explain,
        explanation,
        service::{get_text, list_table},
        settings::proxy_config,
        status::{self, Agent, Count, MapFill, Status},
        view,
    },
    maps::{Content, family::Family, snapshot::Snapshot},
    observe::{
        attached::Attachment,
        devices::{DeviceProgram, DeviceStatus},
    },
};
use lb_common::{
    affinity::{AffinityKey, AffinityVal},
    config::Config,
    device::DeviceVal,
    frontend::{Class, FrontendKey, FrontendVal, Kind, SourceRule},
    id::{BackendId, ServiceId},
    list::{Empty, ListRange},
    name::ServiceName,
    net::{Addr4, Addr6, BePort, Proto},
    service::{Algorithm, Backend, BackendFlags, Service},
    source::SourceKey,
};

const SECOND: u64 = 1_000_000_000;

const NOT_READY: BackendFlags = BackendFlags(0);
const READY: BackendFlags = BackendFlags::READY.with(BackendFlags::SERVING);
const DRAINING: BackendFlags = BackendFlags::SERVING.with(BackendFlags::TERMINATING);
const CLUSTER: BackendFlags = BackendFlags::IN_CLUSTER;
const LOCAL: BackendFlags = BackendFlags::IN_LOCAL.with(BackendFlags::ON_NODE);

/// Compares with the text in `golden/`, or writes it.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if env::var_os("BLESS").is_some() {
        fs::write(&path, text).expect("the golden text is written");
        return;
    }
    let want = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text,
        want,
        "{} differs; BLESS=1 writes it anew",
        path.display()
    );
}

fn addr<A: Family>(text: &str) -> A {
    A::from_ip(text.parse().expect("an address")).expect("of the right family")
}

/// Maps with services in them.
struct Maps<A: Family>(Snapshot<A>);

impl<A: Family> Maps<A> {
    fn new() -> Self {
        Self(Snapshot {
            content: Content {
                frontends: BTreeMap::new(),
                services: BTreeMap::new(),
                names: BTreeMap::new(),
                backends: BTreeMap::new(),
                slots: BTreeMap::new(),
                sources: Default::default(),
                generations: BTreeMap::new(),
            },
            node_addrs: Default::default(),
            config: Config::default(),
            netns: BTreeMap::new(),
            affinity: Vec::new(),
        })
    }

    fn service(&mut self, id: u32, name: [&str; 3], service: Service) -> &mut Self {
        let content = &mut self.0.content;
        let name = ServiceName::new(name[0], name[1], name[2], Proto::TCP).expect("short names");
        content.names.insert(ServiceId(id), name);
        content.services.insert(ServiceId(id), service);
        self
    }

    fn frontend(&mut self, vip: &str, port: u16, val: FrontendVal) -> &mut Self {
        let key = FrontendKey::new(addr(vip), BePort::new(port), Proto::TCP);
        self.0.content.frontends.insert(key, val);
        self
    }

    /// A backend; in the lists that its flags name, at the places that the services' ranges tell.
    fn backend(&mut self, id: u32, service: u32, ip: &str, flags: BackendFlags) -> &mut Self {
        let content = &mut self.0.content;
        let backend = Backend {
            addr: addr(ip),
            port: BePort::new(8080),
            generation: 1,
            service: ServiceId(service),
            flags,
        };
        content.backends.insert(BackendId(id), backend);
        let of_service = content.services[&ServiceId(service)];
        for (flag, range) in [
            (BackendFlags::IN_CLUSTER, of_service.cluster),
            (BackendFlags::IN_LOCAL, of_service.local),
        ] {
            let mut places = range.base()..range.base() + range.len();
            if flags.has(flag) {
                let free = places.find(|place| !content.slots.contains_key(place));
                let free = free.expect("the range has room");
                content.slots.insert(free, backend.slot(BackendId(id)));
            }
        }
        self
    }
}

fn frontend(service: u32, kind: Kind) -> FrontendVal {
    FrontendVal::new(ServiceId(service), kind)
}

fn service(cluster: ListRange, local: ListRange) -> Service {
    Service {
        cluster,
        local,
        flags: Service::IN_USE,
        ..Service::default()
    }
}

/// A shop: one service of every kind of trouble.
fn shop() -> Maps<Addr4> {
    let mut maps = Maps::new();
    let web = Service {
        affinity_timeout_s: 600,
        ..service(ListRange::new(0, 3), ListRange::new(3, 1))
    };
    maps.service(1, ["shop", "web", "http"], web)
        .frontend("10.96.0.10", 80, frontend(1, Kind::CLUSTER_IP))
        .frontend(
            "0.0.0.0",
            30080,
            frontend(1, Kind::NODE_PORT).with_local(Class::Outside),
        )
        .frontend(
            "203.0.113.7",
            80,
            frontend(1, Kind::LOAD_BALANCER)
                .with_local(Class::Outside)
                .with_sources(Class::Outside, SourceRule::Check)
                .with_sources(Class::Pod, SourceRule::Deny),
        )
        .backend(1, 1, "10.244.1.5", READY.with(CLUSTER).with(LOCAL))
        .backend(2, 1, "10.244.2.5", READY.with(CLUSTER))
        .backend(3, 1, "10.244.2.6", READY.with(CLUSTER))
        .backend(4, 1, "10.244.2.7", DRAINING)
        .backend(5, 1, "10.244.2.8", NOT_READY)
        .backend(6, 1, "10.244.2.9", READY.with(BackendFlags::HINTED_AWAY));
    let range = SourceKey {
        service: ServiceId(1),
        addr: addr("192.0.2.0"),
    };
    maps.0.content.sources.insert((range, 24));
    let near = Service {
        algorithm: Algorithm::ROUND_ROBIN,
        ..service(
            ListRange::empty(Empty::Reject),
            ListRange::empty(Empty::Drop),
        )
    };
    let all_local = |kind| {
        [Class::Pod, Class::Host, Class::Outside]
            .into_iter()
            .fold(frontend(2, kind), FrontendVal::with_local)
    };
    maps.service(2, ["shop", "near", ""], near)
        .frontend("10.96.0.20", 80, all_local(Kind::CLUSTER_IP))
        .backend(7, 2, "10.244.2.10", READY);
    let gone = service(
        ListRange::empty(Empty::Reject),
        ListRange::empty(Empty::Reject),
    );
    maps.service(3, ["default", "gone", "http"], gone).frontend(
        "10.96.0.30",
        80,
        frontend(3, Kind::CLUSTER_IP),
    );
    let vip = FrontendKey::any_port(addr("10.96.0.10"));
    maps.0
        .content
        .frontends
        .insert(vip, FrontendVal::any_port());
    maps.0.node_addrs.insert(addr("192.0.2.1"));
    maps.0.config.nodeport_lo = BePort::new(30000);
    maps.0.config.nodeport_hi = BePort::new(32767);
    maps.0.config.flags = Config::LOCALHOST4;
    maps
}

/// The IPv6 side of the shop's web.
fn shop6() -> Maps<Addr6> {
    let mut maps = Maps::new();
    maps.service(
        9,
        ["shop", "web", "http"],
        service(ListRange::new(0, 1), ListRange::empty(Empty::Reject)),
    )
    .frontend("fd00::10", 80, frontend(9, Kind::CLUSTER_IP))
    .frontend("::", 30080, frontend(9, Kind::NODE_PORT))
    .backend(1, 9, "fd00:244::5", READY.with(CLUSTER));
    maps
}

fn client(class: Class, addr: Option<&str>, netns: u64) -> Who {
    Who {
        class,
        netns: Some(netns),
        addr: addr.map(|ip| ip.parse().expect("an address")),
        note: "as the test says".to_owned(),
    }
}

fn explained(maps: &Maps<Addr4>, to: &str, who: &Who) -> String {
    let target = to.parse().expect("a target");
    explanation::text(&explain(&maps.0, &target, who, 1000 * SECOND))
}

#[test]
fn service_list_has_a_row_for_each_frontend() {
    let mut views = view::services(&shop().0.content);
    views.extend(view::services(&shop6().0.content));
    view::sort(&mut views);
    golden("service-list.txt", &list_table(&views));
}

#[test]
fn service_get_shows_lists_and_conditions_of_every_endpoint() {
    let mut views = view::services(&shop().0.content);
    views.retain(|view| view.name == "web");
    golden("service-get.txt", &get_text(&views));
}

#[test]
fn the_json_of_services_keeps_its_keys() {
    let mut views = view::services(&shop().0.content);
    views.retain(|view| view.name == "near");
    let text = serde_json::to_string_pretty(&views).expect("it serialises");
    golden("service-get.json", &(text + "\n"));
}

#[test]
fn nothing_to_list_is_said_in_words() {
    assert_eq!(list_table(&[]), "no services\n");
}

#[test]
fn explain_names_the_reason_of_every_endpoint_left_out() {
    let pod = client(Class::Pod, None, 7);
    golden(
        "explain-dnat.txt",
        &explained(&shop(), "10.96.0.10:80", &pod),
    );
}

#[test]
fn explain_shows_the_pin_of_session_affinity() {
    let mut maps = shop();
    let key = AffinityKey::of_netns(7, ServiceId(1), 4);
    let val = AffinityVal {
        last_ns: 880 * SECOND,
        backend: BackendId(2),
        generation: 1,
        pad: 0,
    };
    maps.0.affinity.push((key, val));
    let pod = client(Class::Pod, None, 7);
    golden(
        "explain-pinned.txt",
        &explained(&maps, "10.96.0.10:80", &pod),
    );
}

#[test]
fn explain_tells_apart_every_verdict() {
    let maps = shop();
    let pod = client(Class::Pod, None, 7);
    let mut text = String::new();
    for (title, to, who) in [
        ("no endpoints", "10.96.0.30:80", &pod),
        ("policy Local", "10.96.0.20:80", &pod),
        (
            "unknown port",
            "10.96.0.10:81",
            &client(Class::Pod, None, 7),
        ),
        ("outside the source ranges", "203.0.113.7:80", &pod),
        (
            "NodePort of a host",
            "127.0.0.1:30080",
            &client(Class::Host, None, 1),
        ),
        ("another namespace's loopback", "127.0.0.1:30080", &pod),
        ("short circuit", "192.0.2.1:30080", &pod),
        (
            "bound to loopback",
            "10.96.0.10:80",
            &client(Class::Host, Some("127.0.0.1"), 1),
        ),
        ("SCTP", "10.96.0.10:80/sctp", &pod),
        ("no service", "198.51.100.1:80", &pod),
    ] {
        text += &format!("# {title}\n{}\n", explained(&maps, to, who));
    }
    golden("explain-verdicts.txt", &text);
}

#[test]
fn an_unknown_port_and_an_unknown_address_are_refused_inside_a_service_range() {
    let mut maps = shop();
    let range = &mut maps.0.config.ranges4;
    range.len = 1;
    range.ranges[0].lo = addr("10.96.0.0");
    range.ranges[0].hi = addr("10.96.255.255");
    range.ranges[0].flags = lb_common::config::OWNED;
    let pod = client(Class::Pod, None, 7);
    let mut text = String::new();
    let entries = &mut maps.0.content.frontends;
    let theirs = FrontendKey::any_port(addr("10.96.0.77"));
    entries.insert(theirs, FrontendVal::foreign());
    for to in ["10.96.0.10:81", "10.96.7.7:80", "10.96.0.77:80"] {
        text += &explained(&maps, to, &pod);
    }
    golden("explain-ranges.txt", &text);
}

#[test]
fn the_json_of_explain_keeps_its_keys() {
    let pod = client(Class::Pod, None, 7);
    let target = "10.96.0.20:80".parse().expect("a target");
    let explanation = explain(&shop().0, &target, &pod, 0);
    let text = serde_json::to_string_pretty(&explanation).expect("it serialises");
    golden("explain.json", &(text + "\n"));
}

/// eth0 leads out, to the other node too; pod0 to the pods of this one.
struct Host;

impl Routes for Host {
    fn route(&self, to: IpAddr) -> Option<(Device, Option<IpAddr>)> {
        let is_here = to.to_string().starts_with("10.244.1.");
        Some((device(if is_here { "pod0" } else { "eth0" }), None))
    }
}

fn device(name: &str) -> Device {
    Device {
        name: name.to_owned(),
        index: if name == "eth0" { 2 } else { 9 },
    }
}

fn arrived(from: &str, on: &str, to: &str) -> String {
    let mut maps = shop();
    maps.frontend("198.51.100.1", 80, frontend(1, Kind::EXTERNAL_IP));
    let local = maps.0.content.backends.get_mut(&BackendId(1));
    let local = local.expect("the first backend");
    local.flags = local.flags.with(BackendFlags::ON_NODE);
    let eth0 = DeviceVal {
        flags: DeviceVal::UPLINK,
        masq4: addr("192.0.2.1"),
        ..DeviceVal::default()
    };
    let (devices, to) = (BTreeMap::from([(2, eth0)]), to.parse().expect("a target"));
    let answer = arrival::explain(maps.0, &devices, &Host, &device(on), addr(from), &to, 0);
    explanation::text(&answer)
}

#[test]
fn explain_tells_the_way_of_packets_from_outside() {
    let rows = [
        (
            "masqueraded towards the other node, and not to this one",
            "192.0.2.77",
            "eth0",
            "198.51.100.1:80",
        ),
        (
            "a client outside, policy Local",
            "192.0.2.77",
            "eth0",
            "192.0.2.1:30080",
        ),
        (
            "inside the source ranges",
            "192.0.2.77",
            "eth0",
            "203.0.113.7:80",
        ),
        (
            "outside of the source ranges",
            "192.0.3.77",
            "eth0",
            "203.0.113.7:80",
        ),
        ("nobody to answer", "192.0.2.77", "eth0", "10.96.0.30:80"),
        (
            "a port that no Service has",
            "192.0.2.77",
            "eth0",
            "192.0.2.1:22",
        ),
        (
            "a device without programs",
            "192.0.2.77",
            "pod0",
            "10.96.0.10:80",
        ),
    ];
    let mut text = String::new();
    for (title, from, on, to) in rows {
        text += &format!("# {title}\n{}\n", arrived(from, on, to));
    }
    golden("explain-arrival.txt", &text);
}

fn status(running: bool, problem: Option<&str>) -> Status {
    Status {
        healthy: problem.is_none(),
        problems: problem.iter().map(|p| (*p).to_owned()).collect(),
        conflicts: problem
            .map(|_| "nftables table ip kube-proxy".to_owned())
            .into_iter()
            .collect(),
        agent: Agent {
            running,
            pid: 4711,
            synced: true,
            uptime_seconds: running.then_some(3600),
            last_apply_seconds: Some(12),
            skipped_objects: 1,
            failed_services: 0,
            repaired_entries: 2,
        },
        cgroup: "/sys/fs/cgroup".to_owned(),
        programs: vec![Attachment {
            program: "lb_connect4",
            hook: "cgroup/connect4",
            program_id: running.then_some(42),
            attached: running,
            effective: running,
            problem: None,
        }],
        devices: vec![DeviceStatus {
            device: "eth0".to_owned(),
            index: 2,
            roles: vec!["uplink"],
            masquerade: vec!["192.0.2.1".to_owned()],
            programs: vec![DeviceProgram {
                program: "lb_tc_in",
                by: "tcx",
                program_id: 43,
                link_id: Some(7),
            }],
            problem: None,
        }],
        node_port_addresses: vec!["192.0.2.1".to_owned(), "2001:db8::1".to_owned()],
        node_ports_on_localhost: vec!["IPv4"],
        maps: vec![MapFill {
            name: "LB4_SLOTS",
            entries: 6,
            capacity: 524_288,
        }],
        counters: vec![Count {
            reason: "hit_chosen",
            count: 17,
            meaning: "connections and datagrams translated by a fresh choice",
        }],
    }
}

#[test]
fn status_shows_health_first() {
    let well = status::text(&status(true, None));
    let ill = status::text(&status(false, Some("no agent runs")));
    golden("status.txt", &format!("{well}\n---\n{ill}"));
}

#[test]
fn config_explain_names_the_source_of_each_value() {
    let mut file = tempfile::Builder::new()
        .prefix("kube-proxy")
        .tempfile()
        .expect("a file");
    let text = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 2h}
mode: ipvs
nodePortAddresses: [primary, localhost]
";
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("it is written");
    let path = file.path().to_str().expect("a name").to_owned();
    let words = [
        "lb-agent",
        "--config",
        &path,
        "--hostname-override=one",
        "-v4",
        "--max-flows=8192",
    ];
    let args = Args::read(words.map(Into::into)).expect("a good command line");
    let Command::Run(run) = args.command else {
        panic!("{args:?}");
    };
    let (proxy, _) = proxy_config(&run).expect("a good file");
    let rows = config::rows(&proxy, run.proxy.own());
    golden(
        "config-explain.txt",
        &config::table(&rows).replace(&path, "FILE"),
    );
}
