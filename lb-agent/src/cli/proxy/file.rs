//! `--config`: a KubeProxyConfiguration file (rule 137).
//!
//! Empty fields say nothing: kubeadm writes all of them, most of them empty. A field that nobody knows is named in a
//! warning and left alone, as kube-proxy does.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde_json::{Map, Value};

use super::{FIELDS, Field, Kind};

/// The file's `apiVersion`.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The file's `kind`.
pub const KIND: &str = "KubeProxyConfiguration";

/// What the file says, in the form of the flags.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProxyFile {
    /// Where it is.
    pub path: String,
    /// All of it, as it was read.
    pub text: String,
    /// By the field's path.
    pub values: BTreeMap<&'static str, String>,
    /// Fields that nobody knows.
    pub unknown: Vec<String>,
}

/// Why a file is of no use.
#[derive(thiserror::Error, Debug)]
pub enum ProxyFileError {
    /// It cannot be read.
    #[error("--config {path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// errno.
        error: io::Error,
    },
    /// It is not YAML.
    #[error("--config {path}: {error}; it must be a {KIND} in YAML or JSON")]
    Syntax {
        /// The file.
        path: String,
        /// What is wrong and where.
        error: serde_yaml_ng::Error,
    },
    /// It is something else.
    #[error(
        "--config {path}: apiVersion {api_version} and kind {kind}; this reads {API_VERSION} and {KIND}"
    )]
    Kind {
        /// The file.
        path: String,
        /// Its apiVersion.
        api_version: String,
        /// Its kind.
        kind: String,
    },
    /// A field is of another type, or holds what it must not.
    #[error("--config {path}: {field} is {value}; it must be {expected}")]
    Field {
        /// The file.
        path: String,
        /// Where in it.
        field: String,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: String,
    },
}

