//! Services as `service list` and `service get` show them: the JSON documented in `output.rs`.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::{
    frontend::{Class, FrontendKey, FrontendVal, Kind, SourceRule},
    id::{BackendId, ServiceId},
    list::{Empty, List, ListRange},
    service::{Backend, BackendFlags, Service},
};
use serde::Serialize;

use crate::maps::{Content, family::Family};

/// A service port in one family.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "documented in output.rs")]
pub struct ServiceView {
    pub namespace: String,
    pub name: String,
    pub port: String,
    pub protocol: String,
    pub family: &'static str,
    pub id: u32,
    pub algorithm: &'static str,
    pub affinity_timeout_seconds: u32,
    pub frontends: Vec<FrontendView>,
    pub source_ranges: Vec<String>,
    pub cluster_backends: u32,
    pub local_backends: u32,
    pub backends: Vec<BackendView>,
    pub empty_verdict: EmptyView,
}

/// An address that clients dial.
#[derive(Serialize, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "documented in output.rs")]
pub struct FrontendView {
    pub kind: &'static str,
    pub address: String,
    pub port: u16,
    pub protocol: String,
    pub lists: PerClass,
    pub source_rules: PerClass,
}

/// One word for each class of clients.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "named after the classes")]
pub struct PerClass {
    pub pod: &'static str,
    pub host: &'static str,
    pub outside: &'static str,
}

/// An endpoint of a service port.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "documented in output.rs")]
pub struct BackendView {
    pub address: String,
    pub port: u16,
    pub id: u32,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub on_node: bool,
    pub in_cluster: bool,
    pub in_local: bool,
    pub hinted_away: bool,
}

/// What an empty list answers.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named after the lists")]
pub struct EmptyView {
    pub cluster: Option<&'static str>,
    pub local: Option<&'static str>,
}

/// All service ports of one family.
pub fn services<A: Family>(content: &Content<A>) -> Vec<ServiceView> {
    let mut frontends: BTreeMap<ServiceId, Vec<FrontendView>> = BTreeMap::new();
    for (key, val) in &content.frontends {
        if val.service.is_some() {
            frontends
                .entry(val.service)
                .or_default()
                .push(frontend(key, val));
        }
    }
    let mut backends: BTreeMap<ServiceId, Vec<(BackendId, &Backend<A>)>> = BTreeMap::new();
    for (id, backend) in &content.backends {
        backends
            .entry(backend.service)
            .or_default()
            .push((*id, backend));
    }
    let mut views: Vec<_> = content
        .services
        .iter()
        .map(|(id, service)| {
            let mut view = head(content, *id, service);
            view.frontends = frontends.remove(id).unwrap_or_default();
            view.frontends
                .sort_by_key(|f| (order(f.kind), f.address.clone(), f.port));
            let mut of_service = backends.remove(id).unwrap_or_default();
            of_service.sort_by_key(|(_, backend)| (backend.addr, backend.port.host()));
            view.backends = of_service
                .iter()
                .map(|(id, b)| backend_view(*id, b))
                .collect();
            view
        })
        .collect();
    sort(&mut views);
    views
}

/// In the order of `output.rs`.
pub fn sort(views: &mut [ServiceView]) {
    let key = |view: &ServiceView| {
        (
            view.namespace.clone(),
            view.name.clone(),
            view.port.clone(),
            view.protocol.clone(),
            view.family,
        )
    };
    views.sort_by_key(key);
}

