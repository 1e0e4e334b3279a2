//! The fields of KubeProxyConfiguration (v1alpha1), their flags, defaults, and what becomes of them here. Rule 138's
//! table, as data.

use super::Kind;

/// What becomes of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// It is honoured.
    Yes,
    /// It is accepted and changes nothing, for the reason given; nobody needs to be told.
    Moot(&'static str),
    /// It is accepted and changes nothing; who sets it is told why.
    Warned(&'static str),
}

/// One field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its place in the file.
    pub path: &'static str,
    /// Its flag; empty: none.
    pub flag: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its text where nobody sets it.
    pub default: &'static str,
    /// A zero in the file means the default, as for kube-proxy's fields that are no pointers.
    pub zero_is_default: bool,
    /// What becomes of it.
    pub use_: Use,
    /// Counts beside `--config`, too.
    pub flag_wins: bool,
    /// Another name of the flag, ours.
    pub alias: &'static str,
    /// Where the flag's help stands.
    pub heading: &'static str,
    /// The flag's help.
    pub help: &'static str,
    /// What the help calls its value; empty: as its type is called.
    pub value: &'static str,
}

const SOURCE: &str = "Source";
const SERVICES: &str = "Services";
const OBSERVATION: &str = "Observation";
const KUBE_PROXY: &str = "Of kube-proxy alone: accepted, without use here";

const IPVS: Use = Use::Warned("there is no IPVS here");
const WINDOWS: Use = Use::Moot("only of use on Windows");
const LOG_SINK: Use = Use::Moot("each line is written at once");

/// The modes of `--proxy-mode`; `ebpf` is ours.
pub const MODES: &[&str] = &["", "iptables", "ipvs", "nftables", "ebpf"];
/// The modes of `--detect-local-mode`.
pub const DETECTORS: &[&str] = &[
    "",
    "ClusterCIDR",
    "NodeCIDR",
    "BridgeInterface",
    "InterfaceNamePrefix",
];

const fn field(path: &'static str, flag: &'static str, kind: Kind, default: &'static str) -> Field {
    Field {
        path,
        flag,
        kind,
        default,
        zero_is_default: true,
        use_: Use::Yes,
        flag_wins: false,
        alias: "",
        heading: KUBE_PROXY,
        help: "",
        value: "",
    }
}

impl Field {
    const fn help(self, heading: &'static str, help: &'static str) -> Self {
        Self {
            heading,
            help,
            ..self
        }
    }

    const fn used(self, use_: Use, help: &'static str) -> Self {
        Self { use_, help, ..self }
    }

    /// 0 is a value of its own.
    const fn zero_counts(self) -> Self {
        Self {
            zero_is_default: false,
            ..self
        }
    }

    const fn flag_wins(self) -> Self {
        Self {
            flag_wins: true,
            ..self
        }
    }

    const fn value(self, value: &'static str) -> Self {
        Self { value, ..self }
    }

    const fn alias(self, alias: &'static str) -> Self {
        Self { alias, ..self }
    }
}

