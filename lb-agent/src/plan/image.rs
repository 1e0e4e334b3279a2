//! What the maps should say, without ids: the content of service ports by name.
//!
//! `Display` is the dump that tests compare, and it is the same whatever ids were given.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use lb_common::{
    frontend::{Class, FrontendKey, FrontendVal, Kind, SourceRule},
    list::{Empty, List},
    name::ServiceName,
    net::{BePort, Proto},
    service::{Algorithm, BackendFlags, Service},
};

use super::Family;
use crate::{maps::Content, model::ObjectKey};

/// Names a service port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortKey {
    /// Its Service.
    pub service: ObjectKey,
    /// Its name, may be empty.
    pub port: String,
    /// Its protocol.
    pub proto: Proto,
}

impl PortKey {
    /// Lowest key of a Service: where a walk over its ports begins.
    pub fn first_of(service: &ObjectKey) -> Self {
        Self {
            service: service.clone(),
            ..Self::default()
        }
    }

    /// As the maps name it; `None` where a name is longer than Kubernetes allows.
    pub fn name(&self) -> Option<ServiceName> {
        let ObjectKey { namespace, name } = &self.service;
        ServiceName::new(namespace, name, &self.port, self.proto)
    }

    /// From what the maps say; `None` where it names nothing.
    pub fn of(name: &ServiceName) -> Option<Self> {
        let (namespace, service, port) = name.parts();
        let key = Self {
            service: ObjectKey::new(namespace, service),
            port: port.to_owned(),
            proto: name.proto,
        };
        (!service.is_empty() && key.name().as_ref() == Some(name)).then_some(key)
    }
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port.as_str() {
            "" => write!(f, "{}/{}", self.service, self.proto),
            port => write!(f, "{}:{port}/{}", self.service, self.proto),
        }
    }
}

/// The desired content of one service port in one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortImage<A: Family> {
    /// What it wants to answer on; the values name no service yet. Its ClusterIP as such
    /// ([`FrontendKey::any_port`]) is among them.
    pub frontends: BTreeMap<FrontendKey<A>, FrontendVal>,
    /// Every endpoint and what it is good for.
    pub endpoints: BTreeMap<(A, BePort), BackendFlags>,
    /// What happens where a list is empty.
    pub verdict: Empty,
    /// Seconds; 0: no affinity.
    pub affinity_timeout_s: u32,
    /// How to choose.
    pub algorithm: Algorithm,
    /// Who may dial LoadBalancer addresses: network and its length in bits; empty: everybody.
    pub sources: BTreeSet<(A, u32)>,
    /// Age of the Service, for conflicts (rule 20).
    pub created_s: i64,
}

impl<A: Family> PortImage<A> {
    /// A list in its order: endpoints on this host first, for the decision looks for those at the
    /// front of a list; then by address and port.
    pub fn list(&self, list: List) -> Vec<(A, BePort)> {
        let all =
            || (self.endpoints.iter()).filter(move |(_, flags)| flags.has(BackendFlags::of(list)));
        let on_host = |flags: &BackendFlags| flags.has(BackendFlags::HOST_ADDR);
        let first = all().filter(|(_, flags)| on_host(flags));
        let rest = all().filter(|(_, flags)| !on_host(flags));
        first.chain(rest).map(|(place, _)| *place).collect()
    }
}

/// All service ports of a family, and the ClusterIPs whose other ports are refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image<A: Family> {
    /// By name.
    pub ports: BTreeMap<PortKey, PortImage<A>>,
    /// Rule 83.
    pub vips: BTreeSet<A>,
    /// ClusterIPs of other proxies (rule 2).
    pub foreign: BTreeSet<A>,
}

