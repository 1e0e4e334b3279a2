//! `flows list`: the packet flows of this node.

use std::{collections::HashMap, net::SocketAddr, process::ExitCode};

use bytemuck::Pod;
use lb_common::{
    flow::{FlowFlags, FlowKey, FlowVal},
    net::{Addr4, Addr6, BePort},
    track::Timeouts,
};
use serde::Serialize;

use super::{
    args::{FlowFilter, FlowsCommand},
    output::{columns, print, render},
};
use crate::{
    flow_sweep,
    maps::{
        family::Family,
        pinned::{Pinned, PinnedError},
    },
};

/// One flow. `flows list -o json` prints an array of them, sorted by client.
#[derive(Serialize, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "camelCase")]
pub struct FlowView {
    /// Who dialled, ADDR:PORT.
    pub client: String,
    /// What was dialled, ADDR:PORT.
    pub destination: String,
    /// TCP, UDP or SCTP.
    pub protocol: &'static str,
    /// Where it went, ADDR:PORT.
    pub backend: String,
    /// Whom the backend sees, ADDR:PORT; the client, unless it is masqueraded or its port was taken.
    pub source: String,
    /// NAMESPACE/NAME of the Service, its id where the name is gone, empty for a connection that only had to
    /// change its port.
    pub service: String,
    /// `new`, `replied`, `established`, `closing` or `reset`.
    pub state: &'static str,
    /// `stack`, `redirect` or `lb0`.
    pub way: &'static str,
    /// Seconds since its last packet, within a second.
    pub idle_seconds: u32,
    /// Seconds until it is over without another.
    pub expires_seconds: u32,
}

/// Runs the verb.
///
/// # Errors
/// Nothing is pinned, or the maps do not answer.
pub fn execute(command: &FlowsCommand) -> anyhow::Result<ExitCode> {
    let FlowsCommand::List { filter, show } = command;
    let pinned = Pinned::open(&show.roots.bpffs_root)?;
    let timeouts = pinned.config()?.timeouts;
    let now_s = flow_sweep::now_s();
    let mut flows = read::<Addr4>(&pinned, &timeouts, now_s)?;
    flows.extend(read::<Addr6>(&pinned, &timeouts, now_s)?);
    flows.retain(|flow| is_wanted(flow, filter));
    flows.sort_unstable();
    print(&render(show.output, &flows, |flows| table(flows))?)?;
    Ok(ExitCode::SUCCESS)
}

fn read<A: Family>(
    pinned: &Pinned,
    timeouts: &Timeouts,
    now_s: u32,
) -> Result<Vec<FlowView>, PinnedError>
where
    FlowKey<A>: Pod,
    FlowVal<A>: Pod,
{
    let names: HashMap<_, _> = pinned.names::<A>()?.into_iter().collect();
    let name = |val: &FlowVal<A>| match names.get(&val.service) {
        Some(name) => {
            let (namespace, name, _) = name.parts();
            format!("{namespace}/{name}")
        }
        None if val.service.is_some() => format!("id {}", val.service.0),
        None => String::new(),
    };
    Ok(pinned
        .flows::<A>()?
        .into_iter()
        .filter(|(_, val)| !val.flags.has(FlowFlags::REPLY))
        .map(|(key, val)| view(&key, &val, name(&val), timeouts, now_s))
        .collect())
}

/// The client's half tells all.
fn view<A: Family>(
    key: &FlowKey<A>,
    val: &FlowVal<A>,
    service: String,
    timeouts: &Timeouts,
    now_s: u32,
) -> FlowView {
    let at = |addr: A, port: BePort| SocketAddr::new(addr.ip(), port.host()).to_string();
    let idle_seconds = now_s.saturating_sub(val.seen_s);
    FlowView {
        client: at(key.src, key.sport),
        destination: at(key.dst, key.dport),
        protocol: key.proto.name(),
        backend: at(val.dst, val.dport),
        source: at(val.src, val.sport),
        service,
        state: state(val.flags),
        way: way(val.flags),
        idle_seconds,
        expires_seconds: timeouts
            .of(key.proto, val.flags)
            .saturating_sub(idle_seconds),
    }
}

