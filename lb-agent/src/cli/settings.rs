//! From what users typed to a checked `Config` (rules 132, 137 to 140).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::ValueEnum as _;
use ipnet::IpNet;

use super::{
    args::{DetectLocalMode, PacketArgs, RunArgs},
    proxy_config::{ProxyConfig, ProxyConfigError},
};
use crate::{
    cgroup::{CgroupError, CgroupRoot},
    config::{Config, DetectLocal, EndpointsSource, NodePortAddresses, Packets, Source},
    maps::Capacities,
    plan::ranges::DEFAULT_NODE_PORTS,
};

const HEALTHZ: &str = "0.0.0.0:10256";
const METRICS: &str = "127.0.0.1:10249";
const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// Why a command line is refused.
#[derive(thiserror::Error, Debug)]
pub enum SettingsError {
    /// A flag's value means nothing.
    #[error("{flag} {value}: {remedy}")]
    Flag {
        /// Which flag.
        flag: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        remedy: &'static str,
    },
    /// A flag needs another.
    #[error("--detect-local-mode {mode} needs {flag}")]
    Missing {
        /// The mode.
        mode: &'static str,
        /// The flag that it needs.
        flag: &'static str,
    },
    /// A file or folder that a flag names.
    #[error("{flag} {path}: {error}")]
    Unreadable {
        /// Which flag.
        flag: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// errno.
        error: io::Error,
    },
    /// `--config`
    #[error(transparent)]
    ProxyConfig(#[from] ProxyConfigError),
    /// `--cgroup-root`
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

fn bad(flag: &'static str, value: &str, remedy: &'static str) -> SettingsError {
    SettingsError::Flag {
        flag,
        value: value.to_owned(),
        remedy,
    }
}

fn packets(args: &PacketArgs) -> Result<Packets, SettingsError> {
    let remedy =
        "give FROM-TO with at least 1024 ports between 1024 and 65535, outside of NodePorts";
    let ports = || {
        let (lo, hi) = args.snat_ports.split_once('-')?;
        let (lo, hi) = (
            lo.trim().parse::<u16>().ok()?,
            hi.trim().parse::<u16>().ok()?,
        );
        (lo >= 1024 && hi > lo && hi - lo >= 1023).then_some((lo, hi))
    };
    let snat_ports = ports().ok_or_else(|| bad("--snat-ports", &args.snat_ports, remedy))?;
    let (first, last) = DEFAULT_NODE_PORTS;
    if snat_ports.0 <= last && first <= snat_ports.1 {
        let remedy = "overlaps the NodePorts, 30000-32767: give a range beside them";
        return Err(bad("--snat-ports", &args.snat_ports, remedy));
    }
    Ok(Packets {
        devices: args.devices.clone(),
        pod_devices: args.pod_devices.clone(),
        snat_ports,
        mark_bit: args.packet_mark_bit,
        masquerade_local: args.masquerade_local_backends,
        no_redirect: args.no_redirect,
        hook: args.packet_hook,
        lb0_addr4: args.lb0_address4,
        lb0_addr6: args.lb0_address6,
        ..Packets::default()
    })
}

/// A checked configuration, and what its author should be told.
///
/// # Errors
/// See [`SettingsError`].
pub fn settings(args: &RunArgs) -> Result<(Config, Vec<String>), SettingsError> {
    let mut warnings = Vec::new();
    let wanted = match &args.config {
        None => from_flags(args)?,
        Some(path) => {
            let file = ProxyConfig::read(path)?;
            warn_of_config(args, &file, &mut warnings);
            file
        }
    };
    let cgroup = CgroupRoot::find(args.maps.roots.cgroup_root.as_deref())?;
    warnings.extend(cgroup.warning());
    let cluster_cidrs = cluster_cidrs(wanted.cluster_cidr.as_deref().unwrap_or_default())?;
    let detect_local = detect_local(&wanted)?;
    if detect_local == DetectLocal::ClusterCidr && cluster_cidrs.is_empty() {
        warnings.push("--cluster-cidr is not given: pods count as clients from outside where externalTrafficPolicy is Local".into());
    }
    let listed = wanted.nodeport_addresses.as_deref().unwrap_or_default();
    let nodeport_addresses = nodeport_addresses(listed)?;
    warnings.extend(one_family_only(&nodeport_addresses));
    let switch = args.localhost_node_ports.or(wanted.localhost_node_ports);
    let localhost =
        |loopback| switch.unwrap_or_else(|| answers_on(listed, &nodeport_addresses, loopback));
    let config = Config {
        source: source(args, &wanted)?,
        endpoints: args.endpoints_source.unwrap_or(EndpointsSource::Slices),
        node_name: node_name(
            args.hostname_override
                .as_deref()
                .or(wanted.hostname_override.as_deref())
                .unwrap_or_default(),
        )?,
        bind_address: primary_address(wanted.bind_address.as_deref().unwrap_or_default())?,
        external_ips: wanted.external_ips.unwrap_or(true),
        cluster_cidrs,
        detect_local,
        localhost4: localhost(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        localhost6: localhost(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        nodeport_addresses,
        protect_node_ports: args.protect_node_ports.unwrap_or(false),
        masquerade_all: wanted.masquerade_all.unwrap_or(false),
        healthz_bind_address: bind_address(
            "--healthz-bind-address",
            wanted.healthz_bind_address.as_deref().unwrap_or(HEALTHZ),
            HEALTHZ_PORT,
        )?,
        metrics_bind_address: bind_address(
            "--metrics-bind-address",
            wanted.metrics_bind_address.as_deref().unwrap_or(METRICS),
            METRICS_PORT,
        )?,
        bind_hard_fail: args.bind_address_hard_fail.unwrap_or(false),
        cgroup_root: cgroup.path,
        bpffs_root: args.maps.roots.bpffs_root.clone(),
        capacities: Capacities {
            frontends: args.maps.max_frontends,
            services: args.maps.max_services,
            slots: args.maps.max_slots,
            backends: args.maps.max_backends,
            sources: args.maps.max_source_ranges,
            flows: args.maps.max_flows,
        },
        packets: packets(&args.packets)?,
        min_sync_period: args.maps.min_sync_period,
        full_check_period: args.maps.full_check_period,
    };
    Ok((config, warnings))
}

/// `--bind-address`: every address, the default, says nothing of this node's own.
fn primary_address(text: &str) -> Result<Option<IpAddr>, SettingsError> {
    if text.is_empty() {
        return Ok(None);
    }
    let address: IpAddr =
        (text.parse()).map_err(|_| bad("--bind-address", text, "give one IP address"))?;
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}

/// The one gate that means something here; all must be well-formed.
fn external_ips(gates: &str) -> Result<Option<bool>, SettingsError> {
    let mut found = None;
    for gate in gates
        .split(',')
        .map(str::trim)
        .filter(|gate| !gate.is_empty())
    {
        let parsed = gate
            .split_once('=')
            .and_then(|(name, value)| Some((name, value.parse().ok()?)));
        let (name, value) =
            parsed.ok_or_else(|| bad("--feature-gates", gate, "write NAME=true or NAME=false"))?;
        if name == "AllowServiceExternalIPs" {
            found = Some(value);
        }
    }
    Ok(found)
}

fn from_flags(args: &RunArgs) -> Result<ProxyConfig, SettingsError> {
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    let mode = |mode: DetectLocalMode| {
        let value = mode.to_possible_value();
        value.map_or_else(String::new, |v| v.get_name().to_owned())
    };
    Ok(ProxyConfig {
        kubeconfig: args.kubeconfig.as_ref().map(path),
        bind_address: args.bind_address.clone(),
        external_ips: external_ips(args.feature_gates.as_deref().unwrap_or_default())?,
        hostname_override: args.hostname_override.clone(),
        cluster_cidr: args.cluster_cidr.clone(),
        detect_local_mode: args.detect_local_mode.map(mode),
        pod_bridge_interface: args.pod_bridge_interface.clone(),
        pod_interface_name_prefix: args.pod_interface_name_prefix.clone(),
        nodeport_addresses: args.nodeport_addresses.clone(),
        healthz_bind_address: args.healthz_bind_address.clone(),
        metrics_bind_address: args.metrics_bind_address.clone(),
        masquerade_all: args.masquerade_all,
        localhost_node_ports: None,
        unused: Vec::new(),
    })
}

/// As kube-proxy: beside `--config` its own flags do not count.
fn warn_of_config(args: &RunArgs, file: &ProxyConfig, warnings: &mut Vec<String>) {
    for field in &file.unused {
        warnings.push(format!(
            "--config: field {field} is not used by this version"
        ));
    }
    for (flag, is_given) in [
        ("--kubeconfig", args.kubeconfig.is_some()),
        ("--bind-address", args.bind_address.is_some()),
        ("--feature-gates", args.feature_gates.is_some()),
        ("--cluster-cidr", args.cluster_cidr.is_some()),
        ("--nodeport-addresses", args.nodeport_addresses.is_some()),
        ("--masquerade-all", args.masquerade_all.is_some()),
        ("--detect-local-mode", args.detect_local_mode.is_some()),
        (
            "--pod-bridge-interface",
            args.pod_bridge_interface.is_some(),
        ),
        (
            "--pod-interface-name-prefix",
            args.pod_interface_name_prefix.is_some(),
        ),
        (
            "--healthz-bind-address",
            args.healthz_bind_address.is_some(),
        ),
        (
            "--metrics-bind-address",
            args.metrics_bind_address.is_some(),
        ),
    ] {
        if is_given {
            warnings.push(format!(
                "{flag} is ignored beside --config: write it into the file"
            ));
        }
    }
}

/// A source that cannot be read at all is refused here, before anything is loaded.
fn source(args: &RunArgs, wanted: &ProxyConfig) -> Result<Source, SettingsError> {
    if let Some(folder) = &args.manifests {
        readable("--manifests", folder, fs::read_dir(folder).map(drop))?;
        return Ok(Source::Manifests(folder.clone()));
    }
    let kubeconfig = wanted.kubeconfig.as_ref().map(PathBuf::from);
    if let Some(file) = &kubeconfig {
        readable("--kubeconfig", file, fs::File::open(file).map(drop))?;
    }
    Ok(Source::Kubernetes {
        kubeconfig,
        master: args.master.clone().filter(|url| !url.is_empty()),
    })
}

fn readable(flag: &'static str, path: &Path, result: io::Result<()>) -> Result<(), SettingsError> {
    result.map_err(|error| SettingsError::Unreadable {
        flag,
        path: path.to_owned(),
        error,
    })
}

/// Rule 132.
fn node_name(wanted: &str) -> Result<String, SettingsError> {
    let host = if wanted.is_empty() {
        nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    } else {
        wanted.to_owned()
    };
    let name = host.trim().to_lowercase();
    if name.is_empty() {
        return Err(bad(
            "--hostname-override",
            wanted,
            "the name of this node is empty; give one",
        ));
    }
    Ok(name)
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn cluster_cidrs(list: &str) -> Result<Vec<IpNet>, SettingsError> {
    const FLAG: &str = "--cluster-cidr";
    let cidrs = items(list)
        .map(|item| {
            item.parse::<IpNet>().map(|cidr| cidr.trunc()).map_err(|_| {
                bad(
                    FLAG,
                    item,
                    "not a CIDR; write 10.244.0.0/16 or fd00:10:244::/56",
                )
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let v4 = cidrs.iter().filter(|cidr| cidr.addr().is_ipv4()).count();
    if v4 > 1 || cidrs.len() - v4 > 1 {
        return Err(bad(FLAG, list, "at most one CIDR of each family"));
    }
    Ok(cidrs)
}

fn detect_local(wanted: &ProxyConfig) -> Result<DetectLocal, SettingsError> {
    let text = wanted.detect_local_mode.as_deref().unwrap_or("ClusterCIDR");
    let mode = DetectLocalMode::from_str(text, true).map_err(|_| {
        bad(
            "--detect-local-mode",
            text,
            "not a mode; one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix",
        )
    })?;
    let named = |name: &Option<String>, mode, flag| {
        let name = name.clone().filter(|name| !name.is_empty());
        name.ok_or(SettingsError::Missing { mode, flag })
    };
    Ok(match mode {
        DetectLocalMode::ClusterCidr => DetectLocal::ClusterCidr,
        DetectLocalMode::NodeCidr => DetectLocal::NodeCidr,
        DetectLocalMode::BridgeInterface => DetectLocal::BridgeInterface(named(
            &wanted.pod_bridge_interface,
            "BridgeInterface",
            "--pod-bridge-interface",
        )?),
        DetectLocalMode::InterfaceNamePrefix => DetectLocal::InterfaceNamePrefix(named(
            &wanted.pod_interface_name_prefix,
            "InterfaceNamePrefix",
            "--pod-interface-name-prefix",
        )?),
    })
}

/// Both families of a keyword.
fn pair(v4: Ipv4Addr, bits4: u8, v6: Ipv6Addr, bits6: u8) -> Vec<IpNet> {
    let v4 = IpNet::new(v4.into(), bits4);
    let v6 = IpNet::new(v6.into(), bits6);
    v4.into_iter().chain(v6).map(|cidr| cidr.trunc()).collect()
}

/// Rule 48.
fn nodeport_addresses(list: &str) -> Result<NodePortAddresses, SettingsError> {
    let mut addresses = NodePortAddresses::default();
    for item in items(list) {
        match item {
            "primary" => addresses.primary = true,
            "localhost" => {
                addresses
                    .cidrs
                    .extend(pair(Ipv4Addr::LOCALHOST, 8, Ipv6Addr::LOCALHOST, 128))
            }
            "all" => {
                addresses
                    .cidrs
                    .extend(pair(Ipv4Addr::UNSPECIFIED, 0, Ipv6Addr::UNSPECIFIED, 0))
            }
            cidr => addresses.cidrs.push(
                cidr.parse::<IpNet>()
                    .map_err(|_| {
                        bad(
                            "--nodeport-addresses",
                            item,
                            "neither a CIDR nor `primary`, `localhost` or `all`",
                        )
                    })?
                    .trunc(),
            ),
        }
    }
    if !addresses.primary && addresses.cidrs.is_empty() {
        addresses.primary = true;
    }
    Ok(addresses)
}

/// Rule 53, for both families: on by default; a list that is given must hold a loopback range, or
/// none of its family (rule 50).
fn answers_on(listed: &str, addresses: &NodePortAddresses, loopback: IpAddr) -> bool {
    if items(listed).next().is_none() {
        return true;
    }
    let mut family = addresses
        .cidrs
        .iter()
        .filter(|cidr| cidr.addr().is_ipv4() == loopback.is_ipv4())
        .peekable();
    if family.peek().is_none() {
        return !addresses.primary;
    }
    family.any(|cidr| cidr.contains(&loopback))
}

/// Rule 50: a family without an entry matches every address of the host.
fn one_family_only(addresses: &NodePortAddresses) -> Option<String> {
    let v4 = addresses
        .cidrs
        .iter()
        .filter(|c| c.addr().is_ipv4())
        .count();
    let other = match (addresses.primary, v4, addresses.cidrs.len() - v4) {
        (false, 0, _) => "IPv4",
        (false, _, 0) => "IPv6",
        _ => return None,
    };
    Some(format!(
        "--nodeport-addresses holds no {other} range: NodePorts answer on every {other} address of this host; add one, or `primary`"
    ))
}

/// Rules 120, 123 and 139: an address with or without a port; empty is off.
fn bind_address(
    flag: &'static str,
    text: &str,
    default_port: u16,
) -> Result<Option<SocketAddr>, SettingsError> {
    if text.is_empty() {
        return Ok(None);
    }
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let address = match inner.unwrap_or(text).parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, default_port),
        Err(_) => text.parse().map_err(|_| {
            bad(
                flag,
                text,
                "neither IP nor IP:PORT; write 0.0.0.0:10256 or [::]:10256",
            )
        })?,
    };
    if address.port() == 0 {
        return Err(bad(flag, text, "the port must be 1 to 65535"));
    }
    Ok(Some(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter()
            .map(|net| net.parse().expect("a CIDR"))
            .collect()
    }

    #[test]
    fn nodeport_addresses_take_keywords_and_ranges_in_any_mix() {
        for (name, list, primary, cidrs) in [
            ("default", "", true, nets(&[])),
            ("primary", "primary", true, nets(&[])),
            ("mix", "primary, 10.0.0.0/8", true, nets(&["10.0.0.0/8"])),
            (
                "localhost",
                "localhost",
                false,
                nets(&["127.0.0.0/8", "::1/128"]),
            ),
            ("all", "all", false, nets(&["0.0.0.0/0", "::/0"])),
            ("host bits", "192.0.2.1/24", false, nets(&["192.0.2.0/24"])),
        ] {
            let want = NodePortAddresses { primary, cidrs };
            assert_eq!(nodeport_addresses(list).expect(name), want, "{name}");
        }
    }

    #[test]
    fn one_bind_address_is_the_primary_one_and_all_zeros_are_none() {
        let one = "192.0.2.1".parse().ok();
        for (text, want) in [
            ("", None),
            ("0.0.0.0", None),
            ("::", None),
            ("192.0.2.1", one),
        ] {
            assert_eq!(primary_address(text).expect(text), want, "{text}");
        }
        let error = primary_address("eth0").expect_err("a name");
        assert!(error.to_string().contains("--bind-address eth0"), "{error}");
    }

    #[test]
    fn of_the_feature_gates_that_of_external_ips_counts() {
        for (text, want) in [
            ("", None),
            ("AllowServiceExternalIPs=false", Some(false)),
            ("Other=true, AllowServiceExternalIPs=true", Some(true)),
            ("Other=false", None),
        ] {
            assert_eq!(external_ips(text).expect(text), want, "{text}");
        }
        assert!(external_ips("AllowServiceExternalIPs").is_err());
        assert!(external_ips("AllowServiceExternalIPs=maybe").is_err());
    }

    #[test]
    fn loopback_answers_by_default_and_where_it_is_listed() {
        let (v4, v6) = (
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        );
        for (list, want4, want6) in [
            ("", true, true),
            ("primary", false, false),
            ("primary,localhost", true, true),
            ("all", true, true),
            ("10.0.0.0/8", false, true),
            ("127.0.0.0/8,fd00::/8", true, false),
        ] {
            let addresses = nodeport_addresses(list).expect(list);
            assert_eq!(answers_on(list, &addresses, v4), want4, "{list} IPv4");
            assert_eq!(answers_on(list, &addresses, v6), want6, "{list} IPv6");
        }
    }

    #[test]
    fn bind_addresses_take_a_port_or_leave_it() {
        for (text, want) in [
            ("", None),
            ("0.0.0.0", Some("0.0.0.0:10256")),
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("::", Some("[::]:10256")),
            ("[::1]", Some("[::1]:10256")),
            ("[::1]:99", Some("[::1]:99")),
        ] {
            let got = bind_address("--healthz-bind-address", text, HEALTHZ_PORT).expect(text);
            assert_eq!(got.map(|a| a.to_string()).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn errors_name_flag_value_and_remedy() {
        let message = |result: Result<(), SettingsError>| result.expect_err("bad").to_string();
        for (got, want) in [
            (
                message(cluster_cidrs("10.0.0.0/99").map(drop)),
                "--cluster-cidr 10.0.0.0/99: not a CIDR; write 10.244.0.0/16 or fd00:10:244::/56",
            ),
            (
                message(cluster_cidrs("10.0.0.0/8,11.0.0.0/8").map(drop)),
                "--cluster-cidr 10.0.0.0/8,11.0.0.0/8: at most one CIDR of each family",
            ),
            (
                message(nodeport_addresses("eth0").map(drop)),
                "--nodeport-addresses eth0: neither a CIDR nor `primary`, `localhost` or `all`",
            ),
            (
                message(bind_address("--metrics-bind-address", "localhost:1", 1).map(drop)),
                "--metrics-bind-address localhost:1: neither IP nor IP:PORT; write 0.0.0.0:10256 or [::]:10256",
            ),
            (
                message(bind_address("--metrics-bind-address", "127.0.0.1:0", 1).map(drop)),
                "--metrics-bind-address 127.0.0.1:0: the port must be 1 to 65535",
            ),
            (
                message(node_name("  ").map(drop)),
                "--hostname-override   : the name of this node is empty; give one",
            ),
        ] {
            assert_eq!(got, want);
        }
    }

    #[test]
    fn a_source_that_is_not_there_is_refused() {
        let args = RunArgs {
            manifests: Some("/nowhere".into()),
            ..RunArgs::default()
        };
        let error = source(&args, &ProxyConfig::default()).expect_err("no such folder");
        assert_eq!(
            error.to_string(),
            "--manifests /nowhere: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn interface_modes_need_their_name() {
        let wanted = ProxyConfig {
            detect_local_mode: Some("BridgeInterface".into()),
            ..ProxyConfig::default()
        };
        assert_eq!(
            detect_local(&wanted).expect_err("no bridge").to_string(),
            "--detect-local-mode BridgeInterface needs --pod-bridge-interface"
        );
    }

    #[test]
    fn node_names_are_trimmed_and_lower_case() {
        assert_eq!(node_name(" Node-A\n").expect("a name"), "node-a");
    }

    #[test]
    fn one_family_alone_is_warned_about() {
        let warning =
            |list: &str| one_family_only(&nodeport_addresses(list).expect(list)).is_some();
        assert!(warning("10.0.0.0/8"));
        assert!(!warning("10.0.0.0/8,primary"));
        assert!(!warning("10.0.0.0/8,fd00::/8"));
    }

    #[test]
    fn ports_of_masqueraded_flows_lie_beside_node_ports() {
        let with = |ports: &str| {
            packets(&PacketArgs {
                snat_ports: ports.to_owned(),
                ..PacketArgs::default()
            })
        };
        assert!(with("40000-60999").is_ok() && with("10000-29999").is_ok());
        for bad in ["32000-40000", "30000-32767", "20000-60000"] {
            let said = with(bad).expect_err(bad).to_string();
            assert!(said.contains(bad) && said.contains("30000-32767"), "{said}");
        }
        for bad in ["40000", "40000-40100", "60999-40000"] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
