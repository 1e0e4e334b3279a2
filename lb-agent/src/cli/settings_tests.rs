use super::*;
use crate::{cli::proxy::ProxyFlags, config::NodePortAddresses};

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter()
        .map(|net| net.parse().expect("a CIDR"))
        .collect()
}

/// One field, as by its flag.
fn with(path: &'static str, text: &str) -> ProxyConfig {
    let mut proxy = ProxyConfig::default();
    proxy.set(path, text.to_owned(), Origin::Flag);
    proxy
}

fn listed(list: &str) -> NodePortAddresses {
    nodeport_addresses(&with("nodePortAddresses", list)).expect(list)
}

/// The settings of a command line.
fn run(words: &[&str]) -> Result<Settings, String> {
    let folder = env!("CARGO_MANIFEST_DIR");
    let always = [
        "lb-agent",
        "run",
        "--manifests",
        folder,
        "--cgroup-root",
        "/sys/fs/cgroup",
    ];
    let words = always.iter().chain(words).map(Into::into);
    let args = crate::cli::Args::read(words).expect("a good command line");
    let crate::cli::args::Command::Run(args) = args.command else {
        panic!("{args:?}");
    };
    for_any_host(&args).map_err(|error| error.to_string())
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
        assert_eq!(listed(list), want, "{name}");
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
        assert_eq!(primary_address(text), want, "{text}");
    }
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
        let addresses = listed(list);
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
        let got = bind_address(
            &with("healthzBindAddress", text),
            "healthzBindAddress",
            HEALTHZ_PORT,
        );
        let got = got.expect(text).map(|address| address.to_string());
        assert_eq!(got.as_deref(), want, "{text}");
    }
}

#[test]
fn the_flags_of_old_give_a_port_where_there_is_none() {
    for (words, want) in [
        (&[][..], Some("0.0.0.0:10256")),
        (&["--healthz-port", "99"], Some("0.0.0.0:99")),
        (&["--healthz-port", "0"], None),
        (&["--bind-address", "::"], Some("[::]:10256")),
        (
            &["--bind-address", "2001:db8::1", "--healthz-port", "99"],
            Some("[::]:99"),
        ),
        (
            &["--bind-address", "::", "--healthz-bind-address", "0.0.0.0"],
            Some("0.0.0.0:10256"),
        ),
        (
            &["--bind-address", "::", "--healthz-bind-address", ""],
            None,
        ),
        (
            &[
                "--healthz-port",
                "99",
                "--healthz-bind-address",
                "127.0.0.1",
            ],
            Some("127.0.0.1:99"),
        ),
        (
            &["--healthz-port", "99", "--healthz-bind-address", "[::1]:98"],
            Some("[::1]:98"),
        ),
        (
            &["--healthz-port", "0", "--healthz-bind-address", "[::1]:98"],
            None,
        ),
    ] {
        let config = run(words).expect("good words").config;
        let got = config.healthz_bind_address.map(|a| a.to_string());
        assert_eq!(got.as_deref(), want, "{words:?}");
    }
    let config = run(&["--metrics-port=7"]).expect("good words").config;
    let got = config.metrics_bind_address.map(|a| a.to_string());
    assert_eq!(got.as_deref(), Some("127.0.0.1:7"));
    let config = run(&["--bind-address=::"]).expect("good words").config;
    let got = config.metrics_bind_address.map(|a| a.to_string());
    assert_eq!(got.as_deref(), Some("[::1]:10249"));
}

#[test]
fn errors_name_flag_value_and_remedy() {
    for (words, want) in [
        (
            &["--cluster-cidr", "10.0.0.0/99"][..],
            "--cluster-cidr 10.0.0.0/99: not a CIDR; write 10.244.0.0/16 or fd00:10:244::/56",
        ),
        (
            &["--cluster-cidr", "10.0.0.0/8,11.0.0.0/8"],
            "--cluster-cidr 10.0.0.0/8,11.0.0.0/8: at most one CIDR of each family",
        ),
        (
            &["--nodeport-addresses", "eth0"],
            "--nodeport-addresses eth0: neither a CIDR nor `primary`, `localhost` or `all`",
        ),
        (
            &["--metrics-bind-address", "localhost:1"],
            "--metrics-bind-address localhost:1: neither IP nor IP:PORT; write 0.0.0.0:10256 or [::]:10256",
        ),
        (
            &["--metrics-bind-address", "127.0.0.1:0"],
            "--metrics-bind-address 127.0.0.1:0: the port must be 1 to 65535",
        ),
        (
            &["--hostname-override", " "],
            "--hostname-override  : the name of this node is empty; give one",
        ),
        (
            &[
                "--iptables-min-sync-period",
                "1m",
                "--iptables-sync-period",
                "30s",
            ],
            "--iptables-min-sync-period 1m: longer than --iptables-sync-period 30s; give at most that",
        ),
        (
            &["--detect-local-mode", "BridgeInterface"],
            "--detect-local-mode BridgeInterface needs --pod-bridge-interface",
        ),
        (
            &["--detect-local-mode", "interfacenameprefix"],
            "--detect-local-mode InterfaceNamePrefix needs --pod-interface-name-prefix",
        ),
    ] {
        assert_eq!(run(words).expect_err(want), want);
    }
}