impl<A: Family> Image<A> {
    /// Of what maps hold. Entries that no named service owns are left out: it is for looking at,
    /// not for repairing.
    pub fn of(content: &Content<A>) -> Self {
        let port = |id, service: &Service| PortImage {
            frontends: (content.frontends.iter())
                .filter(|(_, val)| val.service == id)
                .map(|(key, val)| (*key, *val))
                .collect(),
            endpoints: (content.backends.values())
                .filter(|backend| backend.service == id)
                .map(|backend| ((backend.addr, backend.port), backend.flags))
                .collect(),
            verdict: [service.local, service.cluster]
                .into_iter()
                .find(|list| list.is_empty())
                .map_or(Empty::Drop, |list| list.verdict()),
            affinity_timeout_s: service.affinity_timeout_s,
            algorithm: service.algorithm,
            sources: (content.sources.iter())
                .filter(|(source, _)| source.service == id)
                .map(|(source, bits)| (source.addr, *bits))
                .collect(),
            created_s: 0,
        };
        let named = |(id, name)| {
            let service = content.services.get(id)?;
            Some((PortKey::of(name)?, port(*id, service)))
        };
        let of_kind = |kind: Kind| {
            let entries = content.frontends.iter();
            entries.filter(move |(_, val)| val.kind == kind)
        };
        Self {
            ports: content.names.iter().filter_map(named).collect(),
            vips: of_kind(Kind::ANY_PORT).map(|(key, _)| key.vip).collect(),
            foreign: of_kind(Kind::FOREIGN).map(|(key, _)| key.vip).collect(),
        }
    }
}

impl<A: Family> fmt::Display for Image<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, port) in &self.ports {
            write!(f, "{key}\n{port}")?;
        }
        for vip in &self.vips {
            writeln!(f, "{vip:?} refuses other ports")?;
        }
        for vip in &self.foreign {
            writeln!(f, "{vip:?} belongs to another proxy")?;
        }
        Ok(())
    }
}

impl<A: Family> fmt::Display for PortImage<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, val) in &self.frontends {
            if val.kind != Kind::ANY_PORT {
                let at = At(&key.vip, key.port);
                writeln!(f, "  {at} {} {}", val.kind.name(), Bits(val))?;
            }
        }
        for list in [List::Cluster, List::Local] {
            write!(f, "  {list:?}:")?;
            let places = self.list(list);
            if places.is_empty() {
                write!(f, " {:?}", self.verdict)?;
            }
            for (addr, port) in places {
                write!(f, " {}", At(&addr, port))?;
            }
            writeln!(f)?;
        }
        for ((addr, port), flags) in &self.endpoints {
            writeln!(f, "  endpoint {}{}", At(addr, *port), Flags(*flags))?;
        }
        for (addr, bits) in &self.sources {
            writeln!(f, "  source {addr:?}/{bits}")?;
        }
        if self.affinity_timeout_s != 0 {
            writeln!(f, "  affinity {} s", self.affinity_timeout_s)?;
        }
        if self.algorithm != Algorithm::RANDOM {
            writeln!(f, "  algorithm {}", self.algorithm.name())?;
        }
        Ok(())
    }
}

/// An address and a port as people write them.
struct At<'a, A>(&'a A, BePort);

impl<A: Family> fmt::Display for At<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&std::net::SocketAddr::new(self.0.ip(), self.1.host()), f)
    }
}

/// What a frontend does with each class of clients.
struct Bits<'a>(&'a FrontendVal);

impl fmt::Display for Bits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = [Class::Pod, Class::Host, Class::Outside];
        let lists = classes.map(|class| format!("{:?}", self.0.list(class)));
        write!(f, "pod={} host={} outside={}", lists[0], lists[1], lists[2])?;
        for class in classes {
            let rule = self.0.sources(class);
            if rule != SourceRule::Allow {
                write!(f, " {class:?}:{rule:?}")?;
            }
        }
        Ok(())
    }
}

/// Flags of an endpoint that its lists do not show.
struct Flags(BackendFlags);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (BackendFlags::READY, "ready"),
            (BackendFlags::SERVING, "serving"),
            (BackendFlags::TERMINATING, "terminating"),
            (BackendFlags::ON_NODE, "on-node"),
            (BackendFlags::HOST_ADDR, "host-addr"),
            (BackendFlags::HINTED_AWAY, "hinted-away"),
        ];
        for (flag, name) in names {
            if self.0.has(flag) {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}
