//! Keeps the maps as the store says: plans what changed, applies it, tries again what failed.

mod half;
mod node_wait;
mod retry;
mod round;
mod settings;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lb_common::{
    config::Config as ProgramConfig,
    frontend::{Class, SourceRule},
    net::{Addr4, Addr6, BePort},
};

pub use half::{Half, HalfError};
pub use node_wait::NodeError;
pub use round::{Counted, Round};
pub use settings::{Settings, SettingsError};

use crate::{
    config::{Config, Source},
    devices::{conntrack, lb0::Lb0},
    host_addrs,
    maps::kernel::KernelMaps,
    model::{Changes, Event, Kind, ObjectKey, Service, Store},
    netns_watch,
    plan::{self, Facts, HealthCheck, HealthChecks, NoLocal, compile, ranges},
};
use half::spans;
use node_wait::NodeWait;
use retry::Retry;
use round::count_news;

/// Pause before settings that could not be written are tried again.
const SETTINGS_PAUSE: Duration = Duration::from_secs(5);

/// The whole state of a running agent's control plane.
pub struct Reconciler {
    config: Config,
    store: Store,
    facts: Facts,
    v4: Half<Addr4, KernelMaps<Addr4>>,
    v6: Half<Addr6, KernelMaps<Addr6>>,
    settings: Settings,
    pending: Changes,
    retry: Retry,
    is_complete: bool,
    /// Services whose source ranges need the address of a pod.
    mixed: BTreeSet<ObjectKey>,
    /// All namespaces have been looked at in this round.
    has_scanned: bool,
    /// Nothing is left of an earlier agent that belongs to nobody.
    is_swept: bool,
    /// For what of this node's object the first write waits.
    node_wait: NodeWait,
    /// Settings or addresses of this node could not be written: when to try again.
    settings_retry: Option<Instant>,
    /// ServiceCIDRs have changed since the last round.
    cidrs_changed: bool,
    /// Where packets enter the stack.
    lb0: Lb0,
    /// What the settings cannot hold, said already.
    warnings: BTreeSet<String>,
    /// Services whose load balancer asks this node.
    health_checks: BTreeMap<ObjectKey, HealthCheck>,
    /// They, or where they are answered, changed since they were last asked for.
    health_checks_changed: bool,
    /// Services that a Local policy drops here, IPv4 and IPv6.
    no_local: BTreeMap<ObjectKey, [NoLocal; 2]>,
    /// News so far, and those that a round has taken up, or that changed nothing.
    counted: Counted,
    settled: Counted,
    /// Triggers from before say nothing about this process.
    begun: Timestamp,
}

impl Reconciler {
    /// Takes over the pinned maps below `config.bpffs_root`.
    ///
    /// # Errors
    /// They cannot be opened or read.
    pub fn adopt(config: Config, host_netns: u64) -> anyhow::Result<Self> {
        let root: PathBuf = config.bpffs_root.clone();
        let store = Store::new(config.node_name.clone(), Kind::ALL);
        Ok(Self {
            facts: Facts::new(&config, None, store.host_addrs()),
            v4: Half::adopt(KernelMaps::open(&root)?)?,
            v6: Half::adopt(KernelMaps::open(&root)?)?,
            settings: Settings::adopt(&root, host_netns, now_ns())?,
            store,
            pending: Changes::default(),
            retry: Retry::default(),
            is_complete: false,
            is_swept: false,
            mixed: BTreeSet::new(),
            has_scanned: false,
            node_wait: NodeWait::new(&config, Instant::now()),
            settings_retry: None,
            cidrs_changed: false,
            lb0: Lb0::default(),
            warnings: BTreeSet::new(),
            health_checks: BTreeMap::new(),
            health_checks_changed: true,
            no_local: BTreeMap::new(),
            counted: Counted::default(),
            settled: Counted::default(),
            begun: Timestamp::now(),
            config,
        })
    }

    /// Takes one piece of news; nothing is written before [`Reconciler::round`].
    pub fn take(&mut self, event: Event) {
        if let Event::Skip(skip) = &event
            && self.store.skipped().get(&skip.object) != Some(&skip.reason)
        {
            tracing::warn!(object = skip.object, "skipped: {}", skip.reason);
        }
        if let Event::Unskip(object) = &event
            && self.store.skipped().contains_key(object)
        {
            tracing::info!(object, "no longer skipped");
        }
        self.cidrs_changed |= concerns_cidrs(&event);
        let counted = count_news(&event);
        self.counted.services += counted.services;
        self.counted.slices += counted.slices;
        self.pending.merge(self.store.apply(event));
        if self.pending.is_empty() {
            self.settled = self.counted;
        }
    }

