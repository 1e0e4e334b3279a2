//! How the agent gets to its API server, and with what rights.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use xtask::cluster::User;

use super::node::{TestNode, setup, vips};
use super::objects::{endpoint, service, slice};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![
    the_rights_of_a_node_proxier_are_enough,
    the_role_in_deploy_allows_what_is_used_and_nothing_else,
    a_master_url_alone_is_enough_for_an_open_server,
    a_master_url_wins_over_the_server_of_the_kubeconfig,
    a_configuration_file_names_the_kubeconfig,
    the_rig_of_kubeadms_kube_proxy_runs_the_agent_unchanged,
    inside_a_cluster_the_service_account_is_used,
    rights_that_come_late_are_noticed,
];

/// A change made after the agent began is seen, so lists and watches work.
fn follows(plane: &Plane, ns: &str, node: &TestNode) {
    let [v4, v6] = vips(&plane.apply(&service(ns, "web")));
    plane.apply(&slice(
        ns,
        "web-4",
        "web",
        &[
            endpoint("10.244.1.1").for_zone("zone-a"),
            endpoint("10.244.1.2").for_zone("zone-b"),
        ],
    ));
    plane.apply(&slice(ns, "web-6", "web", &[endpoint("fd00:244:1::1")]));
    // The hint shows that the Node is read, the last address that ServiceCIDRs are.
    node.expect(v4, &["10.244.1.1"]);
    node.expect(v6, &["fd00:244:1::1"]);
    node.expect(super::node::at("10.96.255.254", 80), &["EHOSTUNREACH"]);
}

/// Rule 141.
fn the_rights_of_a_node_proxier_are_enough() {
    let plane = Plane::shared();
    let ns = "node-proxier";
    plane.namespace(ns);
    let node = setup(&plane, ns).user(User::NodeProxier).start();
    follows(&plane, ns, &node);
}

/// All other tests run the agent with this role, which shows that it is enough.
fn the_role_in_deploy_allows_what_is_used_and_nothing_else() {
    let plane = Plane::shared();
    let role = plane
        .cluster
        .kubectl(&["get", "clusterrole", "lb-agent", "-o", "json"])
        .unwrap();
    let role: serde_json::Value = serde_json::from_str(&role).unwrap();
    let allowed: BTreeSet<String> = role["rules"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rule| {
            let verbs = rule["verbs"].as_array().unwrap();
            let resources = rule["resources"].as_array().unwrap();
            resources.iter().flat_map(move |resource| {
                verbs.iter().map(move |verb| {
                    format!("{} {}", verb.as_str().unwrap(), resource.as_str().unwrap())
                })
            })
        })
        .collect();
    let wanted = [
        "create events",
        "list endpoints",
        "list endpointslices",
        "list nodes",
        "list servicecidrs",
        "list services",
        "patch events",
        "watch endpoints",
        "watch endpointslices",
        "watch nodes",
        "watch servicecidrs",
        "watch services",
    ];
    assert_eq!(allowed, BTreeSet::from(wanted.map(str::to_owned)));
}

fn a_master_url_alone_is_enough_for_an_open_server() {
    let plane = Plane::shared();
    let ns = "master-url";
    plane.namespace(ns);
    let (_proxy, address) = plane.cluster.plain_http().unwrap();
    let node = setup(&plane, ns)
        .door_to(address)
        .start_with(&["--master", &format!("http://{address}")]);
    follows(&plane, ns, &node);
}

fn a_master_url_wins_over_the_server_of_the_kubeconfig() {
    let plane = Plane::shared();
    let ns = "master-wins";
    plane.namespace(ns);
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    let right = fs::read_to_string(plane.cluster.kubeconfig(User::Agent)).unwrap();
    let wrong = right.replace(&plane.cluster.url(), "https://127.0.0.1:1");
    assert_ne!(right, wrong);
    fs::write(elsewhere.path(), wrong).unwrap();
    let path = elsewhere.path().display().to_string();
    let node =
        setup(&plane, ns).start_with(&["--kubeconfig", &path, "--master", &plane.cluster.url()]);
    follows(&plane, ns, &node);
}

/// Rule 137.
fn a_configuration_file_names_the_kubeconfig() {
    let plane = Plane::shared();
    let ns = "config-file";
    plane.namespace(ns);
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": plane.cluster.kubeconfig(User::Agent) },
    });
    fs::write(file.path(), config.to_string()).unwrap();
    let path = file.path().display().to_string();
    let node = setup(&plane, ns).start_with(&["--config", &path]);
    follows(&plane, ns, &node);
}

/// What `kubeadm init` writes into the ConfigMap `kube-proxy` of a cluster with both families, but for the kubeconfig,
/// and for oomScoreAdj, which not every machine of tests lets be lowered.
const KUBEADMS: &str = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: \"\"
  burst: 0
  contentType: \"\"
  kubeconfig: KUBECONFIG
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: \"\"
  interfaceNamePrefix: \"\"
