//! `lb-agent run`: starts every part, joins them, and ends with the first that ends.
//!
//! Order of a start: pins are locked, programs loaded and put in place on links that exist, maps
//! adopted; then news are taken until every kind has been listed, the maps are completed, and only
//! then are missing links made. So a first start never shows a half-filled plane, and a restart never
//! an empty one. A stop leaves everything attached.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use lb_common::event::Event;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout},
};

use crate::{
    attach::{self, Plane, devices::DeviceLinks},
    config::Config,
    config_file,
    devices::{
        follow::Devices,
        lb0::{self, Lb0},
        reserved_ports,
        select::select,
    },
    flow_sweep, host_ports,
    maps::sys,
    netns_watch,
    observe::{
        self, AddressFamily, Applied, Servers, State,
        notice::{Notice, Notices},
        rules,
    },
    plan::HealthChecks,
    reconcile::{Reconciler, Round},
    source::Source,
    stale_udp, udp_ends,
};

/// News that come within this time are written together.
const GATHER: Duration = Duration::from_millis(2);
/// How long an end by an error waits for events to be written.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Quiet time after which freed slots are made usable again.
const REST: Duration = Duration::from_secs(1);

/// What needs privileges once on a host (`--init-only`): the BPF file system, the ports of masqueraded flows, and `lb0`
/// with its settings. An agent in a container, whose /proc/sys is read-only, then finds all of it as it should be.
///
/// # Errors
/// There is no BPF file system, and none can be mounted; or an agent runs.
pub fn prepare(config: &Config) -> anyhow::Result<()> {
    let _lock = attach::prepare(&config.bpffs_root)?;
    reserve_ports(config);
    ensure_lb0(config);
    Ok(())
}

/// Runs until a signal (success) or until a part ends (its reason). The data plane goes on serving in
/// both cases.
///
/// # Errors
/// Why the agent cannot start or go on.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let _lock = attach::prepare(&config.bpffs_root)?;
    let host_netns =
        sys::netns_cookie().context("cookie of the own network namespace (Linux 5.14)")?;
    let mut plane = Plane::load(&config.bpffs_root, &config.capacities, host_netns)?;
    let attached = attach::attach(&mut plane, &config.bpffs_root, &config.cgroup_root, false)?;
    if attached.replaced > 0 {
        tracing::info!(links = attached.replaced, "programs replaced in place");
    }
    let links = DeviceLinks::adopt(&mut plane, &config.bpffs_root, config.packets.hook)?;
    let devices = Devices::open()?;
    let mut reconciler = Reconciler::adopt(config.clone(), host_netns)?;
    reserve_ports(&config);
    let lb0 = ensure_lb0(&config);
    reconciler.set_lb0(lb0);
    let state = Arc::new(State::new(config.sync_period));
    let (unknown, met) = mpsc::channel(64);
    // One word is enough: it says that namespaces matter.
    let (netns_wanted, wanted) = mpsc::channel(1);

    let (notices, to_write) = Notices::channel();
    let (health_checks, wanted_checks) = watch::channel(Arc::new(HealthChecks::default()));

    let mut tasks = JoinSet::new();
    tasks.spawn(answer_health_checks(
        Arc::clone(&state),
        config.node_name.clone(),
        wanted_checks,
        notices.clone(),
    ));
    tasks.spawn(observe::serve(
        Arc::clone(&state),
        servers(&config),
        notices.clone(),
    ));
    tasks.spawn(follow_events(config.bpffs_root.clone(), unknown));
    tasks.spawn(netns_watch::run(config.bpffs_root.clone(), met, wanted));
    tasks.spawn(host_ports::run(
        config.bpffs_root.clone(),
        config.packets.snat_ports,
    ));
    tasks.spawn(flow_sweep::run(
        config.bpffs_root.clone(),
        Arc::clone(&state),
    ));
    let (lost_udp, losses) = watch::channel(0);
    tasks.spawn(udp_ends::run(config.bpffs_root.clone(), losses));
    tasks.spawn(signals());
    tasks.spawn(config_file::follow(config.file.clone()));
    let source = Source::start(
        &config.source,
        config.endpoints,
        &config.node_name,
        state.requests(),
    )
    .await?;
    let writer = (source.api()).map(|api| api.write_events(&config.node_name, to_write));
    let writer = tokio::spawn(writer.unwrap_or_else(|| Box::pin(std::future::ready(()))));
    tasks.spawn(control(Control {
        config,
        plane,
        links,
        devices,
        lb0,
        reconciler,
        source,
        state,
        netns_wanted,
        lost_udp,
        health_checks,
        notices,
        conflicts: Vec::new(),
    }));
    let first = tasks.join_next().await.context("nothing to do")?;
    let ended = first.context("a part of the agent was broken off")?;
    if ended.is_err() {
        tasks.shutdown().await;
        // Why it ends may be in an event that is not written yet.
        timeout(LAST_WORDS, writer).await.ok();
    }
    ended
}

