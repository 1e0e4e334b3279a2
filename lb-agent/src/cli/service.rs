//! `service list` and `service get`: what the data plane serves.

use std::process::ExitCode;

use lb_common::net::{Addr4, Addr6};

use super::{
    args::{ServiceCommand, ShowArgs},
    output::{columns, print, render},
    view::{self, FrontendView, ServiceView},
};
use crate::maps::{
    family::Family as _,
    pinned::{Pinned, PinnedError},
};

/// Runs the verb.
///
/// # Errors
/// Nothing is pinned, or the maps do not answer, or there is no such Service.
pub fn execute(command: &ServiceCommand) -> anyhow::Result<ExitCode> {
    match command {
        ServiceCommand::List(show) => list(show),
        ServiceCommand::Get {
            service: (namespace, name),
            show,
        } => get(namespace, name, show),
    }
}

fn list(show: &ShowArgs) -> anyhow::Result<ExitCode> {
    let views = read(&Pinned::open(&show.roots.bpffs_root)?)?;
    print(&render(show.output, &views, |views| list_table(views))?)?;
    Ok(ExitCode::SUCCESS)
}

fn get(namespace: &str, name: &str, show: &ShowArgs) -> anyhow::Result<ExitCode> {
    let mut views = read(&Pinned::open(&show.roots.bpffs_root)?)?;
    views.retain(|view| view.namespace == namespace && view.name == name);
    if views.is_empty() {
        anyhow::bail!(
            "service {namespace}/{name} is not served here; `lb-agent service list` shows those that are"
        );
    }
    print(&render(show.output, &views, |views| get_text(views))?)?;
    Ok(ExitCode::SUCCESS)
}

/// Both families.
fn read(pinned: &Pinned) -> Result<Vec<ServiceView>, PinnedError> {
    let mut views = view::services(&pinned.content::<Addr4>()?);
    views.extend(view::services(&pinned.content::<Addr6>()?));
    view::sort(&mut views);
    Ok(views)
}

/// One row for each frontend.
pub fn list_table(views: &[ServiceView]) -> String {
    if views.is_empty() {
        return "no services\n".to_owned();
    }
    let rows = views.iter().flat_map(|view| {
        view.frontends.iter().map(|frontend| {
            [
                format!("{}/{}", view.namespace, view.name),
                or_dash(&view.port),
                frontend.protocol.clone(),
                frontend.kind.to_owned(),
                shown(view, frontend),
                backends(view, frontend),
                policy(frontend),
                or_dash(&notes(view, frontend).join(", ")),
            ]
        })
    });
    columns(
        [
            "NAMESPACE/NAME",
            "PORT",
            "PROTO",
            "TYPE",
            "FRONTEND",
            "BACKENDS",
            "POLICY",
            "NOTES",
        ],
        rows,
    )
}