/// Every field.
pub const FIELDS: &[Field] = &[
    field("clientConnection.kubeconfig", "kubeconfig", Kind::Text, "").value("FILE").help(
        SOURCE,
        "Kubeconfig of the API server [default: the one that the cluster gives to its pods]",
    ),
    field("hostnameOverride", "hostname-override", Kind::Text, "").value("NAME")
        .flag_wins()
        .help(SOURCE, "Name of this node [default: the host's name]"),
    field("clientConnection.qps", "kube-api-qps", Kind::Number, "5").help(
        SOURCE,
        "Requests to the API server in a second; below 0: as many as there are [default: 5]",
    ),
    field("clientConnection.burst", "kube-api-burst", Kind::Int(0, 1 << 20), "10").help(
        SOURCE,
        "Requests to the API server that may come at once [default: 10]",
    ),
    field("configSyncPeriod", "config-sync-period", Kind::Period, "15m0s").help(
        SOURCE,
        "How often everything is looked at again; --full-check-period where that is not given [default: 15m]",
    ),
    field("clusterCIDR", "cluster-cidr", Kind::Text, "").value("CIDRS").help(
        SERVICES,
        "Addresses of the cluster's pods, at most one range per family",
    ),
    field("detectLocalMode", "detect-local-mode", Kind::OneOf(DETECTORS), "ClusterCIDR").value("MODE").help(
        SERVICES,
        "How pods are told from other clients: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix [default: ClusterCIDR]",
    ),
    field("detectLocal.bridgeInterface", "pod-bridge-interface", Kind::Text, "").value("NAME")
        .help(SERVICES, "Bridge of this node's pods, for BridgeInterface"),
    field("detectLocal.interfaceNamePrefix", "pod-interface-name-prefix", Kind::Text, "").value("PREFIX").help(
        SERVICES,
        "How names of pods' interfaces begin, for InterfaceNamePrefix",
    ),
    field("nodePortAddresses", "nodeport-addresses", Kind::List, "").help(
        SERVICES,
        "Where NodePorts answer: CIDRs, `primary`, `localhost`, `all` [default: primary]",
    ),
    field("iptables.localhostNodePorts", "iptables-localhost-nodeports", Kind::Bool, "")
        .flag_wins()
        .alias("localhost-node-ports")
        .help(
            SERVICES,
            "NodePorts answer on 127.0.0.0/8 and ::1 of the host [default: true, unless --nodeport-addresses is given and holds no loopback]",
        ),
    field("bindAddress", "bind-address", Kind::Ip, "0.0.0.0").help(
        SERVICES,
        "This node's primary address, in place of its Node object's; all zeros: none [default: 0.0.0.0]",
    ),
    field("iptables.masqueradeAll", "masquerade-all", Kind::Bool, "false").help(
        SERVICES,
        "Masquerade all packets to ClusterIPs; of no consequence at sockets, where no packet carries a VIP",
    ),
    field("nftables.masqueradeAll", "masquerade-all", Kind::Bool, "false"),
    field("featureGates", "feature-gates", Kind::Gates, "").help(
        SERVICES,
        "Feature gates, NAME=BOOL: AllowServiceExternalIPs=false leaves externalIPs unserved; others say nothing here",
    ),
    field("conntrack.tcpEstablishedTimeout", "conntrack-tcp-timeout-established", Kind::Duration, "24h0m0s")
        .zero_counts()
        .help(SERVICES, "How long idle TCP flows of packets from outside are kept; 0: the default [default: 24h]"),
    field("conntrack.tcpCloseWaitTimeout", "conntrack-tcp-timeout-close-wait", Kind::Duration, "1h0m0s")
        .zero_counts()
        .help(SERVICES, "How long TCP flows are kept after one side sent its last; 0: the default [default: 1h]"),
    field("conntrack.udpTimeout", "conntrack-udp-timeout", Kind::Duration, "0s")
        .help(SERVICES, "How long idle UDP flows of one exchange are kept; 0: 30 s [default: 0s]"),
    field("conntrack.udpStreamTimeout", "conntrack-udp-timeout-stream", Kind::Duration, "0s")
        .help(SERVICES, "How long idle UDP flows that go on are kept; 0: 120 s [default: 0s]"),
    field("iptables.syncPeriod", "iptables-sync-period", Kind::Period, "30s").help(
        SERVICES,
        "Half of the time after which a change that is not applied makes the agent unhealthy [default: 30s]",
    ),
    field("iptables.minSyncPeriod", "iptables-min-sync-period", Kind::Duration, "0s").help(
        SERVICES,
        "Changes are written at most once in so much time, where --min-sync-period is not given [default: 0s]",
    ),
    field("nftables.syncPeriod", "iptables-sync-period", Kind::Period, "30s"),
    field("nftables.minSyncPeriod", "iptables-min-sync-period", Kind::Duration, "0s"),
    field("ipvs.syncPeriod", "ipvs-sync-period", Kind::Period, "30s")
        .help(SERVICES, "As --iptables-sync-period, with --proxy-mode ipvs [default: 30s]"),
    field("ipvs.minSyncPeriod", "ipvs-min-sync-period", Kind::Duration, "0s")
        .help(SERVICES, "As --iptables-min-sync-period, with --proxy-mode ipvs [default: 0s]"),
    field("healthzBindAddress", "healthz-bind-address", Kind::Text, "0.0.0.0:10256").value("ADDR").help(
        OBSERVATION,
        "Health server, IP or IP:PORT; empty: none [default: 0.0.0.0:10256, or [::]:10256 with an IPv6 --bind-address]",
    ),
    field("metricsBindAddress", "metrics-bind-address", Kind::Text, "127.0.0.1:10249").value("ADDR").help(
        OBSERVATION,
        "Metrics server, IP or IP:PORT; empty: none [default: 127.0.0.1:10249, or [::1]:10249 with an IPv6 --bind-address]",
    ),
    field("bindAddressHardFail", "bind-address-hard-fail", Kind::Bool, "false").help(
        OBSERVATION,
        "End when an address of these cannot be listened on, instead of trying again",
    ),
    field("oomScoreAdj", "oom-score-adj", Kind::Int(-1000, 1000), "-999")
        .zero_counts()
        .help(OBSERVATION, "How likely the kernel is to end the agent when memory runs out, -1000 to 1000 [default: -999]"),
    field("logging.format", "logging-format", Kind::OneOf(&["text", "json"]), "text").value("FORMAT")
        .flag_wins()
        .alias("log-format")
        .help(OBSERVATION, "How logs look: `text`, or `json`, one object a line [default: text]"),
    field("logging.verbosity", "v", Kind::Int(0, 255), "0").value("LEVEL").flag_wins().help(
        OBSERVATION,
        "How much is logged, as kube-proxy counts: from 4 on debug, from 6 on trace; RUST_LOG says it finer [default: 0]",
    ),
    field("mode", "proxy-mode", Kind::OneOf(MODES), "").value("MODE").used(
        Use::Warned("Services are translated by BPF, whatever the mode"),
        "`iptables`, `ipvs` or `nftables`: says which of the groups of that name count; `ebpf` is what is done",
    ),
    field("clientConnection.contentType", "kube-api-content-type", Kind::Text, "application/vnd.kubernetes.protobuf")
        .used(Use::Moot("the API server is spoken to in JSON"), "Content type of requests to the API server: JSON, whatever it says"),
    field("clientConnection.acceptContentTypes", "", Kind::Text, "")
        .used(Use::Moot("the API server is spoken to in JSON"), ""),
    field("enableProfiling", "profiling", Kind::Bool, "false")
        .used(Use::Warned("there are no /debug pages"), "Pages for profiling: there are none"),
    field("showHiddenMetricsForVersion", "show-hidden-metrics-for-version", Kind::Text, "")
        .used(Use::Moot("no metric is hidden"), "Show metrics that a version hides: none is"),
    field("iptables.masqueradeBit", "iptables-masquerade-bit", Kind::Int(0, 31), "14")
        .zero_counts()
        .used(Use::Moot("packets of ours are known by --packet-mark-bit"), "Bit of packets to be masqueraded: see --packet-mark-bit"),
    field("nftables.masqueradeBit", "", Kind::Int(0, 31), "14")
        .zero_counts()
        .used(Use::Moot("packets of ours are known by --packet-mark-bit"), ""),
    field("conntrack.maxPerCore", "conntrack-max-per-core", Kind::Int(0, i64::MAX), "32768")
        .zero_counts()
        .used(Use::Warned("flows have a table of their own, --max-flows; net.netfilter.nf_conntrack_max stays as it is"), "Entries of conntrack for each CPU: left as they are"),
    field("conntrack.min", "conntrack-min", Kind::Int(0, i64::MAX), "131072")
        .zero_counts()
        .used(Use::Warned("flows have a table of their own, --max-flows; net.netfilter.nf_conntrack_max stays as it is"), "Least entries of conntrack: left as they are"),
    field("conntrack.tcpBeLiberal", "conntrack-tcp-be-liberal", Kind::Bool, "false")
        .used(Use::Moot("segments out of window are never dropped here"), "Let segments pass that are out of window: always so"),
    field("ipvs.scheduler", "ipvs-scheduler", Kind::Text, "")
        .used(Use::Warned("annotate a Service with service.lb-agent.io/algorithm instead"), "How endpoints are chosen: see the annotation service.lb-agent.io/algorithm"),
    field("ipvs.excludeCIDRs", "ipvs-exclude-cidrs", Kind::List, "").used(IPVS, "Without use"),
    field("ipvs.strictARP", "ipvs-strict-arp", Kind::Bool, "false").used(IPVS, "Without use"),
    field("ipvs.tcpTimeout", "ipvs-tcp-timeout", Kind::Duration, "0s").used(IPVS, "Without use"),
    field("ipvs.tcpFinTimeout", "ipvs-tcpfin-timeout", Kind::Duration, "0s").used(IPVS, "Without use"),
    field("ipvs.udpTimeout", "ipvs-udp-timeout", Kind::Duration, "0s").used(IPVS, "Without use"),
    field("logging.vmodule", "vmodule", Kind::Any, "")
        .flag_wins()
        .used(Use::Warned("RUST_LOG says what is logged by which part"), "What is logged by which file: see RUST_LOG"),
    field("logging.flushFrequency", "log-flush-frequency", Kind::Any, "").used(LOG_SINK, "Without use"),
    field("logging.options.text.splitStream", "log-text-split-stream", Kind::Bool, "false").used(LOG_SINK, "Without use"),
    field("logging.options.text.infoBufferSize", "log-text-info-buffer-size", Kind::Any, "").used(LOG_SINK, "Without use"),
    field("logging.options.json.splitStream", "log-json-split-stream", Kind::Bool, "false").used(LOG_SINK, "Without use"),
    field("logging.options.json.infoBufferSize", "log-json-info-buffer-size", Kind::Any, "").used(LOG_SINK, "Without use"),
    field("portRange", "proxy-port-range", Kind::Text, "")
        .used(Use::Moot("no connection is taken over by a process"), "Without use"),
    field("windowsRunAsService", "", Kind::Bool, "false").used(WINDOWS, ""),
    field("winkernel.networkName", "", Kind::Text, "").used(WINDOWS, ""),
    field("winkernel.sourceVip", "", Kind::Text, "").used(WINDOWS, ""),
    field("winkernel.enableDSR", "", Kind::Bool, "false").used(WINDOWS, ""),
    field("winkernel.rootHnsEndpointName", "", Kind::Text, "").used(WINDOWS, ""),
    field("winkernel.forwardHealthCheckVip", "", Kind::Bool, "false").used(WINDOWS, ""),
];

impl Field {
    /// By its place in the file.
    pub fn at(path: &str) -> Option<&'static Self> {
        FIELDS.iter().find(|field| field.path == path)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_field_is_there_once_and_every_default_is_what_it_may_be() {
        let paths: BTreeSet<_> = FIELDS.iter().map(|field| field.path).collect();
        assert_eq!(paths.len(), FIELDS.len());
        for field in FIELDS.iter().filter(|field| !field.default.is_empty()) {
            let checked = field.kind.check(field.default);
            assert_eq!(checked.as_deref(), Ok(field.default), "{}", field.path);
        }
    }

    #[test]
    fn every_flag_has_its_help() {
        let first =
            |field: &&Field| FIELDS.iter().find(|other| other.flag == field.flag) == Some(*field);
        for field in FIELDS.iter().filter(|f| !f.flag.is_empty()).filter(first) {
            assert!(!field.help.is_empty(), "{}", field.flag);
        }
    }
}
