//! What `deploy/kustomize` makes of a cluster: objects that the API server takes, and a pod whose rights are enough.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::node::{setup, vips};
use super::objects::{endpoint, service, slice};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![
    the_agent_serves_with_the_rights_of_its_pod,
    the_server_takes_every_kustomization,
    a_kustomization_grants_what_the_role_in_deploy_grants,
    the_overlay_for_kubeadm_brings_no_settings_of_its_own,
];

/// `deploy` of this checkout.
pub(crate) const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

/// All folders that `kubectl apply -k` is meant for.
const KUSTOMIZATIONS: [&str; 3] = ["base", "kubeadm", "beside-kube-proxy"];

/// The capabilities that the pod may ask for, by their number (linux/capability.h).
const CAPABILITIES: [(&str, u32); 5] = [
    ("NET_ADMIN", 12),
    ("SYS_PTRACE", 19),
    ("SYS_ADMIN", 21),
    ("PERFMON", 38),
    ("BPF", 39),
];

/// The objects of a YAML text by kind; a text of ours has one of each.
pub(crate) fn by_kind(yaml: &str) -> BTreeMap<String, Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(yaml);
    let objects =
        documents.map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap());
    let mut found = BTreeMap::new();
    for object in objects.filter(|object| !object.is_null()) {
        let kind = object["kind"].as_str().unwrap().to_owned();
        assert!(
            found.insert(kind.clone(), object).is_none(),
            "two of {kind}"
        );
    }
    found
}

/// What the server would make of a file of objects, by kind.
pub(crate) fn dry_run(plane: &Plane, source: &[&str]) -> BTreeMap<String, Value> {
    let command = [
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "-o",
        "json",
    ];
    let list = plane.cluster.kubectl(&[&command, source].concat()).unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    let objects = list["items"].as_array().unwrap().clone();
    let kind = |object: &Value| object["kind"].as_str().unwrap().to_owned();
    objects
        .into_iter()
        .map(|object| (kind(&object), object))
        .collect()
}

/// Roles alone: who has them, and what they allow.
#[track_caller]
pub(crate) fn assert_same_rights(rendered: &BTreeMap<String, Value>) {
    let wanted = by_kind(&fs::read_to_string(format!("{DEPLOY}/rbac.yaml")).unwrap());
    assert_eq!(
        rendered["ClusterRole"]["rules"],
        wanted["ClusterRole"]["rules"]
    );
    for field in ["roleRef", "subjects"] {
        assert_eq!(
            rendered["ClusterRoleBinding"][field],
            wanted["ClusterRoleBinding"][field]
        );
    }
    for field in ["name", "namespace"] {
        assert_eq!(
            rendered["ServiceAccount"]["metadata"][field],
            wanted["ServiceAccount"]["metadata"][field]
        );
    }
    let of_rights = ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    let kinds: Vec<&str> = rendered
        .keys()
        .map(String::as_str)
        .filter(|kind| of_rights.contains(kind))
        .collect();
    assert_eq!(kinds, ["ClusterRole", "ClusterRoleBinding"]);
}

fn folder(name: &str) -> String {
    format!("{DEPLOY}/kustomize/{name}")
}

fn kustomize(plane: &Plane, name: &str) -> BTreeMap<String, Value> {
    by_kind(
        &plane
            .cluster
            .kubectl(&["kustomize", &folder(name)])
            .unwrap(),
    )
}

fn the_server_takes_every_kustomization() {
    let plane = Plane::shared();
    for name in KUSTOMIZATIONS {
        let made = dry_run(&plane, &["-k", &folder(name)]);
        let pod = &made["DaemonSet"]["spec"]["template"]["spec"];
        assert_eq!(pod["hostNetwork"], true, "{name}");
        assert_eq!(
            pod["containers"][0]["imagePullPolicy"], "IfNotPresent",
            "{name}"
        );
    }
}

fn a_kustomization_grants_what_the_role_in_deploy_grants() {
    let plane = Plane::shared();
    for name in KUSTOMIZATIONS {
        assert_same_rights(&kustomize(&plane, name));
    }
}