impl ProxyFile {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`ProxyFileError`].
    pub fn read(path: &Path) -> Result<Self, ProxyFileError> {
        let text = fs::read_to_string(path).map_err(|error| ProxyFileError::Io {
            path: path.display().to_string(),
            error,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads a text.
    ///
    /// # Errors
    /// See [`ProxyFileError`].
    pub fn parse(text: &str, path: &str) -> Result<Self, ProxyFileError> {
        let value: Value =
            serde_yaml_ng::from_str(text).map_err(|error| ProxyFileError::Syntax {
                path: path.to_owned(),
                error,
            })?;
        let mut fields = Map::new();
        flatten("", &value, &mut fields);
        let head = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or("none");
        if head("apiVersion") != API_VERSION || head("kind") != KIND {
            return Err(ProxyFileError::Kind {
                path: path.to_owned(),
                api_version: head("apiVersion").to_owned(),
                kind: head("kind").to_owned(),
            });
        }
        let mut file = Self {
            path: path.to_owned(),
            text: text.to_owned(),
            ..Self::default()
        };
        for field in FIELDS {
            if let Some(value) = fields.remove(field.path)
                && !says_nothing(field, &value)
            {
                file.values
                    .insert(field.path, file.read_field(field, &value)?);
            }
        }
        let known = |name: &str| matches!(name, "apiVersion" | "kind");
        let rest = fields
            .into_iter()
            .filter(|(name, v)| !known(name) && !v.is_null());
        file.unknown = rest.map(|(name, _)| name).collect();
        Ok(file)
    }

    fn read_field(&self, field: &Field, value: &Value) -> Result<String, ProxyFileError> {
        let wrong = |expected| ProxyFileError::Field {
            path: self.path.clone(),
            field: field.path.to_owned(),
            value: value.to_string(),
            expected,
        };
        let text = field.kind.text_of(value);
        let text = text.ok_or_else(|| wrong(field.kind.expected()))?;
        field.kind.check(&text).map_err(wrong)
    }
}

/// Fields by their dotted path. What is a field as a whole is not taken apart.
fn flatten(path: &str, value: &Value, fields: &mut Map<String, Value>) {
    match value {
        Value::Object(inner) if Field::at(path).is_none() => {
            for (name, value) in inner {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                flatten(&path, value, fields);
            }
        }
        Value::Object(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_) => {
            fields.insert(path.to_owned(), value.clone());
        }
    }
}

/// kube-proxy takes its default for these. `false` is not among them: a switch that is off is off.
fn says_nothing(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) => false,
        Value::Number(n) => field.zero_is_default && n.as_f64() == Some(0.0),
        Value::String(s) if s.is_empty() => true,
        Value::String(s) => {
            let is_time = matches!(field.kind, Kind::Duration | Kind::Period);
            field.zero_is_default
                && is_time
                && Kind::Duration.check(s).is_ok()
                && Kind::Period.check(s).is_err()
        }
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    fn parse(text: &str) -> Result<ProxyFile, String> {
        ProxyFile::parse(&format!("{HEAD}{text}"), "f").map_err(|error| error.to_string())
    }

    /// As kubeadm writes it: most of it says nothing.
    #[test]
    fn empty_fields_say_nothing() {
        let file = parse(
            "\
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection: {acceptContentTypes: \"\", burst: 0, contentType: \"\", kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpBeLiberal: null, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: null, udpStreamTimeout: 0s, udpTimeout: 0s}
detectLocal: {bridgeInterface: \"\", interfaceNamePrefix: \"\"}
detectLocalMode: \"\"
enableProfiling: false
healthzBindAddress: \"\"
hostnameOverride: \"\"
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: \"\", strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}
logging: {flushFrequency: 0, options: {json: {infoBufferSize: \"0\"}, text: {infoBufferSize: \"0\"}}, verbosity: 0}
metricsBindAddress: \"\"
mode: \"\"
nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
nodePortAddresses: null
oomScoreAdj: null
portRange: \"\"
showHiddenMetricsForVersion: \"\"
winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: \"\", rootHnsEndpointName: \"\", sourceVip: \"\"}
",
        )
        .expect("kubeadm's file");
        let said: Vec<_> = file
            .values
            .iter()
            .filter(|(_, text)| *text != "false")
            .collect();
        assert_eq!(
            said,
            [
                (&"bindAddress", &"0.0.0.0".to_owned()),
                (
                    &"clientConnection.kubeconfig",
                    &"/var/lib/kube-proxy/kubeconfig.conf".to_owned()
                ),
                (&"clusterCIDR", &"10.244.0.0/16".to_owned()),
                (&"logging.options.json.infoBufferSize", &"0".to_owned()),
                (&"logging.options.text.infoBufferSize", &"0".to_owned()),
            ]
        );
        assert_eq!(file.unknown, [""; 0]);
    }

    #[test]
    fn a_zero_counts_where_kube_proxy_has_a_pointer() {
        let file = parse(
            "oomScoreAdj: 0\nconntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s}\niptables: {masqueradeBit: 0}\n",
        )
        .expect("a good file");
        let want = [
            ("conntrack.maxPerCore", "0"),
            ("conntrack.tcpEstablishedTimeout", "0s"),
            ("iptables.masqueradeBit", "0"),
            ("oomScoreAdj", "0"),
        ];
        assert_eq!(
            file.values,
            want.map(|(path, text)| (path, text.to_owned())).into()
        );
    }

    #[test]
    fn what_nobody_knows_is_named() {
        let file = parse("mood: good\niptables: {colour: red}\nnone: null\n").expect("a good file");
        assert_eq!(file.unknown, ["iptables.colour", "mood"]);
    }

    /// Every field takes a value of its type, and refuses one of another with its name.
    #[test]
    fn every_field_is_read_and_checked() {
        for field in FIELDS {
            let (good, bad) = samples(field.kind);
            let with = |value: &str| {
                let mut text = String::new();
                let parts: Vec<_> = field.path.split('.').collect();
                for (depth, part) in parts.iter().enumerate() {
                    text += &format!("{}{part}:", "  ".repeat(depth));
                    text += if depth + 1 == parts.len() { " " } else { "\n" };
                }
                parse(&(text + value + "\n"))
            };
            let file = with(good).unwrap_or_else(|error| panic!("{}: {error}", field.path));
            assert!(file.values.contains_key(field.path), "{}", field.path);
            assert_eq!(file.unknown, [""; 0], "{}", field.path);
            let Some(bad) = bad else {
                continue;
            };
            let error = with(bad).expect_err(field.path);
            assert!(
                error.starts_with(&format!("--config f: {} is ", field.path))
                    && error.contains("; it must be "),
                "{error}"
            );
        }
    }

    fn samples(kind: Kind) -> (&'static str, Option<&'static str>) {
        match kind {
            Kind::Text => ("some", Some("[a]")),
            Kind::OneOf(names) => (names[names.len() - 1], Some("other")),
            Kind::Ip => ("192.0.2.1", Some("eth0")),
            Kind::Bool => ("true", Some("\"on\"")),
            Kind::Int(..) => ("7", Some("-2000")),
            Kind::Number => ("0.5", Some("fast")),
            Kind::Duration => ("7s", Some("soon")),
            Kind::Period => ("7s", Some("-7s")),
            Kind::List => ("[a, b]", Some("a")),
            Kind::Gates => ("{A: true}", Some("{A: maybe}")),
            Kind::Any => ("7", None),
        }
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        for (text, version, kind) in [
            ("kind: Config\napiVersion: v1\n", "v1", "Config"),
            (
                "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1\n",
                "kubeproxy.config.k8s.io/v1",
                "KubeProxyConfiguration",
            ),
            ("just a text\n", "none", "none"),
        ] {
            let error = ProxyFile::parse(text, "f").expect_err(text).to_string();
            assert_eq!(
                error,
                format!(
                    "--config f: apiVersion {version} and kind {kind}; this reads kubeproxy.config.k8s.io/v1alpha1 and KubeProxyConfiguration"
                )
            );
        }
        let error = ProxyFile::parse("a: [", "f")
            .expect_err("no YAML")
            .to_string();
        assert!(
            error.ends_with("it must be a KubeProxyConfiguration in YAML or JSON"),
            "{error}"
        );
    }

    #[test]
    fn a_field_of_another_type_is_named() {
        assert_eq!(
            parse("nodePortAddresses: primary\n").expect_err("a string"),
            "--config f: nodePortAddresses is \"primary\"; it must be a list of strings"
        );
        assert_eq!(
            parse("mode: userspace\n").expect_err("a mode of old"),
            "--config f: mode is \"userspace\"; it must be one of iptables, ipvs, nftables, ebpf"
        );
    }
}
