//! The Helm chart in `deploy/helm`, by the real helm: what it renders the API server takes, and it says what the
//! kustomization says.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

use super::deployed::{DEPLOY, assert_same_rights, by_kind, dry_run};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![
    helm_finds_nothing_wrong_with_the_chart,
    the_server_takes_the_chart_with_all_kinds_of_values,
    the_chart_grants_what_the_role_in_deploy_grants,
    the_chart_makes_the_pod_that_the_kustomization_makes,
    every_value_of_the_chart_has_an_effect,
    the_chart_refuses_values_that_make_no_sense,
];

/// Where helm is; set by `main` before the first test.
pub(crate) static HELM: OnceLock<PathBuf> = OnceLock::new();

/// Enough to render the chart.
const SERVER: &str = "apiServer=https://192.0.2.1:6443";

/// Values that people would give, each with the least that makes it complete.
const VALUES: [&[&str]; 9] = [
    &[SERVER],
    &["besideKubeProxy=true"],
    &["existingConfigMap=kube-proxy"],
    &[SERVER, "hostPID=false", "prepare.enabled=false"],
    &[
        SERVER,
        "config.clusterCIDR=10.244.0.0/16",
        "config.conntrack.tcpEstablishedTimeout=1h",
    ],
    &[
        SERVER,
        "metricsAddress=0.0.0.0",
        "metricsPort=9249",
        "healthzPort=9256",
    ],
    &[
        SERVER,
        "updateStrategy.type=OnDelete",
        "updateStrategy.rollingUpdate=null",
    ],
    &[
        SERVER,
        "livenessProbe=null",
        "readinessProbe=null",
        "resources=null",
        "tolerations=null",
    ],
    &[
        SERVER,
        "serviceAccount.create=false",
        "serviceAccount.name=other",
        "rbac.create=false",
    ],
];

fn helm(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let program = HELM.get().expect("main finds helm before it runs tests");
    let mut command = Command::new(program);
    command.args(arguments).env("HOME", home.path());
    command.env_remove("KUBECONFIG").output().unwrap()
}

fn chart() -> String {
    format!("{DEPLOY}/helm/lb-agent")
}

fn template(values: &[&str], more: &[&str]) -> Output {
    let chart = chart();
    let mut arguments = vec!["template", "lb-agent", &chart, "--namespace=kube-system"];
    arguments.extend(values.iter().flat_map(|value| ["--set", value]));
    arguments.extend(more);
    helm(&arguments)
}