fn servers(config: &Config) -> Servers {
    Servers {
        healthz: config.healthz_bind_address,
        metrics: config.metrics_bind_address,
        hard_fail: config.bind_hard_fail,
        bpffs_root: config.bpffs_root.clone(),
        cgroup: config.cgroup_root.clone(),
        config: config.shown.clone(),
    }
}

async fn answer_health_checks(
    state: Arc<State>,
    node: String,
    wanted: watch::Receiver<Arc<HealthChecks>>,
    notices: Notices,
) -> anyhow::Result<()> {
    observe::health_check::run(state, node, wanted, notices).await;
    anyhow::bail!("the health check servers have ended; report this as a bug")
}

async fn follow_events(bpffs_root: PathBuf, unknown: mpsc::Sender<Event>) -> anyhow::Result<()> {
    observe::events::follow(&bpffs_root, unknown)
        .await
        .context("reading events of the programs")
}

async fn signals() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; the data plane goes on serving, `lb-agent cleanup` takes it away");
    Ok(())
}

struct Control {
    config: Config,
    plane: Plane,
    links: DeviceLinks,
    devices: Devices,
    lb0: Lb0,
    reconciler: Reconciler,
    source: Source,
    state: Arc<State>,
    netns_wanted: mpsc::Sender<()>,
    /// How often backends of UDP ports were lost.
    lost_udp: watch::Sender<u64>,
    health_checks: watch::Sender<Arc<HealthChecks>>,
    notices: Notices,
    /// kube-proxy's rules, as last seen.
    conflicts: Vec<String>,
}

/// Takes news, writes, tries again, compares.
async fn control(mut control: Control) -> anyhow::Result<()> {
    // 0 means never; a ticker wants some period.
    let is_checked = !control.config.full_check_period.is_zero();
    let period = control.config.full_check_period.max(REST);
    let mut checks = interval_at(Instant::now() + period, period.max(REST));
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = Instant::now();
    let mut is_rested = true;
    loop {
        let retry_at = control.reconciler.next_retry().map(Instant::from_std);
        tokio::select! {
            news = control.source.next() => {
                control.reconciler.take(news?);
                control.gather().await;
            }
            () = sleep_until(retry_at.unwrap_or(written)), if retry_at.is_some() => {}
            () = sleep_until(written + REST), if !is_rested => {
                is_rested = true;
                tokio::task::block_in_place(|| control.reconciler.rest());
            }
            changed = control.devices.changed() => {
                changed?;
                control.put_devices();
            }
            _ = checks.tick(), if is_checked => {
                let repaired = tokio::task::block_in_place(|| control.reconciler.check());
                control.state.add_repaired(repaired);
                // Links that somebody detached are found lost here.
                control.put_devices();
                control.tell_conflicts();
            }
        }
        control.state.set_skipped(control.reconciler.skipped());
        let eligible = control.reconciler.is_node_eligible();
        control.state.set_node_eligible(eligible);
        control.report_news();
        if control.reconciler.is_due() {
            AddressFamily::ALL
                .iter()
                .for_each(|family| control.state.queued(*family));
            control.pace(written).await;
            control.write()?;
            written = Instant::now();
            is_rested = false;
        }
    }
}

impl Control {
    /// Takes what has come, and what comes within a moment.
    async fn gather(&mut self) {
        let end = Instant::now() + GATHER;
        loop {
            while let Some(event) = self.source.try_next() {
                self.reconciler.take(event);
            }
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep(GATHER / 4).await;
        }
    }

    /// `--min-sync-period`: at most one write in so much time (rule 124).
    async fn pace(&mut self, last: Instant) {
        let due = last + self.config.min_sync_period;
        if self.reconciler.is_complete() && due > Instant::now() {
            sleep_until(due).await;
            while let Some(event) = self.source.try_next() {
                self.reconciler.take(event);
            }
        }
    }

    fn report_news(&self) {
        let (all, pending) = self.reconciler.news();
        self.state.set_news(all, pending);
    }

    fn report(&self, round: &Round) {
        let state = &self.state;
        let applied = Applied {
            took: round.took,
            is_full: round.is_full,
            is_success: round.is_success,
            is_stuck: round.is_stuck,
        };
        let counts = AddressFamily::ALL
            .into_iter()
            .zip(self.reconciler.no_local());
        for (family, no_local) in counts {
            state.applied(family, applied);
            state.set_no_local(family, no_local);
        }
        let now = Timestamp::now();
        for trigger in &round.triggers {
            let family = if trigger.is_ipv4 {
                AddressFamily::IPv4
            } else {
                AddressFamily::IPv6
            };
            // A clock ahead of ours tells nothing.
            let after = Duration::try_from(now.duration_since(trigger.at)).unwrap_or_default();
            state.programmed(family, after);
        }
        state.add_failures(round.failures);
        self.report_news();
    }

