//! What reading and writing a family's maps takes beyond planning: its types as plain memory.

use bytemuck::Pod;
use lb_common::{
    config::FamilyConfig,
    frontend::FrontendKey,
    net::{Addr4, Addr6},
    netns::{NetnsVal, SourceAddr},
    service::{Backend, Slot},
    source::SourceKey,
};

use crate::plan;

/// An address family that has maps.
///
/// The associated types are the generic ones of `lb-common`; they are named here because only here
/// it is known that each of them is plain memory.
pub trait Family: plan::Family {
    /// [`FrontendKey`] of this family.
    type FrontendKey: Pod + From<FrontendKey<Self>> + Into<FrontendKey<Self>>;
    /// [`Slot`] of this family.
    type Slot: Pod + From<Slot<Self>> + Into<Slot<Self>>;
    /// [`Backend`] of this family.
    type Backend: Pod + From<Backend<Self>> + Into<Backend<Self>>;
    /// [`SourceKey`] of this family.
    type SourceKey: Pod + From<SourceKey<Self>> + Into<SourceKey<Self>>;

    /// As `ipFamilies` spells it.
    const LABEL: &'static str;

    /// Its part of the settings.
    fn settings(config: &lb_common::config::Config) -> &dyn FamilyConfig<Self>;
    /// Its source address of a network namespace.
    fn source(netns: &NetnsVal) -> Option<Self>;
}

impl Family for Addr4 {
    type FrontendKey = FrontendKey<Self>;
    type Slot = Slot<Self>;
    type Backend = Backend<Self>;
    type SourceKey = SourceKey<Self>;

    const LABEL: &'static str = "IPv4";

    fn settings(config: &lb_common::config::Config) -> &dyn FamilyConfig<Self> {
        config
    }

    fn source(netns: &NetnsVal) -> Option<Self> {
        netns.source()
    }
}

impl Family for Addr6 {
    type FrontendKey = FrontendKey<Self>;
    type Slot = Slot<Self>;
    type Backend = Backend<Self>;
    type SourceKey = SourceKey<Self>;

    const LABEL: &'static str = "IPv6";

    fn settings(config: &lb_common::config::Config) -> &dyn FamilyConfig<Self> {
        config
    }

    fn source(netns: &NetnsVal) -> Option<Self> {
        netns.source()
    }
}
