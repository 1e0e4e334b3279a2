//! Flags and file together: what each field holds, and who said so.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    FIELDS, Field, Kind, ProxyFile, ProxyFlags, Use,
    file::{API_VERSION, KIND},
    kind::{boolean, duration, gates, items},
};

/// The gate that means something here (rule 69).
const EXTERNAL_IPS: &str = "AllowServiceExternalIPs";

/// Who said it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nobody.
    Default,
    /// A flag.
    Flag,
    /// The file of `--config`.
    File,
}

/// What a field holds.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    text: String,
    origin: Origin,
}

/// kube-proxy's configuration as it counts here.
#[derive(Clone, Debug, Default)]
pub struct ProxyConfig {
    file: Option<String>,
    held: BTreeMap<&'static str, Held>,
    /// Flags that do not count beside the file.
    ignored: Vec<&'static str>,
    unknown: Vec<String>,
}

impl ProxyConfig {
    /// As kube-proxy: beside a file its flags do not count, but for some.
    pub fn merge(flags: &ProxyFlags, file: Option<&ProxyFile>) -> Self {
        let mut merged = Self {
            file: file.map(|file| file.path.clone()),
            unknown: file.map(|file| file.unknown.clone()).unwrap_or_default(),
            ..Self::default()
        };
        for field in FIELDS {
            let flag = flags.get(field);
            if flag.is_some() && file.is_some() && !field.flag_wins {
                merged.ignored.push(field.flag);
            }
            let flag = flag.filter(|_| file.is_none() || field.flag_wins);
            let said = file.and_then(|file| file.values.get(field.path));
            let (text, origin) = match (flag, said) {
                (Some(text), _) => (text, Origin::Flag),
                (None, Some(text)) => (text.as_str(), Origin::File),
                (None, None) => continue,
            };
            merged.set(field.path, text.to_owned(), origin);
        }
        merged.ignored.dedup();
        merged
    }

    /// As if somebody had said so.
    pub fn set(&mut self, path: &'static str, text: String, origin: Origin) {
        self.held.insert(path, Held { text, origin });
    }

    /// The file of `--config`.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// What a field holds.
    pub fn text(&self, path: &str) -> &str {
        let default = || Field::at(path).map_or("", |field| field.default);
        (self.held.get(path)).map_or_else(default, |held| held.text.as_str())
    }

    /// What a field holds, if somebody said it.
    pub fn said(&self, path: &str) -> Option<&str> {
        self.held.get(path).map(|held| held.text.as_str())
    }

    /// Who said it.
    pub fn origin(&self, path: &str) -> Origin {
        self.held
            .get(path)
            .map_or(Origin::Default, |held| held.origin)
    }

    /// Is a switch on?
    pub fn is_on(&self, path: &str) -> bool {
        boolean(self.text(path)).unwrap_or(false)
    }

    /// A number.
    pub fn number(&self, path: &str) -> f64 {
        self.text(path).parse().unwrap_or_default()
    }

    /// A whole number.
    pub fn int(&self, path: &str) -> i64 {
        self.text(path).parse().unwrap_or_default()
    }

    /// A duration.
    pub fn duration(&self, path: &str) -> Duration {
        duration(self.text(path))
    }

    /// What errors call a field: as its author wrote it.
    pub fn name(&self, path: &str) -> String {
        match (self.origin(path), &self.file, Field::at(path)) {
            (Origin::File, Some(file), _) => format!("--config {file}: {path}"),
            (_, _, Some(field)) if !field.flag.is_empty() => format!("--{}", field.flag),
            _ => path.to_owned(),
        }
    }

    /// The field of the mode's own group. `ebpf` has none: whichever is said counts.
    pub fn in_mode(&self, leaf: &str) -> String {
        let at = |group: &str| format!("{group}.{leaf}");
        let nftables = at("nftables");
        match self.text("mode") {
            "nftables" => nftables,
            "ipvs" if Field::at(&at("ipvs")).is_some() => at("ipvs"),
            "ebpf" if self.says_more(&nftables) => nftables,
            _ => at("iptables"),
        }
    }

