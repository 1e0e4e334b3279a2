//! The object as the kernel takes it: programs, maps and names, held against `lb_common::map_table` (root).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use bytemuck::Zeroable;
use lb_agent::{
    attach::{self, Lock, Plane},
    maps::{
        Capacities, LbMaps, Op,
        family::Family,
        kernel::KernelMaps,
        pinned::{Pinned, maps_dir},
        sys::{self, Access},
    },
    plan::Facts,
    reconcile::Settings,
};
use lb_common::{
    affinity::{AffinityKey, AffinityVal},
    config::Config,
    device::DeviceVal,
    flow::{FlowKey, FlowVal},
    fragment::{FragmentKey, FragmentVal},
    frontend::{FrontendKey, FrontendVal, Kind},
    id::{BackendId, ServiceId},
    map_table::{MAPS, MapType, PACKET_PROGRAMS, PROGRAMS},
    name::ServiceName,
    net::{Addr4, Addr6, BePort, Proto},
    netns::NetnsVal,
    service::{Backend, BackendFlags, Service, Slot},
    session::{RevnatKey, RevnatVal, SessionKey, SessionVal},
    source::SourceKey,
};
use libtest_mimic::{Arguments, Trial};
use xtask::lab::{Lab, missing};

/// Few entries, for arrays are dumped whole.
const SMALL: Capacities = Capacities {
    frontends: 16,
    services: 16,
    slots: 16,
    backends: 16,
    sources: 16,
    flows: 1024,
};
/// What the kernel keeps of a name.
const NAME_MAX: usize = 15;

