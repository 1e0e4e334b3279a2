//! From what users typed to a checked `Config` (rules 132, 137 to 140).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use lb_common::track::Timeouts;

use super::{
    args::{PacketArgs, RunArgs},
    families,
    nodeports::{answers_on, nodeport_addresses, one_family_only},
    proxy::{Field, Origin, ProxyConfig, ProxyFile, ProxyFileError, boolean, items},
    servers::{HEALTHZ_PORT, METRICS_PORT, bind_address, follow_bind_address, with_port},
};
use crate::{
    cgroup::{CgroupError, CgroupRoot},
    config::{
        ApiRate, Config, ConfigFile, DetectLocal, EndpointsSource, Log, LogFormat, Packets, Source,
    },
    host_addrs,
    maps::Capacities,
    plan::ranges::DEFAULT_NODE_PORTS,
};

const FULL_CHECK_PERIOD: Duration = Duration::from_secs(300);

/// Why a command line is refused.
#[derive(thiserror::Error, Debug)]
pub enum SettingsError {
    /// A flag's value means nothing.
    #[error("{flag} {value}: {remedy}")]
    Flag {
        /// Which flag, or field of the file.
        flag: String,
        /// What it holds.
        value: String,
        /// What it should hold.
        remedy: String,
    },
    /// A flag needs another.
    #[error("{name} {mode} needs {flag}")]
    Missing {
        /// What the mode is called.
        name: String,
        /// The mode.
        mode: String,
        /// The flag or field that it needs.
        flag: String,
    },
    /// A file or folder that a flag names.
    #[error("{flag} {path}: {error}")]
    Unreadable {
        /// Which flag, or field of the file.
        flag: String,
        /// The file or folder.
        path: PathBuf,
        /// errno.
        error: io::Error,
    },
    /// This host lacks a family.
    #[error("{0}")]
    Family(String),
    /// `--config`
    #[error(transparent)]
    ProxyFile(#[from] ProxyFileError),
    /// `--cgroup-root`
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

pub(super) fn bad(
    flag: impl Into<String>,
    value: &str,
    remedy: impl Into<String>,
) -> SettingsError {
    SettingsError::Flag {
        flag: flag.into(),
        value: value.to_owned(),
        remedy: remedy.into(),
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

/// What came of a command line.
#[derive(Debug)]
pub struct Settings {
    /// Checked.
    pub config: Config,
    /// What is logged and how.
    pub log: Log,
    /// kube-proxy's part of it, field by field.
    pub proxy: ProxyConfig,
    /// What its author should be told.
    pub warnings: Vec<String>,
}

/// kube-proxy's part of a command line and its file.
///
/// # Errors
/// The file is of no use.
pub fn proxy_config(args: &RunArgs) -> Result<(ProxyConfig, Option<ProxyFile>), SettingsError> {
    let file = args.config.as_deref().map(ProxyFile::read).transpose()?;
    let mut proxy = ProxyConfig::merge(&args.proxy, file.as_ref());
    follow_bind_address(&mut proxy);
    if file.is_none() {
        with_port(&mut proxy, "healthzBindAddress", args.healthz_port);
        with_port(&mut proxy, "metricsBindAddress", args.metrics_port);
    }
    Ok((proxy, file))
}

/// Checks a command line.
///
/// # Errors
/// See [`SettingsError`].
pub fn settings(args: &RunArgs) -> Result<Settings, SettingsError> {
    let mut settings = for_any_host(args)?;
    readable_source(&settings.config.source, &settings.proxy)?;
    let warning = families::check(&settings.config, host_addrs::has_ipv6());
    let warning = warning.map_err(SettingsError::Family)?;
    settings.warnings.extend(warning);
    let cgroup = CgroupRoot::find(args.maps.roots.cgroup_root.as_deref())?;
    settings.warnings.extend(cgroup.warning());
    settings.config.cgroup_root = cgroup.path;
    Ok(settings)
}

/// Checks all but what is looked for on this host: files, families, the cgroup.
///
/// # Errors
/// See [`SettingsError`].
pub fn for_any_host(args: &RunArgs) -> Result<Settings, SettingsError> {
    let (proxy, file) = proxy_config(args)?;
    let mut warnings = proxy.warnings();
    if proxy.file().is_some() && (args.healthz_port.is_some() || args.metrics_port.is_some()) {
        warnings.push("--healthz-port and --metrics-port are ignored beside --config: write healthzBindAddress and metricsBindAddress into the file".into());
    }
    let cluster_cidrs = cluster_cidrs(&proxy)?;
    let detect_local = detect_local(&proxy)?;
    if detect_local == DetectLocal::ClusterCidr && cluster_cidrs.is_empty() {
        warnings.push("--cluster-cidr is not given: pods count as clients from outside where externalTrafficPolicy is Local".into());
    }
    let nodeport_addresses = nodeport_addresses(&proxy)?;
    warnings.extend(one_family_only(&nodeport_addresses));
    let listed = proxy.text("nodePortAddresses");
    let switch = boolean(proxy.text("iptables.localhostNodePorts"));
    let localhost =
        |loopback| switch.unwrap_or_else(|| answers_on(listed, &nodeport_addresses, loopback));
    let periods = periods(args, &proxy)?;
    let config = Config {
        file: file.map(|file| ConfigFile {
            path: file.path.into(),
            text: file.text,
        }),
        shown: proxy.to_json(),
        oom_score_adj: i32::try_from(proxy.int("oomScoreAdj")).unwrap_or_default(),
        sync_period: periods.sync,
        source: source(args, &proxy),
        endpoints: args.endpoints_source.unwrap_or(EndpointsSource::Slices),
        node_name: node_name(proxy.text("hostnameOverride"))?,
        bind_address: primary_address(proxy.text("bindAddress")),
        external_ips: proxy.external_ips(),
        cluster_cidrs,
        detect_local,
        localhost4: localhost(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        localhost6: localhost(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        nodeport_addresses,
        protect_node_ports: args.protect_node_ports.unwrap_or(false),
        masquerade_all: proxy.is_on(&proxy.in_mode("masqueradeAll")),
        healthz_bind_address: bind_address(&proxy, "healthzBindAddress", HEALTHZ_PORT)?,
        metrics_bind_address: bind_address(&proxy, "metricsBindAddress", METRICS_PORT)?,
        bind_hard_fail: proxy.is_on("bindAddressHardFail"),
        cgroup_root: args.maps.roots.cgroup_root.clone().unwrap_or_default(),
        bpffs_root: args.maps.roots.bpffs_root.clone(),
        capacities: Capacities {
            frontends: args.maps.max_frontends,
            services: args.maps.max_services,
            slots: args.maps.max_slots,
            backends: args.maps.max_backends,
            sources: args.maps.max_source_ranges,
            flows: args.maps.max_flows,
        },
        packets: Packets {
            timeouts: timeouts(&proxy),
            ..packets(&args.packets)?
        },
        min_sync_period: periods.min_sync,
        full_check_period: periods.full_check,
    };
    Ok(Settings {
        config,
        log: log(&proxy),
        proxy,
        warnings,
    })
}

fn log(proxy: &ProxyConfig) -> Log {
    Log {
        format: match proxy.text("logging.format") {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        },
        verbosity: u8::try_from(proxy.int("logging.verbosity")).unwrap_or(u8::MAX),
    }
}

/// A rate of 0 is the default, as for kube-proxy; one below is none.
fn api_rate(proxy: &ProxyConfig) -> Option<ApiRate> {
    const QPS: &str = "clientConnection.qps";
    let said = proxy.number(QPS);
    let default = Field::at(QPS).and_then(|field| field.default.parse().ok());
    let per_second = default.filter(|_| said == 0.0).unwrap_or(said);
    let burst = u32::try_from(proxy.int("clientConnection.burst")).unwrap_or(u32::MAX);
    Some(ApiRate {
        // Fails below 0, and for what is too slow to matter.
        every: Duration::try_from_secs_f64(1.0 / per_second).ok()?,
        burst: burst.max(1),
    })
}

struct Periods {
    sync: Duration,
    min_sync: Duration,
    full_check: Duration,
}

/// Our own flags win over kube-proxy's of like meaning, and those only count where they are given.
fn periods(args: &RunArgs, proxy: &ProxyConfig) -> Result<Periods, SettingsError> {
    let (sync, min_sync) = (proxy.in_mode("syncPeriod"), proxy.in_mode("minSyncPeriod"));
    if proxy.duration(&min_sync) > proxy.duration(&sync) {
        let (name, value) = (proxy.name(&min_sync), proxy.text(&min_sync));
        let remedy = format!(
            "longer than {} {}; give at most that",
            proxy.name(&sync),
            proxy.text(&sync)
        );
        return Err(bad(name, value, remedy));
    }
    let resync = proxy
        .said("configSyncPeriod")
        .map(|_| proxy.duration("configSyncPeriod"));
    Ok(Periods {
        sync: proxy.duration(&sync),
        min_sync: (args.maps.min_sync_period).unwrap_or_else(|| proxy.duration(&min_sync)),
        full_check: (args.maps.full_check_period)
            .or(resync)
            .unwrap_or(FULL_CHECK_PERIOD),
    })
}

/// kube-proxy sets netfilter's; ours are held below netfilter's where they are written. 0 is the default.
fn timeouts(proxy: &ProxyConfig) -> Timeouts {
    let seconds = |leaf: &str, default: u32| {
        let said = proxy.duration(&format!("conntrack.{leaf}")).as_secs();
        match u32::try_from(said).unwrap_or(u32::MAX) {
            0 => default,
            seconds => seconds,
        }
    };
    let ours = Timeouts::DEFAULT;
    Timeouts {
        established_s: seconds("tcpEstablishedTimeout", ours.established_s),
        half_closed_s: seconds("tcpCloseWaitTimeout", ours.half_closed_s),
        udp_s: seconds("udpTimeout", ours.udp_s),
        udp_stream_s: seconds("udpStreamTimeout", ours.udp_stream_s),
        ..ours
    }
}

/// `--bind-address`: every address, the default, says nothing of this node's own.
fn primary_address(text: &str) -> Option<IpAddr> {
    let address: Option<IpAddr> = text.parse().ok();
    address.filter(|address| !address.is_unspecified())
}

const KUBECONFIG: &str = "clientConnection.kubeconfig";

fn source(args: &RunArgs, proxy: &ProxyConfig) -> Source {
    if let Some(folder) = &args.manifests {
        return Source::Manifests(folder.clone());
    }
    let kubeconfig = proxy.said(KUBECONFIG).filter(|path| !path.is_empty());
    Source::Kubernetes {
        kubeconfig: kubeconfig.map(PathBuf::from),
        master: args.master.clone().filter(|url| !url.is_empty()),
        rate: api_rate(proxy),
    }
}

/// A source that cannot be read at all is refused before anything is loaded.
fn readable_source(source: &Source, proxy: &ProxyConfig) -> Result<(), SettingsError> {
    match source {
        Source::Manifests(folder) => {
            readable("--manifests", folder, fs::read_dir(folder).map(drop))
        }
        Source::Kubernetes { kubeconfig, .. } => kubeconfig.as_deref().map_or(Ok(()), |file| {
            let name = proxy.name(KUBECONFIG);
            readable(&name, file, fs::File::open(file).map(drop))
        }),
    }
}

fn readable(flag: &str, path: &Path, result: io::Result<()>) -> Result<(), SettingsError> {
    result.map_err(|error| SettingsError::Unreadable {
        flag: flag.to_owned(),
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
        let remedy = "the name of this node is empty; give one";
        return Err(bad("--hostname-override", wanted, remedy));
    }
    Ok(name)
}

fn cluster_cidrs(proxy: &ProxyConfig) -> Result<Vec<IpNet>, SettingsError> {
    const PATH: &str = "clusterCIDR";
    let list = proxy.text(PATH);
    let remedy = "not a CIDR; write 10.244.0.0/16 or fd00:10:244::/56";
    let cidr = |item: &str| {
        let cidr = item.parse::<IpNet>().map(|cidr| cidr.trunc());
        cidr.map_err(|_| bad(proxy.name(PATH), item, remedy))
    };
    let cidrs = items(list).map(cidr).collect::<Result<Vec<_>, _>>()?;
    let v4 = cidrs.iter().filter(|cidr| cidr.addr().is_ipv4()).count();
    if v4 > 1 || cidrs.len() - v4 > 1 {
        let remedy = "at most one CIDR of each family";
        return Err(bad(proxy.name(PATH), list, remedy));
    }
    Ok(cidrs)
}

fn detect_local(proxy: &ProxyConfig) -> Result<DetectLocal, SettingsError> {
    const MODE: &str = "detectLocalMode";
    let mode = proxy.text(MODE);
    let named = |path: &str| {
        let name = proxy.text(path);
        let missing = || SettingsError::Missing {
            name: proxy.name(MODE),
            mode: mode.to_owned(),
            flag: match proxy.origin(MODE) {
                Origin::File => path.to_owned(),
                Origin::Flag | Origin::Default => proxy.name(path),
            },
        };
        (!name.is_empty())
            .then(|| name.to_owned())
            .ok_or_else(missing)
    };
    Ok(match mode {
        "NodeCIDR" => DetectLocal::NodeCidr,
        "BridgeInterface" => DetectLocal::BridgeInterface(named("detectLocal.bridgeInterface")?),
        "InterfaceNamePrefix" => {
            DetectLocal::InterfaceNamePrefix(named("detectLocal.interfaceNamePrefix")?)
        }
        _ => DetectLocal::ClusterCidr,
    })
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