    fn says_more(&self, path: &str) -> bool {
        let default = Field::at(path).map(|field| field.default);
        self.said(path).is_some_and(|text| Some(text) != default)
    }

    /// Are externalIPs served?
    pub fn external_ips(&self) -> bool {
        let gates = gates(self.text("featureGates")).unwrap_or_default();
        let gate = gates.iter().rfind(|(name, _)| *name == EXTERNAL_IPS);
        gate.is_none_or(|(_, on)| *on)
    }

    /// What the author should be told.
    pub fn warnings(&self) -> Vec<String> {
        let unknown = self.unknown.iter();
        let unknown =
            unknown.map(|field| format!("--config: nobody knows the field {field}; remove it"));
        let ignored = self.ignored.iter();
        let ignored = ignored
            .map(|flag| format!("--{flag} is ignored beside --config: write it into the file"));
        let gates = gates(self.text("featureGates")).unwrap_or_default();
        let gates = (gates.into_iter().filter(|(name, _)| *name != EXTERNAL_IPS))
            .map(|(name, _)| format!("{}: {name} says nothing here", self.name("featureGates")));
        let unused = FIELDS.iter().filter_map(|field| {
            let Use::Warned(why) = field.use_ else {
                return None;
            };
            let text = self.text(field.path);
            self.is_telling(field, text)
                .then(|| format!("{} {text} changes nothing: {why}", self.name(field.path)))
        });
        unknown.chain(ignored).chain(gates).chain(unused).collect()
    }

    /// Worth a warning: not what it is anyway, and not off.
    fn is_telling(&self, field: &Field, text: &str) -> bool {
        let is_off = match field.kind {
            Kind::Bool => boolean(text) != Some(true),
            Kind::Int(..) => text == "0",
            Kind::Duration | Kind::Period => duration(text).is_zero(),
            Kind::List => items(text).next().is_none(),
            Kind::Text | Kind::OneOf(_) | Kind::Ip | Kind::Number | Kind::Gates | Kind::Any => {
                matches!(text, "" | "ebpf")
            }
        };
        !is_off && text != field.default && self.said(field.path).is_some()
    }

    /// A KubeProxyConfiguration that says all of it (`--write-config-to`, `/configz`).
    pub fn to_json(&self) -> Value {
        let mut root = Map::new();
        root.insert("apiVersion".to_owned(), json!(API_VERSION));
        root.insert("kind".to_owned(), json!(KIND));
        for field in FIELDS {
            put(
                &mut root,
                field.path,
                field.kind.value_of(self.text(field.path)),
            );
        }
        Value::Object(root)
    }
}

