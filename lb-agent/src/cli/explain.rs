//! `explain`: what happens to a connection and why. The verdict comes from the very `decide` that
//! the kernel runs, on a snapshot of the pinned maps; here is only what surrounds it.

use std::process::ExitCode;

use lb_common::{
    config::{Config, FamilyConfig},
    decide::{Client, Decision, Dial, Fixed, Lookup, affinity_key, class_for, decide, lookup},
    device::MasqAddr,
    frontend::{FrontendKey, FrontendVal, Kind},
    id::BackendId,
    list::List,
    net::{Addr4, Addr6, BePort, Proto},
    reason::{Answer, Counter, Reason},
    service::{Algorithm, Backend, BackendFlags, Service},
    tables::Tables as _,
};

use super::{
    args::ExplainArgs,
    arrival::{self, host::Host},
    client::{Who, of_address, of_process},
    dial::Target,
    explanation::{
        Affinity, Candidate, ClientView, Explanation, Pin, ServiceRef, To, Verdict, text,
    },
    output::{print, render},
    view::{frontend as frontend_view, list_name},
};
use crate::maps::{family::Family, pinned::Pinned, snapshot::Snapshot, sys};

/// Runs the verb.
///
/// # Errors
/// Nothing is pinned, the maps do not answer, or the client cannot be found out.
pub fn execute(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let pinned = Pinned::open(&args.show.roots.bpffs_root)?;
    let explanation = if args.to.addr.is_ipv4() {
        of_family::<Addr4>(args, &pinned)?
    } else {
        of_family::<Addr6>(args, &pinned)?
    };
    print(&render(args.show.output, &explanation, text)?)?;
    Ok(ExitCode::SUCCESS)
}

fn of_family<A>(args: &ExplainArgs, pinned: &Pinned) -> anyhow::Result<Explanation>
where
    A: Family + MasqAddr,
    Config: FamilyConfig<A>,
{
    let snapshot = pinned.snapshot::<A>()?;
    let host_netns = pinned.agent()?.host_netns;
    let now_ns = sys::boot_ns()?;
    let Some(from) = args.from else {
        let who = of_process(args.pid, host_netns)?;
        return Ok(explain(&snapshot, &args.to, &who, now_ns));
    };
    let from = A::from_ip(from.to_canonical()).ok_or_else(|| {
        anyhow::anyhow!(
            "--from {from} and --to {}: both must be of one family",
            args.to
        )
    })?;
    let Some(device) = &args.dev else {
        let who = of_address(from, &snapshot, host_netns);
        return Ok(explain(&snapshot, &args.to, &who, now_ns));
    };
    let devices = pinned.devices()?;
    let host = Host::here(host_netns)?;
    let device = host.device(device)?;
    Ok(arrival::explain(
        snapshot, &devices, &host, &device, from, &args.to, now_ns,
    ))
}

/// The decision on a snapshot, at a moment in nanoseconds since boot, whatever way the client came.
pub(super) fn decided<A: Family>(
    snapshot: &Snapshot<A>,
    to: &Target,
    who: &Who,
    now_ns: u64,
) -> Explanation {
    let client = who.client::<A>();
    let mut explanation = Explanation {
        to: To {
            address: to.addr.to_string(),
            port: to.port,
            protocol: to.proto.to_string(),
        },
        client: ClientView {
            class: who.class_name(),
            network_namespace: who.netns,
            address: who.addr.map(|ip| ip.to_string()),
            note: who.note.clone(),
        },
        verdict: passed(),
        device: None,
        service: None,
        frontend: None,
        list: None,
        affinity: None,
        candidates: Vec::new(),
    };
    let Some(dial) = dial::<A>(to) else {
        return explanation;
    };
    let chance = Fixed { now_ns, random: 0 };
    let decision = decide(snapshot, &dial, &client, &chance);
    if let Lookup::Found(frontend) = lookup(snapshot, &dial, &client) {
        Found {
            snapshot,
            frontend,
            client,
            decision,
            now_ns,
        }
        .describe(&dial, &mut explanation);
    }
    explanation.verdict = verdict(&decision, &explanation);
    if decision == Decision::Pass && is_foreign(snapshot, dial.addr) {
        explanation.verdict.rule = FOREIGN.to_owned();
    }
    explanation
}

/// The frontend that answers this client.
pub(super) fn frontend_of<A: Family>(
    snapshot: &Snapshot<A>,
    to: &Target,
    who: &Who,
) -> Option<FrontendVal> {
    match lookup(snapshot, &dial::<A>(to)?, &who.client::<A>()) {
        Lookup::Found(frontend) => Some(frontend),
        Lookup::Pass | Lookup::Refuse(_) => None,
    }
}