#[test]
fn errors_name_the_field_of_the_file() {
    for (text, want) in [
        (
            "clusterCIDR: 10.0.0.0/99\n",
            "clusterCIDR 10.0.0.0/99: not a CIDR; write 10.244.0.0/16 or fd00:10:244::/56",
        ),
        (
            "detectLocalMode: BridgeInterface\n",
            "detectLocalMode BridgeInterface needs detectLocal.bridgeInterface",
        ),
        (
            "mode: nftables\nnftables: {minSyncPeriod: 1m}\n",
            "nftables.minSyncPeriod 1m: longer than --iptables-sync-period 30s; give at most that",
        ),
        (
            "clientConnection: {kubeconfig: /nowhere/f}\n",
            "clientConnection.kubeconfig /nowhere/f: No such file or directory (os error 2)",
        ),
    ] {
        let file = file(text);
        let proxy = ProxyConfig::merge(&Default::default(), Some(&file));
        let error = cluster_cidrs(&proxy)
            .map(drop)
            .and_then(|()| detect_local(&proxy).map(drop))
            .and_then(|()| periods(&RunArgs::default(), &proxy).map(drop))
            .and_then(|()| readable_source(&source(&RunArgs::default(), &proxy), &proxy));
        let error = error.expect_err(text).to_string();
        assert_eq!(error, format!("--config f: {want}"));
    }
}

fn file(text: &str) -> ProxyFile {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    ProxyFile::parse(&format!("{head}{text}"), "f").expect("a good file")
}

#[test]
fn a_source_that_is_not_there_is_refused() {
    let args = RunArgs {
        manifests: Some("/nowhere".into()),
        ..RunArgs::default()
    };
    let proxy = ProxyConfig::default();
    let error = readable_source(&source(&args, &proxy), &proxy).expect_err("no such folder");
    assert_eq!(
        error.to_string(),
        "--manifests /nowhere: No such file or directory (os error 2)"
    );
}

#[test]
fn node_names_are_trimmed_and_lower_case() {
    assert_eq!(node_name(" Node-A\n").expect("a name"), "node-a");
}