detectLocalMode: \"\"
enableProfiling: false
healthzBindAddress: \"\"
hostnameOverride: \"\"
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: \"\"
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: \"0\"
    text:
      infoBufferSize: \"0\"
  verbosity: 0
metricsBindAddress: \"\"
mode: \"\"
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: 0
portRange: \"\"
showHiddenMetricsForVersion: \"\"
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: \"\"
  rootHnsEndpointName: \"\"
  sourceVip: \"\"
";

/// Rules 137, 138 and 142: the file and the two flags of its DaemonSet; only where this laboratory has its cgroup and
/// BPF file system is added.
fn the_rig_of_kubeadms_kube_proxy_runs_the_agent_unchanged() {
    let plane = Plane::shared();
    let ns = "kubeadm-rig";
    plane.namespace(ns);
    let folder = tempfile::tempdir().unwrap();
    let (config, script) = (
        folder.path().join("config.conf"),
        folder.path().join("lb-agent"),
    );
    let kubeconfig = plane.cluster.kubeconfig(User::NodeProxier);
    let text = KUBEADMS.replace("KUBECONFIG", &kubeconfig.display().to_string());
    fs::write(&config, text).unwrap();
    let text = format!(
        r#"#!/bin/sh -e
[ "$1" = run ] || exec {agent} "$@"
for word; do
    case "$before" in --cgroup-root | --bpffs-root) roots="$roots $before=$word" ;; esac
    before=$word
done
exec {agent} --config={config} --hostname-override={ns} $roots
"#,
        agent = env!("CARGO_BIN_EXE_lb-agent"),
        config = config.display(),
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let node = setup(&plane, ns).binary(&script).start_with(&[]);
    follows(&plane, ns, &node);
    let (code, _) = node.agent.get("127.0.0.1:10256", "/healthz").unwrap();
    assert_eq!(code, 200);
    let (_, mode) = node.agent.get("127.0.0.1:10249", "/proxyMode").unwrap();
    assert_eq!(mode, "ebpf");
    assert!(!node.agent.log().contains("WARN"), "{}", node.agent.log());
}

/// As in a DaemonSet: no flag names the server, two environment variables and three mounted files do.
fn inside_a_cluster_the_service_account_is_used() {
    let plane = Plane::shared();
    let ns = "in-cluster";
    plane.namespace(ns);
    let folder = tempfile::tempdir().unwrap();
    let script = in_cluster_script(&plane, folder.path());
    let node = setup(&plane, ns).binary(&script).start_with(&[]);
    follows(&plane, ns, &node);
}

/// Gives the agent what a kubelet gives a container, in a mount namespace of its own. `--manifests`, the laboratory's
/// usual source, is taken out.
fn in_cluster_script(plane: &Plane, folder: &Path) -> PathBuf {
    let token = plane
        .cluster
        .kubectl(&["create", "token", "lb-agent", "--namespace=kube-system"])
        .unwrap();
    fs::write(folder.join("token"), token.trim()).unwrap();
    fs::write(folder.join("namespace"), "kube-system").unwrap();
    fs::copy(plane.cluster.ca(), folder.join("ca.crt")).unwrap();
    let script = folder.join("lb-agent");
    let text = format!(
        r#"#!/bin/sh -e
for word; do
    shift
    if [ -n "$skip" ]; then skip=; elif [ "$word" = --manifests ]; then skip=yes; else set -- "$@" "$word"; fi
done
[ "$1" = run ] || exec {agent} "$@"
export KUBERNETES_SERVICE_HOST={host} KUBERNETES_SERVICE_PORT={port}
exec unshare --mount sh -ec '
    mount -t tmpfs none /run
    mkdir -p /run/secrets/kubernetes.io
    cp -r {folder} /run/secrets/kubernetes.io/serviceaccount
    exec "$@"' sh {agent} "$@"
"#,
        agent = env!("CARGO_BIN_EXE_lb-agent"),
        host = plane.cluster.address().ip(),
        port = plane.cluster.address().port(),
        folder = folder.display(),
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

fn rights_that_come_late_are_noticed() {
    let plane = Plane::start();
    let ns = "default";
    plane
        .cluster
        .kubectl(&["delete", "clusterrolebinding", "lb-agent"])
        .unwrap();
    let node = setup(&plane, "late-rights").start_unready();
    node.expect_log("forbidden");
    let binding = [
        "create",
        "clusterrolebinding",
        "lb-agent",
        "--clusterrole=lb-agent",
        "--serviceaccount=kube-system:lb-agent",
    ];
    plane.cluster.kubectl(&binding).unwrap();
    let [v4, _] = vips(&plane.apply(&service(ns, "web")));
    plane.apply(&slice(ns, "web", "web", &[endpoint("10.244.1.1")]));
    node.expect_within(Duration::from_secs(60), v4, &["10.244.1.1"]);
}