fn head<A: Family>(content: &Content<A>, id: ServiceId, service: &Service) -> ServiceView {
    let name = content.names.get(&id);
    let (namespace, service_name, port) = name.map_or(("", "", ""), |name| name.parts());
    ServiceView {
        namespace: namespace.to_owned(),
        name: service_name.to_owned(),
        port: port.to_owned(),
        protocol: name.map_or_else(String::new, |name| name.proto.to_string()),
        family: A::LABEL,
        id: id.0,
        algorithm: service.algorithm.name(),
        affinity_timeout_seconds: service.affinity_timeout_s,
        frontends: Vec::new(),
        source_ranges: content
            .sources
            .iter()
            .filter(|(range, _)| range.service == id)
            .map(|(range, bits)| format!("{}/{bits}", range.addr.ip()))
            .collect(),
        cluster_backends: service.cluster.len(),
        local_backends: service.local.len(),
        backends: Vec::new(),
        empty_verdict: EmptyView {
            cluster: empty(service.cluster),
            local: empty(service.local),
        },
    }
}

/// As users think of them: the ClusterIP first.
fn order(kind: &str) -> usize {
    [
        Kind::CLUSTER_IP,
        Kind::NODE_PORT,
        Kind::LOAD_BALANCER,
        Kind::EXTERNAL_IP,
    ]
    .iter()
    .position(|k| k.name() == kind)
    .unwrap_or(usize::MAX)
}

/// A frontend as it is shown.
pub fn frontend<A: Family>(key: &FrontendKey<A>, val: &FrontendVal) -> FrontendView {
    let address = if val.kind == Kind::NODE_PORT {
        "nodes".to_owned()
    } else {
        key.vip.ip().to_string()
    };
    FrontendView {
        kind: val.kind.name(),
        address,
        port: key.port.host(),
        protocol: key.proto.to_string(),
        lists: per_class(|class| list_name(val.list(class))),
        source_rules: per_class(|class| match val.sources(class) {
            SourceRule::Allow => "allow",
            SourceRule::Deny => "deny",
            SourceRule::Check => "check",
        }),
    }
}

/// As the JSON names lists.
pub fn list_name(list: List) -> &'static str {
    match list {
        List::Cluster => "cluster",
        List::Local => "local",
    }
}

fn per_class(word: impl Fn(Class) -> &'static str) -> PerClass {
    PerClass {
        pod: word(Class::Pod),
        host: word(Class::Host),
        outside: word(Class::Outside),
    }
}

/// A backend as it is shown.
pub fn backend_view<A: Family>(id: BackendId, backend: &Backend<A>) -> BackendView {
    let has = |flag| backend.flags.has(flag);
    BackendView {
        address: backend.addr.ip().to_string(),
        port: backend.port.host(),
        id: id.0,
        ready: has(BackendFlags::READY),
        serving: has(BackendFlags::SERVING),
        terminating: has(BackendFlags::TERMINATING),
        on_node: has(BackendFlags::ON_NODE),
        in_cluster: has(BackendFlags::IN_CLUSTER),
        in_local: has(BackendFlags::IN_LOCAL),
        hinted_away: has(BackendFlags::HINTED_AWAY),
    }
}

fn empty(range: ListRange) -> Option<&'static str> {
    range.is_empty().then(|| match range.verdict() {
        Empty::Reject => "reject",
        Empty::Drop => "drop",
    })
}

impl FrontendView {
    /// Address and port in one word, IPv6 in brackets.
    pub fn dial(&self) -> String {
        match self.address.parse() {
            Ok(ip) => SocketAddr::new(ip, self.port).to_string(),
            Err(_) => format!("{}:{}", self.address, self.port),
        }
    }

    /// The classes of clients whose word is `word`.
    pub fn classes(words: &PerClass, word: &str) -> Vec<&'static str> {
        [
            ("pod", words.pod),
            ("host", words.host),
            ("outside", words.outside),
        ]
        .into_iter()
        .filter(|(_, of_class)| *of_class == word)
        .map(|(class, _)| class)
        .collect()
    }
}

impl BackendView {
    /// Address and port in one word, IPv6 in brackets.
    pub fn dial(&self) -> String {
        match self.address.parse() {
            Ok(ip) => SocketAddr::new(ip, self.port).to_string(),
            Err(_) => format!("{}:{}", self.address, self.port),
        }
    }
}
