//! kube-proxy's command line and configuration file, as its users have them (rules 137 to 140).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use xtask::lab::Lab;
use xtask::lab::traffic::Dial;

use crate::commands::{text, web};
use crate::harness::{case, soon_who};
use crate::load::VIP;

/// Takes `run` out of a command line.
const WITHOUT_VERB: [&str; 4] = ["sh", "-c", r#"agent=$1; shift 2; exec "$agent" "$@""#, "sh"];
const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("configuration", name, test);
    vec![
        case("kube_proxys_command_line_runs_the_agent", command_line),
        case("a_changed_file_ends_the_agent_and_says_so", changed_file),
        case("the_configuration_is_written_and_read_again", written),
        case("the_flag_cleanup_takes_the_data_plane_away", cleanup),
        case("init_only_prepares_the_host_and_ends", init_only),
        case("what_changes_nothing_is_warned_of_at_start", warned),
        case("the_kernel_is_told_how_dear_the_agent_is", spared),
        case(
            "a_bad_configuration_ends_the_start_with_its_remedy",
            refused,
        ),
    ]
}

/// A ConfigMap as a kubelet mounts it: the file is a link through a folder that is a link.
fn mount(folder: &Path, generation: &str, fields: &str) -> Result<String> {
    let data = folder.join(generation);
    fs::create_dir(&data)?;
    fs::write(data.join("config.conf"), format!("{HEAD}{fields}"))?;
    let (next, link) = (folder.join("..next"), folder.join("..data"));
    symlink(&data, &next)?;
    fs::rename(next, link)?;
    let file = folder.join("config.conf");
    if !file.exists() {
        symlink("..data/config.conf", &file)?;
    }
    Ok(file.to_string_lossy().into_owned())
}

fn command_line(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let folder = tempfile::tempdir()?;
    let fields = "metricsBindAddress: 127.0.0.1:10300\nmode: ipvs\n";
    let file = mount(folder.path(), "1", fields)?;
    let agent = web.node.agent_by(
        &WITHOUT_VERB,
        &[
            &format!("--config={file}"),
            "--hostname-override=node-a",
            "--proxy_mode=iptables",
        ],
    )?;
    soon_who(
        &web.client,
        &Dial::tcp(VIP.parse()?),
        9,
        &["web-0", "web-1"],
    )?;
    ensure!(agent.get("127.0.0.1:10300", "/proxyMode")?.1 == "ebpf");
    ensure!(
        agent
            .log()
            .contains("--proxy-mode is ignored beside --config"),
        "{}",
        agent.log()
    );
    Ok(())
}

/// Rule 137.
fn changed_file(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let folder = tempfile::tempdir()?;
    let file = mount(folder.path(), "1", "clusterCIDR: 10.0.0.0/8\n")?;
    let mut agent = web.node.agent(&[&format!("--config={file}")])?;
    mount(folder.path(), "2", "clusterCIDR: 10.0.0.0/8\n")?;
    thread::sleep(Duration::from_secs(5));
    ensure!(
        agent.is_running(),
        "the same text ended it: {}",
        agent.log()
    );
    mount(folder.path(), "3", "clusterCIDR: 11.0.0.0/8\n")?;
    let status = agent.wait_end()?;
    ensure!(status.code() == Some(1), "{status}");
    let said = format!("--config {file} has changed");
    ensure!(agent.log().contains(&said), "{}", agent.log());
    agent.restart()?;
    soon_who(
        &web.client,
        &Dial::tcp(VIP.parse()?),
        9,
        &["web-0", "web-1"],
    )
}

