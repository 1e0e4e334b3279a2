//! The manifest folder: bad documents, atomic replacement, a mounted ConfigMap's symlinks, and a folder that goes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::manifest::{Document, service_cidr, slices, svc, to_yaml};
use xtask::lab::traffic::Dial;
use xtask::lab::{Agent, Lab, Node, Pod, SERVICE_CIDRS};

use crate::harness::{
    SOON, Server, case, eventually, expect_refusal, servers, soon_refused, soon_who, told, who,
};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("manifests", name, test);
    vec![
        case(
            "a_bad_document_keeps_the_others_and_is_named_with_a_remedy",
            bad_document,
        ),
        case(
            "a_service_without_cluster_ip_is_an_error_that_says_so",
            no_cluster_ip,
        ),
        case("a_file_that_turns_bad_keeps_its_last_good_state", turns_bad),
        case("a_removed_file_takes_its_services_down", removed_file),
        case("a_config_map_swap_is_one_change", config_map),
        case("lists_and_json_files_are_read", lists_and_json),
        case("a_folder_that_vanishes_keeps_the_last_state", vanished),
        case("a_missing_folder_is_refused_at_the_start", missing_folder),
    ]
}

struct Two {
    node: Node,
    client: Pod,
    pods: [Server; 2],
}

impl Two {
    fn new(lab: &Lab) -> Result<Self> {
        let node = lab.node("node-a")?;
        let client = node.pod("client")?;
        let pods = servers(&node, ["web-0", "web-1"], 8080)?;
        node.publish("cidr", [service_cidr("services", &SERVICE_CIDRS)])?;
        Ok(Self { node, client, pods })
    }

    /// Service `ns/<name>` at `address` with backend `number`, as YAML.
    fn yaml(&self, name: &str, address: &str, number: usize) -> Result<String> {
        to_yaml(&self.documents(name, address, number))
    }

    fn documents(&self, name: &str, address: &str, number: usize) -> [Document; 2] {
        let listed = slices(name).tcp(8080).endpoint(&self.pods[number].pod);
        [svc(name).cluster_ip(address).tcp(80).into(), listed.into()]
    }

    fn sees(&self, address: &str, name: &str) -> Result<()> {
        soon_who(&self.client, &dial(address)?, 2, &[name]).context(address.to_owned())
    }
}

fn dial(address: &str) -> Result<Dial> {
    Ok(Dial::tcp(format!("{address}:80").parse()?))
}

/// Waits until the log says each of `words`, in one line.
fn logs(agent: &Agent, words: &[&str]) -> Result<()> {
    eventually(SOON, || {
        let log = agent.log();
        let found = log
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)));
        ensure!(found, "no line of the log has all of {words:?}");
        Ok(())
    })
}

/// The middle one of three documents has a port that is no number.
fn bad_document(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    let bad = "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: ns}\n\
               spec: {clusterIP: 10.96.0.66, ports: [{port: eighty}]}\n";
    let text = [
        two.yaml("ns/first", "10.96.0.11", 0)?,
        bad.to_owned(),
        two.yaml("ns/last", "10.96.0.12", 1)?,
    ];
    two.node.publish_text("mixed", &text.join("---\n"))?;
    let agent = two.node.agent(&[])?;
    ensure!(who(&two.client, &dial("10.96.0.11")?, 1)? == ["web-0"]);
    ensure!(who(&two.client, &dial("10.96.0.12")?, 1)? == ["web-1"]);
    expect_refusal(&two.client, &dial("10.96.0.66")?, Errno::EHOSTUNREACH)?;
    // The first Service and its two slices are documents 1 to 3.
    logs(&agent, &["mixed.yaml", "document 4", "port"])?;
    ensure!(told(&agent, "skippedObjects")? == 1);
    two.node
        .publish_text("mixed", &text.join("---\n").replace("eighty", "80"))?;
    soon_refused(&two.client, &dial("10.96.0.66")?, Errno::ECONNREFUSED)?;
    eventually(SOON, || {
        ensure!(
            told(&agent, "skippedObjects")? == 0,
            "the mended object still counts as skipped"
        );
        Ok(())
    })
}