    /// Is there something to do now?
    pub fn is_due(&self) -> bool {
        let now = Instant::now();
        let is_ready = self.store.is_synced() && !self.waits_for_node(now);
        is_ready
            && (!self.is_complete
                || !self.pending.is_empty()
                || self.retry.is_due(now)
                || self.settings_retry.is_some_and(|at| at <= now))
    }

    fn waits_for_node(&self, now: Instant) -> bool {
        !self.is_complete && self.node_wait.waits(self.store.node(), now)
    }

    /// What a first round goes on without, told; afterwards nothing.
    ///
    /// # Errors
    /// It cannot go on.
    pub fn conclude_wait(&self) -> Result<(), NodeError> {
        if self.is_complete {
            return Ok(());
        }
        let (name, node) = (&self.config.node_name, self.store.node());
        let warning = self
            .node_wait
            .conclude(name, node, host_addrs::has_ipv6())?;
        if let Some(warning) = warning {
            tracing::warn!(node = name, "{warning}");
        }
        Ok(())
    }

    /// When to look again though no news come.
    pub fn next_retry(&self) -> Option<Instant> {
        let node = (self.node_wait.next(self.store.node()))
            .filter(|_| !self.is_complete && self.store.is_synced());
        let retries = self.retry.next().into_iter().chain(self.settings_retry);
        retries.chain(node).min()
    }

    /// Has everything that the first lists named been written?
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Objects that are skipped.
    pub fn skipped(&self) -> usize {
        self.store.skipped().len()
    }

    /// Services whose last write failed.
    pub fn failed(&self) -> usize {
        self.retry.len()
    }

    /// News so far, and those among them that the next round takes up.
    pub fn news(&self) -> (Counted, Counted) {
        let (all, settled) = (self.counted, self.settled);
        let pending = Counted {
            services: all.services - settled.services,
            slices: all.slices - settled.slices,
        };
        (all, pending)
    }

    /// Service ports that a Local policy drops here, IPv4 and IPv6 (rule 130).
    pub fn no_local(&self) -> [NoLocal; 2] {
        let sum = |all: [NoLocal; 2], one: &[NoLocal; 2]| {
            let [(all4, one4), (all6, one6)] = [(all[0], one[0]), (all[1], one[1])];
            [(all4, one4), (all6, one6)].map(|(all, one)| NoLocal {
                internal: all.internal + one.internal,
                external: all.external + one.external,
            })
        };
        self.no_local.values().fold(Default::default(), sum)
    }

    /// May load balancers send traffic here (rule 117)? A cluster's node that the API server does not know may not;
    /// manifests need not have one.
    pub fn is_node_eligible(&self) -> bool {
        let is_clusters = matches!(self.config.source, Source::Kubernetes { .. });
        let unknown = || !is_clusters || !self.store.has(Kind::Node);
        self.store.is_node_eligible().unwrap_or_else(unknown)
    }

    /// What the agent says of itself.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Have connected UDP sockets from before the hooks been ended?
    pub fn is_stale_udp_done(&self) -> bool {
        self.settings.state().stale_udp_done != 0
    }

    /// Packets go through this device; written with the next settings.
    pub fn set_lb0(&mut self, lb0: Lb0) {
        if self.lb0 != lb0 {
            self.lb0 = lb0;
            if self.is_complete {
                self.put_ranges();
            }
        }
    }

    /// What health checks of load balancers are to be answered; `None`: as the last time.
    pub fn take_health_checks(&mut self) -> Option<HealthChecks> {
        std::mem::take(&mut self.health_checks_changed).then(|| {
            let addrs = self.facts.health_check_addrs();
            HealthChecks::new(addrs, self.health_checks.values())
        })
    }

    /// Notes that they have, for the next agent, too.
    pub fn set_stale_udp_done(&mut self, is_done: bool) {
        self.settings
            .say(|state| state.stale_udp_done = u32::from(is_done));
    }

