//! Several agents on one kernel, and the removal of one of them.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use std::time::Duration;
use xtask::lab::manifest::{Document, slices, svc};
use xtask::lab::traffic::Dial;
use xtask::lab::{Lab, mounts_below};

use crate::harness::{case, case_with, servers, who};
use crate::load::{VIP, Web};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("coexist", name, test);
    vec![
        case(
            "a_second_agent_on_one_bpffs_root_is_refused_in_words",
            second_agent,
        ),
        case(
            "two_nodes_on_one_kernel_do_not_disturb_each_other",
            two_nodes,
        ),
        case(
            "cleanup_removes_links_maps_and_mounts_and_nothing_else",
            cleanup,
        ),
        case("cleanup_is_refused_while_the_agent_runs", cleanup_refused),
        case_with(
            "nft",
            "coexist",
            "rules_of_kube_proxy_beside_ours_are_told",
            kube_proxys_rules,
        ),
    ]
}

/// By `status`, healthy all the same, and once by the log.
fn kube_proxys_rules(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let told = |agent: &xtask::lab::Agent| -> Result<Vec<String>> {
        let status = agent.status()?;
        ensure!(status["healthy"] == true, "{status:#}");
        Ok(serde_json::from_value(status["conflicts"].clone())?)
    };
    let agent = web.node.agent(&["--full-check-period", "1s"])?;
    ensure!(told(&agent)?.is_empty());
    ensure!(
        !agent.log().contains("kube-proxy's rules"),
        "{}",
        agent.log()
    );
    (web.node.host.netns).nft(
        "add table ip kube-proxy\nadd chain ip kube-proxy services\nadd table ip6 kube-proxy\n\
         add chain ip6 kube-proxy services\nadd table ip nat\nadd chain ip nat KUBE-SERVICES\n",
    )?;
    let expected = [
        "iptables chains KUBE-* in table nat (ip)",
        "nftables table ip kube-proxy",
        "nftables table ip6 kube-proxy",
    ];
    ensure!(told(&agent)? == expected);
    std::thread::sleep(Duration::from_secs(3));
    let words = agent
        .log()
        .matches("kube-proxy's rules are beside ours")
        .count();
    ensure!(words == 1, "told {words} times: {}", agent.log());
    ensure!(who(&web.client, &Dial::tcp(VIP.parse()?), 3)? == ["web-0"]);
    Ok(())
}

fn second_agent(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let first = web.node.agent(&[])?;
    let before = first.log().len();
    let mut second =
        web.node
            .start_agent(&["--healthz-bind-address", "", "--metrics-bind-address", ""])?;
    let status = second.wait_end()?;
    ensure!(!status.success());
    let log = second.log();
    // The node's log has the first agent's words as well.
    let log = &log[before..];
    let root = web.node.bpffs.display().to_string();
    ensure!(
        log.contains(&root) && log.contains("agent"),
        "the second agent says no more than: {log}"
    );
    ensure!(first.is_running());
    ensure!(who(&web.client, &Dial::tcp(VIP.parse()?), 3)? == ["web-0"]);
    Ok(())
}

/// Both nodes serve the same address, each with its own backend; one goes through start, crash, and cleanup.
fn two_nodes(lab: &Lab) -> Result<()> {
    let nodes = [lab.node("node-a")?, lab.node("node-b")?];
    let mut pods = Vec::new();
    for (node, name) in nodes.iter().zip(["web-a", "web-b"]) {
        let server = servers(node, [name], 8080)?;
        let listed = slices("ns/web").tcp(8080).endpoint(&server[0].pod);
        let web = svc("ns/web").cluster_ip("10.96.0.10").tcp(80);
        node.publish::<Document>("web", [web.into(), listed.into()])?;
        pods.push((node.pod("client")?, server));
    }
    let dial = Dial::tcp(VIP.parse()?);
    let sees = |index: usize, name: &str| -> Result<()> {
        ensure!(who(&pods[index].0, &dial, 5)? == [name], "node {index}");
        Ok(())
    };
    let _a = nodes[0].agent(&[])?;
    let mut b = nodes[1].agent(&[])?;
    sees(0, "web-a")?;
    sees(1, "web-b")?;
    b.kill9()?;
    sees(0, "web-a")?;
    b.restart()?;
    sees(1, "web-b")?;
    b.term()?;
    ensure!(nodes[1].cli(&["cleanup"])?.status.success());
    sees(0, "web-a")?;
    ensure!(
        pods[1]
            .0
            .ask(&dial.clone().within(Duration::from_millis(300)))?
            .is_err(),
        "node-b still translates"
    );
    ensure!(nodes[0].cli(&["status"])?.status.success());
    Ok(())
}

fn cleanup(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let mut agent = web.node.agent(&[])?;
    ensure!(
        mounts_below(&web.node.bpffs)? == [web.node.bpffs.clone()],
        "the agent mounts a bpffs where there is none"
    );
    let links = std::fs::read_dir(web.node.bpffs.join("v1/links"))?.count();
    let maps = std::fs::read_dir(web.node.bpffs.join("v1/maps"))?.count();
    ensure!(links >= 11 && maps >= 10, "{links} links, {maps} maps");
    agent.term()?;
    let output = web.node.cli(&["cleanup"])?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(mounts_below(&web.node.bpffs)?.is_empty());
    ensure!(
        std::fs::read_dir(&web.node.bpffs)?.next().is_none(),
        "something is left below the root"
    );
    let dial = Dial::tcp(VIP.parse()?).within(Duration::from_millis(300));
    ensure!(web.client.ask(&dial)?.is_err(), "still translated");
    ensure!(
        web.node.cli(&["cleanup"])?.status.success(),
        "there is nothing to do, and that is no error"
    );
    agent.restart()?;
    ensure!(who(&web.client, &Dial::tcp(VIP.parse()?), 3)? == ["web-0"]);
    Ok(())
}

fn cleanup_refused(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let _agent = web.node.agent(&[])?;
    let output = web.node.cli(&["cleanup"])?;
    ensure!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        said.contains("agent runs") && said.contains("--force"),
        "{said}"
    );
    ensure!(who(&web.client, &Dial::tcp(VIP.parse()?), 3)? == ["web-0"]);
    Ok(())
}
