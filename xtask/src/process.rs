//! Runs a program and follows what it writes, line by line, for as long as it says something.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How a program that was followed came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Ended(ExitStatus),
    /// It said nothing for too long, and was killed with everything it had started.
    Silent,
}

/// Runs `command`, hands each line of its stdout to `line` and returns how it ended. Its stderr is ours. A program that
/// writes no line for `patience` is taken for stuck.
///
/// # Errors
/// When it cannot be started or waited for.
pub fn follow(
    command: &mut Command,
    patience: Duration,
    mut line: impl FnMut(&str),
) -> Result<End> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| {
            let program = command.get_program().to_string_lossy();
            format!("{program} cannot be started; is it installed and on the PATH?")
        })?;
    let output = child
        .stdout
        .take()
        .context("the child's stdout is not a pipe")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for text in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&text).into_owned();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    loop {
        match lines.recv_timeout(patience) {
            Ok(text) => line(&text),
            Err(RecvTimeoutError::Disconnected) => return Ok(End::Ended(child.wait()?)),
            Err(RecvTimeoutError::Timeout) => return give_up(&mut child),
        }
    }
}

/// A child that has ended while something it left behind holds its stdout has still ended by itself.
fn give_up(child: &mut Child) -> Result<End> {
    if let Some(status) = child.try_wait()? {
        return Ok(End::Ended(status));
    }
    for pid in descendants(child.id()) {
        // One that has ended by itself meanwhile needs no more.
        kill(pid, Signal::SIGKILL).ok();
    }
    child.kill()?;
    child.wait()?;
    Ok(End::Silent)
}

/// All processes that descend from `root`, itself not included.
fn descendants(root: u32) -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, parent) in processes() {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut open = vec![root.cast_signed()];
    while let Some(parent) = open.pop() {
        for pid in children.remove(&parent).unwrap_or_default() {
            found.push(Pid::from_raw(pid));
            open.push(pid);
        }
    }
    found
}

/// Each process of the machine with its parent.
fn processes() -> Vec<(i32, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let stat = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // "pid (name) state parent ...", and a name may hold brackets itself.
        let parent = text.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        Some((pid, parent.parse().ok()?))
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(stat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn every_line_is_handed_on() {
        let mut lines = Vec::new();
        let end = follow(
            &mut shell("echo one; printf two; exit 3"),
            Duration::from_secs(10),
            |line| lines.push(line.to_owned()),
        )
        .unwrap();
        assert_eq!(lines, ["one", "two"]);
        assert!(matches!(end, End::Ended(status) if status.code() == Some(3)));
    }

    #[test]
    fn a_silent_program_is_killed_with_its_children() {
        let mut pids = Vec::new();
        let end = follow(
            &mut shell("sleep 600 & echo $!; wait"),
            Duration::from_secs(2),
            |line| pids.push(line.parse::<i32>().unwrap()),
        )
        .unwrap();
        assert_eq!(end, End::Silent);
        let [sleeper] = pids[..] else {
            panic!("{pids:?}")
        };
        let is_gone = || {
            let state = fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        // A killed process leaves in its own time.
        let gone = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(20));
            is_gone()
        });
        assert!(gone, "process {sleeper} is still there");
    }
}