    /// Writes what changed. NodePorts first widen, so that none is dialled before it is looked for;
    /// ranges that refuse come last, so that no known address is refused.
    pub fn round(&mut self) -> Round {
        let start = Instant::now();
        self.has_scanned = false;
        let mut changes = std::mem::take(&mut self.pending);
        self.settled = self.counted;
        let is_full = changes.facts || self.cidrs_changed || !self.is_complete;
        if changes.facts || !self.is_complete {
            self.renew_facts(&mut changes);
        }
        if self.settings_retry.take_if(|at| *at <= start).is_some() {
            self.put_node_addrs();
            self.cidrs_changed = true;
            changes.ranges = true;
        }
        if !self.is_complete {
            changes
                .services
                .extend(self.store.services().map(|service| service.key.clone()));
            (changes.services).extend(self.store.foreign().map(|foreign| foreign.key));
            changes.ranges = true;
        }
        changes.services.extend(self.retry.take_due(start));
        let changes_ranges = changes.ranges && self.ranges_differ(&changes);
        self.cidrs_changed = false;
        if changes_ranges {
            self.widen_node_ports();
        }
        let mut round = Round {
            services: changes.services.len(),
            is_full,
            ..Round::default()
        };
        for key in &changes.services {
            let (ops, needs_netns) = self.put(key);
            round.ops += ops;
            round.needs_netns |= needs_netns;
            round.failures += usize::from(self.retry.has(key));
        }
        let begun = self.begun;
        let triggers = changes.triggers.into_iter();
        let (retry, is_ours) = (&self.retry, |at| at >= begun);
        round.triggers = triggers
            .filter(|trigger| is_ours(trigger.at) && !retry.has(&trigger.service))
            .collect();
        if !self.is_complete {
            round.ops += self.sweep();
        }
        if changes_ranges {
            self.put_ranges();
        }
        round.lost_udp = self.v4.take_lost_udp() | self.v6.take_lost_udp();
        round.took = start.elapsed();
        round.is_success = self.retry.len() == 0 && self.settings_retry.is_none();
        round.is_stuck = self.retry.len() > 0 && self.retry.len() >= self.store.services().count();
        self.conclude(&round);
        round
    }

    fn conclude(&mut self, round: &Round) {
        let is_first = !self.is_complete;
        self.is_complete = true;
        let (skipped, failed) = (count(self.skipped()), count(self.failed()));
        let took = u64::try_from(round.took.as_nanos()).unwrap_or(u64::MAX);
        let now = now_ns();
        self.settings.say(|state| {
            state.skipped = skipped;
            state.failed = failed;
            state.applied_ns = now;
            state.apply_total_ns = state.apply_total_ns.wrapping_add(took);
            if is_first {
                state.synced_ns = now;
            }
        });
        if is_first {
            tracing::info!(services = round.services, changes = round.ops, took = ?round.took, "data plane complete");
        } else {
            tracing::debug!(services = round.services, changes = round.ops, took = ?round.took, "applied");
        }
    }

    /// This node changed: every Service is looked at again where it depends on it.
    fn renew_facts(&mut self, changes: &mut Changes) {
        let facts = Facts::new(&self.config, self.store.node(), self.store.host_addrs());
        if facts == self.facts && self.is_complete {
            return;
        }
        self.facts = facts;
        self.health_checks_changed = true;
        changes
            .services
            .extend(self.store.services().map(|service| service.key.clone()));
        changes.ranges = true;
        self.put_node_addrs();
    }

    fn put_node_addrs(&mut self) {
        if let Err(error) = self.settings.put_node_addrs(&self.facts) {
            tracing::error!(%error, again_in = ?SETTINGS_PAUSE, "not every address of this node answers NodePorts");
            self.settings_retry = Some(Instant::now() + SETTINGS_PAUSE);
        }
    }