    fn write(&mut self) -> anyhow::Result<()> {
        let is_first = !self.reconciler.is_complete();
        self.reconciler.conclude_wait()?;
        let round = tokio::task::block_in_place(|| self.reconciler.round());
        self.report(&round);
        self.state.set_failed(self.reconciler.failed());
        if round.needs_netns {
            // A full channel means that the word is on its way already.
            let _asked = self.netns_wanted.try_send(());
        }
        // At a start, what was lost before.
        if is_first || round.lost_udp {
            self.lost_udp.send_modify(|losses| *losses += 1);
        }
        if let Some(wanted) = self.reconciler.take_health_checks() {
            self.health_checks.send_replace(Arc::new(wanted));
        }
        if is_first { self.attach() } else { Ok(()) }
    }

    /// Serves the devices that are there now; before the maps are complete, none is begun with.
    fn put_devices(&mut self) {
        if !self.reconciler.is_complete() {
            return;
        }
        tokio::task::block_in_place(|| {
            let links = self.devices.links();
            if !links.iter().any(|link| link.index == self.lb0.index) {
                self.lb0 = ensure_lb0(&self.config);
                self.reconciler.set_lb0(self.lb0);
            }
            let roles = select(&links, &self.config.packets, &self.config.detect_local);
            for error in self.links.put(&mut self.plane, &roles, self.lb0.index) {
                tracing::error!(%error, "packets on a device are not translated");
            }
        });
    }

    /// Says once what kube-proxy has here; it may have come back.
    fn tell_conflicts(&mut self) {
        let found = rules::of_kube_proxy().unwrap_or_else(|error| {
            tracing::debug!(%error, "rules of kube-proxy could not be looked for");
            Vec::new()
        });
        if found != self.conflicts && !found.is_empty() {
            tracing::warn!(
                rules = found.join(", "),
                "kube-proxy's rules are beside ours, in vain: end it, then `kube-proxy --cleanup`"
            );
        }
        self.conflicts = found;
    }

    /// Devices first: an agent counts as ready when its programs run on the cgroup.
    fn attach(&mut self) -> anyhow::Result<()> {
        self.put_devices();
        let Config {
            bpffs_root,
            cgroup_root,
            ..
        } = &self.config;
        let done = tokio::task::block_in_place(|| {
            attach::attach(&mut self.plane, bpffs_root, cgroup_root, true)
        })?;
        tracing::info!(links = done.fresh + done.replaced, fresh = done.fresh, cgroup = %cgroup_root.display(), "attached");
        self.state.set_synced();
        self.state.set_started();
        self.notices.tell(Notice::starting());
        self.tell_conflicts();
        let Config {
            bpffs_root,
            cgroup_root,
            ..
        } = &self.config;
        if done.fresh > 0 || !self.reconciler.is_stale_udp_done() {
            let root = bpffs_root.clone();
            let is_done = tokio::task::block_in_place(|| end_stale_udp(&root, cgroup_root));
            self.reconciler.set_stale_udp_done(is_done);
        }
        Ok(())
    }
}

fn reserve_ports(config: &Config) {
    let ports = config.packets.snat_ports;
    if let Err(error) = reserved_ports::reserve(&config.bpffs_root, ports) {
        let (lo, hi) = ports;
        tracing::warn!(%error, "the ports {lo}-{hi} of masqueraded flows are not kept from the host's own connections: let the agent write /proc/sys, or add them to net.ipv4.ip_local_reserved_ports");
    }
}

/// Without it packets are served all the same, but for those that must pass the stack under our address.
fn ensure_lb0(config: &Config) -> Lb0 {
    let packets = &config.packets;
    lb0::ensure(&config.bpffs_root, packets.lb0_addr4, packets.lb0_addr6).unwrap_or_else(|error| {
        tracing::warn!(%error, "pods that dial a Service they serve themselves by packets, --masquerade-local-backends and --no-redirect do not work");
        Lb0::default()
    })
}

/// True when every socket has been looked at.
fn end_stale_udp(bpffs_root: &Path, cgroup_root: &Path) -> bool {
    match stale_udp::end(bpffs_root, cgroup_root) {
        Ok(0) => true,
        Ok(sockets) => {
            tracing::info!(
                sockets,
                "ended connected UDP sockets that dialled a Service before the start"
            );
            true
        }
        Err(error) => {
            tracing::warn!(%error, "connected UDP sockets from before the start could not be looked at");
            false
        }
    }
}
