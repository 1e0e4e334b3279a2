//! `--config`: a KubeProxyConfiguration file, as far as its fields mean something here (rule 137).
//!
//! Fields that mean nothing here, or nothing yet, are named in a warning when they hold a value:
//! kubeadm writes all of them, most of them empty.

use std::{fs, io, path::Path};

use serde_json::{Map, Value};

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// What the file says, in the form of the flags; unset where it says nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "named after the flags")]
pub struct ProxyConfig {
    pub kubeconfig: Option<String>,
    pub hostname_override: Option<String>,
    pub bind_address: Option<String>,
    pub external_ips: Option<bool>,
    pub cluster_cidr: Option<String>,
    pub detect_local_mode: Option<String>,
    pub pod_bridge_interface: Option<String>,
    pub pod_interface_name_prefix: Option<String>,
    pub nodeport_addresses: Option<String>,
    pub healthz_bind_address: Option<String>,
    pub metrics_bind_address: Option<String>,
    pub masquerade_all: Option<bool>,
    pub localhost_node_ports: Option<bool>,
    /// Fields that hold a value and are not used.
    pub unused: Vec<String>,
}

/// Why a file is of no use.
#[derive(thiserror::Error, Debug)]
pub enum ProxyConfigError {
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
    /// A field is of another type.
    #[error("--config {path}: {field} is {value}; it must be {expected}")]
    Field {
        /// The file.
        path: String,
        /// Where in it.
        field: String,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
}

impl ProxyConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`ProxyConfigError`].
    pub fn read(path: &Path) -> Result<Self, ProxyConfigError> {
        let text = fs::read_to_string(path).map_err(|error| ProxyConfigError::Io {
            path: path.display().to_string(),
            error,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    fn parse(text: &str, path: &str) -> Result<Self, ProxyConfigError> {
        let value: Value =
            serde_yaml_ng::from_str(text).map_err(|error| ProxyConfigError::Syntax {
                path: path.to_owned(),
                error,
            })?;
        let fields = flatten(&value);
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or("none");
        if text("apiVersion") != API_VERSION || text("kind") != KIND {
            return Err(ProxyConfigError::Kind {
                path: path.to_owned(),
                api_version: text("apiVersion").to_owned(),
                kind: text("kind").to_owned(),
            });
        }
        let mut reader = Reader { fields, path };
        reader.fields.remove("apiVersion");
        reader.fields.remove("kind");
        let (iptables, nftables) = (
            reader.boolean("iptables.masqueradeAll")?,
            reader.boolean("nftables.masqueradeAll")?,
        );
        Ok(Self {
            kubeconfig: reader.text("clientConnection.kubeconfig")?,
            hostname_override: reader.text("hostnameOverride")?,
            bind_address: reader.text("bindAddress")?,
            external_ips: reader.boolean("featureGates.AllowServiceExternalIPs")?,
            cluster_cidr: reader.text("clusterCIDR")?,
            detect_local_mode: reader.text("detectLocalMode")?,
            pod_bridge_interface: reader.text("detectLocal.bridgeInterface")?,
            pod_interface_name_prefix: reader.text("detectLocal.interfaceNamePrefix")?,
            nodeport_addresses: reader.list("nodePortAddresses")?,
            healthz_bind_address: reader.text("healthzBindAddress")?,
            metrics_bind_address: reader.text("metricsBindAddress")?,
            masquerade_all: nftables.max(iptables),
            localhost_node_ports: reader.boolean("iptables.localhostNodePorts")?,
            unused: reader.unused(),
        })
    }
}

/// Fields by their dotted path, without those that say nothing.
fn flatten(value: &Value) -> Map<String, Value> {
    let mut fields = Map::new();
    let Value::Object(top) = value else {
        return fields;
    };
    for (name, value) in top {
        let Value::Object(group) = value else {
            if !is_empty(value) {
                fields.insert(name.clone(), value.clone());
            }
            continue;
        };
        for (inner, value) in group.iter().filter(|(_, v)| !is_empty(v)) {
            fields.insert(format!("{name}.{inner}"), value.clone());
        }
    }
    fields
}

/// kube-proxy takes its default for these. `false` is not among them: a switch that is off is off.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) => false,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() || s == "0s",
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

struct Reader<'a> {
    fields: Map<String, Value>,
    path: &'a str,
}

impl Reader<'_> {
    fn wrong(&self, field: &str, value: &Value, expected: &'static str) -> ProxyConfigError {
        ProxyConfigError::Field {
            path: self.path.to_owned(),
            field: field.to_owned(),
            value: value.to_string(),
            expected,
        }
    }

    fn text(&mut self, field: &str) -> Result<Option<String>, ProxyConfigError> {
        match self.fields.remove(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(field, &other, "a string")),
        }
    }

    fn boolean(&mut self, field: &str) -> Result<Option<bool>, ProxyConfigError> {
        match self.fields.remove(field) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(on)),
            Some(other) => Err(self.wrong(field, &other, "true or false")),
        }
    }

    fn list(&mut self, field: &str) -> Result<Option<String>, ProxyConfigError> {
        const EXPECTED: &str = "a list of strings";
        let Some(value) = self.fields.remove(field) else {
            return Ok(None);
        };
        let Value::Array(items) = &value else {
            return Err(self.wrong(field, &value, EXPECTED));
        };
        let items: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
        match items {
            Some(items) => Ok(Some(items.join(","))),
            None => Err(self.wrong(field, &value, EXPECTED)),
        }
    }

    /// What is left, without switches that are off.
    fn unused(self) -> Vec<String> {
        self.fields
            .into_iter()
            .filter(|(_, value)| *value != Value::Bool(false))
            .map(|(name, _)| name)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    #[test]
    fn the_fields_of_our_flags_are_read() {
        let text = format!(
            "{HEAD}\
clientConnection: {{kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}}
bindAddress: 192.0.2.1
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
featureGates: {{AllowServiceExternalIPs: false}}
detectLocalMode: BridgeInterface
detectLocal: {{bridgeInterface: cni0, interfaceNamePrefix: \"\"}}
healthzBindAddress: \"\"
hostnameOverride: node-a
iptables: {{localhostNodePorts: false, masqueradeAll: true, masqueradeBit: null}}
metricsBindAddress: 127.0.0.1:9000
nftables: {{masqueradeAll: false}}
nodePortAddresses: [primary, localhost]
"
        );
        let config = ProxyConfig::parse(&text, "f").expect("a good file");
        assert_eq!(
            config,
            ProxyConfig {
                kubeconfig: Some("/var/lib/kube-proxy/kubeconfig.conf".into()),
                hostname_override: Some("node-a".into()),
                bind_address: Some("192.0.2.1".into()),
                external_ips: Some(false),
                cluster_cidr: Some("10.244.0.0/16,fd00:10:244::/56".into()),
                detect_local_mode: Some("BridgeInterface".into()),
                pod_bridge_interface: Some("cni0".into()),
                pod_interface_name_prefix: None,
                nodeport_addresses: Some("primary,localhost".into()),
                healthz_bind_address: None,
                metrics_bind_address: Some("127.0.0.1:9000".into()),
                masquerade_all: Some(true),
                localhost_node_ports: Some(false),
                unused: vec![],
            }
        );
    }

    #[test]
    fn fields_without_use_here_are_named_when_they_hold_a_value() {
        let text = format!(
            "{HEAD}mode: ipvs\nbindAddress: 0.0.0.0\nfeatureGates: {{Other: true}}\nenableProfiling: false\nconntrack: {{min: null, maxPerCore: 5}}\nipvs: {{syncPeriod: 0s}}\n"
        );
        let config = ProxyConfig::parse(&text, "f").expect("a good file");
        assert_eq!(
            config.unused,
            ["conntrack.maxPerCore", "featureGates.Other", "mode"]
        );
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        let error =
            ProxyConfig::parse("kind: Config\napiVersion: v1\n", "f").expect_err("a kubeconfig");
        assert_eq!(
            error.to_string(),
            "--config f: apiVersion v1 and kind Config; this reads kubeproxy.config.k8s.io/v1alpha1 and KubeProxyConfiguration"
        );
    }

    #[test]
    fn a_field_of_another_type_is_named() {
        let error = ProxyConfig::parse(&format!("{HEAD}nodePortAddresses: primary\n"), "f")
            .expect_err("a string");
        assert_eq!(
            error.to_string(),
            "--config f: nodePortAddresses is \"primary\"; it must be a list of strings"
        );
    }
}