fn written(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let folder = tempfile::tempdir()?;
    let to = folder.path().join("written.conf");
    let to = to.to_str().context("a name")?;
    let flags = [
        "--cluster-cidr=10.0.0.0/8",
        "--kube-api-qps=7",
        "--write-config-to",
        to,
    ];
    let said = web.node.cli(&flags)?;
    ensure!(said.status.success(), "{}", text(&said));
    let read = fs::read_to_string(to)?;
    let value: Value = serde_yaml_ng::from_str(&read)?;
    ensure!(value["kind"] == "KubeProxyConfiguration", "{read}");
    ensure!(value["clusterCIDR"] == "10.0.0.0/8", "{read}");
    ensure!(value["clientConnection"]["qps"] == 7.0, "{read}");
    ensure!(value["oomScoreAdj"] == -999, "{read}");
    let explained = web
        .node
        .cli(&["config", "explain", "--config", to, "-o", "json"])?;
    ensure!(explained.status.success(), "{}", text(&explained));
    let rows: Value = serde_json::from_slice(&explained.stdout)?;
    let qps = (rows.as_array().context("a list")?.iter())
        .find(|row| row["field"] == "clientConnection.qps")
        .context("no such row")?;
    ensure!(qps["value"] == "7" && qps["source"] == to, "{qps}");
    Ok(())
}

fn cleanup(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let mut agent = web.node.agent(&[])?;
    let said = web.node.cli(&["--cleanup"])?;
    ensure!(
        !said.status.success() && text(&said).contains("an agent runs"),
        "{}",
        text(&said)
    );
    agent.kill9()?;
    let said = web.node.cli(&["--cleanup=true"])?;
    ensure!(said.status.success(), "{}", text(&said));
    ensure!(!web.node.bpffs.join("v1").exists());
    Ok(())
}

fn init_only(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let said = web.node.cli(&["--init-only", "--manifests", "/"])?;
    ensure!(said.status.success(), "{}", text(&said));
    let reserved = web.node.host.exec(|| {
        Ok(fs::read_to_string(
            "/proc/sys/net/ipv4/ip_local_reserved_ports",
        )?)
    })?;
    ensure!(reserved.contains("40000-60999"), "{reserved}");
    let filter = web
        .node
        .host
        .exec(|| Ok(fs::read_to_string("/proc/sys/net/ipv4/conf/lb0/rp_filter")?))?;
    ensure!(filter.trim() == "0", "lb0 has rp_filter {filter}");
    let links = fs::read_dir(web.node.bpffs.join("v1/links"))?.count();
    ensure!(links == 0, "{links} links");
    let _agent = web.node.agent(&[])?;
    soon_who(
        &web.client,
        &Dial::tcp(VIP.parse()?),
        9,
        &["web-0", "web-1"],
    )
}

fn warned(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let agent = web.node.agent(&[
        "--proxy-mode=ipvs",
        "--ipvs-strict-arp",
        "--oom-score-adj=300",
    ])?;
    let log = agent.log();
    for said in [
        "--proxy-mode ipvs changes nothing",
        "--ipvs-strict-arp true changes nothing",
    ] {
        ensure!(log.contains(said), "{log}");
    }
    ensure!(!log.contains("oom"), "{log}");
    Ok(())
}

/// Below what it has is what needs CAP_SYS_RESOURCE, which not every machine of tests gives.
fn spared(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let agent = web.node.agent(&["--oom-score-adj=700"])?;
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", agent.pid()))?;
    ensure!(score.trim() == "700", "{score}");
    Ok(())
}

fn refused(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let folder = tempfile::tempdir()?;
    let bad = mount(folder.path(), "1", "oomScoreAdj: 5000\n")?;
    let said_of_file = format!(
        "--config {bad}: oomScoreAdj is 5000; it must be a whole number from -1000 to 1000"
    );
    for (flags, want) in [
        (&["--config", &bad][..], &*said_of_file),
        (&["--config", "/nowhere"], "--config /nowhere: No such file"),
        (&["--iptables-sync-period=0s"], "a duration above 0"),
        (&["--bind-address=eth0"], "an IP address"),
    ] {
        let mut agent = web.node.start_agent(flags)?;
        let status = agent.wait_end()?;
        ensure!(
            !status.success() && agent.log().contains(want),
            "{flags:?}: {}",
            agent.log()
        );
    }
    Ok(())
}
