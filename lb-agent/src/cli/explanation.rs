//! What `explain` prints. The field names are the keys of its JSON, in camel case.

use std::net::SocketAddr;

use serde::Serialize;

use super::{output::columns, view::FrontendView};

/// The whole answer.
#[derive(Serialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What was dialled.
    pub to: To,
    /// The device that the packets arrive on; null for a socket of this node.
    pub device: Option<String>,
    /// Who dialled.
    pub client: ClientView,
    /// What happens.
    pub verdict: Verdict,
    /// The service port; null where no frontend answers.
    pub service: Option<ServiceRef>,
    /// The frontend; as in `service list`.
    pub frontend: Option<FrontendView>,
    /// `cluster` or `local`: the list that this client uses.
    pub list: Option<&'static str>,
    /// Null without session affinity.
    pub affinity: Option<Affinity>,
    /// Every endpoint of the service port.
    pub candidates: Vec<Candidate>,
}

/// What was dialled.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "plain")]
pub struct To {
    pub address: String,
    pub port: u16,
    pub protocol: String,
}

/// Who dialled.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ClientView {
    /// `pod`, `host` or, of packets alone, `outside`.
    pub class: &'static str,
    /// Cookie of its network namespace, where known.
    pub network_namespace: Option<u64>,
    /// Its address, where known.
    pub address: Option<String>,
    /// How all this was found out, and what was assumed.
    pub note: String,
}

/// What happens.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// `dnat`, `refused`, `unreachable` or `pass`.
    pub kind: &'static str,
    /// What the caller of connect gets: `ECONNREFUSED` or `EHOSTUNREACH`; null for packets.
    pub errno: Option<&'static str>,
    /// The counter that rises: label of `lb_socket_events_total`.
    pub reason: Option<&'static str>,
    /// The rule behind it.
    pub rule: String,
}

/// A service port by its names.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "as in `service list`")]
pub struct ServiceRef {
    pub namespace: String,
    pub name: String,
    pub port: String,
    pub protocol: String,
    pub id: u32,
}

/// Session affinity.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// Idle time after which a pin ends.
    pub timeout_seconds: u32,
    /// This client's pin; null: none, or the client's namespace is not known.
    pub pin: Option<Pin>,
}

/// A pinned backend.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// Address and port, or `gone`.
    pub backend: String,
    /// Since the client's last new connection.
    pub idle_seconds: u64,
    /// Does it still count?
    pub holds: bool,
}

/// An endpoint and what speaks for or against it.
#[derive(Serialize, Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "as in `service list`")]
pub struct Candidate {
    pub address: String,
    pub port: u16,
    pub id: u32,
    /// Of being chosen, 0 to 1.
    pub probability: f64,
    /// The condition that lets it in, or the reason that leaves it out.
    pub why: String,
    /// How packets get there, and from which source address; null for a socket of this node.
    pub way: Option<String>,
}

impl Candidate {
    /// Address and port in one word.
    pub fn dial(&self) -> String {
        dial(&self.address, self.port)
    }
}

fn dial(address: &str, port: u16) -> String {
    match address.parse() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{address}:{port}"),
    }
}

/// For people.
pub fn text(answer: &Explanation) -> String {
    let mut lines = vec![
        (
            "to",
            format!(
                "{} {}",
                dial(&answer.to.address, answer.to.port),
                answer.to.protocol
            ),
        ),
        (
            "client",
            format!("{}: {}", answer.client.class, answer.client.note),
        ),
        ("verdict", verdict(answer)),
        ("rule", answer.verdict.rule.clone()),
    ];
    if let Some(device) = &answer.device {
        lines.insert(1, ("arrival", format!("packets on {device}")));
    }
    if let Some(service) = &answer.service {
        let port = if service.port.is_empty() {
            "-"
        } else {
            &service.port
        };
        lines.push((
            "service",
            format!(
                "{}/{} port {port} (id {})",
                service.namespace, service.name, service.id
            ),
        ));
    }
    if let (Some(frontend), Some(list)) = (&answer.frontend, answer.list) {
        let list = if list == "local" { "Local" } else { "Cluster" };
        lines.push((
            "frontend",
            format!("{} {}, {list} list", frontend.kind, frontend.dial()),
        ));
    }
    if let Some(affinity) = &answer.affinity {
        lines.push(("affinity", affinity_text(affinity)));
    }
    let mut text: String = lines
        .iter()
        .map(|(name, value)| format!("{name:<10}{value}\n"))
        .collect();
    if answer.frontend.is_some() && answer.candidates.is_empty() {
        text += "\nno endpoints\n";
    }
    if !answer.candidates.is_empty() {
        text.push('\n');
        text += &candidates(answer);
    }
    text
}

fn candidates(answer: &Explanation) -> String {
    let cells = |candidate: &Candidate| {
        let chance = percent(candidate.probability);
        [candidate.dial(), chance, candidate.why.clone()]
    };
    let rows = answer.candidates.iter();
    if answer.device.is_none() {
        return columns(["CANDIDATE", "CHANCE", "WHY"], rows.map(cells));
    }
    let with_way = |candidate: &Candidate| {
        let [dial, chance, why] = cells(candidate);
        let way = candidate.way.clone().unwrap_or_else(|| "-".to_owned());
        [dial, chance, way, why]
    };
    columns(["CANDIDATE", "CHANCE", "WAY", "WHY"], rows.map(with_way))
}

fn percent(probability: f64) -> String {
    if probability == 0.0 {
        return "-".to_owned();
    }
    let percent = (probability * 1000.0).round() / 10.0;
    format!("{percent}%")
}

fn verdict(answer: &Explanation) -> String {
    let possible: Vec<_> = answer
        .candidates
        .iter()
        .filter(|c| c.probability > 0.0)
        .collect();
    match (answer.verdict.kind, possible.as_slice()) {
        ("dnat", [only]) => format!("DNAT to {}", only.dial()),
        ("dnat", all) => format!("DNAT to one of {} backends", all.len()),
        ("refused", _) if answer.device.is_some() => {
            "REJECTED: answered with RST, or with ICMP port unreachable".to_owned()
        }
        ("unreachable", _) if answer.device.is_some() => "DROPPED without an answer".to_owned(),
        ("refused", _) => "REFUSED: the call fails with ECONNREFUSED".to_owned(),
        ("unreachable", _) => "UNREACHABLE: the call fails with EHOSTUNREACH".to_owned(),
        _ if answer.device.is_some() => "left as it is".to_owned(),
        _ => "not a Service".to_owned(),
    }
}

fn affinity_text(affinity: &Affinity) -> String {
    let pin = match &affinity.pin {
        None => "no pin of this client is known".to_owned(),
        Some(pin) if pin.holds => {
            format!("pinned to {}, idle for {}s", pin.backend, pin.idle_seconds)
        }
        Some(pin) => format!(
            "the pin to {} no longer counts, idle for {}s",
            pin.backend, pin.idle_seconds
        ),
    };
    format!("ClientIP, {}s: {pin}", affinity.timeout_seconds)
}