fn dial<A: Family>(to: &Target) -> Option<Dial<A>> {
    Some(Dial {
        addr: A::from_ip(to.addr)?,
        port: BePort::new(to.port),
        proto: to.proto,
    })
}

/// Explains a connection of a socket of this node.
pub fn explain<A: Family>(
    snapshot: &Snapshot<A>,
    to: &Target,
    who: &Who,
    now_ns: u64,
) -> Explanation {
    let mut explanation = decided(snapshot, to, who, now_ns);
    if to.proto == Proto::SCTP {
        explanation.client.note += "; SCTP has no socket hook: it is translated in packets only";
    }
    explanation
}

const FOREIGN: &str = "rule 2: the ClusterIP of a Service that its labels give to another proxy: \
                       left to that one";

fn is_foreign<A: Family>(snapshot: &Snapshot<A>, addr: A) -> bool {
    let entry = snapshot.frontend(&FrontendKey::any_port(addr));
    entry.is_some_and(|val| val.kind == Kind::FOREIGN)
}

fn passed() -> Verdict {
    Verdict {
        kind: "pass",
        errno: None,
        reason: None,
        rule: "no Service has this address: left as it is".to_owned(),
    }
}

fn verdict<A>(decision: &Decision<A>, explanation: &Explanation) -> Verdict {
    match decision {
        Decision::Pass => passed(),
        Decision::Dnat(dnat) => Verdict {
            kind: "dnat",
            errno: None,
            reason: Some(dnat.hit.label()),
            rule: explanation.rule_of_choice(),
        },
        Decision::Refuse { reason, .. } => refusal(*reason),
    }
}

fn refusal(reason: Reason) -> Verdict {
    let (kind, errno) = match reason.answer() {
        Answer::Refused => ("refused", "ECONNREFUSED"),
        Answer::Unreachable => ("unreachable", "EHOSTUNREACH"),
    };
    Verdict {
        kind,
        errno: Some(errno),
        reason: Some(reason.counter().label()),
        rule: reason.rule().to_owned(),
    }
}

/// A frontend that answers, and everything that was decided about it.
struct Found<'a, A: Family> {
    snapshot: &'a Snapshot<A>,
    frontend: FrontendVal,
    client: Client<A>,
    decision: Decision<A>,
    now_ns: u64,
}

impl<A: Family> Found<'_, A> {
    fn describe(&self, dial: &Dial<A>, explanation: &mut Explanation) {
        let exact = FrontendKey::new(dial.addr, dial.port, dial.proto);
        let key = if self.snapshot.frontend(&exact).is_some() {
            exact
        } else {
            FrontendKey::node_port(dial.port, dial.proto)
        };
        let list = self.frontend.list(class_for(&self.frontend, &self.client));
        explanation.frontend = Some(frontend_view(&key, &self.frontend));
        explanation.list = Some(list_name(list));
        explanation.service = self.service_ref();
        let Some(service) = self.snapshot.service(self.frontend.service) else {
            return;
        };
        explanation.affinity = self.affinity(&service, list);
        explanation.candidates = self.candidates(&service, list);
    }

    fn service_ref(&self) -> Option<ServiceRef> {
        let id = self.frontend.service;
        let name = self.snapshot.content.names.get(&id)?;
        let (namespace, service, port) = name.parts();
        Some(ServiceRef {
            namespace: namespace.to_owned(),
            name: service.to_owned(),
            port: port.to_owned(),
            protocol: name.proto.to_string(),
            id: id.0,
        })
    }

    fn affinity(&self, service: &Service, list: List) -> Option<Affinity> {
        if service.affinity_timeout_s == 0 {
            return None;
        }
        let key = affinity_key(&self.client, self.frontend.service);
        let pin = self.snapshot.affinity(&key).map(|val| {
            let backend = self.snapshot.backend(val.backend);
            let flag = BackendFlags::of(list);
            Pin {
                backend: backend.map_or_else(|| "gone".to_owned(), |b| dial_of(&b)),
                idle_seconds: self.now_ns.saturating_sub(val.last_ns) / 1_000_000_000,
                holds: val.is_fresh(self.now_ns, service.affinity_timeout_s)
                    && backend.is_some_and(|b| b.serves(key.service, val.generation, flag)),
            }
        });
        Some(Affinity {
            timeout_seconds: service.affinity_timeout_s,
            pin,
        })
    }

    /// Every endpoint of the service, those that may be chosen first.
    fn candidates(&self, service: &Service, list: List) -> Vec<Candidate> {
        let of_service = |backend: &Backend<A>| backend.service == self.frontend.service;
        let all: Vec<_> = self
            .snapshot
            .content
            .backends
            .iter()
            .filter(|(_, backend)| of_service(backend))
            .collect();
        let eligible = |backend: &Backend<A>| {
            let loopback = self.client.addr.is_some_and(|addr| addr.is_loopback());
            backend.flags.has(BackendFlags::of(list))
                && (!loopback || backend.flags.has(BackendFlags::HOST_ADDR))
        };
        let chosen = all.iter().filter(|(_, backend)| eligible(backend)).count();
        let mut candidates: Vec<_> = all
            .iter()
            .map(|(id, backend)| {
                let (probability, why) = match self.held_back(**id) {
                    _ if !eligible(backend) => (0.0, left_out(backend.flags, list).to_owned()),
                    Some(why) => (0.0, why),
                    None if self.is_pinned() => (1.0, "session affinity holds it".to_owned()),
                    None => (
                        1.0 / f64::from(u32::try_from(chosen).unwrap_or(u32::MAX)),
                        picked(service, backend.flags),
                    ),
                };
                Candidate {
                    address: backend.addr.ip().to_string(),
                    port: backend.port.host(),
                    id: id.0,
                    probability,
                    why,
                    way: None,
                }
            })
            .collect();
        candidates.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        candidates
    }

    fn is_pinned(&self) -> bool {
        matches!(&self.decision, Decision::Dnat(dnat) if dnat.hit == Counter::HitPinned)
    }

    /// Why a backend of the list is not chosen all the same.
    fn held_back(&self, id: BackendId) -> Option<String> {
        match &self.decision {
            Decision::Refuse { .. } => Some("refused before any is chosen".to_owned()),
            Decision::Dnat(dnat) if self.is_pinned() && dnat.to.backend != id => {
                Some("session affinity holds another".to_owned())
            }
            Decision::Dnat(_) | Decision::Pass => None,
        }
    }
}