#[track_caller]
fn text_of(values: &[&str], more: &[&str]) -> String {
    let output = template(values, more);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{values:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn rendered(values: &[&str]) -> BTreeMap<String, Value> {
    by_kind(&text_of(values, &[]))
}

fn helm_finds_nothing_wrong_with_the_chart() {
    let output = helm(&["lint", "--strict", "--set", SERVER, &chart()]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("1 chart(s) linted, 0 chart(s) failed"),
        "{said}"
    );
}

fn the_server_takes_the_chart_with_all_kinds_of_values() {
    let plane = Plane::shared();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rendered.yaml");
    for values in VALUES {
        fs::write(&file, text_of(values, &[])).unwrap();
        let made = dry_run(&plane, &["-f", &file.display().to_string()]);
        assert_eq!(
            made["DaemonSet"]["metadata"]["name"], "lb-agent",
            "{values:?}"
        );
    }
}

fn the_chart_grants_what_the_role_in_deploy_grants() {
    assert_same_rights(&rendered(&[SERVER]));
}

/// As the server completes both, which spares us a list of its defaults.
fn the_chart_makes_the_pod_that_the_kustomization_makes() {
    let plane = Plane::shared();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rendered.yaml");
    fs::write(&file, text_of(&[SERVER], &[])).unwrap();
    let by_helm = dry_run(&plane, &["-f", &file.display().to_string()]);
    let by_kustomize = dry_run(&plane, &["-k", &format!("{DEPLOY}/kustomize/base")]);
    for pointer in ["/spec/template/spec", "/spec/updateStrategy"] {
        let [helm, kustomize] =
            [&by_helm, &by_kustomize].map(|objects| objects["DaemonSet"].pointer(pointer));
        assert!(helm.is_some());
        assert_eq!(helm, kustomize, "{pointer}");
    }
    let config = |objects: &BTreeMap<String, Value>, file: &str| -> Value {
        let text = objects["ConfigMap"]["data"][file].as_str().unwrap();
        let text = text.replace(
            "https://control-plane.invalid:6443",
            "https://192.0.2.1:6443",
        );
        serde_yaml_ng::from_str(&text).unwrap()
    };
    for file in ["config.conf", "kubeconfig.conf"] {
        assert_eq!(
            config(&by_helm, file),
            config(&by_kustomize, file),
            "{file}"
        );
    }
}

/// A value that a template forgot would render the same text as its default.
fn every_value_of_the_chart_has_an_effect() {
    let plain = text_of(&[SERVER], &[]);
    let others = [
        "image.repository=registry.example/lb-agent",
        "image.tag=other",
        "image.pullPolicy=Always",
        "imagePullSecrets[0].name=other",
        "apiServer=https://192.0.2.2:6443",
        "besideKubeProxy=true",
        "config.clusterCIDR=10.0.0.0/8",
        "healthzPort=1",
        "metricsPort=1",
        "metricsAddress=0.0.0.0",
        "extraArgs[0]=--no-redirect",
        "extraEnv[0].name=RUST_LOG",
        "serviceAccount.create=false",
        "serviceAccount.name=other",
        "rbac.create=false",
        "hostPID=false",
        "netnsPath=/other",
        "cgroupPath=/other",
        "bpffsPath=/other",
        "prepare.enabled=false",
        "securityContext.privileged=true",
        "appArmorProfile=RuntimeDefault",
        "priorityClassName=other",
        "tolerations[0].key=other",
        "nodeSelector.other=other",
        "affinity.nodeAffinity.other=other",
        "podLabels.other=other",
        "podAnnotations.other=other",
        "updateStrategy.type=OnDelete",
        "terminationGracePeriodSeconds=1",
        "resources.requests.cpu=1",
        "livenessProbe.periodSeconds=1",
        "readinessProbe.periodSeconds=1",
    ];
    for other in others {
        assert_ne!(text_of(&[SERVER, other], &[]), plain, "{other}");
    }
    let without_server = ["existingConfigMap"];
    let values = fs::read_to_string(format!("{}/values.yaml", chart())).unwrap();
    let values: BTreeMap<String, Value> = serde_yaml_ng::from_str(&values).unwrap();
    for name in values.keys() {
        let is_tried = |other: &&str| other.split(['.', '=', '[']).next() == Some(name);
        assert!(
            others.iter().any(is_tried) || without_server.contains(&name.as_str()),
            "{name} is not tried"
        );
    }
    let old = text_of(&[SERVER], &["--kube-version=1.29.0"]);
    assert!(old.contains("container.apparmor.security.beta.kubernetes.io/lb-agent: unconfined"));
    assert!(!old.contains("appArmorProfile"));
}

fn the_chart_refuses_values_that_make_no_sense() {
    for (values, words) in [
        (&[][..], "say where the API server is"),
        (
            &["existingConfigMap=kube-proxy", SERVER],
            "leave out apiServer",
        ),
        (&["apiServer=192.0.2.1:6443"], "apiServer"),
        (&[SERVER, "healthzPort=65536"], "healthzPort"),
        (&[SERVER, "hostPid=false"], "hostPid"),
        (&[SERVER, "image.pullPolicy=Sometimes"], "pullPolicy"),
        (&[SERVER, "extraArgs[0]=no-flag"], "extraArgs"),
    ] {
        let output = template(values, &[]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{values:?} is taken");
        assert!(errors.contains(words), "{values:?}: {errors}");
    }
}
