//! The real agent as a process of a node.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cli::Cli;
use super::eventually;
use super::place::Place;

/// How long an agent may take from its start until it serves.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an agent may take to end once asked.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// An agent, running or ended. Dropping it kills the process; what it pinned stays until the laboratory goes.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    place: Place,
    cli: Cli,
    command: Vec<String>,
    log: PathBuf,
}

impl Agent {
    pub(super) fn start(
        place: Place,
        cli: Cli,
        command: Vec<String>,
        log: PathBuf,
    ) -> Result<Self> {
        let child = launch(&place, &command, &log)?;
        Ok(Self {
            child,
            place,
            cli,
            command,
            log,
        })
    }

    /// Waits until `lb-agent status` finds nothing wrong: this agent lives, its programs are attached and everything
    /// it was given is in the maps.
    ///
    /// # Errors
    /// With the agent's log, when it ends or is not ready within 20 s.
    pub fn wait_ready(&self) -> Result<()> {
        let ready = eventually(READY_TIMEOUT, || {
            if !self.is_running() {
                return Ok(false);
            }
            let status = self.status()?;
            // The data plane outlives its agents: what a former one left may be well while this one still starts.
            if status["healthy"] != true || status["agent"]["pid"] != self.pid() {
                bail!("status: {:#}", status["problems"]);
            }
            Ok(true)
        });
        match ready {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the agent ended:\n{}", self.log()),
            Err(error) => bail!("the agent is not ready: {error:#}\n{}", self.log()),
        }
    }

    /// What `lb-agent status -o json` prints, be it well or not.
    ///
    /// # Errors
    /// When nothing is pinned on this node.
    pub fn status(&self) -> Result<serde_json::Value> {
        let output = self.cli.run(&["status", "-o", "json"])?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True until the process has ended, be it unwaited for.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The state follows the name, which is in brackets and may itself hold brackets.
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    /// Kills the agent as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the agent to end (SIGTERM) and returns how it did.
    ///
    /// # Errors
    /// When it has not ended within 10 s.
    pub fn term(&mut self) -> Result<ExitStatus> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        self.wait_end()
    }

    /// Waits until the agent ends of its own accord.
    ///
    /// # Errors
    /// When it has not ended within 10 s.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let child = &mut self.child;
        eventually(END_TIMEOUT, || {
            child.try_wait()?.context("the agent still runs")
        })
    }

    /// Starts the agent again with the same command line, after it has ended, and waits until it serves.
    ///
    /// # Errors
    /// As [`Agent::wait_ready`].
    pub fn restart(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("the agent still runs");
        }
        self.child.wait()?;
        self.child = launch(&self.place, &self.command, &self.log)?;
        self.wait_ready()
    }

    /// GET over HTTP in the node's network namespace: status and body.
    ///
    /// # Errors
    /// When nothing listens or the answer is no HTTP.
    pub fn get(&self, address: &str, path: &str) -> Result<(u16, String)> {
        let address: SocketAddr = address.parse()?;
        self.place.netns.within(|| http_get(address, path))
    }

    /// The sum of the samples of metric `name` whose labels contain every one of `labels`, such as
    /// `reason="no_endpoints"`. A metric that is not there is 0, as a counter before its first event.
    ///
    /// # Errors
    /// When the metrics cannot be fetched.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let (_, body) = self.get("127.0.0.1:10249", "/metrics")?;
        Ok(body
            .lines()
            .filter_map(|line| sample(line, name, labels))
            .sum())
    }

    /// What the agents of this node have logged, this one last.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // An agent that has ended already needs no more.
        self.kill9().ok();
    }
}

/// Starts `command` in the network namespace and the cgroup of `place`. The mount namespace stays: `ip netns exec`
/// would hide bpffs and cgroups.
fn launch(place: &Place, command: &[String], log: &Path) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(log)
        .context("open the agent's log")?;
    let members = File::options()
        .write(true)
        .open(place.cgroup.join("cgroup.procs"))?;
    let netns = place.netns.clone();
    let (binary, arguments) = command.split_first().context("an empty command")?;
    let mut process = Command::new(binary);
    process
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe {
        process.pre_exec(move || {
            (&members).write_all(b"0")?;
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(())
        });
    }
    process.spawn().with_context(|| format!("run {binary}"))
}

fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no HTTP status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// The value of a line in the Prometheus text format, if it is a sample of `name` with all of `labels`.
fn sample(line: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let is_whole_name = rest.starts_with('{') || rest.starts_with(' ');
    let (set, value) = rest.rsplit_once(' ')?;
    if !is_whole_name || !labels.iter().all(|label| set.contains(label)) {
        return None;
    }
    value.parse().ok()
}
