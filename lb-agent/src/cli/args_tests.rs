use clap::CommandFactory as _;

use super::*;
use crate::cli::proxy::ProxyConfig;

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
}

fn read(words: &[&str]) -> Result<Args, clap::Error> {
    Args::read(["lb-agent"].iter().chain(words).map(OsString::from))
}

fn run(words: &[&str]) -> RunArgs {
    let args = read(words).expect("a good command line");
    let Command::Run(run) = args.command else {
        panic!("{args:?}");
    };
    *run
}

fn said(words: &[&str], path: &str) -> String {
    let merged = ProxyConfig::merge(&run(words).proxy, None);
    merged.text(path).to_owned()
}

#[test]
fn switches_are_written_as_kube_proxy_writes_them() {
    for (words, path, want) in [
        (&["run"][..], "iptables.masqueradeAll", "false"),
        (
            &["run", "--masquerade-all"],
            "iptables.masqueradeAll",
            "true",
        ),
        (
            &["run", "--masquerade-all=false"],
            "iptables.masqueradeAll",
            "false",
        ),
        (
            &["run", "--masquerade-all=T"],
            "iptables.masqueradeAll",
            "true",
        ),
        (
            &["run", "--masquerade-all", "-v", "4"],
            "iptables.masqueradeAll",
            "true",
        ),
        (
            &["run", "--localhost-node-ports=false"],
            "iptables.localhostNodePorts",
            "false",
        ),
        (&["run", "-v", "4"], "logging.verbosity", "4"),
        (&["run", "-v4"], "logging.verbosity", "4"),
        (&["run", "--v=2"], "logging.verbosity", "2"),
        (&["run", "--oom-score-adj", "-5"], "oomScoreAdj", "-5"),
        (&["run", "--log-format", "json"], "logging.format", "json"),
        (
            &["run", "--kube-api-qps=0.5"],
            "clientConnection.qps",
            "0.5",
        ),
    ] {
        assert_eq!(said(words, path), want, "{words:?}");
    }
}

#[test]
fn kube_proxys_own_command_line_means_run() {
    let kubeadms = [
        "--config=/var/lib/kube-proxy/config.conf",
        "--hostname-override=one",
    ];
    let args = run(&kubeadms);
    assert_eq!(args.config, Some("/var/lib/kube-proxy/config.conf".into()));
    assert_eq!(said(&kubeadms, "hostnameOverride"), "one");
    assert_eq!(
        said(&["--hostname_override=a_b"], "hostnameOverride"),
        "a_b"
    );
    assert!(run(&["--cleanup"]).cleanup);
    assert!(!run(&["--cleanup=false"]).cleanup);
    for word in ["--help", "--version", "-V"] {
        let said = read(&[word]).expect_err("an answer and no command");
        assert!(!said.use_stderr(), "{word}");
    }
    assert!(read(&["run", "--version"]).is_err_and(|said| !said.use_stderr()));
}

/// All flags of kube-proxy 1.36 for Linux, each with a value that it takes.
#[test]
fn every_flag_of_kube_proxy_is_taken() {
    for flag in [
        "--bind-address=0.0.0.0",
        "--bind-address-hard-fail",
        "--cleanup",
        "--cluster-cidr=10.0.0.0/8",
        "--config=f",
        "--config-sync-period=15m0s",
        "--conntrack-max-per-core=32768",
        "--conntrack-min=131072",
        "--conntrack-tcp-be-liberal",
        "--conntrack-tcp-timeout-close-wait=1h0m0s",
        "--conntrack-tcp-timeout-established=24h0m0s",
        "--conntrack-udp-timeout=0s",
        "--conntrack-udp-timeout-stream=0s",
        "--detect-local-mode=ClusterCIDR",
        "--feature-gates=A=true",
        "--healthz-bind-address=0.0.0.0:10256",
        "--healthz-port=10256",
        "--hostname-override=one",
        "--init-only",
        "--iptables-localhost-nodeports",
        "--iptables-masquerade-bit=14",
        "--iptables-min-sync-period=1s",
        "--iptables-sync-period=30s",
        "--ipvs-exclude-cidrs=10.0.0.0/8",
        "--ipvs-min-sync-period=1s",
        "--ipvs-scheduler=rr",
        "--ipvs-strict-arp",
        "--ipvs-sync-period=30s",
        "--ipvs-tcp-timeout=1s",
        "--ipvs-tcpfin-timeout=1s",
        "--ipvs-udp-timeout=1s",
        "--kube-api-burst=10",
        "--kube-api-content-type=application/json",
        "--kube-api-qps=5",
        "--kubeconfig=f",
        "--log-flush-frequency=5s",
        "--log-json-info-buffer-size=0",
        "--log-json-split-stream",
        "--log-text-info-buffer-size=0",
        "--log-text-split-stream",
        "--logging-format=text",
        "--masquerade-all",
        "--master=https://a:1",
        "--metrics-bind-address=127.0.0.1:10249",
        "--metrics-port=10249",
        "--nodeport-addresses=primary",
        "--oom-score-adj=-999",
        "--pod-bridge-interface=cni0",
        "--pod-interface-name-prefix=veth",
        "--profiling",
        "--proxy-mode=iptables",
        "--proxy-port-range=0-0",
        "--show-hidden-metrics-for-version=1.35",
        "--v=2",
        "--vmodule=a=4",
        "--write-config-to=f",
    ] {
        assert!(read(&[flag]).is_ok(), "{flag}");
    }
    let said = read(&["--proxy-mode=userspace"]).expect_err("a mode of old");
    let said = said.to_string();
    assert!(
        said.contains("userspace") && said.contains("one of iptables, ipvs, nftables, ebpf"),
        "{said}"
    );
}

#[test]
fn durations_are_written_as_go_writes_them() {
    let s = std::time::Duration::from_secs;
    assert_eq!(parse_duration("5m"), Ok(s(300)));
    assert_eq!(parse_duration("1m30s"), Ok(s(90)));
    assert_eq!(parse_duration("0"), Ok(s(0)));
    assert!(parse_duration("-5s").is_err());
    assert!(parse_duration("5").is_err());
}

#[test]
fn a_client_is_named_once() {
    let both = [
        "lb-agent",
        "explain",
        "--from",
        "10.0.0.1",
        "--pid",
        "1",
        "--to",
        "10.96.0.1:80",
    ];
    assert!(Args::try_parse_from(both).is_err());
}