fn put(object: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(object.insert(path.to_owned(), value)),
        Some((group, rest)) => {
            let inner = object.entry(group).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> ProxyFile {
        let head = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n");
        ProxyFile::parse(&(head + text), "f").expect("a good file")
    }

    #[test]
    fn flags_count_alone_and_beside_a_file_only_some_do() {
        let flags = ProxyFlags::default()
            .with("cluster-cidr", "10.0.0.0/8")
            .with("hostname-override", "one")
            .with("v", "4");
        let alone = ProxyConfig::merge(&flags, None);
        assert_eq!(alone.text("clusterCIDR"), "10.0.0.0/8");
        assert_eq!(alone.origin("clusterCIDR"), Origin::Flag);
        assert_eq!(alone.warnings(), [""; 0]);

        let file = file("clusterCIDR: 11.0.0.0/8\nhostnameOverride: two\n");
        let beside = ProxyConfig::merge(&flags, Some(&file));
        assert_eq!(beside.text("clusterCIDR"), "11.0.0.0/8");
        assert_eq!(beside.origin("clusterCIDR"), Origin::File);
        assert_eq!(beside.text("hostnameOverride"), "one");
        assert_eq!(beside.int("logging.verbosity"), 4);
        assert_eq!(beside.int("oomScoreAdj"), -999);
        assert_eq!(beside.origin("oomScoreAdj"), Origin::Default);
        assert_eq!(
            beside.warnings(),
            ["--cluster-cidr is ignored beside --config: write it into the file"]
        );
    }

    #[test]
    fn each_flag_reaches_every_field_that_it_is_for() {
        let flags = ProxyFlags::default().with("masquerade-all", "true");
        let merged = ProxyConfig::merge(&flags, None);
        assert!(merged.is_on("iptables.masqueradeAll") && merged.is_on("nftables.masqueradeAll"));
    }

    #[test]
    fn the_group_of_the_mode_counts() {
        let text =
            "iptables: {syncPeriod: 1s}\nnftables: {syncPeriod: 2s}\nipvs: {syncPeriod: 3s}\n";
        for (mode, want) in [
            ("", "1s"),
            ("iptables", "1s"),
            ("nftables", "2s"),
            ("ipvs", "3s"),
            ("ebpf", "2s"),
        ] {
            let merged = ProxyConfig::merge(
                &ProxyFlags::default(),
                Some(&file(&format!("mode: \"{mode}\"\n{text}"))),
            );
            assert_eq!(merged.text(&merged.in_mode("syncPeriod")), want, "{mode}");
        }
    }

    /// Every field that changes nothing and should be told of is told of when it is set, and no other is.
    #[test]
    fn what_is_set_and_changes_nothing_is_told() {
        for field in FIELDS {
            let text = match field.kind {
                Kind::Text | Kind::List | Kind::Any => "x",
                Kind::OneOf(names) => names[1],
                Kind::Ip => "192.0.2.1",
                Kind::Bool => "true",
                Kind::Int(..) | Kind::Number => "7",
                Kind::Duration | Kind::Period => "7s",
                Kind::Gates => "AllowServiceExternalIPs=true",
            };
            let mut merged = ProxyConfig::default();
            merged.set(field.path, text.to_owned(), Origin::Flag);
            let is_told = matches!(field.use_, Use::Warned(_));
            assert_eq!(
                merged.warnings().len(),
                usize::from(is_told),
                "{}",
                field.path
            );
            let mut merged = ProxyConfig::default();
            merged.set(field.path, field.default.to_owned(), Origin::File);
            assert_eq!(merged.warnings(), [""; 0], "{}", field.path);
        }
        let mut merged = ProxyConfig::default();
        merged.set("mode", "ebpf".to_owned(), Origin::Flag);
        assert_eq!(merged.warnings(), [""; 0]);
        merged.set("mode", "ipvs".to_owned(), Origin::Flag);
        assert_eq!(
            merged.warnings(),
            [
                "--proxy-mode ipvs changes nothing: Services are translated by BPF, whatever the mode"
            ]
        );
    }

    #[test]
    fn of_the_feature_gates_that_of_external_ips_counts() {
        for (text, want, warnings) in [
            ("", true, 0),
            ("AllowServiceExternalIPs=false", false, 0),
            ("Other=true, AllowServiceExternalIPs=true", true, 1),
            ("Other=false", true, 1),
        ] {
            let mut merged = ProxyConfig::default();
            merged.set("featureGates", text.to_owned(), Origin::Flag);
            assert_eq!(merged.external_ips(), want, "{text}");
            assert_eq!(merged.warnings().len(), warnings, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let flags = ProxyFlags::default()
            .with("cluster-cidr", "10.0.0.0/8,fd00::/16")
            .with("nodeport-addresses", "primary,10.0.0.0/8")
            .with("feature-gates", "A=true,B=false")
            .with("oom-score-adj", "0")
            .with("kube-api-qps", "0.5")
            .with("conntrack-udp-timeout", "40s")
            .with("iptables-localhost-nodeports", "false");
        let first = ProxyConfig::merge(&flags, None);
        let text = serde_yaml_ng::to_string(&first.to_json()).expect("YAML");
        let again = ProxyFile::parse(&text, "f").expect(&text);
        let second = ProxyConfig::merge(&ProxyFlags::default(), Some(&again));
        for field in FIELDS {
            assert_eq!(
                first.text(field.path),
                second.text(field.path),
                "{}",
                field.path
            );
        }
        assert_eq!(again.unknown, [""; 0]);
    }
}
