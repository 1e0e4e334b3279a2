//! What a source tells: the same from an API server and from a folder of manifests.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Foreign, Node, ObjectKey, Service, ServiceCidr, Slice, foreign::Label};

/// Kinds of objects that a source delivers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "the API's names")]
pub enum Kind {
    Service,
    Slice,
    Node,
    ServiceCidr,
    /// Services that carry the label (rule 2).
    Foreign(Label),
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Service,
        Self::Slice,
        Self::Node,
        Self::ServiceCidr,
        Self::Foreign(Label::ProxyName),
        Self::Foreign(Label::Headless),
    ];
}

/// An object that is ours to use.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the API's names")]
pub enum Object {
    Service(Service),
    /// Ours to leave alone.
    Foreign(Foreign),
    Slice(Slice),
    Node(Node),
    ServiceCidr(ServiceCidr),
}

/// Names an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "the API's names")]
pub enum ObjectRef {
    Service(ObjectKey),
    Foreign(Label, ObjectKey),
    Slice(ObjectKey),
    Node(String),
    ServiceCidr(String),
}

impl Object {
    /// Its name.
    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Service(o) => ObjectRef::Service(o.key.clone()),
            Self::Foreign(o) => ObjectRef::Foreign(o.label, o.key.clone()),
            Self::Slice(o) => ObjectRef::Slice(o.key.clone()),
            Self::Node(o) => ObjectRef::Node(o.name.clone()),
            Self::ServiceCidr(o) => ObjectRef::ServiceCidr(o.name.clone()),
        }
    }
}

impl ObjectRef {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::Foreign(label, _) => Kind::Foreign(*label),
            Self::Slice(_) => Kind::Slice,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }
}

/// A bad object, or a bad part of one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Skip {
    /// Where: `Service shop/web`, or `web.yaml: document 2 (Service shop/web)`. Identifies the
    /// condition: it is logged when it begins and when it ends.
    pub object: String,
    /// What is wrong, naming field and value, and what to do.
    pub reason: String,
}

/// One piece of news.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// An object is new or has changed.
    Apply(Object),
    /// An object is gone, or no longer ours (rule 3).
    Delete(ObjectRef),
    /// A complete list of one kind; what is not in it is gone. The first one of a kind means that
    /// the kind is synced.
    Replace(Kind, Vec<Object>),
    /// An object is bad. What was known of it stays in force.
    Skip(Skip),
    /// The object named in an earlier `Skip` is good, or gone.
    Unskip(String),
    /// The addresses of this host's interfaces, loopback excluded.
    HostAddrs(BTreeSet<IpAddr>),
}