fn no_cluster_ip(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    let bad = "apiVersion: v1\nkind: Service\nmetadata: {name: bare, namespace: ns}\nspec: {ports: [{port: 80}]}\n";
    two.node.publish_text("bare", bad)?;
    two.node
        .publish("good", two.documents("ns/web", "10.96.0.11", 0))?;
    let agent = two.node.agent(&[])?;
    ensure!(who(&two.client, &dial("10.96.0.11")?, 1)? == ["web-0"]);
    logs(&agent, &["bare.yaml", "ns/bare", "clusterIP"])
}

fn turns_bad(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.node
        .publish("web", two.documents("ns/web", "10.96.0.11", 0))?;
    let agent = two.node.agent(&[])?;
    two.node.publish_text("web", "kind: [unclosed\n")?;
    logs(&agent, &["web.yaml"])?;
    ensure!(who(&two.client, &dial("10.96.0.11")?, 3)? == ["web-0"]);
    two.node
        .publish("web", two.documents("ns/web", "10.96.0.11", 1))?;
    two.sees("10.96.0.11", "web-1")
}

fn removed_file(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.node
        .publish("a", two.documents("ns/a", "10.96.0.11", 0))?;
    two.node
        .publish("b", two.documents("ns/b", "10.96.0.12", 1))?;
    let _agent = two.node.agent(&[])?;
    two.node.withdraw("a")?;
    soon_refused(&two.client, &dial("10.96.0.11")?, Errno::EHOSTUNREACH)?;
    two.sees("10.96.0.12", "web-1")
}

/// As the kubelet writes a ConfigMap: files are links through `..data`, which is renamed over.
fn config_map(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    let folder = &two.node.manifests;
    fs::rename(folder.join("cidr.yaml"), folder.join("zcidr.yaml"))?;
    swap(folder, "v1", &two.yaml("ns/web", "10.96.0.11", 0)?)?;
    symlink("..data/web.yaml", folder.join("web.yaml"))?;
    let _agent = two.node.agent(&[])?;
    two.sees("10.96.0.11", "web-0")?;
    for (version, number) in [("v2", 1), ("v3", 0), ("v4", 1)] {
        swap(folder, version, &two.yaml("ns/web", "10.96.0.11", number)?)?;
        two.sees("10.96.0.11", ["web-0", "web-1"][number])?;
    }
    Ok(())
}

/// Writes the folder of a new version, points `..data` to it, and removes the folder before.
fn swap(folder: &Path, version: &str, text: &str) -> Result<()> {
    let old = fs::read_link(folder.join("..data")).ok();
    let new = format!("..{version}");
    fs::create_dir(folder.join(&new))?;
    fs::write(folder.join(&new).join("web.yaml"), text)?;
    symlink(&new, folder.join("..data_tmp"))?;
    fs::rename(folder.join("..data_tmp"), folder.join("..data"))?;
    if let Some(old) = old {
        fs::remove_dir_all(folder.join(old))?;
    }
    Ok(())
}

fn lists_and_json(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.node.publish(
        "list",
        [Document::list(two.documents("ns/listed", "10.96.0.11", 0))],
    )?;
    let yaml = to_yaml(&[Document::list(two.documents("ns/json", "10.96.0.12", 1))])?;
    let object: serde_json::Value = serde_yaml_ng::from_str(&yaml)?;
    fs::write(
        two.node.manifests.join("web.json"),
        serde_json::to_string_pretty(&object)?,
    )?;
    let _agent = two.node.agent(&[])?;
    two.sees("10.96.0.11", "web-0")?;
    two.sees("10.96.0.12", "web-1")
}

fn vanished(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.node
        .publish("web", two.documents("ns/web", "10.96.0.11", 0))?;
    let agent = two.node.agent(&[])?;
    let away = two.node.manifests.with_extension("away");
    fs::rename(&two.node.manifests, &away)?;
    logs(&agent, &[&two.node.manifests.display().to_string()])?;
    ensure!(agent.is_running(), "{}", agent.log());
    ensure!(who(&two.client, &dial("10.96.0.11")?, 3)? == ["web-0"]);
    fs::rename(&away, &two.node.manifests)?;
    two.node
        .publish("web", two.documents("ns/web", "10.96.0.11", 1))?;
    eventually(SOON * 3, || two.sees("10.96.0.11", "web-1"))
}

fn missing_folder(lab: &Lab) -> Result<()> {
    let node = lab.node("node-a")?;
    let mut agent = node.start_agent(&["--manifests", "/nowhere/at/all"])?;
    ensure!(!agent.wait_end()?.success());
    ensure!(agent.log().contains("/nowhere/at/all"), "{}", agent.log());
    Ok(())
}
