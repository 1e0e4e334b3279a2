//! Full maps: loud, and harmless to what is served already.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use xtask::lab::manifest::{Document, slices, svc};
use xtask::lab::traffic::Dial;
use xtask::lab::{Agent, Lab, Node, Pod};

use crate::harness::{SOON, Server, case, eventually, servers, soon_who, told, who};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("full", name, test);
    vec![
        case(
            "a_full_service_map_keeps_earlier_services_and_says_so",
            |lab| full(lab, "--max-services", "4", "LB4_SERVICES"),
        ),
        case(
            "a_full_slot_map_keeps_earlier_services_and_says_so",
            |lab| full(lab, "--max-slots", "16", "LB4_SLOTS"),
        ),
        case(
            "a_full_frontend_map_keeps_earlier_services_and_says_so",
            |lab| full(lab, "--max-frontends", "6", "LB4_FRONTENDS"),
        ),
        case(
            "a_full_backend_map_keeps_earlier_services_and_says_so",
            |lab| full(lab, "--max-backends", "6", "LB4_BACKENDS"),
        ),
    ]
}

struct Crowd {
    node: Node,
    client: Pod,
    pods: [Server; 2],
}

impl Crowd {
    /// Services `ns/web-1` up to `ns/web-<count>`, each of one port and two endpoints.
    fn publish(&self, count: u8) -> Result<()> {
        let documents = (1..=count).flat_map(|number| {
            let name = format!("ns/web-{number}");
            let listed = slices(&name)
                .tcp(8080)
                .endpoints(self.pods.iter().map(|server| &server.pod));
            [
                Document::from(svc(&name).cluster_ip(&format!("10.96.0.{number}")).tcp(80)),
                listed.into(),
            ]
        });
        self.node.publish("crowd", documents)
    }

    fn both_answer(&self, number: u8) -> Result<()> {
        let seen = who(&self.client, &dial(number)?, 40)?;
        ensure!(
            seen == ["web-0", "web-1"],
            "service {number} is answered by {seen:?}"
        );
        Ok(())
    }
}

fn dial(number: u8) -> Result<Dial> {
    Ok(Dial::tcp(format!("10.96.0.{number}:80").parse()?))
}

fn full(lab: &Lab, flag: &str, size: &str, map: &str) -> Result<()> {
    let node = lab.node("node-a")?;
    let client = node.pod("client")?;
    let pods = servers(&node, ["web-0", "web-1"], 8080)?;
    let crowd = Crowd { node, client, pods };
    crowd.publish(2)?;
    let agent = crowd.node.agent(&[flag, size])?;
    (1..=2).try_for_each(|number| crowd.both_answer(number))?;
    crowd.publish(30)?;
    says_so(&agent, flag, map)?;
    ensure!(agent.is_running(), "the agent ended");
    (1..=2).try_for_each(|number| crowd.both_answer(number))?;
    ensure!(
        !crowd.node.cli(&["status"])?.status.success(),
        "status finds nothing wrong"
    );
    // Room comes back: what was left out is served without a restart.
    crowd.publish(1)?;
    soon_who(&crowd.client, &dial(1)?, 40, &["web-0", "web-1"])?;
    let listed = slices("ns/late")
        .tcp(8080)
        .endpoints(crowd.pods.iter().map(|server| &server.pod));
    let late = svc("ns/late").cluster_ip("10.96.0.200").tcp(80);
    crowd
        .node
        .publish::<Document>("late", [late.into(), listed.into()])?;
    soon_who(&crowd.client, &dial(200)?, 40, &["web-0", "web-1"])?;
    eventually(SOON, || {
        ensure!(
            crowd.node.cli(&["status"])?.status.success(),
            "status still finds something wrong"
        );
        Ok(())
    })
}

/// The error names map, capacity and remedy, and a metric counts the Services that are not served.
fn says_so(agent: &Agent, flag: &str, map: &str) -> Result<()> {
    eventually(SOON, || {
        let log = agent.log();
        let found = log
            .lines()
            .any(|line| line.contains(map) && line.contains("full") && line.contains(flag));
        ensure!(found, "no line says that {map} is full and to raise {flag}");
        ensure!(
            told(agent, "failedServices")? >= 1,
            "no Service counts as failed"
        );
        Ok(())
    })
}