    /// One Service in both families.
    fn put(&mut self, key: &ObjectKey) -> (usize, bool) {
        let served = self.store.service(key).map(|service| self.gated(service));
        let service = served.as_deref();
        let slices = self.store.slices_of(key);
        let image4 = service
            .map(|s| compile::<Addr4>(s, &slices, &self.facts))
            .unwrap_or_default();
        let image6 = service
            .map(|s| compile::<Addr6>(s, &slices, &self.facts))
            .unwrap_or_default();
        let check = service.and_then(|s| HealthCheck::of(s, &slices, &self.facts));
        let no_local = service.map(|s| [NoLocal::of(s, &image4), NoLocal::of(s, &image6)]);
        let no_local = no_local.filter(|counts| *counts != [NoLocal::default(); 2]);
        let is_mixed = needs_netns(&image4) || needs_netns(&image6);
        let becomes_mixed = if is_mixed {
            self.mixed.insert(key.clone())
        } else {
            self.mixed.remove(key);
            false
        };
        if becomes_mixed && !self.has_scanned {
            // Known before a program asks, so that no client is refused for being unknown.
            self.has_scanned = true;
            if let Err(error) = netns_watch::scan(&self.config.bpffs_root) {
                tracing::warn!(%error, "addresses of network namespaces could not be written");
            }
        }
        let foreign = self.store.foreign_ips(key);
        let results = [
            self.v4.put(key, &image4, &plan::foreign(&foreign)),
            self.v6.put(key, &image6, &plan::foreign(&foreign)),
        ];
        let mut ops = 0;
        let mut errors = Vec::new();
        for result in results {
            match result {
                Ok(done) => ops += done,
                Err(error) => errors.push(error.to_string()),
            }
        }
        match errors.is_empty() {
            true => self.retry.succeeded(key),
            false => self.retry.failed(key, &errors.join("; "), Instant::now()),
        }
        self.note_health_check(key, check);
        match no_local {
            Some(counts) => drop(self.no_local.insert(key.clone(), counts)),
            None => drop(self.no_local.remove(key)),
        }
        (ops, becomes_mixed)
    }

    fn note_health_check(&mut self, key: &ObjectKey, check: Option<HealthCheck>) {
        if self.health_checks.get(key) == check.as_ref() {
            return;
        }
        self.health_checks_changed = true;
        match check {
            Some(check) => drop(self.health_checks.insert(key.clone(), check)),
            None => drop(self.health_checks.remove(key)),
        }
    }