fn state(flags: FlowFlags) -> &'static str {
    if flags.has(FlowFlags::RESET) {
        "reset"
    } else if flags.is_closing() {
        "closing"
    } else if flags.has(FlowFlags::ESTABLISHED) {
        "established"
    } else if flags.has(FlowFlags::REPLIED) {
        "replied"
    } else {
        "new"
    }
}

fn way(flags: FlowFlags) -> &'static str {
    if flags.has(FlowFlags::LB0) {
        "lb0"
    } else if flags.has(FlowFlags::SNAT) {
        "redirect"
    } else {
        "stack"
    }
}

fn is_wanted(flow: &FlowView, filter: &FlowFilter) -> bool {
    let names = |wanted: &Option<String>, text: &str| {
        wanted.as_ref().is_none_or(|wanted| {
            let address = text.parse::<SocketAddr>().ok();
            text == wanted || address.is_some_and(|at| at.ip().to_string() == *wanted)
        })
    };
    filter
        .service
        .as_ref()
        .is_none_or(|(namespace, name)| flow.service == format!("{namespace}/{name}"))
        && names(&filter.client, &flow.client)
        && names(&filter.backend, &flow.backend)
}

fn table(flows: &[FlowView]) -> String {
    if flows.is_empty() {
        return "no flows\n".to_owned();
    }
    columns(
        [
            "CLIENT",
            "DESTINATION",
            "PROTO",
            "BACKEND",
            "SEEN AS",
            "SERVICE",
            "STATE",
            "WAY",
            "IDLE",
        ],
        flows.iter().map(|flow| {
            [
                flow.client.clone(),
                flow.destination.clone(),
                flow.protocol.to_owned(),
                flow.backend.clone(),
                flow.source.clone(),
                flow.service.clone(),
                flow.state.to_owned(),
                flow.way.to_owned(),
                format!("{}s", flow.idle_seconds),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::{
        id::{BackendId, ServiceId},
        net::Proto,
    };

    fn flow(flags: FlowFlags) -> FlowView {
        let addr = |last| Addr4 {
            ip4: [192, 0, 2, last],
        };
        let port = BePort::new;
        let key = FlowKey::new(Proto::TCP, addr(1), port(40_000), addr(2), port(80));
        let val = FlowVal {
            src: addr(3),
            dst: addr(4),
            via: <Addr4 as lb_common::net::Address>::UNSPECIFIED,
            sport: port(50_000),
            dport: port(8080),
            service: ServiceId(1),
            backend: BackendId(1),
            generation: 1,
            flags,
            oif: 2,
            seen_s: 100,
        };
        view(&key, &val, "shop/web".into(), &Timeouts::DEFAULT, 130)
    }

    #[test]
    fn a_flow_is_told_by_its_client_half() {
        let seen = flow(
            FlowFlags::SNAT
                .with(FlowFlags::REPLIED)
                .with(FlowFlags::ESTABLISHED),
        );
        assert_eq!(
            (
                seen.client.as_str(),
                seen.destination.as_str(),
                seen.backend.as_str(),
                seen.source.as_str()
            ),
            (
                "192.0.2.1:40000",
                "192.0.2.2:80",
                "192.0.2.4:8080",
                "192.0.2.3:50000"
            )
        );
        assert_eq!(
            (seen.state, seen.way, seen.idle_seconds),
            ("established", "redirect", 30)
        );
        assert_eq!(seen.expires_seconds, Timeouts::DEFAULT.established_s - 30);
    }

    #[test]
    fn filters_take_addresses_with_and_without_port() {
        let seen = flow(FlowFlags::default());
        let wanted = |client: Option<&str>, backend: Option<&str>, service: Option<&str>| {
            is_wanted(
                &seen,
                &FlowFilter {
                    service: service.map(|name| ("shop".into(), name.into())),
                    client: client.map(Into::into),
                    backend: backend.map(Into::into),
                },
            )
        };
        assert!(wanted(None, None, None));
        assert!(wanted(
            Some("192.0.2.1"),
            Some("192.0.2.4:8080"),
            Some("web")
        ));
        assert!(!wanted(Some("192.0.2.9"), None, None));
        assert!(!wanted(None, Some("192.0.2.4:80"), None));
        assert!(!wanted(None, None, Some("db")));
    }
}