fn main() {
    let arguments = Arguments::from_args();
    let no_root = missing();
    let no_bpftool = no_root.clone().or_else(|| {
        let there = which::which("bpftool").is_ok();
        (!there).then(|| "needs the program bpftool (Debian package bpftool)".to_owned())
    });
    let no_setpriv = no_root.clone().or_else(|| {
        let there = which::which("setpriv").is_ok();
        (!there).then(|| "needs the program setpriv (Debian package util-linux)".to_owned())
    });
    let case = |name: &str, reason: &Option<String>, test: fn() -> Result<()>| {
        if let Some(reason) = reason {
            eprintln!("ignored: {name}: {reason}");
        }
        Trial::test(name, move || test().map_err(|e| format!("{e:#}").into()))
            .with_kind("load")
            .with_ignored_flag(reason.is_some())
    };
    let trials = vec![
        case("every_program_loads", &no_root, every_program_loads),
        case(
            "every_map_has_the_shape_of_the_table",
            &no_root,
            every_map_has_the_shape_of_the_table,
        ),
        case(
            "the_kernel_keeps_every_name_whole",
            &no_bpftool,
            the_kernel_keeps_every_name_whole,
        ),
        case(
            "bpftool_prints_the_names_of_fields",
            &no_bpftool,
            bpftool_prints_the_names_of_fields,
        ),
        case(
            "what_programs_leave_in_sockets_and_events_is_described",
            &no_bpftool,
            what_programs_leave_in_sockets_and_events_is_described,
        ),
        case(
            "programs_load_with_three_capabilities_and_little_locked_memory",
            &no_setpriv,
            programs_load_with_three_capabilities_and_little_locked_memory,
        ),
        case(
            "the_licence_is_one_that_the_kernel_takes_for_gpl",
            &None,
            the_licence_is_one_that_the_kernel_takes_for_gpl,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// A data plane on a bpffs of its own, attached to nothing.
struct Loaded {
    root: PathBuf,
    _plane: Plane,
    _lock: Lock,
    _lab: Lab,
}

impl Loaded {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let root = lab.dir().join("bpf");
        let lock = attach::prepare(&root)?;
        let plane = Plane::load(&root, &SMALL, 0)?;
        Ok(Self {
            root,
            _plane: plane,
            _lock: lock,
            _lab: lab,
        })
    }

    fn pin(&self, map: &str) -> PathBuf {
        maps_dir(&self.root).join(map)
    }
}

fn every_program_loads() -> Result<()> {
    let programs = attach::measure()?;
    for program in &programs {
        eprintln!(
            "{:<16}{:>6} instructions {:>7} verified {:>6} JIT bytes",
            program.name, program.instructions, program.verified, program.jited_bytes
        );
        ensure!(program.instructions > 0, "{program:?}");
        ensure!(program.verified > 0, "{program:?}");
    }
    let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
    let all = PROGRAMS.iter().chain(PACKET_PROGRAMS);
    let wanted: Vec<&str> = all.map(|(name, _)| *name).collect();
    ensure!(names == wanted, "{names:?}");
    Ok(())
}

fn every_map_has_the_shape_of_the_table() -> Result<()> {
    let loaded = Loaded::new()?;
    let pinned = Pinned::open(&loaded.root)?;
    for spec in MAPS {
        let shape = pinned.shape(spec.name)?;
        ensure!(
            shape.map_type == spec.map_type as u32,
            "{spec:?}: {shape:?}"
        );
        let sizes = (shape.key_size, shape.value_size);
        let wanted = match spec.map_type {
            // The kernel's own: a ring has neither.
            MapType::RingBuf => (0, 0),
            MapType::Hash
            | MapType::Array
            | MapType::PerCpuArray
            | MapType::LruHash
            | MapType::LpmTrie
            | MapType::SkStorage => (spec.key_size, spec.value_size),
        };
        ensure!(sizes == wanted, "{}: {sizes:?}, not {wanted:?}", spec.name);
    }
    let pins: BTreeSet<String> = std::fs::read_dir(maps_dir(&loaded.root))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let wanted: BTreeSet<String> = MAPS.iter().map(|spec| spec.name.to_owned()).collect();
    ensure!(pins == wanted, "{pins:?}");
    Ok(())
}

fn the_kernel_keeps_every_name_whole() -> Result<()> {
    let loaded = Loaded::new()?;
    for spec in MAPS {
        ensure!(spec.name.len() <= NAME_MAX, "{} is too long", spec.name);
        let shown = json(&["map", "show", "pinned"], &loaded.pin(spec.name))?;
        ensure!(shown["name"] == spec.name, "{shown}");
    }
    for (name, _) in PROGRAMS.iter().chain(PACKET_PROGRAMS) {
        ensure!(name.len() <= NAME_MAX, "{name} is too long");
    }
    Ok(())
}

fn bpftool_prints_the_names_of_fields() -> Result<()> {
    let loaded = Loaded::new()?;
    fill(&loaded.root)?;
    for (map, fields) in FIELDS {
        let text = bpftool(&["map", "dump", "pinned"], &loaded.pin(map))?;
        let names = names(&text);
        for field in *fields {
            ensure!(names.contains(*field), "{map}: no field {field} in\n{text}");
        }
    }
    let dumped: BTreeSet<&str> = FIELDS.iter().map(|(map, _)| *map).collect();
    for spec in MAPS {
        let can_be = !matches!(spec.map_type, MapType::SkStorage | MapType::RingBuf);
        ensure!(
            dumped.contains(spec.name) == can_be,
            "{} is not looked at",
            spec.name
        );
    }
    Ok(())
}

/// Socket storage and rings cannot be dumped; tools find their types in the object's BTF.
fn what_programs_leave_in_sockets_and_events_is_described() -> Result<()> {
    let loaded = Loaded::new()?;
    let shown = json(&["map", "show", "pinned"], &loaded.pin("LB_SOCKETS"))?;
    let btf = shown["btf_id"].as_u64().context("the map has no BTF")?;
    let text = bpftool(&["btf", "dump", "id"], Path::new(&btf.to_string()))?;
    for field in ["'SocketVal'", "'vip_port'", "'backend_port'"] {
        ensure!(text.contains(field), "no {field} in the BTF");
    }
    Ok(())
}

fn programs_load_with_three_capabilities_and_little_locked_memory() -> Result<()> {
    // By number, for older setpriv do not know their names: CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF. Root's program
    // gets what the bounding set leaves.
    let script = "ulimit -l 64 && exec setpriv --bounding-set=-all,+cap_12,+cap_38,+cap_39 \
                  \"$0\" programs --json";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_lb-agent")])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let programs: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let count = programs.as_array().map_or(0, Vec::len);
    ensure!(
        count == PROGRAMS.len() + PACKET_PROGRAMS.len(),
        "{programs}"
    );
    Ok(())
}

#[cfg(feature = "embed")]
fn the_licence_is_one_that_the_kernel_takes_for_gpl() -> Result<()> {
    let object = aya_obj::Object::parse(include_bytes!(concat!(env!("OUT_DIR"), "/lb")))?;
    ensure!(
        object.license.as_c_str() == c"Dual MIT/GPL",
        "{:?}",
        object.license
    );
    Ok(())
}

#[cfg(not(feature = "embed"))]
fn the_licence_is_one_that_the_kernel_takes_for_gpl() -> Result<()> {
    anyhow::bail!("built without the object: there is nothing to look at")
}

/// Maps and the fields that a dump of one entry names, down to the last.
const FIELDS: &[(&str, &[&str])] = &[
    ("LB4_FRONTENDS", FRONTEND),
    ("LB6_FRONTENDS", FRONTEND),
    ("LB4_SERVICES", SERVICE),
    ("LB6_SERVICES", SERVICE),
    ("LB4_SLOTS", SLOT),
    ("LB6_SLOTS", SLOT),
    ("LB4_BACKENDS", BACKEND),
    ("LB6_BACKENDS", BACKEND),
    ("LB4_SOURCES", &["service", "addr"]),
    ("LB6_SOURCES", &["service", "addr"]),
    ("LB4_NODE_ADDRS", &["key", "value"]),
    ("LB6_NODE_ADDRS", &["key", "value"]),
    (
        "LB_CONFIG",
        &[
            "host_netns",
            "flags",
            "nodeport_lo",
            "nodeport_hi",
            "ranges4",
            "ranges6",
            "pods4",
            "lb0_addr4",
            "snat_lo",
            "mark",
            "timeouts",
            "established_s",
        ],
    ),
    ("LB_AGENT", &["active_config", "pid", "started_ns"]),
    ("LB4_NAMES", &["proto"]),
    ("LB6_NAMES", &["proto"]),
    ("LB_NETNS", &["key", "value"]),
    (
        "LB_AFFINITY",
        &["client", "service", "family", "last_ns", "backend"],
    ),
    (
        "LB_UDP_SESSION",
        &[
            "socket", "vip", "port", "addr", "backend", "service", "replied", "last_ns",
        ],
    ),
    ("LB_UDP_REVNAT", &["socket", "addr", "port", "vip", "proto"]),
    ("LB4_FLOWS", FLOW),
    ("LB6_FLOWS", FLOW),
    ("LB4_EMBRYOS", FLOW),
    ("LB6_EMBRYOS", FLOW),
    ("LB4_FRAGMENTS", FRAGMENT),
    ("LB6_FRAGMENTS", FRAGMENT),
    ("LB4_DRAFT", &["header", "key", "val", "answers"]),
    ("LB6_DRAFT", &["header", "key", "val", "answers"]),
    ("LB_QUESTION", &["key", "values"]),
    ("LB_DEVICES", &["flags", "masq4", "masq6"]),
    ("LB_PORTS", &["key", "value"]),
    ("LB_HOST_PORTS", &["key", "value"]),
    ("LB_LIMIT", &["filled_ns", "tokens"]),
    (
        "LB_PEERS",
        &["socket", "vip", "vip_port", "backend", "backend_port"],
    ),
    ("LB_COUNTERS", &["key", "values"]),
];
const FLOW: &[&str] = &[
    "src",
    "dst",
    "sport",
    "dport",
    "proto",
    "service",
    "backend",
    "generation",
    "flags",
    "oif",
    "via",
    "seen_s",
];
const FRAGMENT: &[&str] = &["src", "dst", "id", "proto", "sport", "dport"];
const FRONTEND: &[&str] = &[
    "vip", "port", "proto", "service", "kind", "local", "sources",
];
const SERVICE: &[&str] = &[
    "cluster",
    "local",
    "affinity_timeout_s",
    "algorithm",
    "cursor",
];
const SLOT: &[&str] = &["addr", "port", "generation", "backend", "service"];
const BACKEND: &[&str] = &["addr", "port", "generation", "service", "flags"];

/// One entry in every map.
fn fill(root: &Path) -> Result<()> {
    fill_family::<Addr4>(root, "192.0.2.1".parse()?)?;
    fill_family::<Addr6>(root, "2001:db8::1".parse()?)?;
    let mut settings = Settings::adopt(root, 1, 1)?;
    settings.put_config(&Config {
        host_netns: 1,
        ..Config::default()
    })?;
    settings.put_node_addrs(&Facts::default())?;
    put(root, "LB4_NODE_ADDRS", &Addr4::zeroed(), &1_u32)?;
    put(root, "LB6_NODE_ADDRS", &Addr6::zeroed(), &1_u32)?;
    put(root, "LB_NETNS", &1_u64, &NetnsVal::zeroed())?;
    put(
        root,
        "LB_AFFINITY",
        &AffinityKey::zeroed(),
        &AffinityVal::zeroed(),
    )?;
    put(
        root,
        "LB_UDP_SESSION",
        &SessionKey::zeroed(),
        &SessionVal::zeroed(),
    )?;
    put(
        root,
        "LB_UDP_REVNAT",
        &RevnatKey::zeroed(),
        &RevnatVal::zeroed(),
    )?;
    put(root, "LB_DEVICES", &1_u32, &DeviceVal::zeroed())?;
    fill_flows::<Addr4>(root)?;
    fill_flows::<Addr6>(root)
}

fn fill_flows<A: Family>(root: &Path) -> Result<()>
where
    FlowKey<A>: bytemuck::Pod,
    FlowVal<A>: bytemuck::Pod,
    FragmentKey<A>: bytemuck::Pod,
{
    let (key, val) = (FlowKey::<A>::zeroed(), FlowVal::<A>::zeroed());
    put(root, A::MAPS.flows, &key, &val)?;
    put(root, A::MAPS.embryos, &key, &val)?;
    put(
        root,
        A::MAPS.fragments,
        &FragmentKey::<A>::zeroed(),
        &FragmentVal::zeroed(),
    )
}

fn fill_family<A: Family>(root: &Path, ip: std::net::IpAddr) -> Result<()> {
    let addr = A::from_ip(ip).context("an address of another family")?;
    let (service, port) = (ServiceId(1), BePort::new(80));
    let name = ServiceName::new("shop", "web", "http", Proto::TCP).context("a name")?;
    let backend = Backend {
        addr,
        port,
        generation: 1,
        service,
        flags: BackendFlags::IN_CLUSTER,
    };
    let source = SourceKey { service, addr };
    let slot: Slot<A> = backend.slot(BackendId(1));
    let mut maps = KernelMaps::<A>::open(root)?;
    for op in [
        Op::PutName(service, name),
        Op::PutSource(source, 8),
        Op::PutBackend(BackendId(1), backend),
        Op::PutSlots(1, vec![slot]),
        Op::PutService(service, Service::zeroed()),
        Op::PutFrontend(
            FrontendKey::new(addr, port, Proto::TCP),
            FrontendVal::new(service, Kind::CLUSTER_IP),
        ),
    ] {
        maps.apply(&op)?;
    }
    Ok(())
}

fn put<K: bytemuck::Pod, V: bytemuck::Pod>(
    root: &Path,
    map: &str,
    key: &K,
    value: &V,
) -> Result<()> {
    let map = sys::open_map(&maps_dir(root).join(map), Access::Write)?;
    let map = sys::TypedMap::new(map)?;
    map.update(&[*key], &[*value])
        .map_err(|(_, error)| error.into())
}

fn bpftool(words: &[&str], last: &Path) -> Result<String> {
    let output = Command::new("bpftool").args(words).arg(last).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "bpftool {words:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

fn json(words: &[&str], last: &Path) -> Result<serde_json::Value> {
    let words = [&["--json"], words].concat();
    Ok(serde_json::from_str(&bpftool(&words, last)?)?)
}

/// What stands in quotation marks before a colon.
fn names(dump: &str) -> BTreeSet<&str> {
    dump.split("\":")
        .filter_map(|text| text.rsplit_once('"').map(|(_, name)| name))
        .collect()
}
