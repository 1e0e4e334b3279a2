//! `status`: whether agent and data plane are well. Everything is read from the kernel: it works
//! while the agent runs and after it has gone.

use std::{path::Path, process::ExitCode};

use lb_common::{
    agent_state::AgentState,
    net::{Addr4, Addr6},
};
use serde::Serialize;

use super::{
    args::ShowArgs,
    output::{columns, print, render},
    running::agent_runs,
};
use crate::{
    cgroup::CgroupRoot,
    maps::{
        family::Family,
        pinned::{Pinned, PinnedError},
        sys,
    },
    observe::{
        attached::{Attachment, attachments, linked_cgroup},
        devices::{DeviceProgram, DeviceStatus, devices},
        rules,
    },
};

/// The JSON of `status`: keys are the fields' names in camel case.
#[derive(Serialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Nothing below is wrong; also the exit code.
    pub healthy: bool,
    /// What is wrong, in words.
    pub problems: Vec<String>,
    /// Rules of kube-proxy in this network namespace, beside our own: not wrong, but in vain.
    pub conflicts: Vec<String>,
    /// The agent, as far as it says.
    pub agent: Agent,
    /// The cgroup whose processes are served.
    pub cgroup: String,
    /// Every program.
    pub programs: Vec<Attachment>,
    /// Devices that are served, and `lb0`; none are seen from another network namespace than the agent's.
    pub devices: Vec<DeviceStatus>,
    /// Addresses that NodePorts answer on, both families.
    pub node_port_addresses: Vec<String>,
    /// Families in which NodePorts answer on loopback, in the host's network namespace.
    pub node_ports_on_localhost: Vec<&'static str>,
    /// How full the maps are.
    pub maps: Vec<MapFill>,
    /// What was counted, by reason: labels of `lb_socket_events_total`.
    pub counters: Vec<Count>,
}

/// The agent of this data plane.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// A process holds the lock of this `--bpffs-root`.
    pub running: bool,
    /// Its process id, in its own pid namespace; of the last agent when none runs.
    pub pid: u32,
    /// Every source has delivered its first list, and the maps are complete.
    pub synced: bool,
    /// Since its start.
    pub uptime_seconds: Option<u64>,
    /// Since the last change was applied.
    pub last_apply_seconds: Option<u64>,
    /// Objects left out at the moment, for they are bad.
    pub skipped_objects: u32,
    /// Service ports whose last change could not be applied.
    pub failed_services: u32,
    /// Map entries that were found changed by somebody else and repaired, in all.
    pub repaired_entries: u32,
}

/// One map.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "plain")]
pub struct MapFill {
    pub name: &'static str,
    pub entries: usize,
    pub capacity: u32,
}

/// One counter.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "plain")]
pub struct Count {
    pub reason: &'static str,
    pub count: u64,
    pub meaning: &'static str,
}