#[test]
fn one_family_alone_is_warned_about() {
    let warning = |list: &str| one_family_only(&listed(list)).is_some();
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

#[test]
fn our_own_periods_win_over_kube_proxys() {
    let s = Duration::from_secs;
    for (words, sync, min_sync, full_check) in [
        (&[][..], s(30), s(0), s(300)),
        (
            &[
                "--iptables-sync-period=10s",
                "--iptables-min-sync-period=2s",
                "--config-sync-period=1h",
            ],
            s(10),
            s(2),
            s(3600),
        ),
        (
            &[
                "--iptables-min-sync-period=2s",
                "--min-sync-period=1s",
                "--config-sync-period=1h",
                "--full-check-period=0",
            ],
            s(30),
            s(1),
            s(0),
        ),
        (
            &[
                "--proxy-mode=ipvs",
                "--ipvs-sync-period=9s",
                "--iptables-sync-period=10s",
            ],
            s(9),
            s(0),
            s(300),
        ),
    ] {
        let config = run(words).expect("good words").config;
        let got = (
            config.sync_period,
            config.min_sync_period,
            config.full_check_period,
        );
        assert_eq!(got, (sync, min_sync, full_check), "{words:?}");
    }
}

#[test]
fn timeouts_of_conntrack_are_those_of_our_flows() {
    let ours = Timeouts::DEFAULT;
    let config = |words: &[&str]| run(words).expect("good words").config.packets.timeouts;
    assert_eq!(config(&[]), ours);
    let words = [
        "--conntrack-tcp-timeout-established=2h",
        "--conntrack-tcp-timeout-close-wait=0s",
        "--conntrack-udp-timeout=7s",
        "--conntrack-udp-timeout-stream=1m",
    ];
    let want = Timeouts {
        established_s: 7200,
        udp_s: 7,
        udp_stream_s: 60,
        ..ours
    };
    assert_eq!(config(&words), want);
}

#[test]
fn the_api_server_is_asked_as_fast_as_kube_proxy_asks() {
    let rate = |words: [&'static str; 2]| {
        let flags = ["kube-api-qps", "kube-api-burst"].into_iter().zip(words);
        let given = flags.filter(|(_, value)| !value.is_empty());
        let given = given.fold(ProxyFlags::default(), |flags, (flag, value)| {
            flags.with(flag, value)
        });
        api_rate(&ProxyConfig::merge(&given, None))
    };
    let want = |millis, burst| {
        let every = Duration::from_millis(millis);
        Some(ApiRate { every, burst })
    };
    assert_eq!(rate(["", ""]), want(200, 10));
    assert_eq!(rate(["50", "100"]), want(20, 100));
    assert_eq!(rate(["0", "0"]), want(200, 1));
    assert_eq!(rate(["-1", ""]), None);
}

/// What is honoured reaches the agent, from the flag and from the file.
#[test]
fn every_other_honoured_field_reaches_the_agent() {
    let flags = [
        "--bind-address=192.0.2.1",
        "--bind-address-hard-fail",
        "--cluster-cidr=10.0.0.0/8",
        "--detect-local-mode=BridgeInterface",
        "--pod-bridge-interface=cni0",
        "--feature-gates=AllowServiceExternalIPs=false",
        "--hostname-override=one",
        "--iptables-localhost-nodeports=false",
        "--masquerade-all",
        "--oom-score-adj=-7",
        "--logging-format=json",
        "--v=5",
    ];
    let fields = "\
bindAddress: 192.0.2.1
bindAddressHardFail: true
clusterCIDR: 10.0.0.0/8
detectLocalMode: BridgeInterface
detectLocal: {bridgeInterface: cni0}
featureGates: {AllowServiceExternalIPs: false}
hostnameOverride: one
iptables: {localhostNodePorts: false, masqueradeAll: true}
oomScoreAdj: -7
logging: {format: json, verbosity: 5}
";
    let path = tempfile::NamedTempFile::new().expect("a file");
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    fs::write(path.path(), format!("{head}{fields}")).expect("it is written");
    let by_file = ["--config", path.path().to_str().expect("a name")];
    for words in [&flags[..], &by_file] {
        let Settings {
            config,
            log,
            warnings,
            ..
        } = run(words).expect("good words");
        assert_eq!(config.bind_address, "192.0.2.1".parse().ok());
        assert!(config.bind_hard_fail && config.masquerade_all && !config.external_ips);
        assert_eq!(config.cluster_cidrs, nets(&["10.0.0.0/8"]));
        assert_eq!(
            config.detect_local,
            DetectLocal::BridgeInterface("cni0".into())
        );
        assert_eq!(config.node_name, "one");
        assert!(!config.localhost4 && !config.localhost6);
        assert_eq!(config.oom_score_adj, -7);
        let json = Log {
            format: LogFormat::Json,
            verbosity: 5,
        };
        assert_eq!(log, json);
        assert_eq!(warnings, [""; 0]);
    }
}

/// Rule 140.
#[test]
fn what_a_host_without_ipv6_cannot_use_is_refused_and_half_of_it_is_warned_of() {
    let check = |words: &[&str], has_ipv6| {
        let config = run(words).expect("good words").config;
        families::check(&config, has_ipv6)
    };
    const V4: &str = "--cluster-cidr=10.0.0.0/8";
    const V6: &str = "--cluster-cidr=fd00::/16";
    const BOTH: &str = "--cluster-cidr=10.0.0.0/8,fd00::/16";
    for (words, has_ipv6, want) in [
        (&[][..], false, Ok("")),
        (&[V4], false, Ok("")),
        (&[V4], true, Ok("holds no IPv6 range")),
        (&[V6], true, Ok("holds no IPv4 range")),
        (
            &[V6],
            false,
            Err("--cluster-cidr fd00::/16: this host has no IPv6"),
        ),
        (&[BOTH], false, Ok("")),
        (&[BOTH], true, Ok("")),
        (&[V6, "--detect-local-mode=NodeCIDR"], false, Ok("")),
        (&["--bind-address=2001:db8::1"], true, Ok("")),
        (
            &["--bind-address=2001:db8::1"],
            false,
            Err("--bind-address 2001:db8::1: this host has no IPv6"),
        ),
        (&["--bind-address=::"], false, Ok("")),
    ] {
        match (check(words, has_ipv6), want) {
            (Ok(None), Ok("")) => {}
            (Ok(Some(said)), Ok(part)) if !part.is_empty() => {
                assert!(said.contains(part), "{words:?}: {said}");
            }
            (Err(said), Err(part)) => assert!(said.contains(part), "{words:?}: {said}"),
            (got, want) => panic!("{words:?}: {got:?} and not {want:?}"),
        }
    }
}