    /// Without externalIPs where the gate is closed (rule 69).
    fn gated<'a>(&self, service: &'a Service) -> Cow<'a, Service> {
        if self.config.external_ips || service.external_ips.is_empty() {
            return Cow::Borrowed(service);
        }
        let mut gated = service.clone();
        gated.external_ips.clear();
        Cow::Owned(gated)
    }

    fn sweep(&mut self) -> usize {
        let mut ops = 0;
        self.is_swept = true;
        for result in [self.v4.sweep(), self.v6.sweep()] {
            match result {
                Ok(done) => ops += done,
                Err(error) => {
                    self.is_swept = false;
                    tracing::error!(%error, "what an earlier agent left could not all be removed; the next full check tries again");
                }
            }
        }
        ops
    }

    /// Must the ranges be made anew? Not for a Service whose addresses and ports lie inside them:
    /// what a change costs follows the change.
    fn ranges_differ(&self, changes: &Changes) -> bool {
        if !self.is_complete || changes.facts || self.cidrs_changed {
            return true;
        }
        let config = self.settings.config();
        let inside = |key: &ObjectKey| {
            let Some(service) = self.store.service(key) else {
                return true;
            };
            let ports = service.ports.iter().map(|port| port.node_port);
            service
                .cluster_ips
                .iter()
                .all(|ip| is_in_range(config, *ip))
                && spans((config.nodeport_lo, config.nodeport_hi), ports)
        };
        !changes.services.iter().all(inside)
    }

    /// The settings as they should be, and what they cannot hold.
    fn wanted_config(&self) -> (ProgramConfig, Vec<String>) {
        let mut flags = 0;
        for (is_on, flag) in [
            (self.config.localhost4, ProgramConfig::LOCALHOST4),
            (self.config.localhost6, ProgramConfig::LOCALHOST6),
            (
                self.config.protect_node_ports,
                ProgramConfig::PROTECT_NODE_PORTS,
            ),
            (self.config.masquerade_all, ProgramConfig::MASQUERADE_ALL),
            (
                self.config.packets.masquerade_local,
                ProgramConfig::MASQUERADE_LOCAL,
            ),
            (self.config.packets.no_redirect, ProgramConfig::NO_REDIRECT),
        ] {
            if is_on {
                flags |= flag;
            }
        }
        let packets = &self.config.packets;
        let base = ProgramConfig {
            host_netns: self.settings.state().host_netns,
            flags,
            lb0_addr4: packets.lb0_addr4.into(),
            lb0_addr6: packets.lb0_addr6.into(),
            lb0: self.lb0.index,
            lb0_mac: self.lb0.mac,
            snat_lo: BePort::new(packets.snat_ports.0),
            snat_hi: BePort::new(packets.snat_ports.1),
            mark: 1 << packets.mark_bit,
            timeouts: conntrack::below_netfilters(packets.timeouts),
            ..ProgramConfig::default()
        };
        let (config, mut warnings) = ranges::compile(&self.store, &self.facts, &base);
        let (lo, hi) = packets.snat_ports;
        let mut inside = self.store.node_ports().range(lo..=hi);
        if let Some((port, _)) = inside.next() {
            warnings.push(format!(
                "NodePort {port} lies in --snat-ports {lo}-{hi}: answers to masqueraded flows may be taken for its clients; move --snat-ports or the cluster's --service-node-port-range"
            ));
        }
        (config, warnings)
    }

    fn widen_node_ports(&mut self) {
        let (wanted, _) = self.wanted_config();
        let mut config = *self.settings.config();
        if spans(
            (config.nodeport_lo, config.nodeport_hi),
            [wanted.nodeport_lo.host(), wanted.nodeport_hi.host()],
        ) {
            return;
        }
        (config.nodeport_lo, config.nodeport_hi) = (wanted.nodeport_lo, wanted.nodeport_hi);
        self.put_config(&config);
    }

    fn put_ranges(&mut self) {
        let (wanted, warnings) = self.wanted_config();
        self.put_config(&wanted);
        let warnings: BTreeSet<String> = warnings.into_iter().collect();
        for warning in warnings.difference(&self.warnings) {
            tracing::warn!("{warning}");
        }
        self.warnings = warnings;
    }

    fn put_config(&mut self, config: &ProgramConfig) {
        if let Err(error) = self.settings.put_config(config) {
            tracing::error!(%error, again_in = ?SETTINGS_PAUSE, "settings could not be written, the old ones stay in force");
            self.settings_retry = Some(Instant::now() + SETTINGS_PAUSE);
        }
    }

    /// When nothing else is to do: what was freed may be used again.
    pub fn rest(&mut self) {
        for result in [self.v4.release(), self.v6.release()] {
            if let Err(error) = result {
                tracing::warn!(%error, "freed slots cannot be used again yet");
            }
        }
    }

    /// The full comparison of maps and plan; returns how many entries were repaired.
    pub fn check(&mut self) -> usize {
        if !self.is_complete {
            return 0;
        }
        self.put_ranges();
        if !self.is_swept {
            self.sweep();
        }
        let mut repaired = 0;
        for result in [self.v4.repair(), self.v6.repair()] {
            match result {
                Ok(entries) => repaired += entries,
                Err(error) => tracing::error!(%error, "the full check could not finish"),
            }
        }
        match self.settings.repair(&self.config.bpffs_root, &self.facts) {
            Ok(entries) => repaired += entries,
            Err(error) => tracing::error!(%error, "the full check could not finish"),
        }
        if repaired > 0 {
            tracing::warn!(
                entries = repaired,
                "maps differed from the plan and were repaired: something else writes to them"
            );
            self.settings
                .say(|state| state.repaired = state.repaired.wrapping_add(count(repaired)));
        }
        repaired
    }
}

fn needs_netns<A: plan::Family>(images: &BTreeMap<plan::PortKey, plan::PortImage<A>>) -> bool {
    let mut frontends = images.values().flat_map(|image| image.frontends.values());
    frontends.any(|frontend| {
        [Class::Pod, Class::Host]
            .iter()
            .any(|class| frontend.sources(*class) == SourceRule::Check)
    })
}

fn concerns_cidrs(event: &Event) -> bool {
    match event {
        Event::Apply(object) => object.reference().kind() == Kind::ServiceCidr,
        Event::Delete(reference) => reference.kind() == Kind::ServiceCidr,
        Event::Replace(kind, _) => *kind == Kind::ServiceCidr,
        Event::Skip(_) | Event::Unskip(_) | Event::HostAddrs(_) => false,
    }
}

fn is_in_range(config: &ProgramConfig, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => config.ranges4.find(&ip.into()).is_some(),
        IpAddr::V6(ip) => config.ranges6.find(&ip.into()).is_some(),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Nanoseconds since boot, the clock of the programs.
pub fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from);
    now.map(|now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
        .unwrap_or(0)
}