/// Runs the verb.
///
/// # Errors
/// Nothing is pinned, or the maps do not answer.
pub fn execute(show: &ShowArgs) -> anyhow::Result<ExitCode> {
    let status = read(show)?;
    print(&render(show.output, &status, text)?)?;
    Ok(if status.healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read(show: &ShowArgs) -> anyhow::Result<Status> {
    let root = &show.roots.bpffs_root;
    let pinned = Pinned::open(root)?;
    let cgroup = CgroupRoot::find(show.roots.cgroup_root.as_deref())?;
    let directory = if cgroup.is_given {
        cgroup.path
    } else {
        linked_cgroup(root, &cgroup.path).unwrap_or(cgroup.path)
    };
    let agent = agent(&pinned.agent()?, agent_runs(root)?, sys::boot_ns()?);
    let programs = attachments(root, &directory);
    let maps = fills(&pinned)?;
    let devices = devices(root)?;
    let mut problems = problems(root, &agent, &programs, &maps);
    problems.extend(devices.iter().filter_map(|d| {
        let problem = d.problem.as_ref()?;
        Some(format!("device {}: {problem}", d.device))
    }));
    Ok(Status {
        healthy: problems.is_empty(),
        problems,
        conflicts: conflicts(&pinned)?,
        agent,
        cgroup: directory.display().to_string(),
        programs,
        devices,
        node_port_addresses: addresses::<Addr4>(&pinned)?
            .into_iter()
            .chain(addresses::<Addr6>(&pinned)?)
            .collect(),
        node_ports_on_localhost: localhost(&pinned)?,
        maps,
        counters: pinned
            .counters()?
            .into_iter()
            .map(|(counter, count)| Count {
                reason: counter.label(),
                count,
                meaning: counter.help(),
            })
            .collect(),
    })
}

/// Seen from the agent's own network namespace alone.
fn conflicts(pinned: &Pinned) -> Result<Vec<String>, PinnedError> {
    let is_here = sys::netns_cookie().ok() == Some(pinned.agent()?.host_netns);
    let found = is_here.then(|| rules::of_kube_proxy().unwrap_or_default());
    Ok(found.unwrap_or_default())
}

fn agent(state: &AgentState, running: bool, now_ns: u64) -> Agent {
    let ago = |then: u64| (then != 0).then(|| now_ns.saturating_sub(then) / 1_000_000_000);
    Agent {
        running,
        pid: state.pid,
        synced: state.synced_ns != 0,
        uptime_seconds: ago(state.started_ns).filter(|_| running),
        last_apply_seconds: ago(state.applied_ns),
        skipped_objects: state.skipped,
        failed_services: state.failed,
        repaired_entries: state.repaired,
    }
}

fn fills(pinned: &Pinned) -> Result<Vec<MapFill>, PinnedError> {
    Ok(pinned
        .fills()?
        .into_iter()
        .map(|fill| MapFill {
            name: fill.spec.name,
            entries: fill.entries,
            capacity: fill.capacity,
        })
        .collect())
}

fn addresses<A: Family>(pinned: &Pinned) -> Result<Vec<String>, PinnedError> {
    let addresses = pinned.node_addrs::<A>()?;
    Ok(addresses.into_iter().map(|a| a.ip().to_string()).collect())
}

fn localhost(pinned: &Pinned) -> Result<Vec<&'static str>, PinnedError> {
    let config = pinned.config()?;
    let v4 = Addr4::settings(&config).localhost().then_some(Addr4::LABEL);
    let v6 = Addr6::settings(&config).localhost().then_some(Addr6::LABEL);
    Ok(v4.into_iter().chain(v6).collect())
}

fn problems(root: &Path, agent: &Agent, programs: &[Attachment], maps: &[MapFill]) -> Vec<String> {
    let mut problems = Vec::new();
    if !agent.running {
        problems.push(format!(
            "no agent runs with --bpffs-root {}: what is programmed stays as it is",
            root.display()
        ));
    }
    if !agent.synced {
        problems.push("the maps are not complete: the agent waits for its first lists".to_owned());
    }
    if agent.failed_services > 0 {
        problems.push(format!(
            "{} service ports could not be applied: the agent's log says why",
            agent.failed_services
        ));
    }
    for program in programs {
        if let Some(problem) = &program.problem {
            problems.push(format!("{}: {problem}", program.program));
        }
    }
    for map in maps.iter().filter(|map| is_full(map)) {
        problems.push(format!(
            "map {} is full ({} entries)",
            map.name, map.capacity
        ));
    }
    problems
}

/// Maps that forget their oldest entry by themselves may be full.
fn is_full(map: &MapFill) -> bool {
    use lb_common::map_table::{MapType, find};
    let forgets = find(map.name).is_some_and(|spec| spec.map_type == MapType::LruHash);
    !forgets && map.entries >= map.capacity as usize
}

/// For people.
pub fn text(status: &Status) -> String {
    let mut text = String::new();
    text += if status.healthy {
        "healthy\n"
    } else {
        "NOT healthy\n"
    };
    for problem in &status.problems {
        text += &format!("  {problem}\n");
    }
    for conflict in &status.conflicts {
        text +=
            &format!("  beside ours: {conflict}: end kube-proxy, then `kube-proxy --cleanup`\n");
    }
    text += &format!("\nagent       {}\n", agent_text(&status.agent));
    text += &format!(
        "objects     {} skipped, {} service ports failed, {} entries repaired\n",
        status.agent.skipped_objects, status.agent.failed_services, status.agent.repaired_entries
    );
    text += &format!("cgroup      {}\n", status.cgroup);
    text += &format!("node ports  {}\n\n", node_ports(status));
    text += &columns(
        ["PROGRAM", "HOOK", "ID", "ATTACHED", "EFFECTIVE"],
        status.programs.iter().map(|p| {
            [
                p.program.to_owned(),
                p.hook.to_owned(),
                p.program_id
                    .map_or_else(|| "-".to_owned(), |id| id.to_string()),
                yes(p.attached),
                yes(p.effective),
            ]
        }),
    );
    text.push('\n');
    text += &devices_text(&status.devices);
    text += &columns(
        ["MAP", "ENTRIES", "CAPACITY"],
        status.maps.iter().map(|m| {
            [
                m.name.to_owned(),
                m.entries.to_string(),
                m.capacity.to_string(),
            ]
        }),
    );
    text.push('\n');
    text + &columns(
        ["COUNTER", "COUNT", "MEANING"],
        status.counters.iter().map(|c| {
            [
                c.reason.to_owned(),
                c.count.to_string(),
                c.meaning.trim().to_owned(),
            ]
        }),
    )
}

fn devices_text(devices: &[DeviceStatus]) -> String {
    if devices.is_empty() {
        return String::new();
    }
    let or_none = |words: Vec<String>| match words.is_empty() {
        true => "-".to_owned(),
        false => words.join(", "),
    };
    let rows = devices.iter().map(|d| {
        let program = |p: &DeviceProgram| format!("{} ({}, id {})", p.program, p.by, p.program_id);
        [
            d.device.clone(),
            d.roles.join(", "),
            or_none(d.programs.iter().map(program).collect()),
            or_none(d.masquerade.clone()),
        ]
    });
    columns(["DEVICE", "ROLE", "PROGRAMS", "MASQUERADES WITH"], rows) + "\n"
}

fn yes(on: bool) -> String {
    if on { "yes" } else { "NO" }.to_owned()
}

fn agent_text(agent: &Agent) -> String {
    if !agent.running {
        return format!("not running (the last one was process {})", agent.pid);
    }
    let since =
        |seconds: Option<u64>| seconds.map_or_else(|| "never".to_owned(), |s| format!("{s}s ago"));
    format!(
        "process {}, started {}, {}, last apply {}",
        agent.pid,
        since(agent.uptime_seconds),
        if agent.synced { "synced" } else { "not synced" },
        since(agent.last_apply_seconds)
    )
}

fn node_ports(status: &Status) -> String {
    let mut places = status.node_port_addresses.clone();
    if !status.node_ports_on_localhost.is_empty() {
        places.push(format!(
            "localhost ({}, in the host's network namespace)",
            status.node_ports_on_localhost.join(", ")
        ));
    }
    if places.is_empty() {
        return "answer nowhere".to_owned();
    }
    format!("answer on {}", places.join(", "))
}
