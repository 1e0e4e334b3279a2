//! What an operator sees: the agent's own commands, and a map as bpftool prints it.

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cast::Cast;
use crate::say::{self, Colour, colour};

/// Entries shown of a map.
const DUMP_ENTRIES: usize = 4;

/// Shows the Service, a decision explained, and a map.
pub(super) fn look(cast: &Cast, cluster_ip: &str) -> Result<()> {
    say::heading("3. What an operator sees");
    let from = cast.client.addresses[0].to_string();
    let to = format!("{cluster_ip}/TCP");
    command(cast, &["service", "list"])?;
    command(cast, &["explain", "--from", &from, "--to", &to])?;
    let map = cast.node.bpffs.join("v1/maps/LB4_FRONTENDS");
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["map", "dump", "pinned"]).arg(&map);
    let out = bpftool.output().context("bpftool cannot be started")?;
    ensure!(
        out.status.success(),
        "bpftool: {}",
        String::from_utf8_lossy(&out.stderr).trim()
    );
    prompt("bpftool map dump pinned .../v1/maps/LB4_FRONTENDS");
    let entries = entries(&String::from_utf8_lossy(&out.stdout));
    for (key, value) in entries.iter().take(DUMP_ENTRIES) {
        say::line(format!("  {key}\n    {value}"));
    }
    let more = entries.len().saturating_sub(DUMP_ENTRIES);
    say::line(colour(Colour::Grey, &format!("  ... {more} entries more")));
    Ok(())
}

/// Key and value of each entry that bpftool printed over two dozen lines, on a line each.
fn entries(dump: &str) -> Vec<(String, String)> {
    let words: Vec<&str> = dump.split_whitespace().collect();
    let text = words.join(" ").replace(" ]", "]");
    let text = text.trim_matches(|c| "[] ".contains(c));
    let entries = text
        .split("},{")
        .filter_map(|entry| entry.split_once(", \"value\": "));
    let entries = entries.map(|(key, value)| {
        let key = key.trim_start_matches(|c| "{ ".contains(c));
        (key.to_owned(), format!("\"value\": {}", balanced(value)))
    });
    entries.collect()
}

/// `text` without the closing braces that nothing in it opens: those of the entry itself.
fn balanced(text: &str) -> &str {
    let mut text = text.trim();
    while text.matches('}').count() > text.matches('{').count() {
        let Some(shorter) = text.strip_suffix('}') else {
            break;
        };
        text = shorter.trim_end();
    }
    text
}

fn command(cast: &Cast, arguments: &[&str]) -> Result<()> {
    let out = cast.node.cli(arguments)?;
    let words = arguments.join(" ");
    ensure!(
        out.status.success(),
        "lb-agent {words}: {}",
        String::from_utf8_lossy(&out.stderr).trim()
    );
    prompt(&format!("lb-agent {words}"));
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .for_each(|line| say::line(format!("  {line}")));
    Ok(())
}

fn prompt(words: &str) {
    say::line(format!(
        "\n  {}",
        colour(Colour::Cyan, &format!("$ {words}"))
    ));
}

/// Keeps everything running; Ctrl-C ends the program and cleans up.
pub(super) fn wait_for_ctrl_c(cast: &Cast) {
    say::heading("Look around; Ctrl-C cleans up");
    let roots = format!(
        "--bpffs-root {} --cgroup-root {}",
        cast.node.bpffs.display(),
        cast.node.cgroup.display()
    );
    say::line(format!(
        "  a shell in the client pod: sh -c 'echo $$ > {}/cgroup.procs; exec nsenter --net=/proc/{}/ns/net'",
        cast.client.cgroup.display(),
        cast.client.pid()
    ));
    say::line(format!(
        "  the agent (process {}): lb-agent status {roots}",
        cast.agent.pid()
    ));
    say::line(format!(
        "  change a file in {}",
        cast.node.manifests.display()
    ));
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_many_lines_becomes_two() {
        let dump = "[{\n \"key\": {\n \"be\": [0,80\n ]\n },\n \"value\": {\n \"id\": {\n \"__0\": 1\n }\n }\n },{\n \
                    \"key\": {\n \"be\": [1,2\n ]\n },\n \"value\": {\n \"id\": {\n \"__0\": 2\n },\n \"pad\": 0\n }\n }\n]\n";
        assert_eq!(
            entries(dump),
            [
                (
                    "\"key\": { \"be\": [0,80] }".to_owned(),
                    "\"value\": { \"id\": { \"__0\": 1 } }".to_owned()
                ),
                (
                    "\"key\": { \"be\": [1,2] }".to_owned(),
                    "\"value\": { \"id\": { \"__0\": 2 }, \"pad\": 0 }".to_owned()
                ),
            ]
        );
    }
}