fn the_overlay_for_kubeadm_brings_no_settings_of_its_own() {
    let plane = Plane::shared();
    let objects = kustomize(&plane, "kubeadm");
    assert!(!objects.contains_key("ConfigMap"));
    let volumes = &objects["DaemonSet"]["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes[0]["configMap"]["name"], "kube-proxy");
}

/// Complaints that have to do with the laboratory: it gives flags of its own, and is no kubelet, which sets the score.
const NOT_OF_A_POD: [&str; 3] = [
    "is ignored beside --config",
    "--cluster-cidr is not given",
    "oom_score_adj",
];

/// Of a container the test has what could get in the agent's way: the capabilities of the pod and no others, a
/// read-only root and /proc/sys, and the files that a kubelet mounts. Before it runs what the init container runs.
fn the_agent_serves_with_the_rights_of_its_pod() {
    let plane = Plane::shared();
    let ns = "rights-of-its-pod";
    plane.namespace(ns);
    let objects = kustomize(&plane, "base");
    let pod = &objects["DaemonSet"]["spec"]["template"]["spec"];
    let wanted = capabilities(pod);
    let files = tempfile::tempdir().unwrap();
    write_files(&plane, &objects["ConfigMap"], files.path());
    let script = container(files.path(), &wanted);
    let arguments: Vec<String> = pod["containers"][0]["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap().replace("$(NODE_NAME)", ns))
        .collect();
    // As two words, as the laboratory looks for flags that it need not give.
    let arguments: Vec<&str> = arguments.iter().flat_map(|word| word.split('=')).collect();
    let node = setup(&plane, ns).binary(&script).start_with(&arguments);

    let [v4, v6] = vips(&plane.apply(&service(ns, "web")));
    plane.apply(&slice(ns, "web-4", "web", &[endpoint("10.244.1.1")]));
    plane.apply(&slice(ns, "web-6", "web", &[endpoint("fd00:244:1::1")]));
    node.expect(v4, &["10.244.1.1"]);
    node.expect(v6, &["fd00:244:1::1"]);

    let status = fs::read_to_string(format!("/proc/{}/status", node.agent.pid())).unwrap();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    let mask = wanted
        .iter()
        .fold(0, |mask, (_, number)| mask | 1_u64 << number);
    assert_eq!(effective, mask);
    let log = node.agent.log();
    let complaints = log
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"));
    for complaint in complaints {
        assert!(
            NOT_OF_A_POD.iter().any(|words| complaint.contains(words)),
            "{complaint}"
        );
    }
}

fn capabilities(pod: &Value) -> Vec<(&'static str, u32)> {
    let asked = &pod["containers"][0]["securityContext"]["capabilities"];
    assert_eq!(asked["drop"], serde_json::json!(["ALL"]));
    let asked = asked["add"].as_array().unwrap().iter();
    let known = |name: &Value| {
        *CAPABILITIES
            .iter()
            .find(|(known, _)| name == known)
            .unwrap()
    };
    asked.map(known).collect()
}

/// What a kubelet mounts: the ConfigMap, with the address of this API server, and the service account.
fn write_files(plane: &Plane, config: &Value, folder: &Path) {
    for (name, text) in config["data"].as_object().unwrap() {
        let text = text
            .as_str()
            .unwrap()
            .replace("https://control-plane.invalid:6443", &plane.cluster.url());
        fs::write(folder.join(name), text).unwrap();
    }
    let token = plane
        .cluster
        .kubectl(&["create", "token", "lb-agent", "--namespace=kube-system"])
        .unwrap();
    fs::write(folder.join("token"), token.trim()).unwrap();
    fs::copy(plane.cluster.ca(), folder.join("ca.crt")).unwrap();
}

/// A program that runs the agent as the pod does, on a host that has its BPF file system.
fn container(files: &Path, capabilities: &[(&str, u32)]) -> PathBuf {
    let bounding: String = capabilities
        .iter()
        .map(|(name, _)| format!(",+{}", name.to_lowercase()))
        .collect();
    let script = files.join("lb-agent");
    let text = format!(
        r#"#!/bin/sh -e
[ "$1" = run ] || exec {agent} "$@"
for word; do
    if [ "$flag" = --bpffs-root ]; then bpffs=$word; fi
    flag=$word
done
mount -t bpf bpf "$bpffs"
exec unshare --mount sh -ec '
    mount -t tmpfs none /run
    mount -t tmpfs none /var/lib
    mkdir -p /var/lib/kube-proxy /run/secrets/kubernetes.io/serviceaccount
    cp {files}/*.conf /var/lib/kube-proxy
    cp {files}/token {files}/ca.crt /run/secrets/kubernetes.io/serviceaccount
    "$@" --init-only
    mount --bind /proc/sys /proc/sys
    mount -o remount,bind,ro /proc/sys
    mount -o remount,bind,ro /
    exec setpriv --bounding-set=-all{bounding} --inh-caps=-all "$@"' sh {agent} "$@"
"#,
        agent = env!("CARGO_BIN_EXE_lb-agent"),
        files = files.display(),
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}
