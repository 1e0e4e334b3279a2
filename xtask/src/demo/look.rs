//! What an operator sees: the agent's own commands, and a map as bpftool prints it.

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cast::Cast;
use crate::say::{self, Colour, colour};

/// Lines shown of a map.
const DUMP_LINES: usize = 160;

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
    let text = String::from_utf8_lossy(&out.stdout);
    let total = text.lines().count();
    text.lines()
        .take(DUMP_LINES)
        .for_each(|line| say::line(format!("  {line}")));
    if total > DUMP_LINES {
        say::line(colour(
            Colour::Grey,
            &format!("  ... {} lines more", total - DUMP_LINES),
        ));
    }
    Ok(())
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