/// A NodePort on IPv6 addresses has brackets, as those have.
fn shown(view: &ServiceView, frontend: &FrontendView) -> String {
    if frontend.address == "nodes" && view.family == Addr6::LABEL {
        return format!("[nodes]:{}", frontend.port);
    }
    frontend.dial()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

/// `3`, or `2 local/3` where some clients get the Local list.
fn backends(view: &ServiceView, frontend: &FrontendView) -> String {
    if FrontendView::classes(&frontend.lists, "local").is_empty() {
        return view.cluster_backends.to_string();
    }
    format!("{} local/{}", view.local_backends, usable(view))
}

/// Endpoints that could be used from somewhere: ready ones, or draining ones when none is ready.
fn usable(view: &ServiceView) -> usize {
    let ready = view.backends.iter().filter(|b| b.ready).count();
    if ready > 0 {
        return ready;
    }
    view.backends
        .iter()
        .filter(|b| b.serving && b.terminating)
        .count()
}

/// `Cluster`, `Local`, or `Local for outside` where classes differ.
fn policy(frontend: &FrontendView) -> String {
    let local = FrontendView::classes(&frontend.lists, "local");
    match local.len() {
        0 => "Cluster".to_owned(),
        3 => "Local".to_owned(),
        _ => format!("Local for {}", local.join("+")),
    }
}

fn notes(view: &ServiceView, frontend: &FrontendView) -> Vec<String> {
    let mut notes = Vec::new();
    let words = [
        frontend.lists.pod,
        frontend.lists.host,
        frontend.lists.outside,
    ];
    for (list, verdict) in [
        ("cluster", view.empty_verdict.cluster),
        ("local", view.empty_verdict.local),
    ] {
        match verdict {
            Some(_) if !words.contains(&list) => {}
            Some("drop") => notes.push("none on this node: unreachable".to_owned()),
            Some(_) => notes.push("no endpoints: refused".to_owned()),
            None => {}
        }
    }
    notes.dedup();
    if view.affinity_timeout_seconds != 0 {
        notes.push(format!("affinity {}s", view.affinity_timeout_seconds));
    }
    if view.algorithm != "random" {
        notes.push(view.algorithm.to_owned());
    }
    if FrontendView::classes(&frontend.source_rules, "allow").len() < 3 {
        notes.push(format!("source ranges: {}", view.source_ranges.len()));
    }
    let draining = view.backends.iter().filter(|b| b.terminating).count();
    if draining > 0 {
        notes.push(format!("{draining} terminating"));
    }
    notes
}

/// Every port of one Service with its frontends and endpoints.
pub fn get_text(views: &[ServiceView]) -> String {
    let ports: Vec<_> = views.iter().map(port_text).collect();
    ports.join("\n")
}

fn port_text(view: &ServiceView) -> String {
    let mut text = format!(
        "{}/{}  port {}  {} {}  id {}\n",
        view.namespace,
        view.name,
        or_dash(&view.port),
        view.protocol,
        view.family,
        view.id
    );
    let affinity = match view.affinity_timeout_seconds {
        0 => "none".to_owned(),
        seconds => format!("ClientIP, {seconds}s"),
    };
    text += &format!("algorithm {}, affinity {affinity}\n", view.algorithm);
    if !view.source_ranges.is_empty() {
        text += &format!("source ranges {}\n", view.source_ranges.join(", "));
    }
    text.push('\n');
    text += &columns(
        ["TYPE", "FRONTEND", "POLICY", "NOTES"],
        view.frontends.iter().map(|frontend| {
            [
                frontend.kind.to_owned(),
                shown(view, frontend),
                policy(frontend),
                or_dash(&notes(view, frontend).join(", ")),
            ]
        }),
    );
    text.push('\n');
    if view.backends.is_empty() {
        return text + "no endpoints\n";
    }
    text + &columns(
        ["ENDPOINT", "ID", "CONDITION", "NODE", "LISTS"],
        view.backends.iter().map(|backend| {
            [
                backend.dial(),
                backend.id.to_string(),
                condition(backend).to_owned(),
                if backend.on_node { "this" } else { "other" }.to_owned(),
                lists(backend),
            ]
        }),
    )
}

fn condition(backend: &view::BackendView) -> &'static str {
    match (backend.ready, backend.serving, backend.terminating) {
        (true, _, false) => "ready",
        (true, _, true) => "ready, terminating",
        (false, true, true) => "terminating, serving",
        (false, true, false) => "not ready, serving",
        (false, false, true) => "terminating",
        (false, false, false) => "not ready",
    }
}

fn lists(backend: &view::BackendView) -> String {
    match (backend.in_cluster, backend.in_local, backend.hinted_away) {
        (true, true, _) => "Cluster, Local",
        (true, false, _) => "Cluster",
        (false, true, true) => "Local (hints name others)",
        (false, true, false) => "Local",
        (false, false, true) => "none (hints name others)",
        (false, false, false) => "none",
    }
    .to_owned()
}