fn dial_of<A: Family>(backend: &Backend<A>) -> String {
    std::net::SocketAddr::new(backend.addr.ip(), backend.port.host()).to_string()
}

/// Why a backend may be chosen.
fn picked(service: &Service, flags: BackendFlags) -> String {
    let condition = if flags.has(BackendFlags::READY) {
        "ready"
    } else {
        "terminating but serving, and none is ready"
    };
    if service.algorithm == Algorithm::ROUND_ROBIN {
        return format!("{condition}, in turn");
    }
    condition.to_owned()
}

/// Why a backend is not in a list (rules 25 to 30).
fn left_out(flags: BackendFlags, list: List) -> &'static str {
    let has = |flag| flags.has(flag);
    let usable =
        has(BackendFlags::READY) || (has(BackendFlags::SERVING) && has(BackendFlags::TERMINATING));
    if !usable && has(BackendFlags::TERMINATING) {
        return "terminating, no longer serving (rule 30)";
    }
    if !usable {
        return "not ready (rule 30)";
    }
    if list == List::Local && !has(BackendFlags::ON_NODE) {
        return "on another node, and the policy is Local (rule 29)";
    }
    if has(BackendFlags::of(list)) {
        return "not on this host: a socket bound to loopback cannot reach it";
    }
    if !has(BackendFlags::READY) {
        return "terminating, and others are ready (rules 28, 29)";
    }
    if has(BackendFlags::HINTED_AWAY) {
        return "its hints name other zones or nodes (rule 25)";
    }
    "the lists are being rewritten"
}

impl Explanation {
    /// The rule behind a choice, by kind of frontend, list and class of the client.
    fn rule_of_choice(&self) -> String {
        let (Some(frontend), Some(list)) = (&self.frontend, self.list) else {
            return String::new();
        };
        if frontend.kind == Kind::CLUSTER_IP.name() {
            let policy = if list == "local" { "Local" } else { "Cluster" };
            return format!("rule 34: ClusterIP, internalTrafficPolicy {policy}");
        }
        let rule = match (frontend.lists.outside, list, self.client.class) {
            ("local", "cluster", "host") => {
                "rule 39b: this node's own traffic may use endpoints anywhere"
            }
            ("local", "cluster", _) => "rule 39a: a pod's traffic may use endpoints anywhere",
            ("local", _, "outside") => {
                "rule 42: externalTrafficPolicy Local: endpoints of this node"
            }
            ("local", ..) => "rule 42: externalTrafficPolicy Local, and pods are not told apart",
            _ => "rule 38: externalTrafficPolicy Cluster",
        };
        rule.to_owned()
    }
}
